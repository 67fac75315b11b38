"""UniPC: predict the next latents, and once the model has spoken there, correct them with what it said.

In: a request. Out: a `Plan` that remembers 1 + order tensors: the corrected latents of the step before, and the last clean
pictures. Correction of the step before and prediction of the next are one matrix. Formulas: B(h) variants 1 and 2 of
https://arxiv.org/abs/2302.04867, where time is log(alpha / sigma) and h its growth in a step. Next: `advance`.
"""

from typing import Any

import diffusers
import numpy as np

from darkroom.model_runner.engine.plan import Plan, Table
from darkroom.model_runner.engine.samplers import levels


def unipc(request: levels.Request) -> Plan:
    """Return UniPC steps of the order that the scheduler's configuration says, 2 by default."""
    solver = _Solver(request, _table(request))
    steps = range(len(solver.shown))
    return Plan(
        sampler=request.sampler,
        timesteps=tuple(solver.table.timesteps.tolist()),
        input_scales=(1.0,) * len(steps),
        matrices=np.stack([solver.matrix(step, step) for step in steps]),
        noise_scale=solver.table.noise_scale,
        noising=np.stack([solver.curve.alpha, solver.curve.sigma], axis=-1)[:-1],
        starts=np.stack([[solver.matrix(step, min(age, step)) for step in steps] for age in range(solver.order)]),
    )


def _table(request: levels.Request) -> levels.Levels:
    overrides = levels.as_flow_sigmas(request.config) if levels.is_flow(request.config) else {}
    options: dict[str, Any] = dict(levels.shift(request))
    if request.sigmas is not None and overrides:
        options["sigmas"] = np.asarray(request.sigmas)
    if not request.config.get("predict_x0", True) or request.config.get("solver_p") is not None:
        raise request.refusal("supports predict_x0 and its own predictor only")
    return levels.read(levels.schedule(diffusers.UniPCMultistepScheduler, request, overrides=overrides, **options))


class _Solver:
    """The matrices of one run. A vector says how a tensor follows from latents, prediction, history and noise."""

    def __init__(self, request: levels.Request, table: levels.Levels) -> None:
        self.table = table
        self.curve = levels.curve(table)
        self.order: int = table.config["solver_order"]
        self._latents, prediction, self._corrected, *self._before, _noise = np.eye(4 + self.order)
        kind = table.config["prediction_type"]
        a, b = levels.clean(request, kind, alpha=self.curve.alpha[:-1], sigma=self.curve.sigma[:-1])
        self.shown = np.outer(a, self._latents) + np.outer(b, prediction)

    def matrix(self, step: int, age: int) -> Table:
        """Return the matrix of a step that is the `age`-th after the first."""
        here = self._latents
        if age > 0 and step - 1 not in self.table.config["disable_corrector"]:
            order = self._order(step - 1, age - 1)
            here = self._move(step - 1, self._corrected, self._before[:order], newest=self.shown[step])
        pictures = [self.shown[step], *self._before]
        moved = self._move(step, here, pictures[: self._order(step, age)], newest=None)
        return np.stack([moved, here, *pictures[: self.order]])

    def _order(self, step: int, age: int) -> int:
        left = len(self.shown) - step if self.table.config["lower_order_final"] else self.order
        return min(self.order, left, age + 1)

    def _move(self, step: int, latents: Table, pictures: list[Table], *, newest: Table | None) -> Table:
        """Return `latents` moved from the level of `step` to the next by the clean pictures at it and at those before.

        `newest` is the clean picture at the level to reach, where it is known already.
        """
        alpha, sigma, time = (values[step : step + 2] for values in self.curve)
        h = time[1] - time[0]
        pull = alpha[1] * -np.expm1(-h)
        moved: Table = sigma[1] / sigma[0] * latents + pull * pictures[0]
        ratios = [(self.curve.log_ratio[step - back] - time[0]) / h for back in range(1, len(pictures))]
        slopes = [(picture - pictures[0]) / ratio for picture, ratio in zip(pictures[1:], ratios, strict=True)]
        if newest is not None:
            ratios, slopes = [*ratios, 1.0], [*slopes, newest - pictures[0]]
        if slopes:
            spread = alpha[1] * h if self.table.config["solver_type"] == "bh1" else pull
            moved = moved + spread * (self._weights(h, ratios, corrects=newest is not None) @ np.stack(slopes))
        return moved

    def _weights(self, h: float, ratios: list[float], *, corrects: bool) -> Table:
        """Return the weight of each slope, such that the step is exact for polynomials of as many degrees."""
        if len(ratios) == 1 and (corrects or self.order >= 2):
            return np.array([0.5])
        bh1 = self.table.config["solver_type"] == "bh1"
        scale, factorial = (-h if bh1 else np.expm1(-h)), 1
        phi = np.expm1(-h) / -h - 1
        rows, exact = [], []
        for power in range(len(ratios)):
            rows.append(np.power(ratios, power))
            exact.append(phi * factorial / scale)
            factorial *= power + 2
            phi = phi / -h - 1 / factorial
        solved: Table = np.linalg.solve(np.stack(rows), np.array(exact))
        return solved
