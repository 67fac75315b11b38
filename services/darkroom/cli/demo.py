"""`darkroom demo`, which `make run` calls: the whole platform, one picture, its bill, and everything stopped again."""

import pathlib
import time

import click

from darkroom import client
from darkroom.cli import generate, home, platform, show

MODEL = "pocket-image"
PROMPT = "a red circle left of a blue square on a white background"


@click.command()
@click.option("--prompt", default=PROMPT, show_default=True, help="What the picture shows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def demo(prompt: str, as_json: bool) -> None:
    """Start the platform, make one picture, show its bill, and stop."""
    out = home.directory() / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    with home.lock():
        platform.run(_run(prompt, out, as_json=as_json))


async def _run(prompt: str, out: pathlib.Path, *, as_json: bool) -> None:
    started_s = time.monotonic()
    async with platform.running(runners=1, say=_say) as connection:
        _say(f"the platform serves after {time.monotonic() - started_s:.1f} s; asking {MODEL} for {prompt!r}")
        async with client.AsyncClient(connection, api_key=connection.api_key) as darkroom:
            result = await generate.carry_out(darkroom, client.image(MODEL, prompt), out)
        generate.report(result, as_json=as_json)


def _say(sentence: str) -> None:
    show.err.print(sentence, style="dim")
