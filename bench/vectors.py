"""Recall@10 and latency of the vector index against exact search, on one embedded PostgreSQL.

    python -m bench.vectors [--count 100000] [--vectors texts]

Uniform random vectors would be no recall test: they have no neighbours worth finding. ``clusters`` draws points around
256 centres; ``texts`` encodes composed model descriptions with the node's own encoder (some minutes per 20,000).
"""

import argparse
import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prsm.core import database
from prsm.core.embedded import EmbeddedPostgres, NodeHome
from prsm.core.encoder import DIMENSION, TextEncoder
from prsm.core.seams import Filter, VectorIndex, VectorItem
from prsm.core.vectors import checks, pgvector_index, schema

LIMIT = 10
BATCH = 2_000
Matrix = npt.NDArray[np.float32]


def clusters(count: int, seed: int) -> Matrix:
    """Points around centres that do not depend on ``seed``."""
    centres = np.random.default_rng(0).normal(size=(256, DIMENSION))
    chance = np.random.default_rng(seed)
    noise = chance.normal(size=(count, DIMENSION))
    return (centres[chance.integers(len(centres), size=count)] + noise).astype(np.float32)


def texts(count: int, seed: int) -> Matrix:
    """Encoded descriptions of models, some 75,000 different ones."""
    size = ["tiny", "small", "mid-sized", "large", "quantised", "sparse", "distilled"]
    kind = [
        "language model",
        "vision model",
        "code assistant",
        "translator",
        "speech recogniser",
        "summariser",
        "ranker",
    ]
    task = [
        "arithmetic",
        "contract law",
        "medical notes",
        "customer mail",
        "poetry",
        "SQL",
        "physics",
        "cooking",
        "maps",
    ]
    tongue = [
        "English",
        "German",
        "Hindi",
        "Japanese",
        "Swahili",
        "Arabic",
        "Portuguese",
        "Polish",
        "Korean",
        "Turkish",
    ]
    trait = ["with long context", "for phones", "that cites sources", "with tool use", "tuned by RLVR", "under MIT"]
    tone = ["fast", "careful", "cheap"]
    every = list(itertools.product(tone, size, kind, task, tongue, trait))
    chosen = random.Random(seed).sample(every, count)
    return TextEncoder.load().encode([f"A {a} {b} {c} for {d} in {e} {f}" for a, b, c, d, e, f in chosen])


@contextmanager
def home() -> Generator[Path]:
    """A folder that the server's own account can reach when this runs as root."""
    with tempfile.TemporaryDirectory(prefix="prsm-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def timed(ask: Callable[[Matrix], Awaitable[list[Any]]], queries: Matrix) -> tuple[list[list[Any]], list[float]]:
    """The answers and the milliseconds of each query, one after another, after ten that warm up."""
    for query in queries[:10]:
        await ask(query)
    answers: list[list[Any]] = []
    spent: list[float] = []
    for query in queries:
        started = time.perf_counter()
        answers.append(await ask(query))
        spent.append((time.perf_counter() - started) * 1000)
    return answers, spent


async def measure(pool: database.Pool, vectors: Matrix, queries: Matrix) -> None:
    await pool.execute(schema.UPGRADE_SQL)
    index = await pgvector_index.open_index(pool, "bench", DIMENSION)
    started = time.perf_counter()
    for start in range(0, len(vectors), BATCH):
        part = enumerate(vectors[start : start + BATCH], start)
        await index.upsert([VectorItem(str(n), v, {"tenth": n % 10, "hundredth": n % 100}) for n, v in part])
    inserted_s = time.perf_counter() - started
    await pool.execute("VACUUM ANALYZE vector_items")
    await compare(pool, index, queries, "all", ())
    await compare(pool, index, queries, "filter passes 1 in 10", [Filter("tenth", "=", 0)])
    await compare(pool, index, queries, "filter passes 1 in 100", [Filter("hundredth", "=", 0)])
    started = time.perf_counter()
    await index.reindex()
    rebuilt_s = time.perf_counter() - started
    await compare(pool, index, queries, "all, after reindex", ())
    size = await pool.fetchval("SELECT pg_relation_size('vector_items_bench_hnsw')")
    print(f"upsert {len(vectors) / inserted_s:,.0f} items/s; reindex {rebuilt_s:.1f} s; index {size / 2**20:.0f} MiB")


async def compare(
    pool: database.Pool, index: VectorIndex, queries: Matrix, name: str, filters: Sequence[Filter]
) -> None:
    """Two lines: exact search by plain SQL, and the index with its recall against it."""
    passes = [f"AND attributes -> '{f.attribute}' = to_jsonb({f.value})" for f in filters]
    distance = f"(embedding::halfvec({DIMENSION}) <=> $1::real[]::halfvec({DIMENSION}))"
    sql = (
        "SELECT id FROM vector_items "
        f"WHERE collection = 'bench' {' '.join(passes)} ORDER BY {distance} + 0 LIMIT {LIMIT}"
    )
    rows, exact_ms = await timed(lambda query: pool.fetch(sql, query.tolist()), queries)
    found, index_ms = await timed(lambda query: index.search(query, LIMIT, filters), queries)
    both = [{row["id"] for row in right} & {hit.id for hit in hits} for right, hits in zip(rows, found, strict=True)]
    show(f"{name}: exact", 1.0, exact_ms)
    show(f"{name}: index", sum(map(len, both)) / sum(map(len, rows)), index_ms)


def show(name: str, recall: float, spent_ms: list[float]) -> None:
    p50, p99 = np.percentile(spent_ms, [50, 99])
    print(f"{name:<34}{recall:>10.3f}{p50:>10.2f}{p99:>10.2f}{1000 / p50:>12,.0f}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Recall and latency of the vector index.")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--vectors", choices=["clusters", "texts"], default="clusters")
    args = parser.parse_args()
    make = {"clusters": clusters, "texts": texts}[args.vectors]
    if args.vectors == "texts":
        drawn = make(args.count + args.queries, 1)
        vectors, queries = drawn[args.queries :], drawn[: args.queries]
    else:
        vectors, queries = make(args.count, 1), make(args.queries, 2)
    # Unit length before both searches, so that rounding to half precision is the same in both.
    queries = checks.unit_rows(list(queries), DIMENSION)
    print(f"{args.count:,} {args.vectors} x {DIMENSION}, {args.queries} queries, limit {LIMIT}, one caller")
    print(f"{'':<34}{'recall@10':>10}{'p50 ms':>10}{'p99 ms':>10}{'queries/s':>12}")
    with home() as folder, NodeHome.claim(folder / "home") as claimed:
        server = EmbeddedPostgres(claimed.server_site(outside=folder))
        opened = await database.connect(await server.start(), pool_size=2, timeout_ms=120_000)
        try:
            await measure(opened.pool, vectors, queries)
        finally:
            await opened.close()
            await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
