"""The catalog on a real PostgreSQL: what is found, what is kept, and that saying a thing twice changes nothing."""

import asyncio
import io
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.support.servers import new_database

from prsm.core import database
from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.store.catalog import Catalog, Lease, State
from prsm.data_layer.store.ingest import Intake, Stored, ingest
from prsm.data_layer.store.object_files import NotStored, ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import read_block, read_index
from prsm.data_layer.store.uploads import UploadQueue

PROFILE = PROFILES["kubo-v1"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    with new_database(postgres_url, f"catalog_{uuid4().hex}") as url:
        db = await database.connect(url, pool_size=6, timeout_ms=20_000)
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


def take_in(catalog: Catalog, data: bytes) -> Stored:
    return ingest(io.BytesIO(data).readinto, catalog.files, PROFILE)


async def add(catalog: Catalog, data: bytes) -> Cid:
    stored = take_in(catalog, data)
    await catalog.record(read_index(catalog.files, stored.cid), profile=stored.profile, dag_bytes=stored.dag_bytes)
    return stored.cid


async def add_tree(catalog: Catalog, tree: dict[str, bytes]) -> list[Cid]:
    with Intake(catalog.files, PROFILE) as intake:
        stored = intake.tree((path, io.BytesIO(data).readinto) for path, data in tree.items())
    for each in stored:
        await catalog.record(read_index(catalog.files, each.cid), profile=each.profile, dag_bytes=each.dag_bytes)
    return [each.cid for each in stored]


async def test_what_was_recorded_is_found_again(catalog: Catalog) -> None:
    data = os.urandom(1_000_000)
    stored = take_in(catalog, data)
    recorded = await catalog.record(read_index(catalog.files, stored.cid), profile="kubo-v1")
    assert await catalog.get(stored.cid) == recorded
    assert (recorded.kind, recorded.size_bytes, recorded.state) == (ObjectKind.FILE, len(data), State.WHOLE)
    assert recorded.dag_bytes == stored.dag_bytes
    assert recorded.stored_bytes >= len(data)
    assert await catalog.get(Cid.of(Codec.RAW, b"unknown")) is None


async def test_every_block_is_found_by_its_digest_and_is_itself(catalog: Catalog) -> None:
    cid = await add(catalog, os.urandom(900_000))
    places = list(read_index(catalog.files, cid).places())
    assert len(places) == 5
    for place in places:
        located = await catalog.find_block(place.cid)
        assert located is not None
        assert place.cid.names(read_block(catalog.files, located.root, located.place))
    as_raw = Cid(Codec.RAW, cid.digest)
    located = await catalog.find_block(as_raw)
    assert located is not None
    assert as_raw.names(read_block(catalog.files, located.root, located.place))
    await catalog.mark(cid, State.DAMAGED)
    assert await catalog.find_block(cid) is None


async def test_recording_again_changes_nothing_and_ten_at_once_are_one(catalog: Catalog, pool: Pool) -> None:
    stored = take_in(catalog, os.urandom(600_000))
    index = read_index(catalog.files, stored.cid)
    first = await catalog.record(index, profile="kubo-v1")
    blocks = await pool.fetch("SELECT * FROM storage_blocks ORDER BY digest")
    again = await asyncio.gather(*(catalog.record(index, profile="other") for _ in range(10)))
    assert {each.profile for each in again} == {"kubo-v1"}
    assert {each.created_at for each in again} == {first.created_at}
    assert await pool.fetch("SELECT * FROM storage_blocks ORDER BY digest") == blocks
    assert await pool.fetchval("SELECT count(*) FROM storage_objects") == 1


async def test_an_object_that_was_taken_meanwhile_is_not_recorded(catalog: Catalog, pool: Pool) -> None:
    stored = take_in(catalog, b"short-lived")
    index = read_index(catalog.files, stored.cid)
    catalog.files.remove(stored.cid)
    with pytest.raises(NotStored):
        await catalog.record(index, pin="mine")
    assert await pool.fetchval("SELECT count(*) FROM storage_pins") == 0


async def test_pins_have_names_and_the_last_one_counts(catalog: Catalog) -> None:
    cid = await add(catalog, b"pinned")
    assert not await catalog.kept(cid)
    await asyncio.gather(*(catalog.pin(cid, name) for name in ("a", "b", "a", "b")))
    assert [pin.name for pin in await catalog.pins(cid)] == ["a", "b"]
    assert [each.cid for each in await catalog.list_objects(pin="a")] == [cid]
    assert await catalog.list_objects(pin="c") == []
    assert await catalog.unpin(cid, "a") == 1
    assert await catalog.unpin(cid, "a") == 0
    assert await catalog.kept(cid)
    assert await catalog.unpin(cid) == 1
    assert not await catalog.kept(cid)
    for name in ("x" * 201, "a\nb", "\0"):
        with pytest.raises(InvalidRequest):
            await catalog.pin(cid, name)


async def test_many_pins_of_one_name_are_taken_away_at_once(catalog: Catalog) -> None:
    one, two, three = [await add(catalog, content) for content in (b"1", b"2", b"3")]
    for cid in (one, two):
        await catalog.pin(cid, "a")
    await catalog.pin(two, "b")
    assert await catalog.unpin_all([one, two, three], "a") == 2
    assert [await catalog.kept(cid) for cid in (one, two, three)] == [False, True, False]
    assert await catalog.unpin_all([], "b") == 0


async def test_a_pinned_directory_keeps_all_under_it(catalog: Catalog) -> None:
    *below, root = await add_tree(catalog, {"a": b"1", "deep/er/b": b"22", "deep/c": b"333"})
    other = await add(catalog, b"other")
    await catalog.pin(root, "model")
    assert [await catalog.kept(cid) for cid in (*below, root, other)] == [True] * (len(below) + 1) + [False]
    assert await catalog.pinned_bytes("model") == 6
    await catalog.pin(below[0], "model")
    assert await catalog.pinned_bytes("model") == 6
    assert await catalog.pinned_bytes("nobody") == 0


async def test_a_lease_is_renewed_released_and_ends_by_itself(catalog: Catalog) -> None:
    cid = await add(catalog, b"leased")
    await catalog.lease([cid, cid], Lease("worker-1", 30))
    await catalog.lease([cid], Lease("worker-1", -30))  # a shorter one does not cut it
    assert await catalog.kept(cid)
    await catalog.release("worker-2")
    assert await catalog.kept(cid)
    await catalog.release("worker-1", [cid])
    assert not await catalog.kept(cid)
    await catalog.lease([cid], Lease("worker-1", 0.05))
    await asyncio.sleep(0.1)
    assert not await catalog.kept(cid)


async def test_reads_add_up_to_three(catalog: Catalog, pool: Pool) -> None:
    cid, other = await add(catalog, b"read"), await add(catalog, b"unread")
    await catalog.count_reads({})
    await catalog.count_reads({cid: 1, Cid.of(Codec.RAW, b"unknown"): 5})
    await catalog.count_reads({cid: 1000})
    rows = await pool.fetch("SELECT cid, reads FROM storage_objects")
    assert {row["cid"]: row["reads"] for row in rows} == {str(cid): 3, str(other): 0}


async def test_two_workers_that_count_the_same_reads_do_not_wait_for_each_other(catalog: Catalog, pool: Pool) -> None:
    cids = [await add(catalog, bytes([number])) for number in range(40)]
    for _ in range(15):
        await asyncio.gather(
            *(catalog.count_reads(dict.fromkeys(order, 1)) for order in (cids, cids[::-1], cids[20:] + cids[:20]))
        )
    assert await pool.fetchval("SELECT min(reads) FROM storage_objects") == 3


async def test_a_holder_that_goes_on_keeps_all_that_it_has_leased(catalog: Catalog, pool: Pool) -> None:
    first, second, other = [Cid.of(Codec.RAW, bytes([number])) for number in range(3)]
    await catalog.lease([first], Lease("worker", 30))
    await catalog.lease([second], Lease("worker", 0.01))  # as by ``keeper``, of what comes on the way
    await catalog.lease([other], Lease("another", 0.01))
    await catalog.renew([first], Lease("worker", 30))
    await asyncio.sleep(0.05)
    assert [await catalog.kept(cid) for cid in (first, second, other)] == [True, True, False]
    await pool.execute("UPDATE storage_leases SET until = now() - interval '2 hours' WHERE holder = 'another'")
    await catalog.forget_leases()
    assert {row["holder"] for row in await pool.fetch("SELECT holder FROM storage_leases")} == {"worker"}


async def test_objects_are_listed_page_by_page(catalog: Catalog) -> None:
    cids = sorted([await add(catalog, bytes([number])) for number in range(7)], key=str)
    seen: list[Cid] = []
    while page := await catalog.list_objects(after=seen[-1] if seen else None, limit=3):
        seen += [each.cid for each in page]
    assert seen == cids


async def test_the_longest_unverified_come_first(catalog: Catalog, pool: Pool) -> None:
    cids = [await add(catalog, bytes([number])) for number in range(3)]
    for days, cid in enumerate(cids):
        await pool.execute(
            "UPDATE storage_objects SET verified_at = now() - make_interval(days => $2) WHERE cid = $1",
            str(cid),
            days,
        )
    assert await catalog.longest_unverified(3600, limit=5) == [cids[2], cids[1]]
    await catalog.mark(cids[2], State.WHOLE)
    assert await catalog.longest_unverified(3600, limit=5) == [cids[1]]


async def test_an_upload_is_claimed_once_and_again_when_its_worker_died(catalog: Catalog, pool: Pool) -> None:
    cid = await add(catalog, b"to send")
    queues = [UploadQueue(pool) for _ in range(5)]
    assert await queues[0].add([cid, cid], "kubo") == 1
    assert await queues[0].add([cid], "kubo") == 0
    assert not await catalog.kept(cid), "waiting keeps nothing"
    claimed = await asyncio.gather(*(queue.claim(["kubo", "other"], seconds=0.2) for queue in queues))
    (first,) = [upload for batch in claimed for upload in batch]
    await asyncio.sleep(0.25)
    (second,) = await queues[1].claim(["kubo"], seconds=30)
    assert await catalog.kept(cid)
    assert (first.attempts, second.attempts) == (0, 0)  # that a worker died is no failure of the node
    assert not await queues[0].done(first)  # too late: another worker has it
    assert not await queues[0].renew(first, seconds=30)
    assert await queues[1].renew(second, seconds=30)
    assert await queues[1].postpone(second, "no route", seconds=30)
    assert await queues[1].claim(["kubo"], seconds=30) == []
    assert [entry.last_error for entry in await queues[1].entries(cid=cid)] == ["no route"]
    await queues[1].hasten("kubo")
    (third,) = await queues[1].claim(["kubo"], seconds=30)
    assert third.attempts == 1
    assert await queues[1].put_back(third)
    assert not await queues[1].done(third)
    (third,) = await queues[1].claim(["kubo"], seconds=30)
    assert third.attempts == 1  # nor that this node stopped
    assert await queues[1].done(third)
    assert not await catalog.kept(cid)
    assert await queues[1].add([cid], "kubo") == 1
    (fourth,) = await queues[1].claim(["kubo"], seconds=30)
    assert fourth.attempts == 0
    assert await queues[1].give_up(fourth, "refused")
    assert [entry.attempts for entry in await queues[1].entries(cid=cid)] == [1]
    assert (await catalog.usage()).uploads_failed == 1
    assert await queues[1].add([other := Cid.of(Codec.RAW, b"waits")], "kubo") == 1
    assert await queues[1].forget_ended(60) == 0, "not yet"
    assert await queues[1].forget_ended(0) == 1
    assert [entry.cid for entry in await queues[1].entries()] == [other]


async def test_provenance_is_kept_byte_for_byte_and_once(catalog: Catalog) -> None:
    cid = Cid.of(Codec.RAW, b"stated")
    at = datetime(2026, 1, 2, tzinfo=UTC)
    assert await catalog.add_provenance(cid, b"\x00statement", "node", at)
    assert not await catalog.add_provenance(cid, b"\x00statement", "node", at)
    assert await catalog.add_provenance(cid, b"later", "node", datetime(2026, 1, 3, tzinfo=UTC))
    assert await catalog.provenance(cid) == [b"\x00statement", b"later"]


async def test_usage_counts_what_is_there(catalog: Catalog) -> None:
    cids = [await add(catalog, os.urandom(5000)) for _ in range(4)]
    await catalog.mark(cids[0], State.DAMAGED)
    await catalog.mark(cids[1], State.MISSING)
    await catalog.pin(cids[2], "a")
    await catalog.pin(cids[2], "b")
    await catalog.lease(cids[:3], Lease("holder", 30))
    usage = await catalog.usage()
    assert (usage.objects, usage.damaged, usage.missing, usage.pinned, usage.leased) == (4, 1, 1, 1, 3)
    assert usage.stored_bytes == sum(catalog.files.stored_bytes(cid) for cid in (cids[0], cids[2], cids[3]))
