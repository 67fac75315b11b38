"""What the step loop asks of an architecture, and which architectures there are.

In: a model's directory. Out: a `Family`, the four functions over states. Next: `stable_audio` is the shortest way to see one.
A family is one file that holds everything about its architecture, beside which `flux_latents` and `unet_latents` hold what
becomes of pictures and masks; adding one is that file and a line here. `pipeline` runs whatever has no family of its own.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from darkroom.model_runner.engine import adapters, embeddings, pictures, tiers
from darkroom.model_runner.engine.job import Job, Medium, ModelSpec
from darkroom.model_runner.engine.state import Predictions, State


class Family(Protocol):
    """A resident model. Every method runs on the engine's thread, under `torch.inference_mode`."""

    medium: Medium
    bank: adapters.Bank
    """The LoRAs resident for it; the loop has a job's loaded before `prepare`."""
    tiers: tiers.Tiers
    """Its quality tiers; the loop has what one needs made before `denoise`."""
    sizing: pictures.Sizing
    """In what size `prepare` wants pictures; called on other threads, even when the model has left meanwhile."""

    @property
    def samples_per_second(self) -> int:
        """Of what `decode` returns; asked of audio alone."""

    def prepare(self, jobs: Sequence[Job]) -> list[list[State]]:
        """Return for each job a state for each of its seeds, at step 0; the text encoders run once for all jobs.

        Jobs hold their pictures, read and sized already; one that holds a file has it read here.
        Raises BadRequest for what this model cannot do; the loop then prepares each job alone.
        """

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Predict for states with equal batch keys, in ONE forward, each with its own step, guidance and adapters."""

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Return the states one step further; those given stay as they are."""

    def decode(self, states: Sequence[State]) -> list[Tensor]:
        """Return what states with equal batch keys, whose steps are done, became.

        Float. An image is [3, height, width], nominally 0 to 1; a video [frames, 3, height, width], nominally 0 to 1; a
        sound [channels, samples], nominally -1 to 1.
        """

    def release(self) -> Sequence[object]:
        """Let go of what is made again when it is needed; return what else of it is on the device, beside its bank.

        Modules and tensors; other things among them count as nothing. Asked of a family that leaves the device.
        """


class Load(Protocol):
    """How a family makes a model resident."""

    def __call__(
        self,
        spec: ModelSpec,
        *,
        device: torch.device,
        dtype: torch.dtype,
        adapters_resident_max: int,
        embeddings: embeddings.Cache,
    ) -> Family:
        """Read the weights and cast them; whatever it raises becomes LoadFailed."""


def _lazy(module: str) -> Load:
    """Return the `load` of a family's module, which is imported when a model of it is first loaded."""

    def load(spec: ModelSpec, **options: Any) -> Family:
        family: Family = importlib.import_module(f"{__name__}.{module}").load(spec, **options)
        return family

    return load


FAMILIES: Mapping[str, Load] = {
    "flux": _lazy("flux"),
    "pipeline": _lazy("pipeline"),
    "qwen_image": _lazy("qwen_image"),
    "sdxl": _lazy("sdxl"),
    "stable_audio": _lazy("stable_audio"),
    "stable_diffusion": _lazy("stable_diffusion"),
    "wan": _lazy("wan"),
    "z_image": _lazy("z_image"),
}
"""By the name that a catalogue entry uses."""
