"""Blobs: all or nothing, bounded and hashed on the way in, ranges on the way out, no key that leaves the store."""

import asyncio
import hashlib
import stat

import pytest

from darkroom import blobs, errors

DATA = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    return blobs.open_store(f"file://{tmp_path}/blobs dir" if request.param == "file" else "memory:///")


async def _chunks(data=DATA, size_bytes=100_000, error=None):
    for start in range(0, len(data), size_bytes):
        yield data[start : start + size_bytes]
    if error is not None:
        raise error


async def _read(store, key, **named):
    return [chunk async for chunk in store.get(key, **named)]


async def test_what_is_put_is_got(store):
    stored = await store.put("ten_1/med_1", _chunks(), size_bytes_max=len(DATA))
    assert stored == (len(DATA), hashlib.sha256(DATA).hexdigest())
    chunks = await _read(store, "ten_1/med_1")
    assert b"".join(chunks) == DATA
    assert max(map(len, chunks)) <= blobs.CHUNK_BYTES_MAX
    assert await store.size("ten_1/med_1") == len(DATA)


async def test_an_empty_blob(store):
    assert (await store.put("a", _chunks(b""), size_bytes_max=0)).size_bytes == 0
    assert await _read(store, "a") == []


@pytest.mark.parametrize(("offset", "size_bytes"), [(0, 10), (7, 1), (1_000_000, None), (5, 1_500_000)])
async def test_a_range(store, offset, size_bytes):
    await store.put("a", _chunks(), size_bytes_max=len(DATA))
    end = None if size_bytes is None else offset + size_bytes
    assert b"".join(await _read(store, "a", offset=offset, size_bytes=size_bytes)) == DATA[offset:end]


@pytest.mark.parametrize(
    ("named", "error", "expected"),
    [
        ({"size_bytes_max": len(DATA) - 1}, None, errors.InvalidArgument),
        ({"size_bytes_max": len(DATA), "sha256_expected": "0" * 64}, None, errors.InvalidArgument),
        ({"size_bytes_max": len(DATA)}, errors.Unauthenticated("stop"), errors.Unauthenticated),
    ],
)
async def test_a_failed_put_stores_nothing(store, named, error, expected, tmp_path):
    with pytest.raises(expected):
        await store.put("a/b", _chunks(error=error), **named)
    assert not await store.exists("a/b")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_failed_put_keeps_what_was_there(store):
    await store.put("a", _chunks(b"old"), size_bytes_max=3)
    with pytest.raises(errors.InvalidArgument):
        await store.put("a", _chunks(b"newer"), size_bytes_max=3)
    assert await _read(store, "a") == [b"old"]


async def test_a_cancelled_put_stores_nothing(store):
    started = asyncio.Event()

    async def endless():
        yield b"first"
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put("a", endless(), size_bytes_max=100))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await store.exists("a")


async def test_a_missing_blob(store):
    with pytest.raises(errors.NotFound):
        await _read(store, "a")
    with pytest.raises(errors.NotFound):
        await store.size("a")
    assert not await store.exists("a")
    await store.delete("a")


async def test_delete(store):
    await store.put("a", _chunks(b"x"), size_bytes_max=1)
    await store.delete("a")
    assert not await store.exists("a")


@pytest.mark.parametrize("key", ["", "/a", "a/", "../a", "a/../b", "a//b", ".a", "a/.b", "a\0", "a b", "ä", "a" * 513])
async def test_a_key_that_could_leave_the_store_is_refused(store, key):
    with pytest.raises(ValueError, match="key"):
        await store.put(key, _chunks(b""), size_bytes_max=1)


async def test_only_clouds_sign(store):
    assert await store.sign("a", expires_in_s=60) is None
    cloud = blobs.open_store("s3://bucket/prefix")
    assert cloud is not None


def test_the_directory_is_closed_to_others(tmp_path):
    blobs.open_store(f"file://{tmp_path}/own")
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


@pytest.mark.parametrize("url", ["", "relative/path", "nothing://x", "file:///proc/nowhere"])
def test_a_url_of_no_store(url):
    with pytest.raises(ValueError, match="blob store"):
        blobs.open_store(url)


async def test_a_broken_store_is_unavailable_and_names_no_path(tmp_path):
    store = blobs.open_store(f"file://{tmp_path}/own")
    (tmp_path / "own" / "a").write_bytes(b"a file where a directory is needed")
    with pytest.raises(errors.Unavailable) as caught:
        await store.put("a/b", _chunks(b"x"), size_bytes_max=1)
    assert str(tmp_path) not in str(caught.value)
