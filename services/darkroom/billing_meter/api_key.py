"""API keys as texts: "dk_" + 12 hex digits (public) + "_" + 64 hex digits (256 random bits, secret).

A new key comes out of `mint` once, for the caller; `store.keys` keeps its prefix and SHA-256 alone and compares with `matches`.
"""

import hashlib
import hmac
import secrets
from typing import NamedTuple

from darkroom.billing_meter import domain


class Minted(NamedTuple):
    """A new key: `text` goes to the caller and nowhere else, the rest is stored."""

    text: str
    prefix: str
    sha256: bytes


def mint() -> Minted:
    """Make a key from the system's randomness."""
    prefix = f"dk_{secrets.token_hex(6)}"
    text = f"{prefix}_{secrets.token_hex(32)}"
    return Minted(text=text, prefix=prefix, sha256=digest(text))


def prefix_of(text: str) -> str:
    """The public beginning of a key, "" if the text is not shaped like one."""
    match = domain.API_KEY.fullmatch(text)
    return match[1] if match else ""


def digest(text: str) -> bytes:
    """The SHA-256 that is stored of a key."""
    return hashlib.sha256(text.encode()).digest()


def matches(text: str, sha256: bytes) -> bool:
    """Whether this key has this SHA-256, in a time that does not depend on where they differ."""
    return hmac.compare_digest(digest(text), sha256)
