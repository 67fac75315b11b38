import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from darkroom.cli import serve

SERVE = (sys.executable, "-m", "darkroom", "serve")


@pytest.fixture
def environment(database_url: str, service_secret: str) -> Mapping[str, str]:
    """What billing_meter, which calls nobody, needs."""
    return {**os.environ, "DARKROOM_DATABASE_URL": database_url, "DARKROOM_SERVICE_SECRET": service_secret}


@pytest.fixture
def meter(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*SERVE, "billing_meter"], env=environment, text=True, **pipes) as child:
        yield child
        child.kill()


def test_a_room_says_where_it_serves_and_ends_cleanly(meter: subprocess.Popen[str]) -> None:
    assert meter.stdout is not None
    word, address = meter.stdout.readline().split()
    assert word == "ready"
    assert address.startswith("127.0.0.1:")
    meter.send_signal(signal.SIGTERM)
    told, logged = meter.communicate()
    assert meter.returncode == 0, logged
    assert told == ""
    assert "Traceback" not in logged


@pytest.mark.parametrize(
    ("changed", "variable"),
    [
        ({"DARKROOM_SERVICE_SECRET": "short"}, "DARKROOM_SERVICE_SECRET"),
        ({"DARKROOM_SHUTDOWN_GRACE_S": "soon"}, "DARKROOM_SHUTDOWN_GRACE_S"),
        ({"DARKROOM_LISTEN_ADDRESS": "0.0.0.0:0"}, "DARKROOM_TLS"),
    ],
)
def test_a_wrong_setting_is_misuse_in_one_sentence(
    environment: Mapping[str, str], changed: Mapping[str, str], variable: str
) -> None:
    done = subprocess.run([*SERVE, "billing_meter"], env={**environment, **changed}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("darkroom: ")
    assert variable in done.stderr
    assert done.stderr.count("\n") == 1


def test_under_a_supervisor_that_is_gone_it_does_not_start(environment: Mapping[str, str]) -> None:
    orphan = {**environment, "DARKROOM_PARENT_PID": "1"}
    done = subprocess.run([*SERVE, "billing_meter"], env=orphan, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


def test_it_knows_every_room() -> None:
    for room in serve.ROOMS:
        assert __import__(f"darkroom.{room}.config", fromlist=["Config"]).Config


_COUNT_BLOCKS = """
import ctypes
from darkroom.cli import serve
{tune}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
blocks = [libc.malloc(64 * 1024) for _ in range(100)]
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def python(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library")
def test_a_room_keeps_no_large_block_that_it_has_freed() -> None:
    apart = [
        int(re.findall(r'type="mmap" count="(\d+)"', python(_COUNT_BLOCKS.format(tune=tune)))[-1])
        for tune in ("", "serve._give_blocks_back()")
    ]
    assert apart[0] < 10 < 90 < apart[1]
