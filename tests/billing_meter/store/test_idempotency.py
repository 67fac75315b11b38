import asyncio

import pytest

from darkroom import errors
from darkroom.billing_meter.store import idempotency
from tests.billing_meter.harness import Meter


async def claim(meter: Meter, subject_id: str, *, key: str = "k", params: tuple[object, ...] = (1, "a")) -> str | None:
    async with meter.database.transaction() as connection:
        return await idempotency.claim(
            connection, method="Test", idempotency_key=key, params=params, subject_id=subject_id
        )


async def test_the_first_call_claims_and_later_ones_get_its_subject(meter: Meter) -> None:
    assert await claim(meter, "first") is None
    assert await claim(meter, "second") == "first"
    assert await claim(meter, "third", key="other") is None


async def test_other_parameters_are_refused(meter: Meter) -> None:
    await claim(meter, "first")
    with pytest.raises(errors.AlreadyExists):
        await claim(meter, "second", params=(2, "a"))


async def test_a_claim_that_was_rolled_back_is_free_again(meter: Meter) -> None:
    async def claim_and_fail() -> None:
        async with meter.database.transaction() as connection:
            await idempotency.claim(connection, method="Test", idempotency_key="k", params=(), subject_id="first")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await claim_and_fail()
    assert await claim(meter, "second", params=()) is None


async def test_of_many_at_once_one_claims(meter: Meter) -> None:
    claims = await asyncio.gather(*(claim(meter, f"subject {n}") for n in range(20)))
    assert claims.count(None) == 1
    assert len(set(claims)) == 2
