"""Runs that are interrupted at every step, and the process that goes on with them: what `test_checkpoint` starts.

`python -m tests.model_runner.engine.resuming <model's directory> <folder>` reads what `interrupt` wrote for each case, goes on from each
file in the same batch and alone, and writes the latents and pictures it comes to.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from darkroom.model_runner.engine import checkpoint, embeddings, revision
from darkroom.model_runner.engine.families import flux
from darkroom.model_runner.engine.job import AdapterUse, Job, ModelSpec, Usage
from darkroom.model_runner.engine.state import State

STEPS = 10
USAGE = Usage(adapters_us=1, prepare_us=2, denoise_us=3, decode_us=4, steps=5, images=0, pixels=0)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "adapters": {"adapters": True},
    "multistep": {"sampler": "unipc"},
    "cached": {"tier": "DRAFT"},
    "all": {"sampler": "dpmpp_2m", "tier": "DRAFT", "adapters": True},
}


def spec_of(path: Path) -> ModelSpec:
    return ModelSpec(
        name="tiny", family="flux", path=path, revision=revision.digest(path), guidance="true_cfg", memory_bytes=1
    )


def load(spec: ModelSpec) -> flux.Flux:
    torch.set_num_threads(1)
    return flux.load(
        spec,
        device=torch.device("cpu"),
        dtype=torch.float32,
        adapters_resident_max=4,
        embeddings=embeddings.Cache(bytes_max=1 << 20),
    )


def jobs(case: str, folder: Path) -> list[Job]:
    """Two generations that share a batch: other prompts, seeds and strengths of guidance."""
    options = dict(CASES[case])
    uses = (
        (AdapterUse(path=folder / "lora.safetensors", digest="0" * 64, scale=0.7),)
        if options.pop("adapters", 0)
        else ()
    )
    return [
        Job(
            key=f"{case}/{index}",
            tenant_id="ten_1",
            model="tiny",
            prompt=prompt,
            width=32,
            height=32,
            steps=STEPS,
            guidance_scale=2.0 + index,
            seeds=(7 + index,),
            adapters=uses,
            max_sequence_length=12,
            **options,
        )
        for index, prompt in enumerate(("a red circle", "a blue square left of a white triangle"))
    ]


def steps(model: flux.Flux, states: list[State]) -> Iterator[list[State]]:
    """The batch after each of its steps."""
    while states[0].step < states[0].steps_total:
        states = model.advance(states, model.denoise(states))
        yield states


@torch.inference_mode()
def interrupt(model: flux.Flux, spec: ModelSpec, case: str, folder: Path) -> list[State]:
    """Run a case through, writing a file of each generation after each step; the states at its end."""
    wanted = jobs(case, folder)
    for use in wanted[0].adapters:
        model.bank.get(use)
    batch = [states[0] for states in model.prepare(wanted)]
    for states in steps(model, batch):
        for index, (job, state) in enumerate(zip(wanted, states, strict=True)):
            data = checkpoint.save([state], USAGE, job=job, spec=spec)
            (folder / f"{case}-{state.step}-{index}").write_bytes(data)
    return states


@torch.inference_mode()
def result(model: flux.Flux, states: list[State]) -> dict[str, Tensor]:
    pictures = torch.stack([model.decode([state])[0] for state in states])
    return {"latents": torch.stack([state.latents for state in states]), "pictures": pictures.clamp(0, 1)}


@torch.inference_mode()
def resume(model: flux.Flux, spec: ModelSpec, case: str, folder: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Go on from every step but the last; what that came to, in the same batch and alone."""
    wanted = jobs(case, folder)
    for use in wanted[0].adapters:
        model.bank.get(use)
    for step in range(1, STEPS):
        states = [_state(folder / f"{case}-{step}-{index}", job, spec) for index, job in enumerate(wanted)]
        for name, batch in (("together", states), ("alone", states[:1])):
            *_, ended = steps(model, batch)
            yield f"{case}-{step}-{name}", result(model, ended)


def _state(path: Path, job: Job, spec: ModelSpec) -> State:
    saved = checkpoint.load(path.read_bytes(), job=job, spec=spec, device=torch.device("cpu"))
    assert saved.usage == USAGE
    (state,) = saved.images
    assert isinstance(state, State)
    return state


def main(path: Path, folder: Path) -> None:
    spec = spec_of(path)
    model = load(spec)
    for case in CASES:
        for name, tensors in resume(model, spec, case, folder):
            safetensors.torch.save_file(tensors, folder / f"{name}.result")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
