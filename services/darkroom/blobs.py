"""Bytes by key, on the local disk or in a cloud's bucket, through obstore.

A stream of chunks comes in and is hashed and bounded while it is stored: all of it or nothing. Out go streams of a
whole blob or a range of it. lora_store and media_store keep the metadata (owner, digest, size) in their own tables; a
blob alone says nothing about whose it is.
"""

import contextlib
import datetime
import hashlib
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
import obstore.exceptions
import obstore.store

from darkroom import errors

CHUNK_BYTES_MAX = 512 * 1024

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_KEY_CHARACTERS_MAX = 512
_CLOUDS = (obstore.store.S3Store, obstore.store.GCSStore, obstore.store.AzureStore)


class Stored(NamedTuple):
    """What was stored: its size and the SHA-256 of its bytes, in hex."""

    size_bytes: int
    sha256: str


def open_store(url: str) -> "Blobs":
    """Open file:///directory (made if missing, for this user alone), s3://, gs://, az:// or memory:///, else ValueError."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            directory = Path(unquote(parts.path))
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Blobs(obstore.store.LocalStore(directory))
        return Blobs(obstore.store.from_url(url))
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        raise ValueError(f"a blob store cannot be opened at a {parts.scheme or 'relative'} URL") from error


class Blobs:
    """One store. Keys are made by the rooms, never by callers; Unavailable if the store does not answer."""

    def __init__(self, store: obstore.store.ObjectStore) -> None:
        self._store = store

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], *, size_bytes_max: int, sha256_expected: str = ""
    ) -> Stored:
        """Store a stream under a key, replacing what was there; nothing is stored if the stream fails.

        InvalidArgument if it is longer than `size_bytes_max` or its digest is not the expected (hex; empty means any).
        """
        counted = _Counted(chunks, size_bytes_max=size_bytes_max, sha256_expected=sha256_expected)
        with _translated(key):
            await obstore.put_async(self._store, _checked(key), counted.read())
        return counted.stored()

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None) -> AsyncIterator[bytes]:
        """Yield a blob's bytes from `offset` (inside it) in chunks of at most 512 KiB; NotFound if there is no such blob."""
        options: obstore.GetOptions = {}
        if size_bytes is not None:
            options = {"range": (offset, offset + size_bytes)}
        elif offset:
            options = {"range": {"offset": offset}}
        with _translated(key):
            found = await obstore.get_async(self._store, _checked(key), options=options)
            async for chunk in found.stream(min_chunk_size=CHUNK_BYTES_MAX):
                view = memoryview(chunk)
                for start in range(0, len(view), CHUNK_BYTES_MAX):
                    yield bytes(view[start : start + CHUNK_BYTES_MAX])

    async def size(self, key: str) -> int:
        """The size of a blob in bytes; NotFound if there is none."""
        with _translated(key):
            return (await obstore.head_async(self._store, _checked(key)))["size"]

    async def exists(self, key: str) -> bool:
        """Whether there is a blob under this key."""
        try:
            await self.size(key)
        except errors.NotFound:
            return False
        return True

    async def delete(self, key: str) -> None:
        """Delete a blob; nothing happens if there is none."""
        with contextlib.suppress(errors.NotFound), _translated(key):
            await obstore.delete_async(self._store, _checked(key))

    async def sign(self, key: str, *, expires_in_s: float) -> str | None:
        """A URL that reads this blob without credentials until it expires; None if the store is no cloud's."""
        if not isinstance(self._store, _CLOUDS):
            return None
        with _translated(key):
            expires_in = datetime.timedelta(seconds=expires_in_s)
            return await obstore.sign_async(self._store, "GET", _checked(key), expires_in)


class _Counted:
    """A stream of bytes that is measured as it is read, and fails when it is not what it should be."""

    def __init__(self, chunks: AsyncIterable[bytes], *, size_bytes_max: int, sha256_expected: str) -> None:
        self._chunks = chunks
        self._size_bytes_max = size_bytes_max
        self._sha256_expected = sha256_expected
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    async def read(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self._size_bytes += len(chunk)
            if self._size_bytes > self._size_bytes_max:
                raise errors.InvalidArgument.of("data", f"must be at most {self._size_bytes_max} bytes")
            self._hash.update(chunk)
            yield chunk
        if self._sha256_expected and self._sha256_expected != self._hash.hexdigest():
            raise errors.InvalidArgument.of("sha256", "must be the SHA-256 of the data that was sent")

    def stored(self) -> Stored:
        return Stored(size_bytes=self._size_bytes, sha256=self._hash.hexdigest())


def _checked(key: str) -> str:
    if len(key) > _KEY_CHARACTERS_MAX or not _KEY.fullmatch(key):
        raise ValueError("not a key of a blob")
    return key


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise errors.NotFound("blob", key) from error
    except (obstore.exceptions.BaseError, OSError) as error:
        if "os error 28" in str(error):  # no space left on the device
            raise errors.ResourceExhausted("STORAGE_FULL", "the storage is full", retry_after_s=60.0) from error
        raise errors.Unavailable("the storage does not answer") from error
