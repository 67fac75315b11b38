"""`darkroom fleet list`: the runners and what NVML says of their devices."""

import click

from darkroom.api.scheduler.v1 import fleet_service_pb2 as fleet_pb
from darkroom.cli import ask, show

COLUMNS = ("runner", "state", "node", "device", "busy", "others", "memory", "aboard", "loaded")


@click.group()
def fleet() -> None:
    """Look at the runners."""


@fleet.command("list")
@click.option("--lost", is_flag=True, help="Also the runners lost within the last hour.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(lost: bool, as_json: bool) -> None:
    """List the runners with their latest samples."""
    runners = ask.operator(lambda darkroom: darkroom.runners(include_lost=lost))
    if as_json:
        show.as_json({"runners": [show.as_dict(runner) for runner in runners]})
    else:
        none = "no runner is registered: `darkroom serve model_runner` starts one, and its log says what keeps it"
        show.rows(COLUMNS, (_line(runner) for runner in runners), none=none)


def _line(runner: fleet_pb.Runner) -> tuple[object, ...]:
    sample = runner.sample
    return (
        runner.runner_id,
        fleet_pb.RunnerState.Name(runner.state).removeprefix("RUNNER_STATE_"),
        runner.node,
        runner.device.product,
        f"{sample.utilization_percent} %" if sample.HasField("utilization_percent") else "-",
        f"{100 * runner.foreign_utilization:.0f} %",
        f"{sample.memory_used_bytes / 2**30:.1f} GiB" if sample.HasField("memory_used_bytes") else "-",
        runner.generations,
        ", ".join(runner.resident_models) or "-",
    )
