"""Garbage, eviction and reconciliation on a real PostgreSQL and disk: what is kept or open never goes, whoever dies."""

import asyncio
import io
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.support.servers import new_database
from tests.support.storage_nodes import pins_read

from prsm.core import database
from prsm.core.database import Pool
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.store.catalog import Catalog, Lease, State
from prsm.data_layer.store.collector import Collector
from prsm.data_layer.store.ingest import Intake, ingest
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.object_index import kind_on_disk, read_index
from prsm.data_layer.store.scrub import scrub
from prsm.data_layer.store.uploads import UploadQueue

PROFILE = PROFILES["kubo-v1"]
KIB = 1024
KILLS = int(os.environ.get("PRSM_TEST_COLLECTOR_KILLS", "5"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    with new_database(postgres_url, f"collector_{uuid4().hex}") as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(database_url: str) -> AsyncIterator[Pool]:
    db = await database.connect(database_url, pool_size=8, timeout_ms=20_000)
    yield db.pool
    await db.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def catalog(pool: Pool, tmp_path: Path) -> Catalog:
    await pool.execute(
        "TRUNCATE storage_objects, storage_blocks, storage_links, storage_pins, storage_leases, storage_ghosts, "
        "storage_uploads, storage_provenance, storage_totals"
    )
    return Catalog(pool, ObjectFiles(tmp_path / "storage", keep_free_bytes=0))


@pytest_asyncio.fixture(loop_scope="module")
async def collector(pool: Pool, catalog: Catalog) -> Collector:
    return Collector(pool, catalog)


async def add(catalog: Catalog, size: int) -> Cid:
    stored = ingest(io.BytesIO(os.urandom(size)).readinto, catalog.files, PROFILE)
    await catalog.record(read_index(catalog.files, stored.cid))
    return stored.cid


async def here(catalog: Catalog) -> set[Cid]:
    """The objects that both sides have; they must agree, and nothing else may be known of any."""
    rows = {each.cid for each in await catalog.list_objects(limit=10_000)}
    assert {found.cid for found in catalog.files.listing()} == rows
    return rows


async def test_garbage_is_all_that_nothing_keeps(catalog: Catalog, collector: Collector, pool: Pool) -> None:
    with Intake(catalog.files, PROFILE) as intake:
        tree = [each.cid for each in intake.tree((name, io.BytesIO(name.encode()).readinto) for name in ("a", "b/c"))]
    for cid in tree:
        await catalog.record(read_index(catalog.files, cid))
    pinned, leased, sent, waiting, opened, garbage, over = [await add(catalog, 9000) for _ in range(7)]
    await catalog.pin(tree[-1])
    await catalog.pin(pinned, "model")
    await catalog.lease([leased], Lease("reader", 60))
    await catalog.lease([over], Lease("reader", -1))
    queue = UploadQueue(pool)
    await queue.add([sent], "kubo")
    assert await queue.claim(["kubo"], seconds=60)
    await queue.add([waiting], "kubo")
    with catalog.files.open(opened):
        taken = await collector.collect_garbage()
    assert (taken.objects, taken.busy) == (3, 2), "one is open, one is leased"
    assert taken.freed_bytes > 27_000
    assert await here(catalog) == {*tree, pinned, leased, sent, opened}
    assert await catalog.get(garbage) is None
    assert await pool.fetchval("SELECT count(DISTINCT object_id) FROM storage_blocks") == len(await here(catalog))
    await catalog.unpin(tree[-1])
    taken = await collector.collect_garbage()
    assert taken.objects == len(tree) + 1


async def test_what_was_read_lately_is_no_garbage_yet(catalog: Catalog, collector: Collector, pool: Pool) -> None:
    old, read = await add(catalog, 100), await add(catalog, 100)
    await pool.execute("UPDATE storage_objects SET created_at = now() - interval '2 days'")
    await catalog.count_reads({read: 1})
    new = await add(catalog, 100)
    await collector.collect_garbage(unread_s=3600)
    assert await here(catalog) == {read, new}
    assert await catalog.get(old) is None


async def test_eviction_stops_at_the_limit_and_spares_what_is_kept_and_read(
    catalog: Catalog, collector: Collector, pool: Pool
) -> None:
    cids = [await add(catalog, 100 * KIB) for _ in range(10)]
    await catalog.pin(cids[0])
    await catalog.count_reads({cids[1]: 3})
    each = catalog.files.stored_bytes(cids[0])
    taken = await collector.evict(5 * each)
    assert taken.objects == 5
    assert await here(catalog) == {cids[0], cids[1], *cids[7:]}
    assert (await catalog.usage()).stored_bytes <= 5 * each
    row = await pool.fetchrow("SELECT queue, reads FROM storage_objects WHERE cid = $1", str(cids[1]))
    assert (row["queue"], row["reads"]) == ("main", 0)
    again = await collector.evict(5 * each)
    assert again.objects == 0


async def test_what_comes_back_after_eviction_is_worth_more(catalog: Catalog, collector: Collector, pool: Pool) -> None:
    data = os.urandom(100 * KIB)
    cid = ingest(io.BytesIO(data).readinto, catalog.files, PROFILE).cid
    await catalog.record(read_index(catalog.files, cid))
    others = [await add(catalog, 100 * KIB) for _ in range(3)]
    await collector.evict(3 * catalog.files.stored_bytes(cid))
    assert await here(catalog) == set(others)
    ingest(io.BytesIO(data).readinto, catalog.files, PROFILE)
    await catalog.record(read_index(catalog.files, cid))
    assert await pool.fetchval("SELECT queue FROM storage_objects WHERE cid = $1", str(cid)) == "main"
    assert await pool.fetchval("SELECT count(*) FROM storage_ghosts WHERE cid = $1", str(cid)) == 0


async def test_what_is_kept_is_not_counted_anew_for_every_few_that_go(
    catalog: Catalog, collector: Collector, pool: Pool
) -> None:
    gone = await enter(pool, "gone", 1000)
    await pool.execute(
        "INSERT INTO storage_pins (cid, name) SELECT unnest($1::text[]), ''", await enter(pool, "in", 500)
    )
    parent = await pool.fetchval("SELECT id FROM storage_objects WHERE cid = $1", gone[0])
    await pool.execute("INSERT INTO storage_links SELECT $1, unnest($2::text[])", parent, gone[1:])
    await pool.execute("ANALYZE storage_objects, storage_pins, storage_links, storage_leases, storage_uploads")
    before = await pins_read(pool)
    assert (await collector.collect_garbage()).objects == 1000
    assert await pins_read(pool) - before < 2000
    assert (await catalog.usage()).objects == 500


async def enter(pool: Pool, what: str, count: int) -> list[str]:
    """Rows of the catalog whose files are gone."""
    cids = [str(Cid.of(Codec.RAW, b"%s %d" % (what.encode(), number))) for number in range(count)]
    await pool.execute(
        "INSERT INTO storage_objects (cid, kind, profile, size_bytes, dag_bytes, stored_bytes, state, queue, place) "
        "SELECT unnest($1::text[]), 'file', '', 1, 1, 1, 'whole', 'small', 1",
        cids,
    )
    return cids


async def test_everything_pinned_stays_even_above_the_limit(catalog: Catalog, collector: Collector) -> None:
    cids = [await add(catalog, 10 * KIB) for _ in range(4)]
    for cid in cids[1:]:
        await catalog.pin(cid)
    taken = await collector.evict(1)
    assert taken.objects == 1
    assert await here(catalog) == set(cids[1:])


async def test_one_collects_at_a_time(catalog: Catalog, pool: Pool) -> None:
    for _ in range(30):
        await add(catalog, 100)
    collectors = [Collector(pool, catalog) for _ in range(3)]
    results = await asyncio.gather(*(each.collect_garbage() for each in collectors))
    assert sum(result.objects for result in results) == 30
    assert [result.objects for result in results if result.elsewhere] == [0, 0]
    assert (await collectors[0].evict(0)).elsewhere is False
    assert await here(catalog) == set()


async def test_it_is_alone_for_longer_than_a_transaction_may_be_idle(
    catalog: Catalog, pool: Pool, database_url: str
) -> None:
    found = ingest(io.BytesIO(b"unknown").readinto, catalog.files, PROFILE).cid
    name = database_url.rpartition("?")[0].rpartition("/")[2] or database_url.rpartition("/")[2]
    await pool.execute(f'ALTER DATABASE "{name}" SET idle_in_transaction_session_timeout = 200')
    db = await database.connect(database_url, pool_size=4, timeout_ms=20_000)
    pace = HeldUp()
    try:
        slow = Collector(db.pool, Catalog(db.pool, catalog.files))
        working = asyncio.create_task(slow.reconcile(pace=pace))
        await asyncio.to_thread(pace.began.wait, 10)
        await asyncio.sleep(0.6)
        assert (await Collector(pool, catalog).collect_garbage()).elsewhere
        pace.go_on.set()
        done = await working
        assert done is not None
        assert done.adopted == 1
        assert await here(catalog) == {found}
        assert not (await Collector(pool, catalog).collect_garbage()).elsewhere, "and it has let go"
    finally:
        pace.go_on.set()
        await pool.execute(f'ALTER DATABASE "{name}" RESET idle_in_transaction_session_timeout')
        await db.close()


async def test_one_that_is_cancelled_lets_the_next_one_collect(catalog: Catalog, pool: Pool) -> None:
    ingest(io.BytesIO(b"unknown").readinto, catalog.files, PROFILE)
    pace = HeldUp()
    working = asyncio.create_task(Collector(pool, catalog).reconcile(pace=pace))
    await asyncio.to_thread(pace.began.wait, 10)
    working.cancel()
    pace.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    while (await Collector(pool, catalog).collect_garbage()).elsewhere:
        await asyncio.sleep(0.01)  # the server sees a moment later that the connection has ended


class HeldUp:
    """A pace that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def take(self, size_bytes: int) -> None:
        self.began.set()
        self.go_on.wait(30)


async def test_what_begins_to_be_kept_during_a_collection_stays(
    catalog: Catalog, collector: Collector, pool: Pool
) -> None:
    cid, garbage = await add(catalog, 50), await add(catalog, 60)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock_shared(7031)")
        collecting = asyncio.create_task(collector.collect_garbage())
        # It has chosen both and waits for the pin that is being made.
        while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE objid = 7031 AND NOT granted"):
            await asyncio.sleep(0.01)
        await connection.execute("INSERT INTO storage_pins (cid, name) VALUES ($1, '')", str(cid))
    await collecting
    assert await here(catalog) == {cid}
    assert await catalog.get(garbage) is None


async def test_nothing_begins_to_be_kept_while_objects_are_taken(catalog: Catalog) -> None:
    cid = await add(catalog, 50)
    index = read_index(catalog.files, cid)
    async with catalog.taking():
        keeping = [
            asyncio.create_task(work)
            for work in (catalog.pin(cid), catalog.lease([cid], Lease("me", 9)), catalog.record(index, pin="new"))
        ]
        done, _ = await asyncio.wait(keeping, timeout=0.3)
        assert not done
    await asyncio.gather(*keeping)
    assert [pin.name for pin in await catalog.pins(cid)] == ["", "new"]


async def test_a_pin_and_a_collection_at_once_agree(catalog: Catalog, collector: Collector) -> None:
    """Whoever is first: either the object is pinned and here, or its files and row are gone together."""
    for _ in range(25):
        cids = [await add(catalog, 50) for _ in range(4)]
        await asyncio.gather(collector.collect_garbage(), *(catalog.pin(cid, "race") for cid in cids))
        left = await here(catalog)
        assert all(scrub(catalog.files, cid).whole for cid in left)
        for cid in cids:
            assert (kind_on_disk(catalog.files, cid) is None) == (cid not in left)
            await catalog.unpin(cid)
        await collector.collect_garbage()


async def test_files_without_rows_are_adopted_after_they_were_verified(catalog: Catalog, collector: Collector) -> None:
    with Intake(catalog.files, PROFILE) as intake:
        stored = intake.tree([("a", io.BytesIO(os.urandom(300 * KIB)).readinto), ("b", io.BytesIO(b"b").readinto)])
    bad = ingest(io.BytesIO(os.urandom(300 * KIB)).readinto, catalog.files, PROFILE).cid
    path = catalog.files.payload_path(bad)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"????")
    done = await collector.reconcile()
    assert done is not None
    assert (done.adopted, done.damaged, done.missing) == (len(stored), 1, 0)
    for each in stored:
        row = await catalog.get(each.cid)
        assert row is not None
        assert (row.state, row.kind, row.size_bytes, row.dag_bytes) == (
            State.WHOLE,
            each.kind,
            each.size_bytes,
            each.dag_bytes,
        )
    assert await catalog.in_state(State.DAMAGED) == [bad]
    await catalog.pin(stored[-1].cid)
    assert await catalog.kept(stored[0].cid)
    again = await collector.reconcile()
    assert again is not None
    assert (again.adopted, again.damaged, again.missing, again.swept) == (0, 0, 0, 0)


async def test_rows_without_files_are_missing_until_the_files_are_back(catalog: Catalog, collector: Collector) -> None:
    data = os.urandom(1000)
    cid = ingest(io.BytesIO(data).readinto, catalog.files, PROFILE).cid
    await catalog.record(read_index(catalog.files, cid))
    catalog.files.remove(cid)
    done = await collector.reconcile()
    assert done is not None
    assert done.missing == 1
    assert await catalog.in_state(State.MISSING) == [cid]
    assert await catalog.find_block(cid) is None
    ingest(io.BytesIO(data).readinto, catalog.files, PROFILE)
    await collector.reconcile()
    assert await catalog.in_state(State.WHOLE) == [cid]


async def test_a_file_whose_payload_is_gone_is_missing_though_its_outboard_is_there(
    catalog: Catalog, collector: Collector
) -> None:
    cid = await add(catalog, 600 * KIB)
    catalog.files.payload_path(cid).unlink()
    done = await collector.reconcile()
    assert done is not None
    assert done.missing == 1
    assert not catalog.files.outboard_path(cid).exists()


async def test_a_payload_that_was_cut_is_damaged(catalog: Catalog, collector: Collector) -> None:
    cid = await add(catalog, 600 * KIB)
    catalog.files.payload_path(cid).chmod(0o600)
    os.truncate(catalog.files.payload_path(cid), 1000)
    await collector.reconcile()
    assert await catalog.in_state(State.DAMAGED) == [cid]


async def test_a_payload_without_its_outboard_is_damaged(catalog: Catalog, collector: Collector) -> None:
    cid = await add(catalog, 600 * KIB)
    catalog.files.outboard_path(cid).unlink()
    await collector.reconcile()
    assert await catalog.in_state(State.DAMAGED) == [cid]
    assert kind_on_disk(catalog.files, cid) is None


async def test_halves_that_nobody_knows_are_swept(catalog: Catalog, collector: Collector) -> None:
    """As a loss of power may leave them, or a hand that deletes."""
    cids = [ingest(io.BytesIO(os.urandom(600 * KIB)).readinto, catalog.files, PROFILE).cid for _ in range(2)]
    catalog.files.outboard_path(cids[0]).unlink()
    catalog.files.payload_path(cids[1]).unlink()
    done = await collector.reconcile()
    assert done is not None
    assert (done.swept, done.adopted) == (2, 0)
    assert list(catalog.files.listing()) == []


async def test_what_is_damaged_and_unknown_becomes_known_so_that_it_can_be_repaired(
    catalog: Catalog, collector: Collector
) -> None:
    with Intake(catalog.files, PROFILE) as intake:
        file, folder = intake.tree([("a", io.BytesIO(os.urandom(600 * KIB)).readinto)])
    for cid in (file.cid, folder.cid):
        path = catalog.files.outboard_path(cid)
        path.chmod(0o600)
        os.truncate(path, 30)
    sound = ingest(io.BytesIO(b"sound").readinto, catalog.files, PROFILE).cid
    done = await collector.reconcile()
    assert done is not None
    assert (done.adopted, done.damaged) == (1, 2)
    assert set(await catalog.in_state(State.DAMAGED)) == {file.cid, folder.cid}
    assert await catalog.in_state(State.WHOLE) == [sound]
    ingest(io.BytesIO(b"sound").readinto, catalog.files, PROFILE)
    assert (await collector.collect_garbage()).objects == 3
    assert await here(catalog) == set()


WORKER = """
import asyncio, io, json, random, sys
from pathlib import Path
from prsm.core import database
from prsm.data_layer.store.catalog import Catalog
from prsm.data_layer.store.collector import Collector
from prsm.data_layer.store.ingest import ingest
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.object_index import read_index
from prsm.data_layer.codec.unixfs_dag import PROFILES

async def main():
    url, folder, seed = sys.argv[1:]
    db = await database.connect(url, pool_size=4, timeout_ms=20_000)
    catalog = Catalog(db.pool, ObjectFiles(Path(folder), keep_free_bytes=0))
    collector = Collector(db.pool, catalog)
    draw = random.Random(int(seed))
    while True:
        data = draw.randbytes(draw.choice((10, 3000, 300_000)))
        cid = ingest(io.BytesIO(data).readinto, catalog.files, PROFILES["kubo-v1"]).cid
        keep = draw.random() < 0.2
        await catalog.record(read_index(catalog.files, cid), pin="keep" if keep else None)
        if keep:
            print(cid, flush=True)
        if draw.random() < 0.3:
            await collector.evict(200_000)

asyncio.run(main())
"""


async def test_killed_workers_are_reconciled(catalog: Catalog, collector: Collector, database_url: str) -> None:
    pinned: set[str] = set()
    for number in range(KILLS):
        argv = [sys.executable, "-c", WORKER, database_url, str(catalog.files.folder), str(number)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            pinned.add(worker.stdout.readline().strip())
            time.sleep(random.Random(number).uniform(0, 0.5))
            worker.kill()
            pinned.update(line.strip() for line in worker.stdout if line.endswith("\n"))
        await collector.reconcile()
        missing = {str(cid) for cid in await catalog.in_state(State.MISSING)}
        assert not missing & pinned
        for found in list(catalog.files.listing()):
            assert kind_on_disk(catalog.files, found.cid) is not None
            assert scrub(catalog.files, found.cid).whole
            row = await catalog.get(found.cid)
            assert row is not None
            assert row.state is State.WHOLE
        for text in pinned:
            assert catalog.files.has_file(Cid.parse(text))
