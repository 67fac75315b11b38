"""A module once more, without its weights once more.

In: a module. Out: another with the same parameters and buffers, and all else of its own: hooks, and which tensors it has.
Next: `quantize` replaces some of the tensors, `families.pipeline` hangs a cache on the hooks.
"""

import copy
import itertools
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def twin(module: Module) -> Module:
    """Return the twin; it takes no memory of the device but for tensors that are neither parameters nor buffers."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
