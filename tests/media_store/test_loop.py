import asyncio

import pytest

from darkroom import errors
from darkroom.media_store import loop


class Media:
    """Sweeps that fail as told; three batches have expired."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.batches = [1000, 1000, 7]
        self.ages_s: list[float] = []
        self.swept = asyncio.Event()

    async def expire(self) -> int:
        if self.failures:
            raise self.failures.pop(0)
        return self.batches.pop(0) if self.batches else 0

    async def sweep(self, *, age_s: float) -> int:
        self.ages_s.append(age_s)
        self.swept.set()
        return 0


async def test_all_that_has_expired_goes_even_after_the_database_was_away() -> None:
    media = Media(errors.Unavailable("away"), errors.Aborted("DATABASE_RACE", "again"))
    task = asyncio.create_task(loop.sweep(media, interval_s=0, age_s=7.0))  # type: ignore[arg-type]
    await media.swept.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not media.batches
    assert media.ages_s[0] == 7.0


async def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        await loop.sweep(Media(ZeroDivisionError()), interval_s=0, age_s=7.0)  # type: ignore[arg-type]
