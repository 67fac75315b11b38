"""LoRAs: y += scale · B A x, for each row its own.

In: safetensors files, and for each row of a batch the adapters that it uses. Out: a context in which a forward of the
denoiser gives each row its adapters. Next: `pairs` reads a file, `bank` keeps what was read and chooses how to apply it:
`low_rank` beside the weights, row by row, or `merged` into a copy of them.
"""

from darkroom.model_runner.engine.adapters.bank import Bank

__all__ = ["Bank"]
