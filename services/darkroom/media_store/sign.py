"""Signed URLs: who holds one may read one piece of media until it expires.

A piece of media comes in; a token goes out, which `servicer.files` reads back from the URL's path. A token is only good for what it was
signed for; whether the piece is still there is asked at each read, so that deleting it ends its URLs at once.
"""

import datetime
from typing import NamedTuple

import itsdangerous

TOKEN_CHARS_MAX = 512


class Signed(NamedTuple):
    """The piece of media that a URL is for."""

    tenant_id: str
    media_id: str


class Signer:
    """Makes and reads the tokens of signed URLs under the house's service secret."""

    def __init__(self, secret: str) -> None:
        self._serializer = itsdangerous.URLSafeSerializer(secret, salt="darkroom.media.url")

    def make(self, *, tenant_id: str, media_id: str, expires_at: datetime.datetime) -> str:
        """Sign one piece until a moment."""
        return self._serializer.dumps([tenant_id, media_id, expires_at.timestamp()])

    def read(self, token: str, *, now: datetime.datetime) -> Signed | None:
        """What a token was made for; None if it is forged or has expired."""
        try:
            tenant_id, media_id, expires_at_s = self._serializer.loads(token[: TOKEN_CHARS_MAX + 1])
        except itsdangerous.BadData:
            return None
        return Signed(tenant_id, media_id) if now.timestamp() < expires_at_s else None
