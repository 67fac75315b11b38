import pytest
import torch

from darkroom.model_runner.engine import embeddings

ROW_BYTES = 4 * 4


class Encoder:
    """Encodes a text as its length, four times, in one batch; remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, texts: list[str]) -> list[dict[str, torch.Tensor]]:
        self.batches.append(texts)
        batch = torch.tensor([[float(len(text))] * 4 for text in texts])
        return [{"text": row} for row in batch]


def embed(
    cache: embeddings.Cache, tenants: str | list[str], texts: list[str], *, compute: Encoder, tokens: int = 512
) -> list[embeddings.Embedding]:
    """Ask for texts of one tenant, or of one each."""
    owners = [tenants] * len(texts) if isinstance(tenants, str) else tenants
    return cache.embed(owners, texts, compute=compute, tokens=tokens)


def lengths(found: list[embeddings.Embedding]) -> list[float]:
    return [embedding["text"][0].item() for embedding in found]


def test_only_missing_texts_are_encoded_in_one_batch_and_all_come_back_in_order() -> None:
    cache, encode = embeddings.Cache(bytes_max=1000), Encoder()
    embed(cache, "ten_1", ["a", "bb"], compute=encode)
    assert lengths(embed(cache, "ten_1", ["ccc", "bb", "dddd", "ccc"], compute=encode)) == [3, 2, 4, 3]
    assert encode.batches == [["a", "bb"], ["ccc", "dddd"]]
    assert lengths(embed(cache, "ten_1", ["dddd"], compute=encode)) == [4]
    assert len(encode.batches) == 2
    assert (cache.hits, cache.misses) == (2, 5)


def test_two_tenants_never_share_an_entry() -> None:
    cache, encode = embeddings.Cache(bytes_max=1000), Encoder()
    embed(cache, "ten_1", ["a"], compute=encode)
    embed(cache, "ten_2", ["a"], compute=encode)
    assert encode.batches == [["a"], ["a"]]
    assert (cache.hits, cache.misses) == (0, 2)


def test_texts_of_several_tenants_are_one_batch_and_stay_apart() -> None:
    cache, encode = embeddings.Cache(bytes_max=1000), Encoder()
    embed(cache, "ten_1", ["a"], compute=encode)
    assert lengths(embed(cache, ["ten_1", "ten_2", "ten_2"], ["a", "a", "bb"], compute=encode)) == [1, 1, 2]
    assert encode.batches == [["a"], ["a", "bb"]]
    assert (cache.hits, cache.misses) == (1, 3)
    with pytest.raises(ValueError, match="zip"):
        embed(cache, ["ten_1"], ["a", "b"], compute=encode)


def test_models_and_limits_of_tokens_do_not_share_entries_but_the_room() -> None:
    cache, encode = embeddings.Cache(bytes_max=2 * ROW_BYTES), Encoder()
    first, second = cache.of("sha256:1"), cache.of("sha256:2")
    embed(first, "ten_1", ["a"], compute=encode)
    embed(second, "ten_1", ["a"], compute=encode)
    assert cache.size_bytes == first.size_bytes == 2 * ROW_BYTES
    embed(first, "ten_1", ["a"], tokens=77, compute=encode)
    assert cache.size_bytes == 2 * ROW_BYTES
    assert encode.batches == [["a"]] * 3


def test_the_longest_unused_leaves_when_the_bytes_are_spent() -> None:
    cache, encode = embeddings.Cache(bytes_max=2 * ROW_BYTES), Encoder()
    embed(cache, "ten_1", ["a", "bb"], compute=encode)
    embed(cache, "ten_1", ["a"], compute=encode)
    embed(cache, "ten_1", ["ccc"], compute=encode)
    assert cache.size_bytes == 2 * ROW_BYTES
    embed(cache, "ten_1", ["a", "ccc"], compute=encode)
    assert encode.batches == [["a", "bb"], ["ccc"]]
    embed(cache, "ten_1", ["bb"], compute=encode)
    assert encode.batches[-1] == ["bb"]


def test_a_text_larger_than_the_cache_is_answered_and_not_kept() -> None:
    cache, encode = embeddings.Cache(bytes_max=0), Encoder()
    assert lengths(embed(cache, "ten_1", ["a"], compute=encode)) == [1]
    assert cache.size_bytes == 0


def test_a_kept_row_does_not_keep_its_batch() -> None:
    cache, encode = embeddings.Cache(bytes_max=1000), Encoder()
    (first, _) = embed(cache, "ten_1", ["a", "bb"], compute=encode)
    assert first["text"].untyped_storage().nbytes() == first["text"].nbytes == ROW_BYTES
