# ruff: noqa: S608 - what is put into the statements is a collection's checked name and ints; values are parameters.
"""The vector index on PostgreSQL with pgvector: half-precision vectors, HNSW by cosine, filters on a jsonb column.

Every statement names its collection as a literal, not as a parameter: only then does the planner see that the partial
index of the collection fits. Names are checked before they come near SQL.
"""

import json
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import numpy as np
import numpy.typing as npt

from prsm.core.database import Connection, Pool
from prsm.core.errors import ConfigError, Unavailable
from prsm.core.seams import Filter, Hit, Vector, VectorItem
from prsm.core.vectors import checks

_BUILD: Final = "m = 16, ef_construction = 64"
_MIN_EF_SEARCH: Final = 200
"""Recall@10 at 100,000 x 384 is .956 with 200; the default of 40 does not come near."""
_MAX_EF_SEARCH: Final = 1_000
_MOST_SURPLUS: Final = 40
"""A filtered search reads three times the limit, or this many more, in relaxed order, and keeps the nearest. Strict
order would drop what the iterative scan finds late: recall@10 with a filter that 1 in 100 pass fell to .82 (relaxed:
.94). Of 50 at 77,000 listings, 40 more gave the same recall@10 as 100 more, .985 to .997, at two thirds of the time."""
EXACT_ITEMS: Final = 5_000
"""Filters that no more items are expected to pass are searched exactly: faster than to meet those in the graph."""
_EQUAL: Final = ("=", "in")
_BATCH_ROWS: Final = 500
_REINDEX_TIMEOUT_S: Final = 3_600
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
)


class PgvectorIndex:
    """One collection in the table ``vector_items``; make it with ``open_index``. The pool stays the caller's."""

    def __init__(
        self, pool: Pool, collection: str, dimension: int, filtered: Sequence[str] = (), exact_items: int = EXACT_ITEMS
    ) -> None:
        self._pool = pool
        self._collection = collection
        self._dimension = dimension
        self._filtered = frozenset(filtered)
        self._exact_items = exact_items
        self._index = _graph(collection)
        self._vector = f"embedding::halfvec({dimension})"
        self._mine = f"collection = '{collection}'"
        # The vectors come as one flat array, cut up by the server: asyncpg sends that in binary, and knows no halfvec.
        self._upsert = f"""
            INSERT INTO vector_items (collection, id, embedding, attributes)
            SELECT '{collection}', u.id, ($2::real[])[(n - 1) * {dimension} + 1 : n * {dimension}]::halfvec,
                u.attributes::jsonb
            FROM unnest($1::text[], $3::text[]) WITH ORDINALITY AS u (id, attributes, n)
            ON CONFLICT (collection, id)
            DO UPDATE SET embedding = excluded.embedding, attributes = excluded.attributes"""

    @property
    def dimension(self) -> int:
        """Length of every vector here."""
        return self._dimension

    async def upsert(self, items: Sequence[VectorItem]) -> None:
        """Put the items in, all or none."""
        rows = checks.distinct_items(items)
        vectors = checks.unit_rows([item.vector for item in rows], self._dimension)
        async with self._connection() as connection, connection.transaction():
            for start in range(0, len(rows), _BATCH_ROWS):
                part = rows[start : start + _BATCH_ROWS]
                await connection.execute(
                    self._upsert,
                    [item.id for item in part],
                    vectors[start : start + _BATCH_ROWS].ravel().tolist(),
                    [json.dumps(dict(item.attributes)) for item in part],
                )

    async def delete(self, ids: Sequence[str]) -> int:
        """Take the items out; answers how many there were."""
        checks.check_ids(ids)
        async with self._connection() as connection:
            tag = await connection.execute(
                f"DELETE FROM vector_items WHERE {self._mine} AND id = ANY($1::text[])", list(ids)
            )
        return int(tag.rsplit(" ", 1)[1])

    async def search(self, vector: Vector, limit: int, filters: Sequence[Filter] = ()) -> list[Hit]:
        """The nearest items that pass every filter, nearest first."""
        checks.check_search(limit, filters)
        query = checks.unit_rows([vector], self._dimension)[0]
        async with self._connection() as connection, connection.transaction():
            await connection.execute(
                # A plan that suits any filter suits none: how many items pass decides which is fast.
                "SELECT set_config('hnsw.ef_search', $1, true), set_config('plan_cache_mode', 'force_custom_plan', "
                "true), set_config('hnsw.iterative_scan', 'relaxed_order', true)",
                str(min(max(_MIN_EF_SEARCH, 2 * limit), _MAX_EF_SEARCH)),
            )
            if filters and await self._expected(connection, filters) <= self._exact_items:
                return await self._select(connection, query, limit, filters, exact=True)
            hits = await self._select(
                connection, query, limit + (min(2 * limit, _MOST_SURPLUS) if filters else 0), filters
            )
            if filters and len(hits) < limit:
                # A filter that few items pass can exhaust the bounded index scan: then all items are read.
                hits = await self._select(connection, query, limit, filters, exact=True)
        return hits[:limit]

    async def count(self) -> int:
        """How many items there are."""
        async with self._connection() as connection:
            return await connection.fetchval(f"SELECT count(*) FROM vector_items WHERE {self._mine}")

    async def reindex(self) -> None:
        """Build the HNSW graph anew without a lock on readers or writers; takes minutes per million items."""
        async with self._connection() as connection:
            # Settings of this session, which the pool does not reset. Its own time-outs are meant for requests, and a
            # graph that outgrows the default 64 MB is built many times slower.
            await connection.execute(f"SET statement_timeout = '{_REINDEX_TIMEOUT_S}s'")
            await connection.execute("SET maintenance_work_mem = '256MB'")
            try:
                # What an earlier run that was broken off left behind.
                await connection.execute(f"DROP INDEX IF EXISTS {self._index}_ccnew, {self._index}_ccold")
                unbounded: Any = connection
                await unbounded.execute(f"REINDEX INDEX CONCURRENTLY {self._index}", timeout=_REINDEX_TIMEOUT_S)
            finally:
                await connection.execute("RESET ALL")

    async def recall(self, queries: Sequence[Vector], limit: int = 10) -> float:
        """Mean share of the truly nearest ``limit`` items that ``search`` finds."""
        shares: list[float] = []
        for query in checks.unit_rows(queries, self._dimension):
            found = await self.search(query, limit)
            async with self._connection() as connection:
                shares.append(checks.recall_of(found, await self._select(connection, query, limit, (), exact=True)))
        return sum(shares) / len(shares) if shares else 1.0

    async def ping(self) -> float:
        """Milliseconds one round trip takes now."""
        started = time.perf_counter()
        async with self._connection() as connection:
            await connection.fetchval("SELECT 1")
        return (time.perf_counter() - started) * 1000

    async def aclose(self) -> None:
        """Nothing was opened here."""

    async def _select(
        self,
        connection: Connection,
        query: npt.NDArray[np.float32],
        limit: int,
        filters: Sequence[Filter],
        exact: bool = False,
    ) -> list[Hit]:
        arguments: list[Any] = [query.tolist()]
        passing = self._passing(filters, arguments, exact=exact) if filters else "true"
        distance = f"({self._vector} <=> $1::real[]::halfvec({self._dimension}))"
        rows = await connection.fetch(
            # Inside, so that only what is answered is made into text: of thousands that is dearer than to compare them.
            f"SELECT id, 1 - distance AS similarity, attributes::text AS attributes FROM ("
            # An expression that is not the indexed one keeps the planner from the index: that is what makes it exact.
            f"SELECT id, {distance}{' + 0' if exact else ''} AS distance, attributes FROM vector_items "
            f"WHERE {self._mine} AND {passing} ORDER BY 2 LIMIT {limit:d}) AS nearest",
            *arguments,
        )
        return checks.ordered(Hit(row["id"], row["similarity"], json.loads(row["attributes"])) for row in rows)

    async def _expected(self, connection: Connection, filters: Sequence[Filter]) -> int:
        """How many items pass, as the planner estimates from its statistics; nothing is read for it.

        Those of other collections count too: which items have an attribute and which are here is no coincidence, and
        the planner would take it for one.
        """
        arguments: list[Any] = []
        plan = await connection.fetchval(
            f"EXPLAIN (FORMAT JSON) SELECT FROM vector_items WHERE {self._passing(filters, arguments)}", *arguments
        )
        return int(json.loads(plan)[0]["Plan"]["Plan Rows"])

    def _passing(self, filters: Sequence[Filter], arguments: list[Any], *, exact: bool = False) -> str:
        """SQL of the filters, of which there is one at least; their values are appended to ``arguments``.

        Where all that pass are read, equal values are asked of the index of whole attributes: it meets several at once,
        where the planner takes the index of one and reads all that this lets through.
        """
        return " AND ".join(
            _condition(each, each.attribute in self._filtered and not (exact and each.compare in _EQUAL), arguments)
            for each in filters
        )

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Connection]:
        async with _reachable(), self._pool.acquire() as connection:
            yield connection


async def open_index(
    pool: Pool, collection: str, dimension: int, filtered: Sequence[str] = (), exact_items: int = EXACT_ITEMS
) -> PgvectorIndex:
    """The collection, made when it is new. Raises ConfigError when it exists with another dimension.

    ``filtered`` are attributes to keep an index and statistics of: whatever a search filters by often. Any other
    attribute can be filtered by too, but how many items pass is then not known beforehand.
    """
    checks.check_collection(collection, dimension)
    checks.check_filtered(collection, filtered)
    index = PgvectorIndex(pool, collection, dimension, filtered, exact_items)
    async with _reachable(), pool.acquire() as connection, connection.transaction():
        # Nodes that start at once take turns: IF NOT EXISTS alone lets two creators collide.
        await connection.execute("SELECT pg_advisory_xact_lock(7012)")
        await connection.execute(
            "INSERT INTO vector_collections (name, dimension) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
            collection,
            dimension,
        )
        declared = await connection.fetchval("SELECT dimension FROM vector_collections WHERE name = $1", collection)
        if declared != dimension:
            raise ConfigError(
                f"The vector collection {collection} has dimension {declared}, not {dimension}.",
                remedy="Use another collection, or delete this one's items and its row in vector_collections.",
            )
        for name, statement in _declarations(collection, dimension, filtered):
            # Asked first: to make what is there already would wait for whoever writes or rebuilds.
            if not await connection.fetchval(_IS_THERE, name):
                await connection.execute(statement)
    return index


_IS_THERE: Final = (
    "SELECT to_regclass($1) IS NOT NULL OR EXISTS (SELECT FROM pg_statistic_ext WHERE stxname = $1 "
    "AND stxrelid = 'vector_items'::regclass)"
)


def _declarations(collection: str, dimension: int, filtered: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The graph of a collection, and an index and statistics of each attribute, by name."""
    mine = f"WHERE collection = '{collection}'"
    graph = f"((embedding::halfvec({dimension})) halfvec_cosine_ops) WITH ({_BUILD})"
    yield _graph(collection), f"CREATE INDEX {_graph(collection)} ON vector_items USING hnsw {graph} {mine}"
    for attribute in filtered:
        value, name = f"(attributes -> '{attribute}')", f"vector_items_{collection}_by_{attribute}"
        yield name, f"CREATE INDEX {name} ON vector_items ({value}) {mine}"
        # The planner takes no statistics from an index of a part of the table.
        yield (
            f"vector_items_on_{attribute}",
            f"CREATE STATISTICS vector_items_on_{attribute} ON {value} FROM vector_items",
        )


def _graph(collection: str) -> str:
    return f"vector_items_{collection}_hnsw"


def _condition(condition: Filter, is_indexed: bool, arguments: list[Any]) -> str:
    """SQL of one filter; its values are appended to ``arguments``. The attribute's name has been checked."""
    value = f"(attributes -> '{condition.attribute}')"
    if condition.compare in _EQUAL:
        wanted = checks.values_of(condition)
        arguments.append([json.dumps(each if is_indexed else {condition.attribute: each}) for each in wanted])
        return f"{f'{value} =' if is_indexed else 'attributes @>'} ANY (${len(arguments)}::text[]::jsonb[])"
    # jsonb orders strings below numbers and booleans above: between two numbers there are only numbers.
    low, high = (-checks.MAX_INT, condition.value) if condition.compare == "<=" else (condition.value, checks.MAX_INT)
    arguments += [low, high]
    return f"{value} BETWEEN to_jsonb(${len(arguments) - 1}::bigint) AND to_jsonb(${len(arguments)}::bigint)"


@asynccontextmanager
async def _reachable() -> AsyncGenerator[None]:
    try:
        yield
    except _AWAY as error:
        raise Unavailable(f"The vector index does not answer: {type(error).__name__}: {error}") from error
