import pytest

from darkroom import errors, ids
from darkroom.lora_store import check

GOOD = {"name": "style", "base_model": "tiny", "sha256": "0" * 64, "size_bytes": 8, "models": {"tiny"}, "bytes_max": 8}


def fields(refusal: pytest.ExceptionInfo[errors.InvalidArgument]) -> list[str]:
    return [violation.field for violation in refusal.value.violations]


def test_a_good_header_passes() -> None:
    check.header(**GOOD)


def test_every_bad_field_of_a_header_is_named() -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        check.header(**{**GOOD, "name": "a/b", "base_model": "huge", "sha256": "0" * 64 + "\n", "size_bytes": 9})
    assert fields(refusal) == ["header.name", "header.base_model", "header.sha256", "header.size_bytes"]


def test_ids_are_those_of_adapters() -> None:
    check.adapter_id(ids.new("lora"))
    with pytest.raises(errors.InvalidArgument) as refusal:
        check.adapter_id(ids.new("gen"))
    assert fields(refusal) == ["adapter_id"]


@pytest.mark.parametrize(("asked", "answered"), [(0, 50), (1, 1), (200, 200)])
def test_the_size_of_a_page(asked: int, answered: int) -> None:
    assert check.page(page_size=asked, base_model="") == answered


def test_every_bad_filter_is_named() -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        check.page(page_size=201, base_model="A")
    assert fields(refusal) == ["page_size", "base_model"]
