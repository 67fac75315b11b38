"""`darkroom get | watch | cancel | list`: generations that were made before.

An id comes in; a line, a table or one JSON object goes out.
"""

import datetime
import pathlib

import click

from darkroom import client
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.cli import ask, generate, show

PROMPT_CHARACTERS = 60  # in the list; `get` shows the whole
STATES = ("queued", "running", "succeeded", "failed", "cancelled")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


OUT = click.option(
    "--out",
    type=click.Path(path_type=pathlib.Path, file_okay=False),
    help="Folder to fetch its files into; none are fetched if it is not given.",
)


@click.command()
@click.argument("generation_id", metavar="ID")
@OUT
@AS_JSON
def get(generation_id: str, out: pathlib.Path | None, as_json: bool) -> None:
    """Show one generation."""

    async def run(darkroom: client.AsyncClient) -> generation_pb.Generation:
        return await _fetched(darkroom, await darkroom.get(generation_id), out)

    _show(ask.tenant(run), as_json=as_json)


@click.command()
@click.argument("generation_id", metavar="ID")
@OUT
@AS_JSON
def watch(generation_id: str, out: pathlib.Path | None, as_json: bool) -> None:
    """Follow one generation to its end."""

    async def run(darkroom: client.AsyncClient) -> generation_pb.Generation:
        return await _fetched(darkroom, await generate.follow(darkroom, await darkroom.get(generation_id)), out)

    _show(ask.tenant(run), as_json=as_json)


async def _fetched(
    darkroom: client.AsyncClient, generation: generation_pb.Generation, out: pathlib.Path | None
) -> generation_pb.Generation:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for path in await generate.fetch(darkroom, generation, out):
            click.echo(path.resolve(), err=True)
    return generation


@click.command()
@click.argument("generation_id", metavar="ID")
@AS_JSON
def cancel(generation_id: str, as_json: bool) -> None:
    """End one generation; it stops within one step."""
    _show(ask.tenant(lambda darkroom: darkroom.cancel(generation_id)), as_json=as_json)


@click.command("list")
@click.option("--model", default="", help="Only this model.")
@click.option("--state", type=click.Choice(STATES), help="Only this state.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@AS_JSON
def list_(model: str, state: str | None, limit: int, as_json: bool) -> None:
    """List generations, newest first."""
    wanted = generation_pb.GenerationState.Value(f"GENERATION_STATE_{(state or 'unspecified').upper()}")

    async def run(darkroom: client.AsyncClient) -> list[generation_pb.Generation]:
        found: list[generation_pb.Generation] = []
        async for generation in darkroom.all(model=model, state=wanted):
            found.append(generation)
            if len(found) == limit:
                break
        return found

    generations = ask.tenant(run)
    if as_json:
        show.as_json({"generations": [show.as_dict(generation) for generation in generations]})
        return
    lines = (_line(generation) for generation in generations)
    columns = ("id", "state", "model", "age", "prompt")
    show.rows(columns, lines, none="there are none: `darkroom generate` makes one", wrap="prompt")


def _line(generation: generation_pb.Generation) -> tuple[object, ...]:
    return (
        generation.generation_id,
        show.state_name(generation.state),
        generation.model,
        show.ago(generation.created_at),
        _prompt(generation)[:PROMPT_CHARACTERS],
    )


def _prompt(generation: generation_pb.Generation) -> str:
    """What was asked for, of whatever kind; empty for what has no prompt."""
    given = generation.WhichOneof("input")
    return str(getattr(getattr(generation, given), "prompt", "")) if given else ""


def _show(generation: generation_pb.Generation, *, as_json: bool) -> None:
    if as_json:
        show.as_json(generation)
        return
    click.echo(f"{generation.generation_id}  {show.state_name(generation.state)}")
    if generation.HasField("error"):
        click.echo(f"{generation.error.reason}: {generation.error.message}")
    click.echo(f"prompt   {_prompt(generation)}")
    click.echo(f"model    {generation.model}, {generation.steps_done} of {generation.steps_total} steps done")
    click.echo(f"asked    {show.moment(generation.created_at)}, to cost at most {show.amount(generation.estimate)}")
    if generation.attempts:
        resumed = f", which went on from step {generation.resumed_step}" if generation.resumed_step else ""
        click.echo(f"ran      on {generation.runner_id}, attempt {generation.attempts}{resumed}")
    if generation.HasField("finished_at"):
        lasted = generation.finished_at.ToDatetime() - generation.created_at.ToDatetime()
        took = show.seconds(lasted // datetime.timedelta(microseconds=1))
        click.echo(f"ended    {show.moment(generation.finished_at)}, {took} after it was asked for")
    for artifact in generation.artifacts:
        click.echo(f"made     {artifact.media_id}  {artifact.media_type}  {show.made(artifact)}")
    if generation.HasField("finished_at"):
        show.heading("time")
        show.stages(generation)
