"""What people look at: the picture in the terminal, tables, times, the bill; and what programs read: one JSON object.

Protobuf messages come in; text on stdout goes out. Progress goes to stderr, so that stdout can be piped.
"""

import datetime
import decimal
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import click
from google.protobuf import json_format, message, timestamp_pb2
from rich import console, progress, table, text

from darkroom import money
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.scheduler.v1 import model_service_pb2 as model_pb
from darkroom.api.types.v1 import media_pb2, money_pb2

PICTURE_COLUMNS = 48  # two pixels a character cell, one above the other: 48 x 24 cells
PIPE_COLUMNS = 10_000  # nothing is wrapped for a program that reads
UNITS = {
    "cap": "above the estimate, not charged",
    "minimum": "up to the minimum",
    "gpu_second": "GPU-second",
    "media_second": "second of media",
}

out = console.Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
err = console.Console(stderr=True, highlight=False, soft_wrap=True)


def as_dict(answer: message.Message) -> dict[str, Any]:
    """A message as JSON-able values, under the protos' own field names."""
    return dict(json_format.MessageToDict(answer, preserving_proto_field_name=True))


def as_json(value: Mapping[str, Any] | message.Message) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(as_dict(value) if isinstance(value, message.Message) else value, indent=2))


def state_name(state: int) -> str:
    """QUEUED, RUNNING, …"""
    return generation_pb.GenerationState.Name(state).removeprefix("GENERATION_STATE_")  # type: ignore[arg-type]  # a number


def amount(value: money_pb2.Money) -> str:
    """An amount, exactly."""
    return money.format_nanos(value.nanos, value.currency or "USD")


def seconds(us: int) -> str:
    """Microseconds as people read them."""
    return f"{us / 1e6:.2f} s" if us >= 1_000_000 else f"{us / 1e3:.1f} ms"


def ago(instant: timestamp_pb2.Timestamp, *, now: datetime.datetime | None = None) -> str:
    """How long ago something was, in its largest unit: 5s, 3m, 2h, 9d."""
    passed_s = int(((now or datetime.datetime.now(datetime.UTC)) - instant.ToDatetime(datetime.UTC)).total_seconds())
    for unit, unit_s in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if passed_s >= unit_s:
            return f"{passed_s // unit_s}{unit}"
    return f"{max(0, passed_s)}s"


def moment(instant: timestamp_pb2.Timestamp) -> str:
    """An instant, to the second, in UTC."""
    return f"{instant.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"


def rows(
    columns: Sequence[str],
    lines: Iterable[Sequence[object]],
    *,
    none: str = "",
    right: Sequence[str] = (),
    wrap: str = "",
) -> None:
    """Print a table, or the sentence `none` if it has no lines; only the column `wrap` is ever wrapped."""
    cells = [tuple(map(str, line)) for line in lines]
    if not cells and none:
        out.print(text.Text(none))
        return
    drawn = table.Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        width = max([len(name), *(len(line[place]) for line in cells)])
        justify: Literal["right", "left"] = "right" if name in right else "left"
        drawn.add_column(name, justify=justify, no_wrap=name != wrap, min_width=None if name == wrap else width)
    for line in cells:
        drawn.add_row(*map(text.Text, line))
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
        resumed = f" (went on from step {decision.resumed_step})" if decision.resumed_step else ""
        out.print(text.Text(f"attempt {decision.attempt}{after}: {decision.summary}{resumed}"))
        if brief:
            continue
        for candidate in decision.candidates:
            terms = ", ".join(f"{name} {value:.2f}" for name, value in sorted(candidate.terms.items()))
            facts = f"predicted {seconds(candidate.predicted_us)}, {100 * candidate.foreign_utilization:.0f} % used by others"
            out.print(text.Text(f"  {candidate.runner_id} on {candidate.node}: score {candidate.score:.3f}, {facts}"))
            out.print(text.Text(f"    {terms}"))
        for reason, count in sorted(decision.rejections.items()):
            out.print(text.Text(f"  {count} filtered out: {reason}"))
    if explanation.waiting_reason:
        out.print(text.Text(f"waiting: {explanation.waiting_reason}"))


def stages(generation: generation_pb.Generation) -> None:
    """Print where a generation's time went."""
    spent = [(name.name.removesuffix("_us"), value) for name, value in generation.stages.ListFields()]
    longest = max((value for _, value in spent), default=1)
    lines = ((name, seconds(value), "█" * round(30 * value / longest)) for name, value in spent)
    rows(("stage", "time", ""), lines, none="none was spent", right=("time",))


def made(artifact: media_pb2.Artifact) -> str:
    """What an artifact is, in a line: its size, its length, its seed, its tier; whatever it has of them."""
    size = f"{artifact.width}x{artifact.height}" if artifact.width else ""
    length = seconds(artifact.duration_us) if artifact.duration_us else ""
    return ", ".join(filter(None, (size, length, f"seed {artifact.seed}", tier_name(artifact.quality))))


def tier_name(tier: "media_pb2.QualityTier.ValueType") -> str:
    """The tier's name as it is given; empty if it is not told."""
    name = media_pb2.QualityTier.Name(tier).removeprefix("QUALITY_TIER_").lower()
    return "" if name == "unspecified" else name


def estimate(told: service_pb.EstimateGenerationResponse, *, as_json_: bool) -> None:
    """Print what a request would take."""
    if as_json_:
        as_json(told)
        return
    soon = f"starts in about {told.wait_us / 1e6:.1f} s, done in about {told.completion_us / 1e6:.1f} s"
    wait = soon if told.HasField("wait_us") else "no runner serves it now"
    out.print(f"{told.steps_total} steps, {told.memory_bytes / 1e9:.2f} GB, at most {_money(told.price_max)}; {wait}")
    columns = ("accelerator", "work s", "load s", "price", "measured")
    lines = (
        (
            one.accelerator,
            *(f"{us / 1e6:.2f}" for us in (one.work_us, one.load_us)),
            _money(one.price),
            _yes(one.measured),
        )
        for one in told.accelerators
    )
    rows(columns, lines, none="nothing is measured", right=columns[1:4])


def _yes(told: bool) -> str:
    return "yes" if told else "no"


def _money(amount: money_pb2.Money) -> str:
    return f"{_nine(amount.nanos)} {amount.currency}"


def price(rates: model_pb.ModelPrice | billing_pb.PriceVersion) -> None:
    """Print what one of each unit costs, and the least that a generation does."""
    told = {field.name: value for field, value in rates.ListFields() if "nanos" in field.name}
    least = told.pop("minimum_nanos", 0)
    units = ((name.removeprefix("nanos_per_"), value) for name, value in told.items())
    lines = [(UNITS.get(unit, unit), money.format_nanos(value, rates.currency)) for unit, value in units]
    if least:
        lines.append(("a generation, at least", money.format_nanos(least, rates.currency)))
    rows(("unit", "price of one"), lines, none="it costs nothing")


def bill(charge: billing_pb.Charge) -> None:
    """Print what a generation cost, or that it is not known yet."""
    if charge.state == billing_pb.CHARGE_STATE_PENDING:
        out.print(f"PENDING: not in the ledger yet; `darkroom billing show {charge.generation_id}` will have it")
        return
    if charge.state == billing_pb.CHARGE_STATE_FREE:
        out.print(f"FREE: {charge.free_reason}")
    else:
        _posted(charge)
    if charge.tags:
        out.print(text.Text(f"tags {', '.join(f'{name}={value}' for name, value in sorted(charge.tags.items()))}"))


def _posted(charge: billing_pb.Charge) -> None:
    columns = ("unit", "quantity", "price of one", f"amount in {charge.amount.currency}")
    total = ("total", "", "", _nine(charge.amount.nanos))
    rows(columns, [*(_priced(line) for line in charge.lines), total], right=columns[1:])
    gpu_s = charge.usage.gpu_time_us / 1e6
    cached = f", {charge.usage.cached_steps} of {charge.usage.steps} steps reused" if charge.usage.cached_steps else ""
    made = f", made {tier_name(charge.quality)}" if tier_name(charge.quality) else ""
    out.print(f"{gpu_s:.6f} GPU-seconds used{cached}{made}; POSTED to the ledger as {charge.transaction_id}")


def _priced(line: money_pb2.PriceLine) -> tuple[str, str, str, str]:
    named = UNITS.get(line.meter, line.meter)
    correction = line.meter in ("cap", "minimum")
    price = ("", "") if correction else (line.quantity, _nine(line.unit_price_nanos))
    return (named, *price, _nine(line.amount_nanos))


def _nine(nanos: int) -> str:
    return f"{decimal.Decimal(nanos).scaleb(-9):.9f}"
