"""`darkroom usage report`: what was used and what it cost, by model and day."""

import csv
import datetime
import sys

import click
from google.protobuf import timestamp_pb2

from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.cli import ask, parse, show

COLUMNS = (
    *("day", "model", "generations", "free", "images", "megapixels", "media_seconds", "steps", "gpu_seconds"),
    *("amount", "currency"),
)
GROUPS = {"model": billing_pb.USAGE_GROUP_MODEL, "day": billing_pb.USAGE_GROUP_DAY}


@click.group()
def usage() -> None:
    """Report usage and cost."""


@usage.command()
@click.option("--from", "start", type=parse.DAY, help="From this UTC day on; the first of this month if not given.")
@click.option("--to", "end", type=parse.DAY, help="Up to but without this day; tomorrow if not given.")
@click.option("--group-by", default="model,day", show_default=True, help="model, day or both; '' for one row.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def report(
    start: datetime.datetime | None, end: datetime.datetime | None, group_by: str, form: str, as_json: bool
) -> None:
    """Sum the tenant's posted usage over a time range."""
    today = datetime.datetime.now(datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    request = billing_pb.ReportUsageRequest(group_by=_groups(group_by))
    getattr(request, "from").CopyFrom(_timestamp(start or today.replace(day=1)))
    request.to.CopyFrom(_timestamp(end or today + datetime.timedelta(days=1)))
    answer = ask.tenant(lambda darkroom: darkroom.report_usage(request))
    if as_json or form == "json":
        show.as_json(answer)
        return
    lines = [_line(row) for row in answer.rows]
    if form == "csv":
        csv.writer(sys.stdout).writerows([COLUMNS, *lines])
        return
    wide = [*lines, ("total", *_line(answer.total)[1:])]
    show.rows(COLUMNS[:-1], ((*line[:-2], f"{line[-2]} {line[-1]}") for line in wide), right=COLUMNS[2:-1])


def _groups(text: str) -> list[billing_pb.UsageGroup.ValueType]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise click.UsageError(f"--group-by takes {', '.join(GROUPS)}, not {', '.join(unknown)}")
    return [GROUPS[name] for name in names]


def _timestamp(instant: datetime.datetime) -> timestamp_pb2.Timestamp:
    made = timestamp_pb2.Timestamp()
    made.FromDatetime(instant)
    return made


def _line(row: billing_pb.UsageRow) -> tuple[object, ...]:
    value, _, currency = show.amount(row.amount).partition(" ")
    return (
        row.day,
        row.model,
        row.generations,
        row.free_generations,
        row.usage.images,
        f"{row.usage.pixels / 1e6:.6f}",
        f"{row.usage.media_duration_us / 1e6:.6f}",
        row.usage.steps,
        f"{row.usage.gpu_time_us / 1e6:.6f}",
        value,
        currency,
    )
