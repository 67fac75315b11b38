import asyncio

import pytest

from darkroom import errors
from darkroom.lora_store import loop


class Loras:
    """Sweeps that fail as told, then end the test."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.ages_s: list[float] = []
        self.recovered = asyncio.Event()

    async def sweep(self, *, age_s: float) -> int:
        self.ages_s.append(age_s)
        if self.failures:
            raise self.failures.pop(0)
        self.recovered.set()
        return 1


async def test_sweeping_goes_on_when_the_database_is_away() -> None:
    loras = Loras(errors.Unavailable("away"), errors.Aborted("DATABASE_RACE", "again"))
    task = asyncio.create_task(loop.sweep(loras, interval_s=0, age_s=7.0))  # type: ignore[arg-type]
    await loras.recovered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert loras.ages_s[:3] == [7.0] * 3


async def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        await loop.sweep(Loras(ZeroDivisionError()), interval_s=0, age_s=7.0)  # type: ignore[arg-type]
