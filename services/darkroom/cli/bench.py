"""`darkroom bench judge MODEL`: how often a pocket model's pictures show what their prompts say."""

import pathlib

import click

JUDGED = ("pocket-image",)
QUICK_PROMPTS = 4
FILE = click.Path(path_type=pathlib.Path, dir_okay=False)


@click.group()
def bench() -> None:
    """Measure, on this machine."""


@bench.command("judge")
@click.argument("model", type=click.Choice(JUDGED))
@click.option(
    "--prompts", default=500, show_default=True, type=click.IntRange(1, 5000), help="Unseen prompts of each kind."
)
@click.option("--steps", default=28, show_default=True, type=click.IntRange(1, 100))
@click.option(
    "--quick", is_flag=True, help=f"{QUICK_PROMPTS} prompts of each kind: shows that it runs, not how good it is."
)
@click.option("--json", "json_path", type=FILE, help="Write the figures to this file.")
@click.option("--sheet", "sheet_path", type=FILE, help="Write a contact sheet (PNG) to this file.")
def judge_(
    model: str, prompts: int, steps: int, quick: bool, json_path: pathlib.Path | None, sheet_path: pathlib.Path | None
) -> None:
    """Make pictures for unseen prompts, and have the judge count the right ones."""
    from darkroom import catalog
    from darkroom.model_runner.pocket import bench as pocket_bench

    entry = catalog.load(pathlib.Path(catalog.__file__).parent / "models")[model]
    pocket_bench.main(
        entry.directory,
        prompts=QUICK_PROMPTS if quick else prompts,
        steps=steps,
        json_path=json_path,
        sheet_path=sheet_path,
    )
