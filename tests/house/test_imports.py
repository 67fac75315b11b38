"""Import direction is a test, not an agreement; and the command answers without loading what it does not need."""

import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).parents[2]
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "grpc",
    "asyncpg",
    "numpy",
    "rich",
    "opentelemetry",
    "obstore",
    "aiohttp",
)


def test_the_import_contracts_hold() -> None:
    linter = pathlib.Path(sys.executable).parent / "lint-imports"
    verdict = subprocess.run([linter, "--no-cache"], cwd=TOP, capture_output=True, text=True, timeout=120, check=False)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from darkroom import __main__
try:
    __main__.main(["--help"])
except SystemExit:
    pass
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    verdict = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, timeout=60, check=False
    )
    assert verdict.returncode == 0, verdict.stderr
    assert "generate" in verdict.stdout


def test_the_kernels_stand_alone() -> None:
    code = "import sys, darkroom_kernels; assert not [m for m in ('darkroom', 'grpc', 'diffusers') if m in sys.modules]"
    subprocess.run([sys.executable, "-c", code], cwd=TOP, check=True, timeout=120)
