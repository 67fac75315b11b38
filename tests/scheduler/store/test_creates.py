import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from darkroom import errors, ids, postgres
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.store import bell, creates
from tests.scheduler.store.conftest import TENANT, counted, fund, lease, new


@pytest.fixture
async def store(database: postgres.Database) -> AsyncIterator[creates.Creates]:
    await fund(database, TENANT, 1000)
    made = creates.Creates(database, bell.Bell(database, interval_s=0.05), batch_max=256)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_everything_is_kept(store: creates.Creates, database: postgres.Database) -> None:
    asked = new(deadline_us=2_000_000, expected_us=1_000_000)
    made = await store.submit(asked)
    for field in ("generation_id", "tenant_id", "model", "input", "tags", "rates", "steps_total", "shape"):
        assert getattr(made, field) == getattr(asked, field)
    assert (
        (made.work_us, made.fixed_us, made.encode_us) == (asked.work_us, asked.fixed_us, asked.encode_us) == (5, 2, 3)
    )
    assert made.state is domain.State.QUEUED
    assert made.sequence == 1
    assert made.deadline is not None
    assert abs((made.deadline - made.created_at).total_seconds() - 2.0) < 0.01
    assert made.expected_finish_at is not None
    assert abs((made.expected_finish_at - made.created_at).total_seconds() - 1.0) < 0.01
    assert await lease(database) == (990, 10)
    assert await database.fetchval("SELECT array_agg(state) FROM generation_event") == ["QUEUED"]


async def test_creates_that_wait_are_committed_together(store: creates.Creates, database: postgres.Database) -> None:
    await asyncio.gather(*(store.submit(new()) for _ in range(60)))
    transactions = await database.fetchval("SELECT count(DISTINCT xmin::text) FROM generation")
    assert await database.fetchval("SELECT count(*) FROM generation") == 60
    assert transactions < 10
    assert await lease(database) == (400, 600)


async def test_no_more_bytes_wait_than_fit_into_memory(
    store: creates.Creates, database: postgres.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creates, "HELD_BYTES_MAX", 3_000_000)
    wanted = [new(input=bytes(500_000)) for _ in range(20)]
    outcomes = await asyncio.gather(*map(store.submit, wanted), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, errors.ResourceExhausted)]
    assert len(refused) == 14
    assert {(one.reason, one.retry_after_s) for one in refused} == {("CREATES_BUSY", 1.0)}
    assert await database.fetchval("SELECT count(*) FROM generation") == 6
    again = await asyncio.gather(*map(store.submit, wanted[:3]))  # there is room when they are committed
    assert [each.generation_id for each in again] == [each.generation_id for each in wanted[:3]]
    for _ in range(7):
        assert await store.submit(new(input=bytes(500_000)))


async def test_a_create_whose_caller_has_gone_is_not_held(database: postgres.Database) -> None:
    store = creates.Creates(database, bell.Bell(database, interval_s=0.05), batch_max=4)  # nobody commits
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.submit(new(input=bytes(creates.HELD_BYTES_MAX))), 0.01)
    assert not store._waiting


async def test_fifty_of_one_key_are_one_generation(store: creates.Creates, database: postgres.Database) -> None:
    made = await asyncio.gather(*(store.submit(new(idempotency_key="same")) for _ in range(50)))
    assert len({each.generation_id for each in made}) == 1
    assert await database.fetchval("SELECT count(*) FROM generation") == 1
    assert await lease(database) == (990, 10)


async def test_fifty_of_one_key_over_two_replicas_are_one(store: creates.Creates, database: postgres.Database) -> None:
    other = creates.Creates(database, bell.Bell(database, interval_s=0.05), batch_max=4)
    task = asyncio.create_task(other.run())
    made = await asyncio.gather(*((store, other)[n % 2].submit(new(idempotency_key=f"k{n % 5}")) for n in range(50)))
    task.cancel()
    assert len({each.generation_id for each in made}) == 5
    assert await lease(database) == (950, 50)


async def test_what_one_lacks_fails_that_one_alone(store: creates.Creates, database: postgres.Database) -> None:
    await store.submit(new(idempotency_key="known"))
    batch = [
        new(),
        new(idempotency_key="known"),
        new(idempotency_key="known", params_sha256=b"others"),
        new(estimate_nanos=10_000),
        new(tenant_id=ids.new("ten")),
        new(currency="EUR"),
        new(model="m\0"),  # PostgreSQL itself refuses it
        new(),
    ]
    answers = await asyncio.gather(*(store.submit(each) for each in batch), return_exceptions=True)
    kinds = [type(answer) for answer in answers]
    short, exists = creates.LeaseShort, errors.AlreadyExists
    assert kinds[:6] == [domain.Generation, domain.Generation, exists, short, short, short]
    assert isinstance(answers[6], Exception)
    assert kinds[7] is domain.Generation
    assert await database.fetchval("SELECT count(*) FROM generation") == 3
    assert await database.fetchval("SELECT count(*) FROM idempotency") == 3, "a refused one leaves no key behind"
    assert await lease(database) == (970, 30)


async def test_no_create_reads_all_keys(store: creates.Creates, database: postgres.Database) -> None:
    for _ in range(50):
        await store.submit(new())
    async with counted(database, "idempotency") as one:
        outcomes = await creates.insert(one, [new(), new(estimate_nanos=10_000)])
        assert [type(outcome) for outcome in outcomes] == [domain.Generation, creates.LeaseShort]
        assert await one.rows_read() == 1, "the key that is free again"


async def test_a_lease_is_never_overdrawn(store: creates.Creates, database: postgres.Database) -> None:
    answers = await asyncio.gather(*(store.submit(new(estimate_nanos=300)) for _ in range(7)), return_exceptions=True)
    assert sum(isinstance(answer, domain.Generation) for answer in answers) == 3
    assert await lease(database) == (100, 900)


async def test_a_free_model_needs_no_lease(store: creates.Creates) -> None:
    made = await store.submit(new(tenant_id=ids.new("ten"), estimate_nanos=0))
    assert made.estimate_nanos == 0


async def test_a_key_is_found_for_its_tenant_alone(store: creates.Creates) -> None:
    made = await store.submit(new(idempotency_key="mine", params_sha256=b"digest"))

    async def known(tenant_id: str, key: str, params_sha256: bytes = b"digest") -> domain.Generation | None:
        return await store.known(tenant_id=tenant_id, idempotency_key=key, params_sha256=params_sha256)

    assert await known(TENANT, "mine") == made
    assert await known(ids.new("ten"), "mine") is None
    assert await known(TENANT, "other") is None
    with pytest.raises(errors.AlreadyExists):
        await known(TENANT, "mine", b"other")


async def test_whoever_waits_when_it_stops_is_told(database: postgres.Database) -> None:
    store = creates.Creates(database, bell.Bell(database, interval_s=0.05), batch_max=1)
    waiting = asyncio.ensure_future(store.submit(new()))
    await asyncio.sleep(0)
    task = asyncio.create_task(store.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(errors.Unavailable):
        await waiting


async def test_old_keys_are_forgotten(store: creates.Creates, database: postgres.Database) -> None:
    first = await store.submit(new(idempotency_key="key"))
    assert await creates.sweep_keys(database, older_than_s=60.0) == 0
    await database.execute("UPDATE idempotency SET created_at = created_at - interval '61 seconds'")
    assert await creates.sweep_keys(database, older_than_s=60.0) == 1
    second = await store.submit(dataclasses.replace(new(), idempotency_key="key"))
    assert second.generation_id != first.generation_id


async def test_keys_that_are_kept_are_not_read(store: creates.Creates, database: postgres.Database) -> None:
    for _ in range(50):
        await store.submit(new())
    async with counted(database, "idempotency") as one:
        assert await creates.sweep_keys(one, older_than_s=60.0) == 0
        assert await one.rows_read() == 0
