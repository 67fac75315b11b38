"""Proves the compiler's wrapper: cubins, its cache, its errors, and life without the `[gpu]` extra."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom_kernels import nvrtc

SOURCE = (
    '#include <cuda_fp16.h>\nextern "C" __global__ void fill(__half* out) { out[threadIdx.x] = __float2half(VALUE); }\n'
)

needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="the [gpu] extra is not installed")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DARKROOM_KERNEL_CACHE_DIR", str(tmp_path / "cache"))
    nvrtc._cache.cache_clear()
    yield tmp_path / "cache"
    nvrtc._cache.cache_clear()


def entries(cache: Path) -> set[Path]:
    return {path for path in cache.rglob("*") if path.is_file()}


@needs_nvrtc
def test_cache_holds_one_cubin_per_build(cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "fill.cu"
    source.write_text(SOURCE)
    first = nvrtc.compile(source, arch="sm_90", defines={"VALUE": "1.0f"})
    assert first.startswith(b"\x7fELF")
    assert [path.read_bytes() for path in entries(cache)] == [first]
    assert cache.stat().st_mode & 0o077 == 0
    assert nvrtc.compile(source, arch="sm_90", defines={"VALUE": "1.0f"}) == first
    assert len(entries(cache)) == 1
    assert nvrtc.compile(source, arch="sm_90", defines={"VALUE": "2.0f"}) != first
    assert nvrtc.compile(source, arch="sm_80", defines={"VALUE": "1.0f"}) != first
    source.write_text(SOURCE.replace("VALUE", "-VALUE"))
    assert nvrtc.compile(source, arch="sm_90", defines={"VALUE": "1.0f"}) != first
    assert len(entries(cache)) == 4


@needs_nvrtc
def test_cached_cubin_is_what_comes_back(cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "fill.cu"
    source.write_text(SOURCE)
    nvrtc.compile(source, arch="sm_90", defines={"VALUE": "1.0f"})
    (entry,) = entries(cache)
    entry.write_bytes(b"\x7fELF kept")
    assert nvrtc.compile(source, arch="sm_90", defines={"VALUE": "1.0f"}) == b"\x7fELF kept"


@needs_nvrtc
def test_error_carries_the_compilers_log(cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "fill.cu"
    source.write_text(SOURCE)
    with pytest.raises(Exception, match='identifier "VALUE" is undefined'):
        nvrtc.compile(source, arch="sm_90", defines={})
    assert not entries(cache)


@needs_nvrtc
def test_compiles_where_the_cache_cannot_be_written(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file where the directory should be")
    source = tmp_path / "fill.cu"
    source.write_text(SOURCE)
    assert nvrtc.compile(source, arch="sm_90", defines={"VALUE": "1.0f"}).startswith(b"\x7fELF")
    assert "cannot be used" in caplog.text


def test_package_works_without_cuda_python() -> None:
    program = (
        "import sys; sys.modules['cuda'] = None\n"
        "import torch\n"
        "from darkroom_kernels import nvrtc, ops\n"
        "x, s = torch.randn(2, 3), torch.ones(2)\n"
        "y = ops.guidance_step(x, x, None, s, s * 0.5, None)\n"
        "assert torch.equal(y, x * 0.5) and not nvrtc.available()\n"
        "assert not {'darkroom', 'grpc', 'diffusers'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(nvrtc.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=120)
