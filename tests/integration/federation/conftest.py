"""A database with the tables, and discovery over it with the real encoder and vector index."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.listed import ListedSource

from prsm.core import clock, database
from prsm.core.database import Database
from prsm.core.encoder import DIMENSION, TextEncoder
from prsm.core.keys import NodeKey
from prsm.core.seams import VectorIndex
from prsm.core.vectors import pgvector_index
from prsm.federation.discovery.indexing import FILTERED, Indexer
from prsm.federation.discovery.listings import KeptListing, Listings
from prsm.federation.discovery.search import Found, Search, Wanted
from prsm.federation.discovery.source_book import SourceBook, SourceConfig, SourceState
from prsm.federation.discovery.sync import Outcome, Sync

KEY = "hub-secret-0123456789"


@dataclass
class Discovery:
    """Discovery over scripted sources; ``source`` is what a pass over ``hub`` reads."""

    database: Database
    index: VectorIndex
    book: SourceBook
    listings: Listings
    indexer: Indexer
    search: Search
    source: ListedSource
    ahead: timedelta = field(default_factory=timedelta)

    def worker(self, source: ListedSource | None = None) -> Sync:
        """Another worker's reader of sources."""

        def open_source(_config: SourceConfig) -> ListedSource:
            opened = source or self.source
            opened.opened += 1
            return opened

        return Sync(self.book, self.listings, open_source, clock=lambda: clock.now() + self.ahead, chance=lambda: 0.5)

    async def read(self) -> Outcome:
        """One pass over ``hub`` now, whatever it waits for."""
        await self.database.pool.execute("UPDATE listing_sources SET next_read_at = now() WHERE name = 'hub'")
        outcome = await self.worker().read_due()
        assert outcome is not None
        return outcome

    async def indexed(self) -> int:
        """Index all that is pending; answers how many."""
        total = 0
        while count := await self.indexer.index_pending():
            total += count
        return total

    async def names(self, query: str, limit: int = 20, **wanted: Any) -> list[str]:
        return [each.kept.listing.name for each in await self.found(query, limit, **wanted)]

    async def found(self, query: str, limit: int = 20, **wanted: Any) -> list[Found]:
        return await self.search.find(query, Wanted(**wanted), limit=limit)

    async def one(self, name: str) -> KeptListing:
        return await self.listings.one("hub", name)

    async def state(self) -> SourceState:
        return await self.book.one("hub")

    async def live(self) -> set[str]:
        rows = await self.database.pool.fetch("SELECT name FROM listings WHERE removed_at IS NULL")
        return {row["name"] for row in rows}


@pytest.fixture(scope="session")
def encoder() -> TextEncoder:
    return TextEncoder.load()


@pytest.fixture
async def discovery(fresh_database: str, encoder: TextEncoder, tmp_path: Path) -> AsyncIterator[Discovery]:
    db = await database.connect(fresh_database, pool_size=6, timeout_ms=20_000)
    try:
        key = NodeKey.load_or_create(tmp_path / "node.key")
        book = SourceBook(db.pool, seal=key.seal, unseal=key.unseal)
        index = await pgvector_index.open_index(db.pool, "listings", DIMENSION, FILTERED)

        async def embed(texts: Any) -> Any:
            return await asyncio.to_thread(encoder.encode, texts)

        async def embed_one(text: str) -> Any:
            return (await embed([text]))[0]

        await book.put(SourceConfig("hub", "openai", "http://127.0.0.1:9/v1", 3_600, KEY))
        yield Discovery(
            db,
            index,
            book,
            Listings(db.pool, book),
            Indexer(db.pool, index, embed, encoder.sha256),
            Search(db.pool, index, embed_one),
            ListedSource(),
        )
    finally:
        await db.close()
