"""Darkroom's own GPU kernels, each beside its plain torch reference, its shapes and its proof.

In: torch tensors. Out: torch tensors. On a CUDA device, where the `[gpu]` extra is installed, a kernel runs after it has
been compared with its reference; everywhere else the reference answers. Next: `ops` has the operations, by name.
"""
