"""Measured step costs, kept in a file from one process to the next.

In: the table of costs when the engine closes, and every minute before. Out: the lines that still hold when it starts: same
device, same dtype, same weights. Next: `step_cost` goes on from them, so that a new process need not try every batch size.
"""

import logging
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

from darkroom.model_runner import step_cost
from darkroom.model_runner.engine.job import EngineConfig, ModelSpec

_log = logging.getLogger(__name__)


class File:
    """One engine's file, if it is configured to have one; belongs to the engine's thread."""

    def __init__(self, config: EngineConfig, specs: Iterable[ModelSpec]) -> None:
        self._path: Path | None = config.step_costs_path
        self._device = f"{_device_name(config.device)} {config.dtype}"
        self._revisions = {spec.name: spec.revision for spec in specs}

    def read(self) -> list[step_cost.StepCost]:
        """Return what holds here; nothing of a file that is not there or not readable."""
        if self._path is None or not self._path.exists():
            return []
        try:
            return step_cost.load(self._path.read_text(), device=self._device, revisions=self._revisions)
        except (OSError, ValueError) as error:
            _log.warning("the step costs in %s are not readable and will be measured anew: %s", self._path, error)
            return []

    def write(self, costs: Iterable[step_cost.StepCost]) -> None:
        """Replace the file at once, so that a reader never sees half of it; a disk that refuses is only logged."""
        if self._path is None:
            return
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(step_cost.dump(costs, device=self._device, revisions=self._revisions))
            part.replace(self._path)
        except OSError as error:
            _log.warning("the step costs could not be kept in %s: %s", self._path, error)


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {os.cpu_count()} cores {torch.get_num_threads()} threads"
