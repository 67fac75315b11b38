"""The nouns of media_store. Made by `store`, read by `servicer`."""

import datetime
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Media:
    """One piece of media of a tenant."""

    media_id: str
    tenant_id: str
    generation_id: str
    """The generation that made it; empty for uploads."""
    media_type: str
    """By content, such as "image/png"."""
    sha256: str
    size_bytes: int
    created_at: datetime.datetime
    expires_at: datetime.datetime | None
    """When it goes; None means it is kept."""

    @property
    def blob_key(self) -> str:
        """Where its bytes lie; the same bytes of one tenant lie in one place."""
        return blob_key(tenant_id=self.tenant_id, sha256=self.sha256)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A piece of media that has been received and checked, about to be stored."""

    tenant_id: str
    generation_id: str
    media_type: str
    sha256: str
    size_bytes: int
    retention_s: float | None
    """How long to keep it from now; None means for ever."""

    @property
    def blob_key(self) -> str:
        """Where its bytes go."""
        return blob_key(tenant_id=self.tenant_id, sha256=self.sha256)


def blob_key(*, tenant_id: str, sha256: str) -> str:
    """Key of a tenant's bytes by their digest."""
    return f"media/{tenant_id}/{sha256}"
