"""The texts of many jobs reach the encoders in as few batches as they can, and each job gets its own back."""

from typing import Any

import pytest
import torch
from torch import Tensor

from darkroom.model_runner.engine import embeddings, prompts
from darkroom.model_runner.engine.job import Job


class Encoder:
    """Embeds a text as the codes of its letters."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], int]] = []

    def __call__(self, texts: list[str], *, tokens: int) -> list[dict[str, Tensor]]:
        self.batches.append((texts, tokens))
        return [{"text": torch.tensor([ord(letter) for letter in text[:tokens]])} for text in texts]


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def embed(jobs: list[Job], encoder: Encoder) -> list[dict[str, str]]:
    found = prompts.embed(
        jobs,
        cache=embeddings.Cache(bytes_max=1 << 20),
        encode=encoder,
        is_guided=lambda job: job.guidance_scale > 1,
    )
    return [{name: "".join(map(chr, tensor.tolist())) for name, tensor in one.items()} for one in found]


def test_prompts_and_negative_prompts_of_all_jobs_are_one_batch(encoder: Encoder, make_job: Any) -> None:
    jobs = [
        make_job("1", prompt="red", negative_prompt="blue"),
        make_job("2", prompt="green", negative_prompt="unused", guidance_scale=1.0),
        make_job("3", prompt="blue", negative_prompt=""),
    ]
    assert embed(jobs, encoder) == [
        {"text": "red", "negative_text": "blue"},
        {"text": "green"},
        {"text": "blue", "negative_text": ""},
    ]
    assert [sorted(texts) for texts, _ in encoder.batches] == [["", "blue", "green", "red"]]


def test_each_limit_of_tokens_has_its_own_batch(encoder: Encoder, make_job: Any) -> None:
    jobs = [make_job(str(tokens), prompt="yellow", max_sequence_length=tokens) for tokens in (3, 5)]
    assert [one["text"] for one in embed(jobs, encoder)] == ["yel", "yello"]
    assert sorted(tokens for _, tokens in encoder.batches) == [3, 5]
