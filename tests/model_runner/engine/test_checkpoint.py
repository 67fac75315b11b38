"""A generation goes on in another process where it was left, or its file is refused."""

import dataclasses
import hashlib
import itertools
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from darkroom.model_runner.engine import checkpoint
from darkroom.model_runner.engine.job import Job, ModelSpec, Output, Stage, Usage
from darkroom.model_runner.engine.plan import Plan
from darkroom.model_runner.engine.state import BatchKey, State
from tests.model_runner import world
from tests.model_runner.engine import resuming

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


class Runs:
    """Every case run through here, and gone on with from each step in another process."""

    def __init__(self, path: Path, folder: Path) -> None:
        (folder / "lora.safetensors").write_bytes(world.adapter())
        spec = resuming.spec_of(path)
        model = resuming.load(spec)
        self.ends = {case: resuming.interrupt(model, spec, case, folder) for case in resuming.CASES}
        self.whole = {case: resuming.result(model, states) for case, states in self.ends.items()}
        command = [sys.executable, "-m", "tests.model_runner.engine.resuming", str(path), str(folder)]
        subprocess.run(command, check=True, cwd=ROOT, timeout=300)
        self._folder = folder

    def resumed(self, case: str, step: int, how: str) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(self._folder / f"{case}-{step}-{how}.result")
        return tensors


@pytest.fixture(scope="module")
def runs(specs: dict[str, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(specs["true_cfg"].path, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("case", resuming.CASES)
def test_in_the_same_batch_another_process_comes_to_the_same_bits(runs: Runs, case: str) -> None:
    whole = runs.whole[case]
    for step in range(1, resuming.STEPS):
        resumed = runs.resumed(case, step, "together")
        assert torch.equal(resumed["latents"], whole["latents"]), step
        assert torch.equal(resumed["pictures"], whole["pictures"]), step


@pytest.mark.parametrize("case", resuming.CASES)
def test_in_another_batch_it_comes_within_one_level(runs: Runs, case: str) -> None:
    levels = (runs.whole[case]["pictures"][:1] * 255).round()
    for step in range(1, resuming.STEPS):
        resumed = (runs.resumed(case, step, "alone")["pictures"] * 255).round()
        assert (resumed - levels).abs().max() <= 1, step


def test_samplers_remember_and_rows_reuse_steps(runs: Runs) -> None:
    assert [bool(runs.ends[case][0].history) for case in ("plain", "multistep", "all")] == [False, True, True]
    assert [runs.ends[case][0].cached_steps > 0 for case in ("plain", "cached", "all")] == [False, True, True]


def test_the_cases_are_different_pictures(runs: Runs) -> None:
    pictures = [whole["pictures"] for whole in runs.whole.values()]
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(pictures))


# files


def plan() -> Plan:
    matrices = torch.randn(4, 2, 4, dtype=torch.float64).numpy()
    return Plan(
        sampler="unipc",
        timesteps=(999.0, 0.1, 1 / 3, 1e-300),
        input_scales=(1.0,) * 4,
        matrices=matrices,
        noise_scale=14.6,
        noising=matrices[:, 0, :2],
    )


def state(job: Job, **changes: Any) -> State:
    shared = torch.randn(3, 5).to(torch.bfloat16)
    values: dict[str, Any] = {
        "batch_key": BatchKey("true_cfg", "text", (32, 32), 12, True),
        "seed": 2**62 + 1,
        "step": 2,
        "plan": plan(),
        "guidance": 1 / 3,
        "latents": torch.randn(6, 4).t(),
        "conditioning": {"text": shared, "pooled": shared[0]},
        "adapters": job.adapters,
        "history": (torch.randn(4, 6),),
        "noise_rng": torch.Generator("cpu").manual_seed(3).get_state(),
        "cache": {"residual": torch.randn(2, 2)},
        "cached_steps": 1,
        "tier": "DRAFT",
    }
    return State(**(values | changes))


USAGE = Usage(adapters_us=1, prepare_us=2**40, denoise_us=3, decode_us=4, steps=5, images=1, pixels=1024)
STAGES = (Stage("wait", 0), Stage("denoise", 2**40))
PNG = Output(b"\x89PNG\r\n", "image/png", 32, 32, 8)


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job("gen_1/1/1", seeds=(7, 8))


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, tensors bit by bit and by their types."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    if isinstance(one, tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return bool((one == other).all()) if hasattr(one, "shape") else bool(one == other)


def test_what_is_saved_comes_back(job: Job, specs: dict[str, ModelSpec]) -> None:
    first = state(job)
    images = (first, PNG, state(job, noise_rng=None, history=()))
    data = checkpoint.save(images, USAGE, STAGES, job=job, spec=specs["true_cfg"])
    later = dataclasses.replace(job, key="gen_1/2/2", solo=True, deadline_us=5)
    saved = checkpoint.load(data, job=later, spec=specs["true_cfg"], device=CPU)
    assert (saved.usage, saved.stages) == (USAGE, STAGES)
    assert same(saved.images, images)
    assert not same(saved.images, (state(job), *images[1:]))


def test_it_is_a_plain_safetensors_file_where_what_is_shared_is_written_once(
    job: Job, specs: dict[str, ModelSpec]
) -> None:
    conditioning = {"text": torch.randn(100_000)}
    images = [state(job, conditioning=conditioning) for _ in range(4)]
    data = checkpoint.save(images, USAGE, job=job, spec=specs["true_cfg"])
    assert 400_000 < len(data) < 500_000
    assert len(safetensors.torch.load(data)) > 4


@pytest.mark.parametrize(
    ("change", "which"),
    [
        ({"revision": "sha256:" + "1" * 64}, "revision"),
        ({"family": "sdxl"}, "family"),
        ({"name": "another"}, "model"),
    ],
)
def test_another_model_is_refused(job: Job, specs: dict[str, ModelSpec], change: dict[str, Any], which: str) -> None:
    data = checkpoint.save([state(job)], USAGE, job=job, spec=specs["true_cfg"])
    other = dataclasses.replace(specs["true_cfg"], **change)
    with pytest.raises(checkpoint.Refused, match=which):
        checkpoint.load(data, job=job, spec=other, device=CPU)


@pytest.mark.parametrize(
    "change", [{"prompt": "x"}, {"seeds": (8, 7)}, {"tenant_id": "ten_2"}, {"source_image": b"x"}, {"extras": {"a": 1}}]
)
def test_another_generation_is_refused(job: Job, specs: dict[str, ModelSpec], change: dict[str, Any]) -> None:
    data = checkpoint.save([state(job)], USAGE, job=job, spec=specs["true_cfg"])
    with pytest.raises(checkpoint.Refused, match="another job"):
        checkpoint.load(data, job=dataclasses.replace(job, **change), spec=specs["true_cfg"], device=CPU)


def test_another_schema_is_refused(job: Job, specs: dict[str, ModelSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    data = checkpoint.save([state(job)], USAGE, job=job, spec=specs["true_cfg"])
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    with pytest.raises(checkpoint.Refused, match="schema"):
        checkpoint.load(data, job=job, spec=specs["true_cfg"], device=CPU)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_can_only_fail_again_is_refused(job: Job, specs: dict[str, ModelSpec], number: float) -> None:
    broken = state(job, latents=torch.full((4, 6), number))
    data = checkpoint.save([state(job), broken], USAGE, job=job, spec=specs["true_cfg"])
    with pytest.raises(checkpoint.Refused, match="NaN"):
        checkpoint.load(data, job=job, spec=specs["true_cfg"], device=CPU)


def test_damage_is_always_refused(job: Job, specs: dict[str, ModelSpec]) -> None:
    data = checkpoint.save([state(job), PNG], USAGE, job=job, spec=specs["true_cfg"])
    damaged = [bytes(0), bytes(8), b"\xff" * 8 + data[8:], data + b"\0", hashlib.sha256(data).digest()]
    chance = random.Random(5)
    for _ in range(1000):
        damaged.append(data[: chance.randrange(len(data))])
        at = chance.randrange(len(data))
        damaged.append(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
    for each in damaged:
        with pytest.raises(checkpoint.Refused, match="damaged"):
            checkpoint.load(each, job=job, spec=specs["true_cfg"], device=CPU)


def test_what_is_no_number_cannot_be_saved(job: Job, specs: dict[str, ModelSpec]) -> None:
    with pytest.raises(TypeError, match="Path"):
        checkpoint.save([state(job, seed=Path())], USAGE, job=job, spec=specs["true_cfg"])
