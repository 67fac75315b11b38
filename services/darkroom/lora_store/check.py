"""What callers of lora_store may ask, checked before anything is received or read.

Requests' fields come in; nothing goes out, or InvalidArgument that names every bad field. `servicer` calls these first.
"""

import re
from collections.abc import Collection

from darkroom import validation

PAGE_SIZE_MAX = 200
PAGE_SIZE_DEFAULT = 50

_SHA256 = re.compile(r"[0-9a-f]{64}")


def header(
    *, name: str, base_model: str, sha256: str, size_bytes: int, models: Collection[str], bytes_max: int
) -> None:
    """Check what is about to be pushed."""
    found = validation.Violations()
    found.name("header.name", name)
    found.check(base_model in models, "header.base_model", "must be the name of a model of the catalogue")
    found.check(bool(_SHA256.fullmatch(sha256)), "header.sha256", "must be 64 lower-case hex digits")
    found.integer("header.size_bytes", size_bytes, low=1, high=bytes_max)
    found.raise_if_any()


def adapter_id(value: str) -> None:
    """Check an adapter's id."""
    found = validation.Violations()
    found.identifier("adapter_id", value, "lora")
    found.raise_if_any()


def page(*, page_size: int, base_model: str) -> int:
    """Check a list's filters; how many adapters to answer."""
    found = validation.Violations()
    found.integer("page_size", page_size, low=0, high=PAGE_SIZE_MAX)
    if base_model:
        found.name("base_model", base_model)
    found.raise_if_any()
    return page_size or PAGE_SIZE_DEFAULT
