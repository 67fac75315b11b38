"""Which blobs a room keeps, so that none is lost and none is left behind.

A blob store cannot join a transaction. So the room's schema has a table `blob`, and its own table refers to it:

    CREATE TABLE blob (
        blob_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        blob_key text NOT NULL UNIQUE,
        touched_at timestamptz NOT NULL DEFAULT now()
    );

`keep` writes the row, then the bytes; the room's store then adds a row that refers to the blob_id, and asks again if the blob has gone
meanwhile. `release` deletes the bytes under the row's lock once nothing refers to it; `sweep` does so for the uploads that died.
"""

from collections.abc import AsyncIterator

from darkroom import blobs, postgres


class BlobTable:
    """The blobs that rows of the table `referenced_by` hold by their column blob_id."""

    def __init__(self, database: postgres.Database, store: blobs.Blobs, *, referenced_by: str) -> None:
        self._database = database
        self._store = store
        self._unreferenced = f"NOT EXISTS (SELECT 1 FROM {referenced_by} AS holder WHERE holder.blob_id = blob.blob_id)"

    async def keep(self, blob_key: str, chunks: AsyncIterator[bytes], *, size_bytes: int, sha256: str) -> int:
        """Store the bytes and return their blob_id, good for as long as the row of that id is there."""
        blob_id: int = await self._database.fetchval(
            "INSERT INTO blob (blob_key) VALUES ($1)"
            " ON CONFLICT (blob_key) DO UPDATE SET touched_at = now() RETURNING blob_id",
            blob_key,
        )
        await self._store.put(blob_key, chunks, size_bytes_max=size_bytes, sha256_expected=sha256)
        return blob_id

    async def release(self, blob_id: int) -> bool:
        """Delete the bytes and their row if nothing refers to them; whether it did."""
        async with self._database.transaction() as connection:
            await connection.execute("SELECT 1 FROM blob WHERE blob_id = $1 FOR UPDATE", blob_id)
            blob_key = await connection.fetchval(
                f"DELETE FROM blob WHERE blob_id = $1 AND {self._unreferenced} RETURNING blob_key", blob_id
            )
            if blob_key is not None:
                await self._store.delete(blob_key)
        return blob_key is not None

    async def sweep(self, *, age_s: float, rows_max: int = 1000) -> int:
        """Release the blobs that nothing refers to and nobody touched for `age_s`; how many went."""
        rows = await self._database.fetch(
            "SELECT blob_id FROM blob WHERE touched_at < now() - $1 * interval '1 second'"
            f" AND {self._unreferenced} ORDER BY blob_id LIMIT $2",
            age_s,
            rows_max,
        )
        return sum([await self.release(row["blob_id"]) for row in rows])
