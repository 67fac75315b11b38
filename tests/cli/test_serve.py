import ctypes
import os
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


_COUNT_HEAPS = """
import ctypes, threading
from darkroom.cli import serve
if {shared}:
    serve._share_heaps()
libc, barrier = ctypes.CDLL(None), threading.Barrier(8)
def work():
    barrier.wait()
    libc.malloc(1000)
    barrier.wait()  # a heap is given to another thread when its own has ended
threads = [threading.Thread(target=work) for _ in range(8)]
[each.start() for each in threads]
[each.join() for each in threads]
libc.fflush(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library")
def test_all_threads_of_a_room_share_two_heaps() -> None:
    heaps = {}
    for shared in (False, True):
        program = _COUNT_HEAPS.format(shared=shared)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        heaps[shared] = done.stdout.count("<heap ")
    assert heaps[True] == 2 < heaps[False]
