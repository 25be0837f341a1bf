"""Who keeps what on a real PostgreSQL: within the quota in whatever worker, and in as few commits as it takes."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.gateway_server import gateway_server
from tests.support.memory_dag import MemoryDag
from tests.support.storage_nodes import OWNER, TABLES, add, opened, pins_read, storage_at
from tests.support.transfers import SMALL, random_bytes

from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest, PrsmError
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import Link
from prsm.data_layer.codec.directories import build_directory
from prsm.data_layer.store.catalog import MAX_NAME_CHARS
from prsm.data_layer.store.object_files import NotStored

_NEXT = "SELECT pg_current_xact_id()::text::bigint"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _empty(pools: list[Pool]) -> None:
    await pools[0].execute(f"TRUNCATE {TABLES}")


async def test_who_adds_or_pins_is_told_whether_it_was_kept_before(tmp_path: Path, pools: list[Pool]) -> None:
    async with opened(storage_at(tmp_path, pools[0])) as storage:

        async def new(owner: str) -> bool:
            return (await storage.add(BytesIO(b"data").readinto, owner)).newly_kept

        assert [await new("ann"), await new("ann"), await new("bob")] == [True, False, True]
        cid = await add(storage, b"other", "ann")
        folders = [await storage.add_directory([("a", cid)], owner) for owner in ("ann", "ann", "bob")]
        assert [each.newly_kept for each in folders] == [True, False, True]
        assert [each.fresh for each in folders] == [True, False, False]
        assert [await storage.pin(cid, owner) for owner in ("ann", "bob", "bob")] == [False, True, False]
        assert {pin.name for pin in await storage.catalog.pins()} == {"ann", "bob"}, "and for nobody else, at no time"
        with pytest.raises(NotStored):
            await storage.pin(Cid.of(Codec.RAW, b"nowhere"), "ann", limited=True)
        with pytest.raises(InvalidRequest):
            await storage.pin(cid, "x" * (MAX_NAME_CHARS + 1))


async def test_of_two_that_do_not_fit_together_exactly_one_is_kept_in_whatever_workers_they_come(
    tmp_path: Path, pools: list[Pool]
) -> None:
    one, two = (storage_at(tmp_path, pool, quota_bytes=100_000) for pool in pools)
    async with opened(one), opened(two):
        file = await add(one, random_bytes(60_000, 1), "another")
        folder = (await one.add_directory([("a", await add(one, random_bytes(60_000, 2)))], "another")).cid
        for number in range(12):
            owner = f"owner {number}"
            pinning = (one.pin(folder, owner, limited=True), two.pin(file, owner, limited=True))
            ends = await asyncio.gather(*pinning, return_exceptions=True)
            assert [end for end in ends if end is True] == [True], ends
            assert [end.code for end in ends if isinstance(end, PrsmError)] == ["storage_quota_exceeded"]
            assert await one.quota_left(owner) == 40_000


async def test_the_quota_is_never_passed_however_many_come_and_go(tmp_path: Path, pools: list[Pool]) -> None:
    draw = random.Random(5)
    one, two = (storage_at(tmp_path, pool, quota_bytes=100_000) for pool in pools)
    async with opened(one), opened(two):
        cids = [await add(one, random_bytes(size, size)) for size in (15_000, 25_000, 35_000, 45_000, 55_000)]

        async def come_and_go() -> None:
            for _ in range(15):
                storage, cid = draw.choice([one, two]), draw.choice(cids)
                with suppress(PrsmError):  # it does not fit, or another has taken the pin away
                    await storage.pin(cid, "me", limited=True)
                    if draw.random() < 0.5:
                        await storage.unpin(cid, "me")
                assert await storage.catalog.pinned_bytes("me") <= 100_000

        await asyncio.gather(*(come_and_go() for _ in range(6)))


async def test_what_is_not_here_passes_no_quota_by_being_fetched_after_its_directory_was_pinned(
    tmp_path: Path, pools: list[Pool]
) -> None:
    dag = MemoryDag()
    large = dag.add_file(BytesIO(random_bytes(150_000)), SMALL)
    inline = Link(Cid(Codec.RAW, b"inline", identity=True), "inline", 6)
    inner = build_directory([Link(large.cid, "large", large.dag_bytes), inline], SMALL, dag.blocks.__setitem__)
    root = build_directory([Link(inner.cid, "inner", inner.dag_bytes)], SMALL, dag.blocks.__setitem__).cid
    with gateway_server(dag.blocks) as gateway:
        async with opened(storage_at(tmp_path, pools[0], gateways=[gateway.url], quota_bytes=100_000)) as storage:
            await storage.fetch(root)
            await pools[0].execute("DELETE FROM storage_leases")
            await pools[0].execute("DELETE FROM storage_objects WHERE cid = $1", str(large.cid))
            storage.files.remove(large.cid)  # as a collector does
            for owner in ("me", "another"):
                with pytest.raises(PrsmError, match=f"{large.cid}, a part of {root}, is not here"):
                    await storage.pin(root, owner, limited=True)
                with pytest.raises(PrsmError, match="is not here, so nobody"):
                    await storage.add_directory([("a", root)], owner, limited=True)
            assert await storage.catalog.pins() == []
            await storage.fetch(root)
            with pytest.raises(PrsmError, match=r"may keep 100,000 bytes more here; these are 150,006"):
                await storage.pin(root, "me", limited=True)
            assert await storage.pin(root, "me")
        async with opened(storage_at(tmp_path, pools[0], quota_bytes=200_000)) as storage:
            assert await storage.pin(root, "another", limited=True), "all of it is here"


async def test_a_pin_more_reads_no_more_the_more_there_are(tmp_path: Path, pools: list[Pool]) -> None:
    async with opened(storage_at(tmp_path, pools[0])) as storage:
        cids = [await add(storage, b"file %d" % number, "another") for number in range(402)]
        await pools[0].execute("ANALYZE storage_objects, storage_pins, storage_links, storage_totals")
        for cid in cids[:-1]:
            await storage.pin(cid, "me", limited=True)
        before = await pins_read(pools[0])
        await storage.pin(cids[-1], "me", limited=True)
        assert await storage.quota_left("me", 1) > 1
        assert await pins_read(pools[0]) - before < 100
    assert await pools[0].fetchval("SELECT count(*) FROM storage_pins WHERE name = 'me'") == 402


async def test_whether_a_pin_fits_is_exact_though_not_all_are_counted(tmp_path: Path, pools: list[Pool]) -> None:
    draw = random.Random(7)
    async with opened(storage_at(tmp_path, pools[0], quota_bytes=1000)) as storage:
        files = {await add(storage, random_bytes(size, size), "another"): size for size in range(50, 250, 20)}
        under = {cid: {cid} for cid in files}
        for number in range(8):
            parts = draw.sample(list(files), 3)
            folder = await storage.add_directory([(f"{number}/{cid}", cid) for cid in parts], "another")
            under[folder.cid] = set(parts)
        pinned: set[Cid] = set()

        def size_of(cids: set[Cid]) -> int:
            return sum(files[file] for file in {file for cid in cids for file in under[cid]})

        decided = list[bool]()
        for _ in range(250):
            cid = draw.choice(list(under))
            if cid in pinned and draw.random() < 0.8:
                await storage.unpin(cid, "me")
                pinned.discard(cid)
            else:
                fits = cid in pinned or size_of({*pinned, cid}) <= 1000
                with suppress(PrsmError) if not fits else nullcontext():
                    await storage.pin(cid, "me", limited=True)
                    pinned.add(cid)
                assert (cid in pinned) is fits
                decided.append(fits)
            assert await storage.quota_left("me") == 1000 - size_of(pinned)
            assert await storage.quota_left("me", 100) <= 1000 - size_of(pinned)
        assert 20 < sum(decided) < len(decided) - 20


async def test_what_was_pinned_before_it_came_counts_when_it_is_here(tmp_path: Path, pools: list[Pool]) -> None:
    dag = MemoryDag()
    large = dag.add_file(BytesIO(random_bytes(80_000)), SMALL)
    root = build_directory([Link(large.cid, "large", large.dag_bytes)], SMALL, dag.blocks.__setitem__).cid
    with gateway_server(dag.blocks) as gateway:
        async with opened(storage_at(tmp_path, pools[0], gateways=[gateway.url], quota_bytes=100_000)) as storage:
            first, second, third = [await add(storage, random_bytes(30_000, seed), "another") for seed in (1, 2, 3)]
            await storage.fetch(root)
            await pools[0].execute("DELETE FROM storage_objects WHERE cid = $1", str(large.cid))
            assert await storage.pin(first, "me", limited=True)
            assert await storage.pin(root, "me")
            assert await storage.pin(second, "me", limited=True)
            await storage.fetch(large.cid)
            for enough in (None, 1):
                assert await storage.quota_left("me", enough) == 0
            with pytest.raises(PrsmError, match="may keep 0 bytes more here"):
                await storage.pin(third, "me", limited=True)


async def test_what_is_kept_stays_kept_where_the_quota_was_lowered(tmp_path: Path, pools: list[Pool]) -> None:
    async with opened(storage_at(tmp_path, pools[0])) as storage:
        cid = await add(storage, random_bytes(50_000), OWNER)
    async with opened(storage_at(tmp_path, pools[0], quota_bytes=10_000)) as storage:
        assert not await storage.pin(cid, OWNER, limited=True)
        with pytest.raises(PrsmError, match=r"may keep 0 bytes more here; these are 1\."):
            await add(storage, b"x", OWNER, limited=True)


async def test_a_small_file_is_added_in_two_commits_and_pinned_in_one(tmp_path: Path, pools: list[Pool]) -> None:
    async with opened(storage_at(tmp_path, pools[0])) as storage:
        await add(storage, b"first")
        added, again, pinned = list[int](), list[int](), list[int]()
        for turn in range(4):  # the server writes transactions of its own now and then: the least is ours
            content = b"second, %d" % turn
            async with counted(pools[1], added):
                cid = await add(storage, content, "me", limited=True)
            async with counted(pools[1], again):
                await add(storage, content, "me", limited=True)
            async with counted(pools[1], pinned):
                await storage.pin(cid, "another", limited=True)
    assert (min(added), min(again), min(pinned)) == (2, 1, 1)


@asynccontextmanager
async def counted(pool: Pool, count: list[int]) -> AsyncIterator[None]:
    """Put to ``count`` how many transactions of the server wrote something meanwhile."""
    before = await pool.fetchval(_NEXT)
    yield
    count.append(await pool.fetchval(_NEXT) - before - 1)
