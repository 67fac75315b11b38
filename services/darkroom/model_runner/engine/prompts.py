"""The prompts of jobs, encoded together.

In: jobs, and how a model encodes texts. Out: for each job what the encoders said of its prompt and, if it is guided, of
its negative prompt, by the family's own names and the same with `negative_` before them. Next: families lay these into
their states.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from darkroom.model_runner.engine import embeddings
from darkroom.model_runner.engine.job import Job


class Encode(Protocol):
    """How a model encodes texts, in one batch."""

    def __call__(self, texts: list[str], *, tokens: int) -> Sequence[embeddings.Embedding]:
        """Return an embedding for each text, of at most `tokens` tokens."""


def embed(
    jobs: Sequence[Job], *, cache: embeddings.Cache, encode: Encode, is_guided: Callable[[Job], bool]
) -> list[dict[str, Tensor]]:
    """Return each job's embeddings; the texts of all jobs with the same limit of tokens are encoded in one batch."""
    found: list[dict[str, Tensor]] = [{} for _ in jobs]
    for tokens in {job.max_sequence_length for job in jobs}:
        asked = [
            (index, prefix, job.tenant_id, text)
            for index, job in enumerate(jobs)
            for prefix, text in (("", job.prompt), ("negative_", job.negative_prompt))
            if job.max_sequence_length == tokens and (not prefix or is_guided(job))
        ]
        _, _, tenants, texts = zip(*asked, strict=True)
        embedded = cache.embed(tenants, texts, compute=functools.partial(encode, tokens=tokens), tokens=tokens)
        for (index, prefix, _, _), tensors in zip(asked, embedded, strict=True):
            found[index] |= {prefix + name: tensor for name, tensor in tensors.items()}
    return found
