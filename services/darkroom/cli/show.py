"""What people look at: the picture in the terminal, tables, times, the bill; and what programs read: one JSON object.

Protobuf messages come in; text on stdout goes out. Progress goes to stderr, so that stdout can be piped.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from google.protobuf import json_format, message
from rich import console, progress, table, text

from darkroom import money
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.types.v1 import money_pb2

PICTURE_COLUMNS = 48  # two pixels a character cell, one above the other: 48 x 24 cells

out = console.Console(highlight=False, soft_wrap=True)
err = console.Console(stderr=True, highlight=False, soft_wrap=True)


def as_dict(answer: message.Message) -> dict[str, Any]:
    """A message as JSON-able values, under the protos' own field names."""
    return dict(json_format.MessageToDict(answer, preserving_proto_field_name=True))


def as_json(value: Mapping[str, Any] | message.Message) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(as_dict(value) if isinstance(value, message.Message) else value, indent=2))


def state_name(state: int) -> str:
    """QUEUED, RUNNING, …"""
    return generation_pb.GenerationState.Name(state).removeprefix("GENERATION_STATE_")  # type: ignore[arg-type]


def amount(value: money_pb2.Money) -> str:
    """An amount, exactly."""
    return money.format_nanos(value.nanos, value.currency or "USD")


def seconds(us: int) -> str:
    """Microseconds as people read them."""
    return f"{us / 1e6:.2f} s" if us >= 1_000_000 else f"{us / 1e3:.1f} ms"


def rows(title: str, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    drawn = table.Table(
        *columns, title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for line in lines:
        drawn.add_row(*(text.Text(str(cell)) for cell in line))
    out.print(drawn)


def heading(title: str) -> None:
    """Print what comes next."""
    out.print(f"\n[bold]{title}[/bold]")


def bar() -> progress.Progress:
    """A progress bar with the time that is left, on stderr."""
    return progress.Progress(
        progress.TextColumn("{task.description:<10}"),
        progress.BarColumn(bar_width=30),
        progress.TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        progress.TextColumn("ETA"),
        progress.TimeRemainingColumn(),
        console=err,
    )


def picture(path: pathlib.Path) -> None:
    """Print a picture in the terminal, small; nothing where there are no colours."""
    if out.color_system is None:
        return
    try:
        from PIL import Image
    except ImportError:  # a control image has no Pillow: the file is there all the same
        return
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width = min(PICTURE_COLUMNS, image.width)
    height = max(2, round(image.height * width / image.width / 2) * 2)
    pixels = image.resize((width, height), Image.Resampling.LANCZOS).tobytes()
    for y in range(0, height, 2):
        line = text.Text()
        for x in range(width):
            upper, lower = (tuple(pixels[3 * (row * width + x) :][:3]) for row in (y, y + 1))
            line.append("▀", style=f"{_rgb(upper)} on {_rgb(lower)}")
        out.print(line)


def _rgb(pixel: tuple[int, ...]) -> str:
    return f"rgb({pixel[0]},{pixel[1]},{pixel[2]})"


def decisions(explanation: service_pb.ExplainGenerationResponse, *, brief: bool) -> None:
    """Print why each attempt was placed where it was."""
    for decision in explanation.decisions:
        after = f" (after {decision.previous_attempt_end})" if decision.previous_attempt_end else ""
        out.print(text.Text(f"attempt {decision.attempt}{after}: {decision.summary}"))
        if brief:
            continue
        names = sorted({name for candidate in decision.candidates for name in candidate.terms})
        rows(
            "",
            ("runner", "node", "predicted", "used by others", *names, "score"),
            (
                (
                    candidate.runner_id,
                    candidate.node,
                    seconds(candidate.predicted_us),
                    f"{candidate.foreign_utilization:.0%}",
                    *(f"{candidate.terms[name]:.2f}" for name in names),
                    f"{candidate.score:.3f}",
                )
                for candidate in decision.candidates
            ),
        )
        for reason, count in sorted(decision.rejections.items()):
            out.print(text.Text(f"  {count} filtered out: {reason}"))
    if explanation.waiting_reason:
        out.print(text.Text(f"waiting: {explanation.waiting_reason}"))


def stages(generation: generation_pb.Generation) -> None:
    """Print where a generation's time went."""
    spent = [(name.name.removesuffix("_us"), value) for name, value in generation.stages.ListFields()]
    longest = max((value for _, value in spent), default=1)
    rows(
        "", ("stage", "time", ""), ((name, seconds(value), "█" * round(30 * value / longest)) for name, value in spent)
    )


def bill(charge: billing_pb.Charge) -> None:
    """Print what a generation cost, or that it is not known yet."""
    if charge.state == billing_pb.CHARGE_STATE_PENDING:
        out.print("bill: PENDING, not in the ledger yet; `darkroom billing show ID` will have it")
        return
    if charge.state == billing_pb.CHARGE_STATE_FREE:
        out.print(f"bill: free ({charge.free_reason})")
        return
    currency = charge.amount.currency
    rows(
        "",
        ("unit", "quantity", "price of one", "amount"),
        (
            (
                line.meter,
                line.quantity,
                money.format_nanos(line.unit_price_nanos, currency),
                money.format_nanos(line.amount_nanos, currency),
            )
            for line in charge.lines
        ),
    )
    gpu = f"{charge.usage.gpu_time_us / 1e6:.6f} GPU-seconds"
    out.print(f"total {amount(charge.amount)}   {gpu}   POSTED as {charge.transaction_id}")
