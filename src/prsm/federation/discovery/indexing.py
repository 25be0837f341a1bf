"""Listings are made findable by meaning: what is pending is embedded in batches and put into the vector index.

A row stays pending until the index has it as it is now, so that a kill in the middle loses nothing; of all workers one
works at a time. What was removed is taken out of the index the same way.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from prsm.core.database import Connection, Pool
from prsm.core.seams import VectorIndex, VectorItem
from prsm.federation.discovery.entry import attributes_of, meaning_of
from prsm.federation.discovery.listings import listing_of

BATCH: Final = 256
MOST_COUNTED: Final = 10_000
FILTERED: Final = (
    "source",
    "context",
    "usd_in",
    "usd_out",
    "ftns_in",
    "ftns_out",
    "licence",
    "gated",
    "can_chat",
    "can_tools",
    "can_vision",
    "can_embeddings",
)
"""What the vector index is filtered by; it keeps an index of each."""

_SOME_ROWS = 1_000
_TURN = 7_041
"""Advisory lock: whose turn it is to index."""

Embed = Callable[[Sequence[str]], Awaitable[Any]]


class Indexer:
    """Brings the vector index up to date with the listings; ``embedder`` names what ``embed`` computes."""

    def __init__(self, pool: Pool, index: VectorIndex, embed: Embed, embedder: str) -> None:
        self._pool = pool
        self._index = index
        self._embed = embed
        self._embedder = embedder

    async def start(self) -> None:
        """Mark what another encoder has embedded: its vectors cannot be compared with ours."""
        while await self._pool.execute(_MARK_SOME, self._embedder, _SOME_ROWS) != "UPDATE 0":
            pass

    async def index_pending(self) -> int:
        """Index up to BATCH pending listings; answers how many. 0 also where another worker has its turn."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _TURN):
                return 0
            rows = await connection.fetch(_PENDING, BATCH)
            if not rows:
                return 0
            await self._index.delete([item_id(row["source"], row["name"]) for row in rows if row["removed_at"]])
            await self._put([row for row in rows if not row["removed_at"]])
            await _settle(connection, rows, self._embedder)
        return len(rows)

    async def pending(self) -> int:
        """Listings that the index does not have as they are now; MOST_COUNTED stands for that many and more."""
        count: int = await self._pool.fetchval(
            "SELECT count(*) FROM (SELECT FROM listings WHERE pending LIMIT $1)", MOST_COUNTED
        )
        return count

    async def _put(self, rows: Sequence[Any]) -> None:
        if not rows:
            return
        listings = [listing_of(row) for row in rows]
        vectors = await self._embed([meaning_of(listing) for listing in listings])
        await self._index.upsert(
            [
                VectorItem(item_id(row["source"], row["name"]), vector, attributes_of(row["source"], listing))
                for row, listing, vector in zip(rows, listings, vectors, strict=True)
            ]
        )


def item_id(source: str, name: str) -> str:
    """What the index calls a listing; a source's name has no slash, so that no two are one."""
    return f"{source}/{name}"


def of_item(item: str) -> tuple[str, str]:
    """The source and the name of an item of the index."""
    source, _, name = item.partition("/")
    return source, name


# Some rows at a time: all of a large catalogue would take longer than a statement may.
_MARK_SOME = """
UPDATE listings SET pending = true WHERE (source, name) IN (
    SELECT source, name FROM listings WHERE NOT pending AND removed_at IS NULL AND indexed_by <> $1 LIMIT $2)
"""

_PENDING = "SELECT * FROM listings WHERE pending ORDER BY source, name LIMIT $1"

# Only what is still as it was when it was read: what has changed since is pending on.
_SETTLE = """
UPDATE listings l SET pending = false, indexed_by = CASE WHEN l.removed_at IS NULL THEN $5 ELSE '' END
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::boolean[]) AS u (source, name, stamp, removed)
WHERE l.source = u.source AND l.name = u.name AND l.stamp = u.stamp AND (l.removed_at IS NOT NULL) = u.removed
"""


async def _settle(connection: Connection, rows: Sequence[Any], embedder: str) -> None:
    await connection.execute(
        _SETTLE,
        [row["source"] for row in rows],
        [row["name"] for row in rows],
        [row["stamp"] for row in rows],
        [row["removed_at"] is not None for row in rows],
        embedder,
    )
