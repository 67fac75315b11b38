"""Tiny FLUX directories: every class is the real one, only small and random.

In: nothing. Out: `specs` of directories as FluxPipeline saves them, one for each kind of guidance; `make_job`; and
`record`, which starts an engine and collects its events.
"""

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from darkroom.model_runner.engine import revision
from darkroom.model_runner.engine.engine import Engine
from darkroom.model_runner.engine.job import Ended, EngineConfig, Event, Finished, Job, ModelSpec
from tests.model_runner.engine.families import unets

TOKENS = unets.TOKENS
WORDS = ("a", "red", "green", "blue", "circle", "square", "triangle", "left", "of", "white", "background")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """Return `true_cfg` (as pocket-image), `embedded` (as FLUX.1-dev, dynamic shift), `none` (as schnell, shift 3)."""
    folder = tmp_path_factory.mktemp("models")
    schedulers: dict[str, dict[str, Any]] = {
        "true_cfg": {"shift": 1.0},
        "embedded": {"shift": 3.0, "use_dynamic_shifting": True},
        "none": {"shift": 3.0},
    }
    return {name: _save(folder / name, name, scheduler) for name, scheduler in schedulers.items()}


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """Return a maker of jobs for `true_cfg` at 32x32; arguments replace its defaults."""

    def make(key: str, **changes: Any) -> Job:
        values: dict[str, Any] = {
            "tenant_id": "ten_1",
            "model": "true_cfg",
            "prompt": "a red circle left of a blue square",
            "width": 32,
            "height": 32,
            "steps": 4,
            "guidance_scale": 3.0,
            "seeds": (7,),
            "max_sequence_length": TOKENS,
        }
        return Job(key=key, **(values | changes))

    return make


class Recorder:
    """An engine whose events are kept in order."""

    def __init__(self, config: EngineConfig, specs: list[ModelSpec], **options: Any) -> None:
        self.events: list[Event] = []
        self.react: Callable[[Event], None] = lambda event: None
        self._new: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.engine = Engine(config, specs, self._on_event, **options)

    def _on_event(self, event: Event) -> None:
        self.react(event)
        self._new.put(event)

    def submit(self, *jobs: Job) -> None:
        for job in jobs:
            self.engine.submit(job)

    def last(self, *keys: str) -> list[Ended]:
        """Wait for the last events of these jobs."""
        while True:
            ends = {event.job_key: event for event in self.events if isinstance(event, Ended)}
            if all(key in ends for key in keys):
                return [ends[key] for key in keys]
            self.events.append(self._new.get(timeout=120))

    def finished(self, *keys: str) -> list[Finished]:
        """Wait for these jobs, all of which must succeed."""
        ends = self.last(*keys)
        assert all(isinstance(end, Finished) for end in ends), ends
        return [end for end in ends if isinstance(end, Finished)]


@pytest.fixture
def record() -> Iterator[Callable[..., Recorder]]:
    """Return a starter of engines; they are closed after the test."""
    started: list[Recorder] = []

    def start(specs: list[ModelSpec], *, families: Any = None, **config: Any) -> Recorder:
        options = {} if families is None else {"families": families}
        started.append(Recorder(EngineConfig(**config), specs, **options))
        return started[-1]

    yield start
    for recorder in started:
        recorder.engine.close()


def _save(path: Path, guidance: Any, scheduler: dict[str, Any]) -> ModelSpec:
    torch.manual_seed(len(guidance))
    clip, t5 = unets.tokenizer(), _t5_tokenizer()
    pipeline = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
        tokenizer=clip,
        tokenizer_2=t5,
        text_encoder=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(clip),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                bos_token_id=clip.bos_token_id,
                eos_token_id=clip.eos_token_id,
                pad_token_id=clip.pad_token_id,
            )
        ),
        text_encoder_2=transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=len(t5), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=3)
        ),
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=16,
            guidance_embeds=guidance == "embedded",
            axes_dims_rope=(4, 6, 6),
        ),
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.5,
            shift_factor=0.1,
        ),
    )
    pipeline.save_pretrained(path)
    return ModelSpec(
        name=guidance,
        family="flux",
        path=path,
        revision=revision.digest(path),
        guidance=guidance,
        memory_bytes=1_000_000,
    )


def _t5_tokenizer() -> transformers.T5TokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0), *((f"▁{word}", -1.0) for word in WORDS)]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0)
