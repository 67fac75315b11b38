"""Samplers: from latents and predictions to the next latents, every row at its own place in its own table.

In: a sampler's name and a model's scheduler configuration, then states with their predictions. Out: a `Plan` of numbers for
each row, then states one step further. There is no scheduler object that remembers where it is, so rows of different
samplers and step counts share a batch. Next: `plan` makes the tables, `advance` multiplies by them.
"""

from darkroom.model_runner.engine.samplers.advance import advance
from darkroom.model_runner.engine.samplers.plan import Plan, plan

__all__ = ["Plan", "advance", "plan"]
