"""What the step loop asks of an architecture, and which architectures there are.

In: a model's directory. Out: a `Family`, the four functions over states. Next: `flux` is the shortest way to see one.
A family is one file that holds everything about its architecture; adding one is that file and a line here.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from darkroom.model_runner.engine import adapters
from darkroom.model_runner.engine.families import flux
from darkroom.model_runner.engine.job import Job, ModelSpec
from darkroom.model_runner.engine.state import Predictions, State


class Family(Protocol):
    """A resident model. Every method runs on the engine's thread, under `torch.inference_mode`."""

    bank: adapters.Bank
    """The LoRAs resident for it; the loop has a job's loaded before `prepare`."""

    def prepare(self, job: Job) -> list[State]:
        """Return one state for each seed, at step 0; BadRequest for what this model cannot do."""

    def denoise(self, states: Sequence[State]) -> Predictions:
        """Predict for states with equal batch keys, in ONE forward, each with its own step, guidance and adapters."""

    def advance(self, states: Sequence[State], predictions: Predictions) -> list[State]:
        """Return the states one step further; those given stay as they are."""

    def decode(self, state: State) -> Tensor:
        """Return the picture of a state whose steps are done: float, [3, height, width], nominally 0 to 1."""


class Load(Protocol):
    """How a family makes a model resident."""

    def __call__(
        self, spec: ModelSpec, *, device: torch.device, dtype: torch.dtype, adapters_resident_max: int
    ) -> Family:
        """Read the weights and cast them; whatever it raises becomes LoadFailed."""


FAMILIES: Mapping[str, Load] = {"flux": flux.load}
"""By the name that a catalogue entry uses."""
