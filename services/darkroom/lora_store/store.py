"""What lora_store keeps: rows in PostgreSQL, bytes in blob storage behind them (`blob_table`).

`servicer` comes in with a checked file or an id; `domain.Lora` goes out. A row is only ever seen with its bytes in place, and another
tenant's adapter is never seen at all.
"""

from collections.abc import AsyncIterator, Callable

from darkroom import blob_table, blobs, errors, postgres
from darkroom.lora_store import domain

PUSH_TRIES = 10


class Store:
    """The adapters of all tenants."""

    def __init__(self, database: postgres.Database, bytes_: blobs.Blobs) -> None:
        self._database = database
        self._bytes = bytes_
        self._blobs = blob_table.BlobTable(database, bytes_, referenced_by="lora")

    async def push(self, lora: domain.Lora, read: Callable[[], AsyncIterator[bytes]]) -> tuple[domain.Lora, bool]:
        """Store the bytes, then the row; the adapter, and False if this tenant had these bytes for this model already."""
        for _ in range(PUSH_TRIES):
            if (existing := await self._same(lora)) is not None:
                return existing, False
            blob_id = await self._blobs.keep(lora.blob_key, read(), size_bytes=lora.size_bytes, sha256=lora.sha256)
            if (created := await self._insert(lora, blob_id)) is not None:
                return created, True
        raise errors.Aborted("LORA_RACE", "the same file is being pushed and deleted; try again")

    async def get(self, tenant_id: str, adapter_id: str) -> domain.Lora:
        """The tenant's adapter; NotFound if it is not there, deleted or another tenant's."""
        row = await self._database.fetchrow(
            "SELECT * FROM lora WHERE tenant_id = $1 AND adapter_id = $2 AND deleted_at IS NULL", tenant_id, adapter_id
        )
        if row is None:
            raise errors.NotFound("lora", adapter_id)
        return _lora(row)

    async def page(self, tenant_id: str, *, base_model: str, before: str, rows_max: int) -> list[domain.Lora]:
        """The tenant's adapters, newest first, those older than `before`; empty texts mean all models, from the newest."""
        rows = await self._database.fetch(
            "SELECT * FROM lora WHERE tenant_id = $1 AND deleted_at IS NULL AND ($2 = '' OR base_model = $2)"
            " AND ($3 = '' OR adapter_id < $3) ORDER BY adapter_id DESC LIMIT $4",
            tenant_id,
            base_model,
            before,
            rows_max,
        )
        return [_lora(row) for row in rows]

    async def read(self, lora: domain.Lora) -> AsyncIterator[bytes]:
        """The adapter's bytes, in order; NotFound if it was deleted meanwhile."""
        try:
            async for chunk in self._bytes.get(lora.blob_key):
                yield chunk
        except errors.NotFound as error:
            raise errors.NotFound("lora", lora.adapter_id) from error

    async def delete(self, tenant_id: str, adapter_id: str) -> None:
        """Forget the tenant's adapter, and its bytes with the last adapter made of them; again is no error."""
        row = await self._database.fetchrow(
            "UPDATE lora SET deleted_at = coalesce(lora.deleted_at, now()), blob_id = NULL"
            " FROM (SELECT adapter_id, blob_id FROM lora WHERE tenant_id = $1 AND adapter_id = $2 FOR UPDATE) AS old"
            " WHERE lora.adapter_id = old.adapter_id RETURNING old.blob_id",
            tenant_id,
            adapter_id,
        )
        if row is None:
            raise errors.NotFound("lora", adapter_id)
        if row["blob_id"] is not None:
            await self._blobs.release(row["blob_id"])

    async def sweep(self, *, age_s: float) -> int:
        """Delete the bytes of pushes that died, `age_s` after their start; how many went."""
        return await self._blobs.sweep(age_s=age_s)

    async def _same(self, lora: domain.Lora) -> domain.Lora | None:
        row = await self._database.fetchrow(
            "SELECT * FROM lora WHERE tenant_id = $1 AND base_model = $2 AND sha256 = $3 AND deleted_at IS NULL",
            lora.tenant_id,
            lora.base_model,
            lora.sha256,
        )
        return None if row is None else _lora(row)

    async def _insert(self, lora: domain.Lora, blob_id: int) -> domain.Lora | None:
        """Add the row; None if the blob went meanwhile, or another push of the same was first."""
        row = await self._database.fetchrow(
            "WITH kept AS (SELECT blob_id FROM blob WHERE blob_id = $11 FOR KEY SHARE)"
            " INSERT INTO lora"
            " (adapter_id, tenant_id, name, base_model, sha256, size_bytes, rank, pairs, dtype, created_at, blob_id)"
            " SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, blob_id FROM kept"
            " ON CONFLICT (tenant_id, base_model, sha256) WHERE deleted_at IS NULL DO NOTHING RETURNING *",
            lora.adapter_id,
            lora.tenant_id,
            lora.name,
            lora.base_model,
            lora.sha256,
            lora.size_bytes,
            lora.numbers.rank,
            lora.numbers.pairs,
            lora.numbers.dtype,
            lora.created_at,
            blob_id,
        )
        return None if row is None else _lora(row)


def _lora(row: postgres.Row) -> domain.Lora:
    return domain.Lora(
        adapter_id=row["adapter_id"],
        tenant_id=row["tenant_id"],
        name=row["name"],
        base_model=row["base_model"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        numbers=domain.Numbers(rank=row["rank"], pairs=row["pairs"], dtype=row["dtype"]),
        created_at=row["created_at"],
    )
