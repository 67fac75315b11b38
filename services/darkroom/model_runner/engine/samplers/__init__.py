"""Samplers: from latents and predictions to the next latents, every row at its own place in its own table.

In: a sampler's name and a model's scheduler configuration, then states with their predictions. Out: a `Plan` of numbers for
each row, then states one step further. There is no scheduler object that remembers where it is, so rows of different
samplers and step counts share a batch. Next: `named` finds a sampler's table, `advance` multiplies by it.
"""

from darkroom.model_runner.engine.plan import Plan
from darkroom.model_runner.engine.samplers.advance import advance
from darkroom.model_runner.engine.samplers.named import NAMES, default_name, plan

__all__ = ["NAMES", "Plan", "advance", "default_name", "plan"]
