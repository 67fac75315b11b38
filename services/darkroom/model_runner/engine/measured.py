"""What was measured, kept in a file from one process to the next.

In: the tables of costs when the engine closes, and every minute before. Out: the lines that still hold when it starts: same
device, same dtype, same weights. Next: `floor` begins its tables with them, so that a new process need not try every batch
size, and knows what generations take before it has made one.
"""

import json
import logging
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from darkroom.model_runner import fixed_cost, step_cost
from darkroom.model_runner.engine.job import EngineConfig, ModelSpec

VERSION = 3
"""Of the file; 1 had no version and no shares, 2 no fixed costs."""

_NUMBER_MAX = 1 << 40  # twelve days of microseconds; heartbeats carry 64 bits

_log = logging.getLogger(__name__)


class Costs(NamedTuple):
    """The lines of both tables."""

    steps: Sequence[step_cost.StepCost] = ()
    fixed: Sequence[fixed_cost.FixedCost] = ()


class File:
    """One engine's file, if it is configured to have one; belongs to the engine's thread."""

    def __init__(self, config: EngineConfig, specs: Iterable[ModelSpec]) -> None:
        self._path: Path | None = config.step_costs_path
        self._device = f"{_device_name(config.device)} {config.dtype}"
        self._revisions = {spec.name: spec.revision for spec in specs}

    def read(self) -> Costs:
        """Return what holds here; nothing of a file that is not there, not readable, or a later release's."""
        if self._path is None or not self._path.exists():
            return Costs()
        try:
            return self._parsed(self._path.read_text())
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _log.warning("the costs in %s are not readable and will be measured anew: %s", self._path, error)
            return Costs()

    def write(self, costs: Costs) -> None:
        """Replace the file at once, so that a reader never sees half of it; a disk that refuses is only logged."""
        if self._path is None:
            return
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(self._text(costs))
            part.replace(self._path)
        except OSError as error:
            _log.warning("the costs could not be kept in %s: %s", self._path, error)

    def _text(self, costs: Costs) -> str:
        steps = [[*shape, *measured] for shape, *measured in costs.steps if shape.model in self._revisions]
        fixed = [cost for cost in costs.fixed if cost.model in self._revisions]
        held = {"version": VERSION, "device": self._device, "revisions": self._revisions}
        return json.dumps({**held, "costs": steps, "fixed": fixed}, indent=0)

    def _parsed(self, text: str) -> Costs:
        saved = json.loads(text)
        if saved["device"] != self._device or saved.get("version", 1) > VERSION:
            return Costs()
        revisions = dict(saved["revisions"])
        served = {name for name, revision in self._revisions.items() if revisions.get(name) == revision}
        steps = [_step_cost(*line) for line in saved["costs"]]
        fixed = [_fixed_cost(*line) for line in saved.get("fixed", ())]
        return Costs(
            [cost for cost in steps if cost.shape.model in served], [cost for cost in fixed if cost.model in served]
        )


def _step_cost(*line: Any) -> step_cost.StepCost:
    count = len(step_cost.Shape._fields)
    (model, size, guided, rows, variant), (step_us, measured, *share) = line[:count], line[count:]
    _check([model, size, variant], [rows, step_us, measured], low=1)
    if not all(0 <= part <= 1 for part in share):
        raise ValueError(f"{share} is no share")
    return step_cost.StepCost(step_cost.Shape(model, size, bool(guided), rows, variant), step_us, measured, *share)


def _fixed_cost(model: str, size: str, *costs_us: int) -> fixed_cost.FixedCost:
    _check([model, size], costs_us, low=0)
    return fixed_cost.FixedCost(model, size, *costs_us)


def _check(texts: Iterable[object], numbers: Iterable[Any], *, low: int) -> None:
    """ValueError for what was never written: an engine that met it between two steps would die, and so would the next one."""
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is none")
    if not all(type(number) is int and low <= number <= _NUMBER_MAX for number in numbers):
        raise ValueError("a number is none that was measured")


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {os.cpu_count()} cores {torch.get_num_threads()} threads"
