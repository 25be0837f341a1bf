"""Discovery at 100,000 listings: time and memory of reading and indexing, time and quality of search.

    nice -n 10 python -m bench.discovery [--count 100000] [--rounds 3]

The catalogue is composed by a seeded generator (``discovery_catalogue.py``), the queries and which entries are right
for each, by the facts those were made of, are in ``data/discovery_queries.json``. Vectors of the catalogue come from a
cache in ``bench/out`` (the first run fills it, ten minutes of one core); the encoder's own time is measured beside.
"""

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.discovery_catalogue import SOURCES, Entry, entries
from bench.discovery_lexical import Bm25
from bench.discovery_vectors import OUT, vectors_of
from bench.vectors import home
from prsm.core import database
from prsm.core.embedded import EmbeddedPostgres, NodeHome
from prsm.core.encoder import DIMENSION, TextEncoder
from prsm.core.vectors import pgvector_index
from prsm.federation.discovery.entry import document_of, meaning_of, words_of
from prsm.federation.discovery.indexing import FILTERED, Indexer, item_id
from prsm.federation.discovery.listings import Listings
from prsm.federation.discovery.seams import NANO, Ending, Listing, Reading
from prsm.federation.discovery.search import WINDOW, Search, Wanted, vector_filters
from prsm.federation.discovery.source_book import SourceBook, SourceConfig
from prsm.federation.discovery.sync import Sync

SEED = 1
LIMIT = 10
PAGE = 500
QUERIES = Path(__file__).parent / "data" / "discovery_queries.json"
FILTERS: dict[str, Wanted] = {
    "no filter": Wanted(),
    "can chat": Wanted(capabilities=("chat",)),
    "MIT": Wanted(licences=("mit",)),
    "at most 1 USD in": Wanted(max_input_nano=NANO),
    "router, 131,072 tokens": Wanted(sources=("router",), min_context_tokens=131_072),
    "vision, MIT, ungated": Wanted(capabilities=("vision",), licences=("mit",), ungated=True),
    "edge, MIT, 1,000,000 tokens": Wanted(sources=("edge",), licences=("mit",), min_context_tokens=1_000_000),
}


class Memory:
    """Anonymous memory of this process: now, and the most since ``peak_mib`` was asked last."""

    def __init__(self) -> None:
        self._peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def peak_mib(self) -> int:
        peak, self._peak = self._peak, 0
        return round(peak / 1024)

    def now_mib(self) -> int:
        return round(_anonymous_kib() / 1024)

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, _anonymous_kib())
            time.sleep(0.01)


def _anonymous_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


class Catalogue:
    """A source that composes what it lists while it is read, so that it holds a page and not the whole."""

    def __init__(self, name: str, count: int, changed: float = 0.0) -> None:
        self.name = name
        self._count = count
        self._changed = changed

    async def read(self, mark: str) -> Reading | None:
        return Reading(self._pages(), lambda: Ending(True, f"{mark}+"))

    async def aclose(self) -> None:
        pass

    async def _pages(self) -> AsyncGenerator[tuple[Listing, ...], None]:
        chance = random.Random(SEED)
        mine = (entry for entry in entries(self._count, SEED) if entry.source == self.name)
        while page := [entry.listing for entry in islice(mine, PAGE)]:
            yield tuple(_repriced(listing) if chance.random() < self._changed else listing for listing in page)


def _repriced(listing: Listing) -> Listing:
    return replace(listing, context_tokens=(listing.context_tokens or 1_024) * 2)


@dataclass
class Labelled:
    """A query with the numbers of the entries that are right for it and pass its conditions."""

    text: str
    wanted: Wanted
    passes: npt.NDArray[np.bool_]
    right: set[int]


@dataclass
class Store:
    """The parts under test, and the catalogue as the labels see it."""

    pool: database.Pool
    encoder: TextEncoder
    entries: list[Entry]
    vectors: npt.NDArray[np.float16]
    index: pgvector_index.PgvectorIndex
    search: Search
    numbers: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        self.numbers = {item_id(entry.source, entry.listing.name): n for n, entry in enumerate(self.entries)}

    def passes(self, wanted: Wanted) -> npt.NDArray[np.bool_]:
        return np.array([_passes(entry, wanted) for entry in self.entries])


def _passes(entry: Entry, wanted: Wanted) -> bool:
    """The conditions said once more, plainly, so that the bench does not trust what it measures."""
    listing, price = entry.listing, entry.listing.price
    ceilings = ((wanted.max_input_nano, "input_nano"), (wanted.max_output_nano, "output_nano"))
    return (
        set(wanted.capabilities) <= listing.capabilities
        and all(most is None or (price is not None and getattr(price, name) <= most) for most, name in ceilings)
        and (wanted.min_context_tokens is None or (listing.context_tokens or 0) >= wanted.min_context_tokens)
        and (not wanted.licences or listing.licence in wanted.licences)
        and (not wanted.sources or entry.source in wanted.sources)
        and (not wanted.ungated or listing.gated is False)
    )


def labelled(store: Store) -> list[Labelled]:
    """The queries by hand; one that nothing in the catalogue answers is a mistake in the file."""
    found: list[Labelled] = []
    for query in json.loads(QUERIES.read_text()):
        wanted = Wanted(**{k: tuple(v) if isinstance(v, list) else v for k, v in query.get("filters", {}).items()})
        passes = store.passes(wanted)
        right = {
            n
            for n, entry in enumerate(store.entries)
            if passes[n] and all(entry.facts[name] == value for name, value in query["right"].items())
        }
        if not right:
            raise SystemExit(f"nothing is right for {query['q']!r}")
        found.append(Labelled(query["q"], wanted, passes, right))
    return found


async def fill(pool: database.Pool, count: int, memory: Memory, result: dict[str, Any]) -> tuple[SourceBook, Listings]:
    """Read all sources: first, unchanged, and with one entry in a hundred changed."""
    book = SourceBook(pool, seal=lambda text, _: text, unseal=lambda text, _: text)
    listings = Listings(pool, book)
    started = time.perf_counter()
    composed = sum(1 for _ in entries(count, SEED))
    compose_s = (time.perf_counter() - started) * len(SOURCES)
    for name in SOURCES:
        await book.put(SourceConfig(name, "openai", "http://127.0.0.1:9/v1", 86_400))
    for what, changed in (("first", 0.0), ("unchanged", 0.0), ("1 % changed", 0.01)):
        await pool.execute("UPDATE listing_sources SET next_read_at = now()")
        before_mib, _ = memory.now_mib(), memory.peak_mib()
        started = time.perf_counter()
        sync = Sync(book, listings, lambda config, changed=changed: Catalogue(config.name, composed, changed))
        written = 0
        while outcome := await sync.read_due():
            assert not outcome.error, outcome
            written += outcome.written
        spent_s = time.perf_counter() - started - compose_s
        result[f"reading, {what}"] = {
            "s": round(spent_s, 1),
            "written": written,
            "MiB before": before_mib,
            "MiB at most": memory.peak_mib(),
        }
    await pool.execute("UPDATE listing_sources SET next_read_at = now()")
    sync = Sync(book, listings, lambda config: Catalogue(config.name, composed))  # as it was
    while await sync.read_due():
        pass
    return book, listings


async def indexed(
    pool: database.Pool, index: pgvector_index.PgvectorIndex, encoder: TextEncoder, count: int, memory: Memory
) -> dict[str, Any]:
    """Index everything, with vectors of the cache."""
    texts = [meaning_of(entry.listing) for entry in entries(count, SEED)]
    vectors = vectors_of(texts, encoder)
    at = {hashlib.blake2b(text.encode(), digest_size=8).digest(): n for n, text in enumerate(texts)}
    sample = texts[:: max(1, len(texts) // 512)]
    started = time.perf_counter()
    encoder.encode(sample)
    each_ms = (time.perf_counter() - started) * 1000 / len(sample)
    del texts
    before_mib, _ = memory.now_mib(), memory.peak_mib()

    async def embed(wanted: Sequence[str]) -> Any:
        rows = [at[hashlib.blake2b(text.encode(), digest_size=8).digest()] for text in wanted]
        return vectors[rows].astype(np.float32)

    indexer = Indexer(pool, index, embed, encoder.sha256)
    started, done = time.perf_counter(), 0
    while batch := await indexer.index_pending():
        done += batch
        if done % (40 * 256) == 0:
            print(f"  indexed {done:,}", flush=True)
    return {
        "s without the encoder": round(time.perf_counter() - started, 1),
        "listings": done,
        "encoder ms each, in batches": round(each_ms, 2),
        "MiB before": before_mib,
        "MiB at most": memory.peak_mib(),
    }


async def timed(
    queries: Sequence[Any], ask: Callable[[Any], Awaitable[Any]], clock_ms: Callable[[], float]
) -> list[float]:
    """Milliseconds of each query, one after another."""
    spent: list[float] = []
    for query in queries:
        started = clock_ms()
        await ask(query)
        spent.append(clock_ms() - started)
    return spent


def wall_ms() -> float:
    return time.perf_counter() * 1000


def processor_ms(backend: int) -> Callable[[], float]:
    """Of this thread and of the one server process that answers it: what others do counts little."""
    path = Path(f"/proc/{backend}/schedstat")
    return lambda: time.thread_time() * 1000 + int(path.read_text().split()[0]) / 1e6


async def speed(store: Store, queries: Sequence[Labelled], rounds: int) -> list[dict[str, Any]]:
    """Every query under every filter: the time without and with its embedding, and recall against exact search."""
    embedded = {query.text: store.encoder.encode([query.text])[0] for query in queries}
    exact = np.array(store.vectors, np.float32)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    worked_ms = processor_ms(await store.pool.fetchval("SELECT pg_backend_pid()"))
    rows: list[dict[str, Any]] = []
    for name, wanted in FILTERS.items():
        passing = np.flatnonzero(store.passes(wanted))

        async def ask(query: Labelled, wanted: Wanted = wanted) -> None:
            await store.search.find_with(query.text, embedded[query.text], wanted, limit=LIMIT)

        async def ask_all(query: Labelled, wanted: Wanted = wanted) -> None:
            await store.search.find(query.text, wanted, limit=LIMIT)

        await timed(queries[:20], ask, wall_ms)
        spent = [ms for _ in range(rounds) for ms in await timed(queries, ask, wall_ms)]
        worked = [ms for _ in range(rounds) for ms in await timed(queries, ask, worked_ms)]
        together = await timed(queries, ask_all, wall_ms)
        shares: list[float] = []
        for query in queries:
            vector = embedded[query.text]
            hits = await store.index.search(vector, WINDOW, vector_filters(wanted))
            near = exact[passing] @ vector
            least = np.sort(near)[-LIMIT:][0] - 1e-3 if len(near) else 1.0
            met = sum(hit.similarity >= least for hit in hits[:LIMIT])
            shares.append(min(1.0, met / max(1, min(LIMIT, len(near)))))
        rows.append(
            {
                "filter": name,
                "pass": len(passing),
                "recall@10": round(float(np.mean(shares)), 3),
                **_percentiles("search", spent),
                **_percentiles("search, processor", worked),
                **_percentiles("with embedding", together),
            }
        )
        print(f"  {rows[-1]}", flush=True)
    return rows


def _percentiles(name: str, spent: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(spent, [50, 99])
    return {f"{name} p50 ms": round(float(p50), 1), f"{name} p99 ms": round(float(p99), 1)}


async def quality(store: Store, queries: Sequence[Labelled]) -> list[dict[str, Any]]:
    """How early right entries come, for the search, for meaning alone, and for the baseline."""
    bm25 = Bm25([words_of(f"{entry.listing.name} {document_of(entry.listing)}") for entry in store.entries])
    answers: dict[str, list[list[int]]] = {"search": [], "meaning alone": [], "BM25": []}
    for query in queries:
        found = await store.search.find(query.text, query.wanted, limit=LIMIT)
        answers["search"].append([store.numbers[item_id(f.kept.source, f.kept.listing.name)] for f in found])
        vector = store.encoder.encode([query.text])[0]
        hits = await store.index.search(vector, LIMIT, vector_filters(query.wanted))
        answers["meaning alone"].append([store.numbers[hit.id] for hit in hits])
        answers["BM25"].append(bm25.best(words_of(query.text), query.passes, LIMIT))
    for name, found in answers.items():
        for query, numbers in zip(queries, found, strict=True):
            wrong = [number for number in numbers if not query.passes[number]]
            assert not wrong, f"{name} answered {query.text!r} with what does not pass"
    groups = {
        "all": queries,
        "names": [query for query in queries if len(query.right) == 1 and query.text in _names()],
        "meanings": [query for query in queries if query.text not in _names()],
    }
    return [
        {"queries": f"{group} ({len(members)})", "by": name, **_scores(queries, found, members)}
        for group, members in groups.items()
        for name, found in answers.items()
    ]


def _names() -> set[str]:
    return {query["q"] for query in json.loads(QUERIES.read_text()) if "name" in query["right"]}


def _scores(
    queries: Sequence[Labelled], found: Sequence[Sequence[int]], members: Sequence[Labelled]
) -> dict[str, float]:
    hits, ranks, shares, firsts = [], [], [], []
    inside = {id(member) for member in members}
    for query, numbers in zip(queries, found, strict=True):
        if id(query) not in inside:
            continue
        places = [place for place, number in enumerate(numbers, 1) if number in query.right]
        hits.append(bool(places))
        firsts.append(bool(places) and places[0] == 1)
        ranks.append(1 / places[0] if places else 0.0)
        shares.append(len(places) / min(LIMIT, len(query.right)))
    rounded = {"hit@1": firsts, "hit@10": hits, "MRR@10": ranks, "right of those possible@10": shares}
    return {name: round(float(np.mean(values)), 3) for name, values in rounded.items()}


async def run(args: argparse.Namespace, url: str, result: dict[str, Any]) -> None:
    memory = Memory()
    encoder = await asyncio.to_thread(TextEncoder.load)
    opened = await database.connect(url, pool_size=6, timeout_ms=120_000)
    try:
        await database.migrate(opened)
        index = await pgvector_index.open_index(opened.pool, "listings", DIMENSION, FILTERED)
        await fill(opened.pool, args.count, memory, result)
        print(json.dumps(result, indent=1), flush=True)
        result["indexing"] = await indexed(opened.pool, index, encoder, args.count, memory)
        print(json.dumps(result["indexing"], indent=1), flush=True)
        await opened.pool.execute("VACUUM ANALYZE vector_items")
        await opened.pool.execute("VACUUM ANALYZE listings")
        catalogue = [*entries(args.count, SEED)]
        vectors = vectors_of([meaning_of(entry.listing) for entry in catalogue], encoder)

        async def embed_one(text: str) -> Any:
            return (await asyncio.to_thread(encoder.encode, [text]))[0]

        lone = await database.connect(url, pool_size=1, timeout_ms=120_000)
        index = await pgvector_index.open_index(lone.pool, "listings", DIMENSION, FILTERED)
        store = Store(lone.pool, encoder, catalogue, vectors, index, Search(lone.pool, index, embed_one))
        queries = labelled(store)
        result["quality"] = await quality(store, queries)
        for row in result["quality"]:
            print(f"  {row}", flush=True)
        result["search"] = await speed(store, queries, args.rounds)
        sizes = "SELECT pg_total_relation_size($1::regclass) / 1048576"
        for table in ("listings", "vector_items"):
            result[f"{table} MiB"] = await opened.pool.fetchval(sizes, table)
        await lone.close()
    finally:
        await opened.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description="Discovery at the size of a large hub.")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    at = datetime.now(UTC)
    result: dict[str, Any] = {
        "at": at.isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load before": [round(load, 1) for load in os.getloadavg()],
        "count": args.count,
        "seed": SEED,
    }
    with home() as folder, NodeHome.claim(folder / "home") as claimed:
        server = EmbeddedPostgres(claimed.server_site(outside=folder))
        try:
            await run(args, await server.start(), result)
        finally:
            await server.stop()
    result["load after"] = [round(load, 1) for load in os.getloadavg()]
    OUT.mkdir(exist_ok=True)
    path = OUT / f"discovery-{at:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path.name}; {json.dumps({k: v for k, v in result.items() if 'MiB' in k or 'load' in k})}")


if __name__ == "__main__":
    asyncio.run(main())
