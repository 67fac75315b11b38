"""The nouns of lora_store: what is known of an adapter. Made by `validate` and `store`, read by `servicer`."""

import datetime
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What an adapter's file holds, as found by `validate`."""

    rank: int
    """Greatest rank of its pairs."""
    pairs: int
    """How many A and B pairs."""
    dtype: str
    """Type of A and B: F32, F16 or BF16."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """One adapter of a tenant."""

    adapter_id: str
    tenant_id: str
    name: str
    base_model: str
    sha256: str
    size_bytes: int
    numbers: Numbers
    created_at: datetime.datetime

    @property
    def blob_key(self) -> str:
        """Where its bytes lie; the same bytes of one tenant lie in one place."""
        return f"loras/{self.tenant_id}/{self.sha256}"
