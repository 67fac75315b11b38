import ctypes
import subprocess
import sys

import pytest

_COUNT_FAULTS = """
import ctypes, resource, threading
from darkroom.model_runner.engine import host_memory
{keep}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def use():
    blocks = [ctypes.c_void_p(libc.malloc(10 << 20)) for _ in range(10)]
    for block in blocks:
        ctypes.memset(block, 1, 10 << 20)
    for block in blocks:
        libc.free(block)
def twice():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=twice)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library")
def test_memory_that_was_freed_is_used_again_without_a_page_fault() -> None:
    faults = []
    for keep in ("", "host_memory.keep()"):
        program = _COUNT_FAULTS.format(keep=keep)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        faults.append(int(done.stdout))
    assert faults[1] < 200 < 10_000 < faults[0]
