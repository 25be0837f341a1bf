"""One suite for every VectorIndex. Weaviate takes part where PRSM_TEST_WEAVIATE_URL names a server."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import asyncpg
import numpy as np
import numpy.typing as npt
import pytest

from prsm.core.database import Pool
from prsm.core.errors import ConfigError, InvalidRequest, Unavailable
from prsm.core.seams import Attribute, Filter, VectorIndex, VectorItem
from prsm.core.vectors import checks, pgvector_index, schema, weaviate_index

WEAVIATE_URL = os.environ.get("PRSM_TEST_WEAVIATE_URL", "")
KINDS = [
    "pgvector",
    pytest.param(
        "weaviate",
        marks=pytest.mark.skipif(not WEAVIATE_URL, reason="Weaviate: PRSM_TEST_WEAVIATE_URL names no server"),
    ),
]
PLANE = [
    VectorItem("east", [1, 0], {"size": 1, "tag": "a", "flag": True}),
    VectorItem("north-east", [1, 1], {"size": 5, "tag": "b", "flag": False}),
    VectorItem("north", [0, 1], {"size": 9, "tag": "a b"}),
    VectorItem("west", [-1, 0], {"tag": "A", "flag": 1}),
]


@pytest.fixture
async def pool(empty_database: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(empty_database, min_size=1, max_size=4) as pool:
        await pool.execute(schema.UPGRADE_SQL)
        yield pool


class Opener:
    """Opens the collection under test, the same one each time it is asked for."""

    def __init__(self, kind: str, pool: Pool | None) -> None:
        self.pool = pool
        self.collection = "test" if kind == "pgvector" else f"t{uuid4().hex[:12]}"

    async def __call__(self, dimension: int) -> VectorIndex:
        if self.pool:
            return await pgvector_index.open_index(self.pool, self.collection, dimension)
        return await weaviate_index.open_index(WEAVIATE_URL, self.collection, dimension)


@pytest.fixture(params=KINDS)
def opener(request: pytest.FixtureRequest) -> Opener:
    return Opener(request.param, request.getfixturevalue("pool") if request.param == "pgvector" else None)


@pytest.fixture
async def plane(opener: Opener) -> AsyncIterator[VectorIndex]:
    index = await opener(2)
    await index.upsert(PLANE)
    yield index
    await index.aclose()


async def ids(index: VectorIndex, *filters: Filter, limit: int = 10) -> list[str]:
    return [hit.id for hit in await index.search([1, 0], limit, filters)]


async def test_nearest_first_with_similarity_and_attributes(plane: VectorIndex) -> None:
    hits = await plane.search([2, 0], 4)
    assert [hit.id for hit in hits] == ["east", "north-east", "north", "west"]
    assert [hit.similarity for hit in hits] == pytest.approx([1, 0.5**0.5, 0, -1], abs=1e-3)
    assert hits[0].attributes == {"size": 1, "tag": "a", "flag": True}
    assert hits[0].attributes["flag"] is True
    assert type(hits[3].attributes["flag"]) is int


async def test_limit(plane: VectorIndex) -> None:
    assert await ids(plane, limit=2) == ["east", "north-east"]


FILTERS: list[tuple[Filter, list[str]]] = [
    (Filter("tag", "=", "a"), ["east"]),
    (Filter("tag", "in", ["a b", "A", "z"]), ["north", "west"]),
    (Filter("tag", "in", ["a", 1]), ["east"]),
    (Filter("flag", "=", True), ["east"]),
    (Filter("flag", "=", 1), ["west"]),
    (Filter("flag", "=", False), ["north-east"]),
    (Filter("size", "<=", 5), ["east", "north-east"]),
    (Filter("size", ">=", 5), ["north-east", "north"]),
    (Filter("size", "=", 9), ["north"]),
    (Filter("tag", ">=", 0), []),
    (Filter("unknown", "=", "a"), []),
    (Filter("unknown", "<=", 10), []),
]


async def test_filters(plane: VectorIndex) -> None:
    for condition, expected in FILTERS:
        assert await ids(plane, condition) == expected, condition


async def test_every_filter_must_pass(plane: VectorIndex) -> None:
    assert await ids(plane, Filter("size", ">=", 2), Filter("size", "<=", 8)) == ["north-east"]
    assert await ids(plane, Filter("size", ">=", 2), Filter("tag", "=", "a")) == []


async def test_upsert_replaces_vector_and_attributes(plane: VectorIndex) -> None:
    await plane.upsert([VectorItem("west", [0, 9], {"tag": "first"}), VectorItem("west", [1, 0.01], {"tag": "new"})])
    assert await plane.count() == 4
    assert await ids(plane, limit=2) == ["east", "west"]
    assert await ids(plane, Filter("tag", "=", "A")) == []
    assert await ids(plane, Filter("tag", "=", "new")) == ["west"]


async def test_delete(plane: VectorIndex) -> None:
    assert await plane.delete(["east", "west", "nowhere"]) == 2
    assert await plane.delete([]) == 0
    assert await plane.count() == 2
    assert await ids(plane) == ["north-east", "north"]


async def test_odd_text_is_kept(plane: VectorIndex) -> None:
    text = 'it\'s "100%" \\ $1 {x} 日本 😂'
    await plane.upsert([VectorItem(text, [1, 0], {"tag": text})])
    (hit,) = await plane.search([1, 0], 5, [Filter("tag", "=", text)])
    assert (hit.id, hit.attributes) == (text, {"tag": text})


BAD_ITEMS = [
    VectorItem("x", [1, 0, 0]),
    VectorItem("x", [1]),
    VectorItem("x", [0, 0]),
    VectorItem("x", [float("nan"), 1]),
    VectorItem("x", [float("inf"), 1]),
    VectorItem("", [1, 0]),
    VectorItem("x\0", [1, 0]),
    VectorItem("x" * 1025, [1, 0]),
    VectorItem("x", [1, 0], {"Tag": "a"}),
    VectorItem("x", [1, 0], {"tag'; --": "a"}),
    VectorItem("x", [1, 0], {"tag": "\ud800"}),
    VectorItem("x", [1, 0], {"size": 2**53}),
    VectorItem("x", [1, 0], {"size": 0.5}),  # pyright: ignore[reportArgumentType]
    VectorItem("x", [1, 0], {f"a{n}": n for n in range(33)}),
]


async def test_bad_items_are_refused_whole(plane: VectorIndex) -> None:
    for item in BAD_ITEMS:
        with pytest.raises(InvalidRequest):
            await plane.upsert([VectorItem("good", [1, 0]), item])
    assert await plane.count() == 4


async def test_bad_searches_are_refused(plane: VectorIndex) -> None:
    for vector in ([1, 0, 0], [0, 0]):
        with pytest.raises(InvalidRequest):
            await plane.search(vector, 1)
    for limit in (0, 1001):
        with pytest.raises(InvalidRequest, match="limit"):
            await plane.search([1, 0], limit)
    wrong = [
        Filter("size", "<=", "5"),
        Filter("size", "<=", True),
        Filter("tag", "in", "a"),
        Filter("tag", "=", ["a"]),
        Filter("tag", "in", []),
        Filter("tag' OR true --", "=", "a"),
    ]
    for condition in wrong:
        with pytest.raises(InvalidRequest):
            await plane.search([1, 0], 1, [condition])


async def test_an_empty_collection_answers(opener: Opener) -> None:
    index = await opener(3)
    assert index.dimension == 3
    assert await index.count() == 0
    assert await index.search([1, 0, 0], 5) == []
    assert await index.recall([[1, 0, 0]]) == 1.0
    assert await index.ping() > 0
    await index.aclose()


async def test_a_collection_keeps_its_items_and_its_dimension(opener: Opener, plane: VectorIndex) -> None:
    with pytest.raises(ConfigError, match="dimension"):
        await opener(3)
    again = await opener(2)
    assert await again.count() == 4
    await again.aclose()


async def test_nodes_that_start_at_once_open_one_collection(opener: Opener) -> None:
    opened = await asyncio.gather(*(opener(4) for _ in range(4)))
    await opened[0].upsert([VectorItem("x", [1, 0, 0, 0])])
    assert [await index.count() for index in opened] == [1, 1, 1, 1]
    for index in opened:
        await index.aclose()


def clustered(count: int, dimension: int, seed: int) -> npt.NDArray[np.float32]:
    """Points around 64 centres that do not depend on ``seed``: like texts of 64 topics, and unlike uniform noise."""
    centres = np.random.default_rng(0).normal(size=(64, dimension))
    chance = np.random.default_rng(seed)
    noise = chance.normal(size=(count, dimension))
    return (centres[chance.integers(64, size=count)] + 0.7 * noise).astype(np.float32)


async def assert_scanned(pool: Pool, name: str, times: int) -> None:
    """The graph itself answered: of few rows PostgreSQL reads all, and recall would be measured against itself."""
    scans = 0
    for _ in range(100):
        scans = await pool.fetchval("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1", name)
        if scans >= times:
            break
        await asyncio.sleep(0.1)
    assert scans == times


async def test_recall_before_and_after_a_reindex_with_live_answers(opener: Opener) -> None:
    index = await opener(96)
    vectors = clustered(5_000, 96, seed=1)
    sizes: list[dict[str, Attribute]] = [{"rank": n, "rare": n % 1000 == 0} for n in range(len(vectors))]
    await index.upsert([VectorItem(str(n), vector, sizes[n]) for n, vector in enumerate(vectors)])
    queries = list(clustered(50, 96, seed=2))
    if opener.pool:
        await opener.pool.execute("ANALYZE vector_items")
    assert await index.recall(queries) >= 0.95
    if opener.pool:
        await assert_scanned(opener.pool, "vector_items_test_hnsw", len(queries))

    rebuilding = asyncio.create_task(index.reindex())
    while not rebuilding.done():
        assert len(await index.search(queries[0], 10)) == 10
    await rebuilding
    assert await index.count() == 5_000
    assert await index.recall(queries) >= 0.95

    # Five items pass, most of them far from the query.
    assert len(await index.search(queries[0], 10, [Filter("rare", "=", True)])) == 5
    below = await index.search(queries[0], 1000, [Filter("rank", "<=", 2000)])
    assert len(below) == 1000
    assert all(int(hit.attributes["rank"]) <= 2000 for hit in below)
    await index.aclose()


async def test_pgvector_finds_what_a_rare_filter_passes_after_the_index_scan_gave_up(empty_database: str) -> None:
    # The index scan is made the only cheap plan, and its bound small: 20,000 rows would be slow to put in.
    settings = {"enable_seqscan": "off", "enable_bitmapscan": "off", "enable_sort": "off", "hnsw.max_scan_tuples": "1"}
    async with asyncpg.create_pool(empty_database, min_size=1, max_size=1, server_settings=settings) as pool:
        await pool.execute(schema.UPGRADE_SQL)
        index = await pgvector_index.open_index(pool, "rare", 8, exact_items=0)
        vectors = clustered(2_000, 8, seed=4)
        await index.upsert([VectorItem(str(n), vector, {"n": n}) for n, vector in enumerate(vectors)])
        farthest = int(np.argmin(checks.unit_rows(list(vectors), 8) @ checks.unit_rows([vectors[0]], 8)[0]))
        hits = await index.search(vectors[0], 1, [Filter("n", "=", farthest)])
        assert [hit.id for hit in hits] == [str(farthest)]


@pytest.mark.parametrize("exact_items", [0, 5_000])
async def test_pgvector_answers_the_same_for_attributes_that_it_keeps_an_index_of(pool: Pool, exact_items: int) -> None:
    index = await pgvector_index.open_index(pool, "kept", 2, ("size", "tag", "flag"), exact_items)
    await index.upsert(PLANE)
    for condition, expected in FILTERS:
        assert await ids(index, condition) == expected, condition


async def test_pgvector_searches_exactly_where_few_items_pass(empty_database: str) -> None:
    # The graph is made the only cheap plan: what is not found by it was not to be found by it.
    settings = {"enable_seqscan": "off", "enable_sort": "off"}
    async with asyncpg.create_pool(empty_database, min_size=1, max_size=1, server_settings=settings) as pool:
        await pool.execute(schema.UPGRADE_SQL)
        index = await pgvector_index.open_index(pool, "few", 32, ("topic", "rank"), exact_items=200)
        vectors = clustered(4_000, 32, seed=1)
        topics: list[dict[str, Attribute]] = [{"topic": n % 40, "rank": n} for n in range(len(vectors))]
        await index.upsert([VectorItem(str(n), vector, topics[n]) for n, vector in enumerate(vectors)])
        await pool.execute("ANALYZE vector_items")
        rows = checks.unit_rows(list(vectors), 32)
        for query in checks.unit_rows(list(clustered(20, 32, seed=2)), 32):
            for filters, passing in FEW_PASS:
                near = sorted(passing, key=lambda n: -float(rows[n] @ query))[:10]
                found = await index.search(query, 10, filters)
                assert len({hit.id for hit in found} & {str(n) for n in near}) >= 9  # halves round: ties may swap
        assert len(await index.search(vectors[0], 10, [Filter("rank", "<=", 3_999)])) == 10
        await assert_scanned(pool, "vector_items_few_hnsw", 1)


FEW_PASS: list[tuple[list[Filter], Sequence[int]]] = [
    ([Filter("topic", "=", 7)], range(7, 4_000, 40)),
    ([Filter("rank", "<=", 99)], range(100)),
    (
        [Filter("topic", "in", [1, 2]), Filter("rank", ">=", 3_000)],
        [n for n in range(3_000, 4_000) if n % 40 in (1, 2)],
    ),
]


async def test_pgvector_refuses_attributes_that_are_no_names(pool: Pool) -> None:
    for name in ("Tag", "a'b", "", "a b", "a" * 30):
        with pytest.raises(InvalidRequest):
            await pgvector_index.open_index(pool, "n" * 20, 2, (name,))


async def test_pgvector_collections_do_not_mix(pool: Pool) -> None:
    one, other = [await pgvector_index.open_index(pool, name, 2) for name in ("one", "other")]
    await one.upsert([VectorItem("a", [1, 0])])
    await other.upsert([VectorItem("a", [0, 1]), VectorItem("b", [1, 1])])
    assert [hit.id for hit in await one.search([1, 0], 9)] == ["a"]
    assert await one.delete(["a", "b"]) == 1
    assert await other.count() == 2


async def test_the_database_itself_refuses_another_dimension(pool: Pool) -> None:
    await pgvector_index.open_index(pool, "strict", 3)
    with pytest.raises(asyncpg.PostgresError):
        await pool.execute(
            "INSERT INTO vector_items (collection, id, embedding, attributes) VALUES ('strict', 'x', '[1,2]', '{}')"
        )


async def test_a_pool_that_lost_its_server_is_unavailable(empty_database: str) -> None:
    async with asyncpg.create_pool(empty_database, min_size=1, max_size=1) as pool:
        await pool.execute(schema.UPGRADE_SQL)
        index = await pgvector_index.open_index(pool, "away", 2)
        await pool.close()
        with pytest.raises(Unavailable):
            await index.search([1, 0], 1)


async def test_downgrade_takes_everything_back(pool: Pool) -> None:
    await pool.execute(schema.DOWNGRADE_SQL)
    assert await pool.fetchval("SELECT to_regclass('vector_items')") is None
    await pool.execute(schema.UPGRADE_SQL)
    await pgvector_index.open_index(pool, "again", 2)


async def test_collection_names_are_checked(pool: Pool) -> None:
    for name in ("", "Upper", "a-b", "a'b", "a" * 31, "1a"):
        with pytest.raises(InvalidRequest, match="collection"):
            await pgvector_index.open_index(pool, name, 2)


async def test_weaviate_away_is_unavailable() -> None:
    pytest.importorskip("weaviate")
    with pytest.raises(Unavailable, match="Weaviate"):
        await weaviate_index.open_index("http://127.0.0.1:9?grpc_port=10", "test", 2)


async def test_a_wrong_weaviate_address_is_named() -> None:
    pytest.importorskip("weaviate")
    for url in (
        "127.0.0.1:8080",
        "ftp://127.0.0.1",
        "http://127.0.0.1:8080?grpc_port=x",
        "http://127.0.0.1:9?grpc_port=9",
    ):
        with pytest.raises(ConfigError, match="address"):
            await weaviate_index.open_index(url, "test", 2)
