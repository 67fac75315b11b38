"""Measures pocket-image: has it make pictures for prompts that it never saw, and the judge count the right ones.

In: the model's folder. Out: the figures `accuracy` (reserved prompts) and `accuracy_held_out` (combinations of colour,
shape and background that training never showed), as a table and a JSON file in the benchmarks' form, and a contact
sheet to look at. `darkroom bench judge pocket-image` calls `main`.
"""

import datetime
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import click
import diffusers
import numpy as np
import PIL.Image
import torch

from darkroom.model_runner.engine import revision
from darkroom.model_runner.pocket import judge, networks, scenes

BATCH = 16
GUIDANCE_SCALE = 3.0
"""The catalogue entry's default."""

THREADS = 1
"""Of one operation. The model is small, and more threads wait for each other: on two cores that others use too, seven times as long."""

SHEET_PICTURES = 96
SEED = 20_000
"""Seed of the first picture's noise; the others follow."""


class Judged(NamedTuple):
    """One picture with its prompt and verdict."""

    prompt: str
    pixels: scenes.Pixels
    verdict: judge.Verdict


def judge_model(
    pipeline: diffusers.FluxPipeline,
    prompts: list[str],
    *,
    steps: int,
    guidance_scale: float = GUIDANCE_SCALE,
    label: str,
) -> list[Judged]:
    """Make one picture a prompt, each from its own seed, and judge them all; shows progress."""
    judged = list[Judged]()
    with click.progressbar(length=len(prompts), label=label, show_eta=True) as bar:
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            for prompt, pixels in zip(
                batch, _pictures(pipeline, batch, SEED + start, steps, guidance_scale), strict=True
            ):
                judged.append(Judged(prompt, pixels, judge.judge(prompt, pixels)))
            bar.update(len(batch))
    return judged


def _pictures(
    pipeline: diffusers.FluxPipeline, prompts: list[str], seed: int, steps: int, guidance_scale: float
) -> list[scenes.Pixels]:
    made = pipeline(
        prompts,
        negative_prompt=[""] * len(prompts),
        true_cfg_scale=guidance_scale,
        num_inference_steps=steps,
        width=scenes.SIZE_PX,
        height=scenes.SIZE_PX,
        max_sequence_length=networks.TOKENS_MAX,
        generator=[torch.Generator().manual_seed(seed + number) for number in range(len(prompts))],
    )
    return [np.asarray(image) for image in made.images]


def accuracy(judged: list[Judged]) -> float:
    """Share of pictures that show what their prompt says."""
    return sum(each.verdict.ok for each in judged) / len(judged)


def contact_sheet(judged: list[Judged], *, columns: int = 12, zoom: int = 2) -> PIL.Image.Image:
    """Pictures side by side, wrong ones first and framed in magenta."""
    shown = sorted(judged, key=lambda each: each.verdict.ok)[:SHEET_PICTURES]
    side = scenes.SIZE_PX * zoom + 8
    sheet = PIL.Image.new("RGB", (columns * side, -(-len(shown) // columns) * side), (128, 128, 128))
    for number, each in enumerate(shown):
        left, top = number % columns * side, number // columns * side
        if not each.verdict.ok:
            sheet.paste((255, 0, 255), (left, top, left + side, top + side))
        picture = PIL.Image.fromarray(each.pixels)
        sheet.paste(picture.resize((side - 8, side - 8), PIL.Image.Resampling.NEAREST), (left + 4, top + 4))
    return sheet


def main(
    model_dir: Path,
    *,
    prompts: int = 500,
    steps: int = 28,
    json_path: Path | None = None,
    sheet_path: Path | None = None,
) -> dict[str, float]:
    """Judge the folder on `prompts` reserved prompts and as many held-out ones; returns and writes the figures."""
    torch.set_num_threads(THREADS)
    pipeline = diffusers.FluxPipeline.from_pretrained(model_dir)
    pipeline.set_progress_bar_config(disable=True)
    started, figures, everything = time.monotonic(), dict[str, float](), list[Judged]()
    for key, held_out in (("accuracy", False), ("accuracy_held_out", True)):
        asked = [scenes.prompt(each) for each in scenes.evaluation_scenes(prompts, combinations_held_out=held_out)]
        judged = judge_model(pipeline, asked, steps=steps, label=key)
        figures[key] = accuracy(judged)
        everything += judged
    figures |= {"prompts": prompts, "steps": steps, "seconds": round(time.monotonic() - started, 1)}
    _show(figures, everything)
    if json_path:
        json_path.write_text(json.dumps(_result(model_dir, figures, everything), indent=2) + "\n")
    if sheet_path:
        contact_sheet(everything).save(sheet_path)
    return figures


def _show(figures: dict[str, float], judged: list[Judged]) -> None:
    click.echo(f"{'figure':<20}{'measured':>10}{'target':>10}")
    for key, target in (("accuracy", 0.98), ("accuracy_held_out", 0.93)):
        click.echo(f"{key:<20}{figures[key]:>10.2%}{target:>10.0%}")
    for each in [each for each in judged if not each.verdict.ok][:10]:
        click.echo(f"wrong: {each.prompt}: {'; '.join(each.verdict.reasons)}")


def _result(model_dir: Path, figures: dict[str, float], judged: list[Judged]) -> dict[str, object]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    wrong = [[each.prompt, "; ".join(each.verdict.reasons)] for each in judged if not each.verdict.ok]
    return {
        "name": "judge pocket-image",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "figures": figures,
        "tables": {"revision": revision.digest(model_dir), "wrong": wrong},
    }
