"""Storage as a whole on a real PostgreSQL with real gateways: what is fetched, by how many, how it is read and ends."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.fault_proxy import Trouble
from tests.support.gateway_server import GatewayServer, gateway_server
from tests.support.memory_dag import MemoryDag
from tests.support.storage_nodes import OWNER, add, content, opened, proxied, storage_at, until
from tests.support.transfers import SMALL, endpoints_of, gateway_at, object_of, random_bytes

from prsm.core import database
from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest, PrsmError, Unavailable
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import BadBlock, Link
from prsm.data_layer.codec.unixfs import encode_directory
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS, StoragePolicy
from prsm.data_layer.network.discovery import Discovery
from prsm.data_layer.network.neighbours import Neighbours
from prsm.data_layer.seams import StorageFault
from prsm.data_layer.store.catalog import Catalog, State
from prsm.data_layer.store.collector import Collector
from prsm.data_layer.store.object_files import InUse, NotStored, ObjectFiles
from prsm.data_layer.store.object_index import Damaged
from prsm.data_layer.store.uploads import UploadQueue
from prsm.data_layer.transfer.throttle import Bandwidth
from prsm.data_layer.transfer.upload_drain import Uploads

LARGE_LEAVES = replace(SMALL, chunk_bytes=64 * 1024)


pytestmark = pytest.mark.asyncio(loop_scope="module")


def bytes_asked(server: GatewayServer, dag: MemoryDag) -> int:
    """The bytes of every block as often as it was asked for."""
    asked = ((Cid.parse(path.split("/")[2].split("?")[0]), count) for path, count in server.requests.items())
    return sum(len(dag.blocks[cid]) * count for cid, count in asked if cid in dag.blocks)


async def test_a_fetch_goes_on_past_endpoints_that_fail_that_lie_and_that_lack_blocks(
    tmp_path: Path, pool: Pool
) -> None:
    data = random_bytes(400_000, 1)
    cid, dag = object_of(data)
    half = {block: dag.blocks[block] for number, block in enumerate(dag.blocks) if number % 2}
    with gateway_server(dag.blocks) as good, gateway_server(half) as lacking:
        async with (
            proxied(good.url, chance=0.5, kinds=[Trouble.ERROR, Trouble.RESET], seed=1) as failing,
            proxied(good.url, chance=0.5, kinds=[Trouble.CORRUPT], seed=2) as lying,
            opened(storage_at(tmp_path, pool, gateways=[failing.url, lying.url, lacking.url])) as storage,
        ):
            fetched = await storage.fetch(cid)
            assert (fetched.size_bytes, fetched.state) == (len(data), State.WHOLE)
            assert await content(storage, cid) == data
            assert failing.did[Trouble.ERROR] + failing.did[Trouble.RESET] + lying.did[Trouble.CORRUPT] > 0


async def test_twenty_callers_move_the_bytes_once(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    cid, blocks = object_of(random_bytes(1_000_000, 2))
    dag.blocks.update(blocks.blocks)
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url], limit_bytes_s=2_000_000)) as storage:
        fetched = await asyncio.gather(*(storage.fetch(cid) for _ in range(20)))
    assert {each.cid for each in fetched} == {cid}
    # A hedged request or two may come on top; a second transfer would double it.
    assert bytes_asked(gateway, dag) < 1.25 * sum(map(len, dag.blocks.values()))


async def test_the_last_who_leaves_ends_it_and_who_comes_then_is_served(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    data = random_bytes(600_000, 3)
    cid, blocks = object_of(data)
    dag.blocks.update(blocks.blocks)
    async with (
        proxied(gateway.url, chance=1.0, kinds=[Trouble.HANG]) as proxy,
        opened(storage_at(tmp_path, pool, gateways=[proxy.url])) as storage,
    ):
        waiters = [asyncio.create_task(storage.fetch(cid)) for _ in range(3)]
        await until(lambda: answered(len(storage.transfers) == 1 and proxy.did[Trouble.HANG] > 0))
        waiters[0].cancel()
        await asyncio.wait(waiters[:1])
        assert len(storage.transfers) == 1, "two still wait"
        for waiter in waiters[1:]:
            waiter.cancel()
        await asyncio.wait(waiters)
        assert storage.transfers == []
        proxy.chance = 0.0
        assert (await storage.fetch(cid)).state is State.WHOLE
        assert await content(storage, cid) == data


async def answered(holds: object) -> object:
    return holds


async def test_an_error_reaches_every_waiter(tmp_path: Path, pool: Pool, gateway: GatewayServer) -> None:
    nowhere = Cid.of(Codec.RAW, b"nobody has this")
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url])) as storage:
        ends = await asyncio.gather(*(storage.fetch(nowhere) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(end, StorageFault) and end.code == "block_not_found" for end in ends), ends
        assert storage.transfers == []


async def test_sizes_that_nothing_can_have_are_refused_and_leave_nothing(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    file, _ = object_of(b"small")
    for size in (2**63 - 1, 2**52):
        block = encode_directory([Link(file, name, size) for name in "ab"])
        dag.blocks[cid := Cid.of(Codec.DAG_PB, block)] = block
        async with opened(storage_at(tmp_path, pool, gateways=[gateway.url])) as storage:
            await add(storage, b"small")
            if size > 2**52:
                with pytest.raises(BadBlock, match="blocks under its links"):
                    await storage.fetch(cid)
                assert [found.cid for found in storage.files.listing()] == [file]
            else:
                await storage.fetch(cid)
                with pytest.raises(InvalidRequest, match="at most"):
                    await storage.add_directory([("a", cid), ("b", cid)], OWNER)
            await storage.reconcile()


async def test_without_any_network_what_is_here_is_served_and_the_rest_fails_in_a_sentence(
    tmp_path: Path, pool: Pool
) -> None:
    data = random_bytes(300_000, 4)
    with gateway_server({}) as server:
        gone = server.url  # nobody listens there any more
    async with opened(storage_at(tmp_path, pool, gateways=[gone], block_budget_s=1.0)) as storage:
        cid = await add(storage, data)
        folder = (await storage.add_directory([("a/b.bin", cid)], OWNER)).cid
        assert await content(storage, await storage.resolve(folder, "a/b.bin")) == data
        assert (await storage.fetch(cid)).cid == cid
        assert (await storage.fetch(folder)).cid == folder
        async with storage.open_or_fetch(cid) as reader:
            assert await reader.read(100, 50) == data[100:150]
        assert all(view.failed == 0 for view in storage.endpoints.snapshot()), "nobody was asked"
        with pytest.raises(StorageFault, match="could not be fetched"):
            await storage.fetch(Cid.of(Codec.RAW, b"elsewhere"))
        cid_of_a_file_elsewhere = Cid.of(Codec.DAG_PB, b"elsewhere")
        with pytest.raises(StorageFault, match="could not be fetched"):
            async with storage.open_or_fetch(cid_of_a_file_elsewhere):
                pass


async def test_what_hangs_on_the_network_does_not_hold_up_what_is_here(
    tmp_path: Path, pool: Pool, gateway: GatewayServer
) -> None:
    async with (
        proxied(gateway.url, chance=1.0, kinds=[Trouble.HANG]) as proxy,
        opened(storage_at(tmp_path, pool, gateways=[proxy.url], workers=1)) as storage,
    ):
        cid = await add(storage, b"here")
        hanging = [asyncio.create_task(storage.fetch(Cid.of(Codec.RAW, b"%d" % number))) for number in range(60)]
        await until(lambda: answered(proxy.did[Trouble.HANG] > 0))
        assert await content(storage, cid) == b"here"
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.wait(hanging)


async def test_a_file_is_read_while_it_comes_what_is_asked_for_first(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    data = random_bytes(2_000_000, 5)
    cid, blocks = object_of(data)
    dag.blocks.update(blocks.blocks)
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url], limit_bytes_s=1_000_000)) as storage:
        async with storage.open_or_fetch(cid) as reader:
            assert reader.size_bytes == len(data)
            assert await reader.read(1_900_000, 10_000) == data[1_900_000:1_910_000]
            assert storage.transfers[0].done_bytes < len(data), "the end came before the rest"
            pieces = [await reader.read(at, 150_000) for at in range(0, len(data), 150_000)]
            assert b"".join(pieces) == data
            assert await reader.read(len(data), 10) == b""
        with suppress(NotStored):  # it may be whole by now, or not: who left did not wait for it
            assert await content(storage, cid) == data
        await storage.fetch(cid)
        assert await content(storage, cid) == data


async def test_a_reader_that_is_cancelled_leaves_no_thread_behind(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    data = random_bytes(250_000, 6)
    cid, blocks = object_of(data)  # a root and its leaves
    dag.blocks.update(blocks.blocks)
    async with proxied(gateway.url, chance=1.0, kinds=[Trouble.HANG]) as proxy:
        proxy.script.extend([Trouble.NONE] * 2)  # the root, looked at and fetched
        async with opened(storage_at(tmp_path, pool, gateways=[proxy.url])) as storage:

            async def read() -> bytes:
                async with storage.open_or_fetch(cid) as reader:
                    assert reader.size_bytes == len(data)
                    return await reader.read(0, 1000)

            task = asyncio.create_task(read())
            await until(lambda: answered(proxy.did[Trouble.HANG] > 0))
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert storage.transfers == []
            await until(lambda: answered(not any(each.name == "transfer" for each in threading.enumerate())))
            proxy.chance = 0.0
            assert await read() == data[:1000]
    assert not [each.name for each in threading.enumerate() if each.name.startswith("storage-")]


async def test_closing_ends_transfers_uploads_and_threads(tmp_path: Path, pool: Pool, gateway: GatewayServer) -> None:
    async with proxied(gateway.url, chance=1.0, kinds=[Trouble.HANG]) as proxy:
        storage = storage_at(tmp_path, pool, gateways=[proxy.url])
        fetching = [asyncio.create_task(storage.fetch(Cid.of(Codec.RAW, b"%d" % n))) for n in range(3)]
        await until(lambda: answered(proxy.did[Trouble.HANG] >= 3))
        await storage.aclose()
        ends = await asyncio.gather(*fetching, return_exceptions=True)
        assert all(isinstance(end, Unavailable) and end.code == "stopping" for end in ends), ends
        with pytest.raises(Unavailable):
            await storage._transfers.join(Cid.of(Codec.RAW, b"late")).__aenter__()
    assert not [each.name for each in threading.enumerate() if each.name.startswith(("storage-", "transfer"))]


async def test_another_worker_s_transfer_is_waited_for_and_its_bytes_move_once(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    data = random_bytes(1_000_000, 7)
    cid, blocks = object_of(data)
    dag.blocks.update(blocks.blocks)
    one = storage_at(tmp_path, pool, gateways=[gateway.url], limit_bytes_s=1_500_000)
    two = storage_at(tmp_path, pool, gateways=[gateway.url], limit_bytes_s=1_500_000)
    async with opened(one), opened(two):
        first, second = asyncio.create_task(one.fetch(cid)), asyncio.create_task(two.fetch(cid))
        assert (await first).state is State.WHOLE
        assert (await second).state is State.WHOLE
        assert await content(two, cid) == data
    assert bytes_asked(gateway, dag) < 1.25 * sum(map(len, dag.blocks.values()))


async def test_another_worker_s_transfer_that_breaks_off_is_taken_over_and_one_that_stands_still_is_not_waited_for(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    data = random_bytes(500_000, 8)
    cid, blocks = object_of(data)
    dag.blocks.update(blocks.blocks)
    async with proxied(gateway.url, chance=1.0, kinds=[Trouble.HANG]) as hanging:
        one = storage_at(tmp_path, pool, gateways=[hanging.url])
        two = storage_at(tmp_path, pool, gateways=[gateway.url])
        impatient = storage_at(tmp_path, pool, gateways=[gateway.url], others_patience_s=0.5)
        async with opened(one), opened(two), opened(impatient):
            stuck = asyncio.create_task(one.fetch(cid))
            await until(lambda: answered(hanging.did[Trouble.HANG] > 0))
            with pytest.raises(InUse):
                await impatient.fetch(cid)

            async def read_meanwhile() -> bytes:
                async with two.open_or_fetch(cid) as reader:
                    return await reader.read(0, 1000)

            reading, fetching = asyncio.create_task(read_meanwhile()), asyncio.create_task(two.fetch(cid))
            done, _ = await asyncio.wait([reading, fetching], timeout=0.6)
            assert not done, "the other one holds it"
            stuck.cancel()
            assert await reading == data[:1000]
            assert (await fetching).state is State.WHOLE


async def test_a_directory_whose_children_are_partly_here_becomes_whole_again(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    files = {f"sub{number % 3}/{number}.bin": random_bytes(9_000, number) for number in range(12)}
    root = dag.add_folder(files, SMALL).cid
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url])) as storage:
        await storage.fetch(root)
        await storage.pin(root, OWNER)
        assert (await storage.collect()).objects == 0, "all of it is kept by the one pin"
        await storage.unpin(root, OWNER)
        await pool.execute("DELETE FROM storage_leases")
        await storage.catalog.pin(root, "the directory's blocks only")
        # A child, and a folder with all in it, are lost behind the catalog's back; another is damaged.
        lost, damaged = await storage.resolve(root, "sub0/0.bin"), await storage.resolve(root, "sub1/1.bin")
        folder = await storage.resolve(root, "sub2")
        for cid in (lost, folder):
            storage.files.remove(cid)
        path = storage.files.payload_path(damaged)
        path.chmod(0o600)
        path.write_bytes(bytes(9_000))
        assert not (await storage.verify(damaged)).whole
        with pytest.raises(Damaged):
            await storage.open(damaged)
        with pytest.raises(NotStored):
            await storage.open(lost)
        await storage.fetch(root)
        for name, data in files.items():
            assert await content(storage, await storage.resolve(root, name)) == data, name


async def test_a_directory_nobody_pins_may_lose_children_and_says_so(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    root = dag.add_folder({f"{number}.bin": random_bytes(60_000, number) for number in range(6)}, LARGE_LEAVES).cid
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url], limit_bytes=200_000)) as storage:
        await storage.fetch(root)
        await pool.execute("DELETE FROM storage_leases")
        await storage.make_room()
        usage = await storage.catalog.usage()
        assert usage.stored_bytes <= 200_000
        assert usage.objects > 0
        if (await storage.catalog.get(root)) is not None:
            missing = [entry for entry in await storage.entries(root) if entry.stored is None]
            assert missing
            with pytest.raises(NotStored):
                await storage.open(missing[0].cid)
        assert (await storage.fetch(root)).cid == root
        assert all(entry.stored for entry in await storage.entries(root))


async def test_damage_is_found_and_repaired_by_fetching_only_that(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    data = random_bytes(800_000, 9)
    cid, blocks = object_of(data)
    dag.blocks.update(blocks.blocks)
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url], scrub_after_s=0.0)) as storage:
        await storage.fetch(cid)
        gateway.requests.clear()
        path = storage.files.payload_path(cid)
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.seek(100_000)
            file.write(b"\0" * 10)
        await storage.verify_next()  # finds it and mends it
        assert (await storage.object(cid)).state is State.WHOLE
        assert await content(storage, cid) == data
        assert bytes_asked(gateway, dag) <= 3 * 16 * 1024
        assert (await storage.repair(cid)).moved_bytes == 0


async def test_one_that_cannot_be_repaired_does_not_hold_up_the_others(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url], block_budget_s=2.0)) as storage:
        cids = [await add(storage, random_bytes(50_000, number)) for number in range(4)]
        for cid in cids[:3]:
            path = storage.files.payload_path(cid)
            path.chmod(0o600)
            path.write_bytes(bytes(50_000))
            await storage.verify(cid)
        had = sorted(cids[:3], key=str)[1]
        dag.blocks[had] = random_bytes(50_000, cids.index(had))
        assert had.names(dag.blocks[had])
        await storage.verify_next()
        states = {cid: (await storage.object(cid)).state for cid in cids}
        assert states.pop(had) is State.WHOLE
        assert sorted(states.values()) == [State.DAMAGED, State.DAMAGED, State.WHOLE]
        # Adding the file again heals it too.
        again = cids[0] if cids[0] != had else cids[1]
        await add(storage, random_bytes(50_000, cids.index(again)))
        assert (await storage.object(again)).state is State.WHOLE
        assert (await storage.verify(again)).whole
        assert await content(storage, again) == random_bytes(50_000, cids.index(again))


async def test_a_file_that_vanished_is_noted_and_the_next_is_verified(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool, scrub_after_s=0.0)) as storage:
        gone, there = await add(storage, b"gone"), await add(storage, b"there")
        storage.files.remove(gone)
        for _ in range(2):
            await storage.verify_next()
        with pytest.raises(NotStored):
            await storage.object(gone)
        assert (await storage.object(there)).state is State.WHOLE
        assert await add(storage, b"gone") == gone
        assert (await storage.object(gone)).state is State.WHOLE


async def test_a_directory_is_no_file_and_a_file_no_directory(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    root = dag.add_folder({"big.bin": random_bytes(9_000, 1)}, SMALL).cid
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url])) as storage:
        with pytest.raises(InvalidRequest, match="directory"):
            async with storage.open_or_fetch(root):
                pass
        assert sum(gateway.requests.values()) == 1, "nothing under it was fetched"
        await storage.fetch(root)
        with pytest.raises(InvalidRequest, match="directory"):
            await storage.open(root)
        with pytest.raises(InvalidRequest, match="directory"):
            async with storage.open_or_fetch(root):
                pass
        with pytest.raises(InvalidRequest, match="file"):
            await storage.entries(await storage.resolve(root, "big.bin"))


async def test_reads_are_counted_and_survive_a_catalog_that_is_away(tmp_path: Path, fresh_database: str) -> None:
    db = await database.connect(fresh_database, pool_size=4, timeout_ms=20_000)
    data = random_bytes(700_000, 11)
    storage = storage_at(tmp_path, db.pool)
    cid = await add(storage, data)
    folder = (await storage.add_directory([("f.bin", cid)], OWNER)).cid
    for _ in range(2):
        await content(storage, cid)
    await storage.flush_reads()
    assert await db.pool.fetchval("SELECT reads FROM storage_objects WHERE cid = $1", str(cid)) == 2
    db.pool.terminate()  # PostgreSQL is away
    assert await content(storage, cid) == data
    assert await content(storage, await storage.resolve(folder, "f.bin")) == data
    assert cid.names(await storage.block(cid))
    async with storage.open_or_fetch(cid) as reader:
        assert await reader.read(5, 5) == data[5:10]
    assert len(b"".join([piece async for piece in await storage.car(cid, "", "all", None)])) > len(data)
    with pytest.raises(database.UNREACHABLE):
        await storage.object(cid)
    with pytest.raises(database.UNREACHABLE):
        await add(storage, b"more")
    with pytest.raises(database.UNREACHABLE):
        await storage.flush_reads()
    assert storage._reads[cid] >= 1, "they are told later"
    await storage.aclose()
    await db.close()


async def test_a_quota_holds_for_files_directories_and_pins_however_they_come(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool, quota_bytes=100_000)) as storage:
        mine = await add(storage, random_bytes(60_000, 1), "me", limited=True)
        with pytest.raises(PrsmError, match="may keep 40,000 bytes more here; these are 50,000"):
            await add(storage, random_bytes(50_000, 2), "me", limited=True)
        assert not any(pin.name == "me" for pin in await storage.catalog.pins() if pin.cid != mine)
        await add(storage, random_bytes(60_000, 1), "me", limited=True)  # the same again takes nothing
        others = await add(storage, random_bytes(70_000, 3), "another")
        with pytest.raises(PrsmError, match="may keep"):
            await storage.add_directory([("theirs", others)], "me", limited=True)
        with pytest.raises(PrsmError, match="may keep"):
            await storage.pin(others, "me", limited=True)
        await storage.pin(others, "me")  # an admin's way
        await storage.unpin(others, "me")
        both = await asyncio.gather(
            *(add(storage, random_bytes(30_000, 4 + number), "me", limited=True) for number in range(3)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, Cid) for each in both) <= 1
        assert await storage.catalog.pinned_bytes("me") <= 100_000
        assert await storage.quota_left("me") == 100_000 - await storage.catalog.pinned_bytes("me")


async def test_the_folders_that_paths_imply_count_among_what_a_directory_may_have(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool)) as storage:
        cid = await add(storage, b"x")
        deep = [(f"{number}/{'a/' * 126}x", cid) for number in range(2_000)]
        async with asyncio.timeout(10):
            with pytest.raises(InvalidRequest, match=r"at most 100,000 files and folders"):
                await storage.add_directory(deep, OWNER)
        assert [found.cid for found in storage.files.listing()] == [cid], "nothing was published"
        assert (await storage.add_directory(deep[:2], OWNER)).fresh


async def test_who_leaves_ends_the_making_of_his_directory(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool)) as storage:
        cid = await add(storage, b"x")

        async def count() -> int:
            return sum(1 for _ in storage.files.listing())

        entries = [(f"{number}/{number}", cid) for number in range(5_000)]
        making = asyncio.create_task(storage.add_directory(entries, OWNER))
        await until(lambda: _passed(count, 10))
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        await asyncio.sleep(0.2)
        made = await count()
        await asyncio.sleep(0.5)
        assert await count() == made < 5_000


async def _passed(count: Callable[[], Awaitable[int]], least: int) -> bool:
    return await count() > least


async def test_what_is_pinned_must_be_here(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool)) as storage:
        nowhere = Cid.of(Codec.RAW, b"nowhere")
        for refused in (storage.pin(nowhere, OWNER), storage.publish(nowhere, OWNER), storage.verify(nowhere)):
            with pytest.raises(PrsmError):
                await refused
        assert await storage.catalog.pins() == []
        with pytest.raises(NotStored):
            await storage.add_directory([("a", nowhere)], OWNER)


class SmallDisk(ObjectFiles):
    """A folder on a disk of 3 MB, whatever else is on the real one."""

    def free_bytes(self) -> int:
        taken = sum(path.stat().st_blocks * 512 for path in self.folder.rglob("*") if path.is_file())
        return max(0, 3_000_000 - taken)


async def test_a_full_disk_makes_room_by_what_nobody_keeps(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    cid, blocks = object_of(random_bytes(1_000_000, 12))
    dag.blocks.update(blocks.blocks)
    catalog = Catalog(pool, SmallDisk(tmp_path))
    neighbours = Neighbours(endpoints_of([gateway_at(gateway.url)]), Discovery())
    uploads = Uploads(UploadQueue(pool), catalog.files, neighbours, Bandwidth())
    policy = StoragePolicy(block_budget_s=10.0)
    storage = EnhancedIPFS(catalog, Collector(pool, catalog), neighbours, uploads, Bandwidth(), policy)
    async with opened(storage):
        kept_one = await add(storage, random_bytes(400_000, 13))
        old = await add(storage, random_bytes(2_000_000, 14))
        with pytest.raises(StorageFault, match="may be taken"):
            await storage.fetch(cid)
        await storage.unpin(old, OWNER)
        assert (await storage.fetch(cid)).state is State.WHOLE
        with pytest.raises(NotStored):
            await storage.open(old)
        assert len(await content(storage, kept_one)) == 400_000
        assert len(await content(storage, await add(storage, bytes(1_200_000), size_hint=1_200_000))) == 1_200_000
