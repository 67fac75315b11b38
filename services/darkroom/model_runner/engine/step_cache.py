"""The first-block cache: steps that reuse what the transformer's other blocks did at a step before.

In: the states of a batch, and a forward of the denoiser over some of them. Out: its predictions, and for each row of
tier DRAFT the tensors that its next step needs (`State.cache`). Each row decides for itself. While its first block
changes little from step to step, the residual of the blocks behind it is taken as it was; the changes since that residual
was computed are summed, and above `THRESHOLD` the blocks run again. The device computes the decision one step ahead, and
one copy brings those of all rows to the host before the next step, when the device has nothing to do yet; within a step
nobody waits. Since it is known before the forward, the rows that reuse and those that compute each run in a forward of
their own, on any device, with their own adapters.
Works for transformers that are a row of blocks; UNets have none, so models with one make no drafts. Next: `keep` lays
the tensors into the states that the sampler returned.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from darkroom.model_runner.engine.state import Cached, Predictions, State

THRESHOLD = 0.25
"""Summed relative change (L1) of the first block's residual up to which the other blocks' residual is reused.

With pocket-image two steps of three are reused: 1.7 to 2.2 times less to compute, and 46 dB PSNR to LOSSLESS in the
median (`benchmarks/tiers.py`)."""

_LISTS = ("transformer_blocks", "single_transformer_blocks", "blocks", "layers")


class _Kind(NamedTuple):
    """How a class of blocks takes and returns the stream of image tokens."""

    argument: str
    """Its name among the arguments; always the first one."""
    text: bool
    """Whether it takes the text's stream as its second argument, and returns (text, image)."""


_KINDS: Mapping[str, _Kind] = {
    "FluxTransformerBlock": _Kind("hidden_states", True),
    "FluxSingleTransformerBlock": _Kind("hidden_states", True),
    "QwenImageTransformerBlock": _Kind("hidden_states", True),
    "StableAudioDiTBlock": _Kind("hidden_states", False),
    "WanTransformerBlock": _Kind("hidden_states", False),
    "ZImageTransformerBlock": _Kind("x", False),
}

Forward = Callable[[Sequence[State]], Predictions]


@dataclasses.dataclass
class _Seen:
    """What the blocks did in one forward, each [copies * rows, tokens, channels]; a guided forward has two copies."""

    first: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    """The first block's residual."""
    behind: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    """The stream behind the first block."""
    rest: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    """The residual of all blocks behind it."""


class StepCache:
    """The cache of one denoiser; it remembers nothing of rows, their states do."""

    def __init__(self, denoiser: nn.Module, *, threshold: float = THRESHOLD) -> None:
        self._blocks = _blocks(denoiser)
        self._threshold = threshold

    @property
    def is_supported(self) -> bool:
        """Whether the denoiser is a row of blocks that this module knows how to skip."""
        return len(self._blocks) > 1 and all(type(block).__name__ in _KINDS for block in self._blocks)

    def denoise(self, states: Sequence[State], forward: Forward) -> Predictions:
        """Predict for states with equal batch keys; `forward` stacks its copies of the rows copy by copy."""
        if not any(state.tier == "DRAFT" for state in states):
            return forward(states)
        reused = self._decided(states)
        parts = [[i for i, one in enumerate(reused) if one is kind] for kind in (False, True)]
        order = [index for part in parts for index in part]
        done = [self._part([states[index] for index in part], forward, reuse=reused[part[0]]) for part in parts if part]
        back = sorted(range(len(order)), key=order.__getitem__)
        negatives = [row for one in done if one.negative is not None for row in one.negative]
        positives = [row for one in done for row in one.positive]
        caches = [cached for one in done for cached in one.caches]
        return Predictions(
            torch.stack([positives[index] for index in back]),
            torch.stack([negatives[index] for index in back]) if negatives else None,
            tuple(caches[index] for index in back),
        )

    def _decided(self, states: Sequence[State]) -> list[bool]:
        known = [state.tier == "DRAFT" and "drift" in state.cache for state in states]
        drifts = [state.cache["drift"] for state, is_known in zip(states, known, strict=True) if is_known]
        told = iter(torch.stack(drifts).tolist() if drifts else ())
        return [is_known and next(told) < self._threshold for is_known in known]

    def _part(self, states: Sequence[State], forward: Forward, *, reuse: bool) -> Predictions:
        rest = torch.stack([state.cache["rest"] for state in states], dim=1).flatten(0, 1) if reuse else None
        with self._watched(rest) as seen:
            predictions = forward(states)
        first, rest = (_by_row(tensor, len(states)) for tensor in (seen.first, seen.rest if rest is None else rest))
        changes = _changes(states, first)
        spent = changes.new_zeros(len(states))
        if reuse:
            spent = torch.stack([state.cache["spent"] for state in states]) + changes
        drifts = spent + changes
        caches = [
            Cached({"first": first[i], "rest": rest[i], "spent": spent[i], "drift": drifts[i]}, reuse)
            if state.tier == "DRAFT"
            else Cached({}, False)
            for i, state in enumerate(states)
        ]
        return predictions._replace(caches=tuple(caches))

    @contextlib.contextmanager
    def _watched(self, rest: Tensor | None) -> Iterator[_Seen]:
        """Within, a forward notes what its blocks do, or adds `rest` in place of all but the first one."""
        seen = _Seen()
        first, *others = self._blocks
        replaced = {first: _noting(first, seen, rest)}
        if rest is None:
            replaced[others[-1]] = _measuring(others[-1], seen)
        else:
            replaced |= {block: _passing(block) for block in others}
        for block, forward in replaced.items():
            block.forward = forward
        try:
            yield seen
        finally:
            for block in replaced:
                del block.forward


def keep(states: Sequence[State], predictions: Predictions) -> list[State]:
    """Return the stepped states with what their next step, if there is one, needs of this one."""
    if not predictions.caches:
        return list(states)
    return [
        dataclasses.replace(
            state,
            cache=cached.tensors if state.step < state.steps_total else {},
            cached_steps=state.cached_steps + cached.is_reused,
        )
        for state, cached in zip(states, predictions.caches, strict=True)
    ]


def _blocks(denoiser: nn.Module) -> list[nn.Module]:
    return [
        block
        for name, child in denoiser.named_children()
        if name in _LISTS and isinstance(child, nn.ModuleList)
        for block in child
    ]


def _by_row(stacked: Tensor, rows: int) -> Tensor:
    """Return [copies * rows, ...] as [rows, copies, ...]."""
    return stacked.reshape(-1, rows, *stacked.shape[1:]).transpose(0, 1)


def _changes(states: Sequence[State], first: Tensor) -> Tensor:
    """Return the relative change of each row's first residual since its last step, the greatest of its copies: [rows]."""
    before = torch.stack([state.cache.get("first", now) for state, now in zip(states, first, strict=True)]).float()
    norms = before.flatten(2).abs().mean(2)
    changes = ((first.float() - before).flatten(2).abs().mean(2) / norms).amax(1)
    unknown = torch.full_like(changes[0], math.inf)
    return torch.stack([now if "first" in state.cache else unknown for state, now in zip(states, changes, strict=True)])


def _noting(block: nn.Module, seen: _Seen, rest: Tensor | None) -> Callable[..., Any]:
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        seen.behind = _stream(output)
        seen.first = seen.behind - _taken(block, args, kwargs)
        if rest is None:
            return output
        return (output[0], seen.behind + rest) if isinstance(output, tuple) else seen.behind + rest

    return forward


def _measuring(block: nn.Module, seen: _Seen) -> Callable[..., Any]:
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        seen.rest = _stream(output) - seen.behind
        return output

    return forward


def _passing(block: nn.Module) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        stream = _taken(block, args, kwargs)
        if not _KINDS[type(block).__name__].text:
            return stream
        return (args[1] if len(args) > 1 else kwargs["encoder_hidden_states"], stream)

    return forward


def _taken(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    stream: Tensor = args[0] if args else kwargs[_KINDS[type(block).__name__].argument]
    return stream


def _stream(output: Any) -> Tensor:
    stream: Tensor = output[1] if isinstance(output, tuple) else output
    return stream
