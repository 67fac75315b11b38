"""Signed page tokens for lists.

A list's last position comes in; an opaque text goes out to the caller, who sends it back for the next page. A token is good only for
the scope it was made for (say so by naming the tenant, the list and its filters), so that it can neither be forged nor carried over
to another tenant's list or to other filters.
"""

import itsdangerous

from darkroom import errors

TOKEN_CHARS_MAX = 1024


class PageTokens:
    """Makes and reads page tokens under the house's service secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def make(self, scope: str, *, position: str) -> str:
        """Sign `position`, the sort key of the last row of a page, for one list."""
        return self._serializer(scope).dumps(position)

    def read(self, field: str, token: str, scope: str) -> str:
        """The position that a token holds, "" for the first page (an empty token); InvalidArgument on `field` if it is forged."""
        if not token:
            return ""
        try:
            position = self._serializer(scope).loads(token) if len(token) <= TOKEN_CHARS_MAX else None
        except itsdangerous.BadData:
            position = None
        if not isinstance(position, str):
            raise errors.InvalidArgument.of(field, "must be the next_page_token of an answer with the same filters")
        return position

    def _serializer(self, scope: str) -> itsdangerous.URLSafeSerializer:
        return itsdangerous.URLSafeSerializer(self._secret, salt=f"darkroom.page:{scope}")
