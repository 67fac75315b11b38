"""Makes generations durable, many in one transaction.

`servicer.create` submits what it has checked and priced; one task per replica commits all that wait together, since a commit of each
alone would cost more than all the rest. In the transaction, in this order: idempotency rows (a key that is there already answers with
its generation), the spending leases' debits, the generations, their first events. What one create lacks fails that one alone.
"""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from darkroom import errors, postgres
from darkroom.scheduler.domain import generation as domain
from darkroom.scheduler.domain import spending as money
from darkroom.scheduler.store import bell, generations, spending

HELD_BYTES_MAX = 48 << 20
"""Of requests that wait to be committed: each is there four times or so, as message, as filled in, as row, and on its way."""
RETRY_AFTER_S = 1.0

_log = logging.getLogger(__name__)


class LeaseShort(Exception):
    """The tenant's spending lease holds too little for this create; nothing was stored."""


Outcome: TypeAlias = domain.Generation | errors.DarkroomError | LeaseShort


class _Known(NamedTuple):
    params_sha256: bytes
    generation: domain.Generation


class _Waiting(NamedTuple):
    new: domain.New
    answer: "asyncio.Future[domain.Generation]"


class Creates:
    """The creates of one replica; `run` commits them."""

    def __init__(self, database: postgres.Database, the_bell: bell.Bell, *, batch_max: int) -> None:
        self._database = database
        self._bell = the_bell
        self._batch_max = batch_max
        self._waiting: dict[str, _Waiting] = {}  # by generation, in order
        self._held_bytes = 0
        self._work = asyncio.Event()

    async def known(self, *, tenant_id: str, idempotency_key: str, params_sha256: bytes) -> domain.Generation | None:
        """The generation that the tenant's key stands for, if it was used; AlreadyExists if for other parameters."""
        found = (await _known(self._database, [(tenant_id, idempotency_key)])).get((tenant_id, idempotency_key))
        return _same(found, idempotency_key, params_sha256) if found else None

    async def submit(self, new: domain.New) -> domain.Generation:
        """Make it durable; returned means committed.

        AlreadyExists if its key stands for other parameters, LeaseShort if the lease holds too little. ResourceExhausted if
        what waits is too long already, Unavailable if the commit's outcome is not known: the same key asks again.
        """
        if self._held_bytes + len(new.input) > HELD_BYTES_MAX:
            raise errors.ResourceExhausted(
                "CREATES_BUSY", "too many requests with pictures come in at once", retry_after_s=RETRY_AFTER_S
            )
        answer: asyncio.Future[domain.Generation] = asyncio.get_running_loop().create_future()
        self._held_bytes += len(new.input)
        try:
            self._waiting[new.generation_id] = _Waiting(new, answer)
            self._work.set()
            return await answer
        finally:
            self._held_bytes -= len(new.input)
            self._waiting.pop(new.generation_id, None)  # its caller has gone

    async def run(self) -> None:
        """Commit what waits until cancelled; whoever waits then is told to ask again."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._waiting:
                    first = list(itertools.islice(self._waiting, self._batch_max))
                    await self._commit([self._waiting.pop(generation_id) for generation_id in first])
        finally:
            for waiting in self._waiting.values():
                _answer(waiting, errors.Unavailable("this replica is stopping"))

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        wanted = [waiting for waiting in batch if not waiting.answer.done()]  # its caller may have gone
        try:
            async with self._database.transaction() as connection:
                outcomes = await insert(connection, [waiting.new for waiting in wanted])
        except asyncio.CancelledError:
            self._waiting |= {waiting.new.generation_id: waiting for waiting in wanted}
            raise
        except Exception as error:  # each waiting create is answered with it, or tried alone
            await self._commit_failed(wanted, error)
            return
        self._bell.ring()
        for waiting, outcome in zip(wanted, outcomes, strict=True):
            _answer(waiting, outcome)

    async def _commit_failed(self, wanted: Sequence[_Waiting], error: Exception) -> None:
        if isinstance(error, errors.Unavailable) or len(wanted) == 1:
            _log.warning("a commit failed", exc_info=not isinstance(error, errors.DarkroomError))
            for waiting in wanted:
                _answer(waiting, error)
            return
        for waiting in wanted:  # one of them spoils it: each alone
            await self._commit([waiting])


async def insert(connection: postgres.Connection, batch: Sequence[domain.New]) -> list[Outcome]:
    """Insert what can be inserted in the caller's transaction; what came of each, in order."""
    won = await _claim_keys(connection, batch)
    short = await _debit(connection, [new for new in batch if new.generation_id in won])
    if short:
        await _free_keys(connection, [new for new in batch if new.generation_id in short])
    made = await _insert_rows(connection, [new for new in batch if new.generation_id in won - short])
    lost = [(new.tenant_id, new.idempotency_key) for new in batch if new.generation_id not in won]
    known = await _known(connection, lost) if lost else {}
    return [
        made.get(new.generation_id) or _resolve(new, known.get((new.tenant_id, new.idempotency_key))) for new in batch
    ]


def _resolve(new: domain.New, known: _Known | None) -> Outcome:
    if known is None:  # short itself, or a twin in the same batch was
        return LeaseShort()
    try:
        return _same(known, new.idempotency_key, new.params_sha256)
    except errors.AlreadyExists as error:
        return error


def _same(known: _Known, idempotency_key: str, params_sha256: bytes) -> domain.Generation:
    if known.params_sha256 != params_sha256:
        raise errors.AlreadyExists("idempotency_key", idempotency_key)
    return known.generation


async def _claim_keys(connection: postgres.Connection, batch: Sequence[domain.New]) -> set[str]:
    ordered = sorted(batch, key=lambda new: (new.tenant_id, new.idempotency_key))  # one order, so that nobody deadlocks
    rows = await connection.fetch(
        "INSERT INTO idempotency (tenant_id, idempotency_key, params_sha256, generation_id)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[])"
        " ON CONFLICT DO NOTHING RETURNING generation_id",
        [new.tenant_id for new in ordered],
        [new.idempotency_key for new in ordered],
        [new.params_sha256 for new in ordered],
        [new.generation_id for new in ordered],
    )
    return {row["generation_id"] for row in rows}


async def _free_keys(connection: postgres.Connection, batch: Sequence[domain.New]) -> None:
    """Let keys that were claimed in vain be used again; by the primary key, for the table is long and leases are locked."""
    await connection.execute(
        "DELETE FROM idempotency i USING unnest($1::text[], $2::text[]) AS k(tenant_id, key)"
        " WHERE i.tenant_id = k.tenant_id AND i.idempotency_key = k.key",
        [new.tenant_id for new in batch],
        [new.idempotency_key for new in batch],
    )


async def _debit(connection: postgres.Connection, winners: Sequence[domain.New]) -> set[str]:
    """Reserve every estimate that its tenant's lease can carry, in order; the ids of the others."""
    leases = await spending.lock(connection, sorted({new.tenant_id for new in winners}))
    debits = dict.fromkeys(leases, 0)
    short: set[str] = set()
    for new in winners:
        if not new.estimate_nanos:
            continue  # a free model needs no lease
        lease = leases.get(new.tenant_id, money.NO_LEASE)
        after_nanos = debits.get(new.tenant_id, 0) + new.estimate_nanos
        if lease.currency == new.currency and after_nanos <= lease.remaining_nanos:
            debits[new.tenant_id] = after_nanos
        else:
            short.add(new.generation_id)
    await spending.debit(connection, debits)
    return short


async def _insert_rows(connection: postgres.Connection, accepted: Sequence[domain.New]) -> dict[str, domain.Generation]:
    if not accepted:
        return {}
    rows = await connection.fetch(
        "INSERT INTO generation (generation_id, tenant_id, model, model_revision, state, priority, input, tags,"
        " price_version_id, currency, estimate_nanos, rates, work_us, fixed_us, encode_us, steps_total, shape, deadline,"
        " expected_finish_at)"
        " SELECT r.generation_id, r.tenant_id, r.model, r.model_revision, 'QUEUED', r.priority, r.input, r.tags,"
        " r.price_version_id, r.currency, r.estimate_nanos, r.rates, r.work_us, r.fixed_us, r.encode_us, r.steps_total,"
        " r.shape,"
        " clock_timestamp() + r.deadline_us * interval '1 microsecond',"
        " clock_timestamp() + r.expected_us * interval '1 microsecond'"
        " FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bytea[], $7::jsonb[], $8::text[],"
        " $9::text[], $10::bigint[], $11::jsonb[], $12::bigint[], $13::bigint[], $14::bigint[], $15::int[], $16::text[],"
        " $17::bigint[], $18::bigint[])"
        " AS r(generation_id, tenant_id, model, model_revision, priority, input, tags, price_version_id, currency,"
        " estimate_nanos, rates, work_us, fixed_us, encode_us, steps_total, shape, deadline_us, expected_us) RETURNING *",
        *(list(column) for column in zip(*(_columns(new) for new in accepted), strict=True)),
    )
    await connection.execute(
        "INSERT INTO generation_event (generation_id, sequence, state) SELECT generation_id, 1, 'QUEUED'"
        " FROM unnest($1::text[]) AS r(generation_id)",
        [row["generation_id"] for row in rows],
    )
    return {row["generation_id"]: generations.read(row) for row in rows}


def _columns(new: domain.New) -> tuple[object, ...]:
    return (
        new.generation_id,
        new.tenant_id,
        new.model,
        new.model_revision,
        int(new.priority),
        new.input,
        new.tags,
        new.price_version_id,
        new.currency,
        new.estimate_nanos,
        new.rates,
        new.work_us,
        new.fixed_us,
        new.encode_us,
        new.steps_total,
        new.shape,
        new.deadline_us,
        new.expected_us,
    )


async def _known(
    reader: "postgres.Database | postgres.Connection", keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], _Known]:
    rows = await reader.fetch(
        "SELECT g.*, i.idempotency_key, i.params_sha256 FROM unnest($1::text[], $2::text[]) AS k(tenant_id, key)"
        " JOIN idempotency i ON i.tenant_id = k.tenant_id AND i.idempotency_key = k.key"
        " JOIN generation g ON g.generation_id = i.generation_id",
        [tenant_id for tenant_id, _ in keys],
        [key for _, key in keys],
    )
    return {
        (row["tenant_id"], row["idempotency_key"]): _Known(row["params_sha256"], generations.read(row)) for row in rows
    }


async def sweep_keys(database: postgres.Database, *, older_than_s: float) -> int:
    """Forget idempotency keys that are that old; how many."""
    tag = await database.execute(
        "DELETE FROM idempotency WHERE created_at < statement_timestamp() - $1 * interval '1 second'", older_than_s
    )
    return int(tag.split()[1])


def _answer(waiting: _Waiting, outcome: Outcome | Exception) -> None:
    if waiting.answer.done():
        return
    if isinstance(outcome, Exception):
        waiting.answer.set_exception(outcome)
    else:
        waiting.answer.set_result(outcome)
