import pytest

from darkroom import errors, ids
from darkroom.media_store import check


def fields(refusal: pytest.ExceptionInfo[errors.InvalidArgument]) -> list[str]:
    return [violation.field for violation in refusal.value.violations]


@pytest.mark.parametrize("sha256", ["", "0123456789abcdef" * 4])
def test_a_good_header_passes(sha256: str) -> None:
    check.header(sha256=sha256, size_bytes=10, bytes_max=10)


@pytest.mark.parametrize("sha256", ["0" * 63, "A" * 64, "0" * 64 + "\n", "../etc"])
@pytest.mark.parametrize("size_bytes", [0, -1, 11])
def test_every_bad_field_of_a_header_is_named(sha256: str, size_bytes: int) -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        check.header(sha256=sha256, size_bytes=size_bytes, bytes_max=10)
    assert fields(refusal) == ["header.sha256", "header.size_bytes"]


def test_ids_are_those_of_media() -> None:
    check.media_id(ids.new("med"))
    with pytest.raises(errors.InvalidArgument) as refusal:
        check.media_id(ids.new("lora"))
    assert fields(refusal) == ["media_id"]


def test_a_read_begins_inside_or_at_the_end() -> None:
    check.offset(0, size_bytes=5)
    check.offset(5, size_bytes=5)
    for value in (-1, 6, 2**63 - 1):
        with pytest.raises(errors.InvalidArgument) as refusal:
            check.offset(value, size_bytes=5)
        assert fields(refusal) == ["offset_bytes"]
