"""What can go wrong with a generation, and whose fault it is.

In: an exception raised while a generation was worked on. Out: an `EngineError`, whose code, message and fault become
the `Failed` event. The tree:

EngineError            the runner's fault, code `INTERNAL`
├── BadRequest         the request's fault: parameters that this model cannot take
├── BadAdapter         the request's fault: a LoRA that does not fit the model, or is malformed
├── LoadFailed         a model that is not there, is not what its catalogue entry says, or does not fit
├── OutOfMemory        the device or the host had no memory left
├── NotFinite          the model produced NaN or infinity
├── DeviceLost         the accelerator is unusable until the process starts again
└── Closing            the engine was closed before the generation was finished
"""

from typing import Literal

import torch

Fault = Literal["request", "runner"]

_SHORT = ("can't allocate memory", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""How torch says that memory is short where it raises no OutOfMemoryError: on a host; from cuBLAS and cuDNN; and where CUDA
itself wants memory, for a kernel that is loaded when it is first needed or for pinned memory. The device works on after all."""


class EngineError(Exception):
    """A generation cannot go on; the text says why, in one sentence fit for whoever asked for it."""

    code = "INTERNAL"
    fault: Fault = "runner"


class BadRequest(EngineError):
    """The parameters name something that this model cannot do."""

    code = "REQUEST_INVALID"
    fault: Fault = "request"


class BadAdapter(EngineError):
    """A LoRA file is malformed or was made for another model."""

    code = "ADAPTER_INVALID"
    fault: Fault = "request"


class LoadFailed(EngineError):
    """The model cannot be made resident."""

    code = "MODEL_LOAD_FAILED"


class OutOfMemory(EngineError):
    """There was not enough memory for this generation alone."""

    code = "OUT_OF_MEMORY"


class NotFinite(EngineError):
    """The decoded picture holds NaN or infinity."""

    code = "NOT_FINITE"


class DeviceLost(EngineError):
    """The accelerator reported an error that outlives the call that caused it."""

    code = "DEVICE_LOST"


class Closing(EngineError):
    """The engine is closing; another runner can do this work."""

    code = "RUNNER_CLOSING"


def translate(error: Exception) -> EngineError:
    """Return `error` as an `EngineError`: itself, or the kind that its type stands for."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in _SHORT):
        return OutOfMemory("the accelerator had not enough memory for this generation")
    if isinstance(error, torch.AcceleratorError):
        return DeviceLost("the accelerator failed and must be reset")
    return EngineError(f"the engine failed unexpectedly ({type(error).__name__})")
