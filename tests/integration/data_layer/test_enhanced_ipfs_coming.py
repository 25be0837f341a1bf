"""What is read while it is fetched: a path below a directory elsewhere, what is asked for first, and who leaves."""

import asyncio
import threading
from io import BytesIO
from pathlib import Path

import pytest
from tests.support.fault_proxy import Trouble
from tests.support.gateway_server import GatewayServer
from tests.support.memory_dag import MemoryDag
from tests.support.storage_nodes import OWNER, add, content, opened, proxied, storage_at, until
from tests.support.transfers import SMALL, object_of, random_bytes

from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.directories import NoSuchEntry, build_tree
from prsm.data_layer.codec.unixfs_dag import Profile
from prsm.data_layer.seams import StorageFault
from prsm.data_layer.store.catalog import State
from prsm.data_layer.store.object_files import NotStored

SHARDED = Profile("sharded", chunk_bytes=16 * 1024, max_links=16, shard_above_bytes=500)


pytestmark = pytest.mark.asyncio(loop_scope="module")


def asked(server: GatewayServer) -> list[Cid]:
    """The blocks that were asked for, in order of the first time."""
    return [Cid.parse(path.split("/")[2].split("?")[0]) for path in server.requests]


def tree(dag: MemoryDag, data: bytes) -> tuple[Cid, Cid]:
    """A directory of many, sharded where it is large, and the file at ``deep/down/wanted`` in it."""
    file = dag.add_file(BytesIO(data), SMALL)
    leaf = dag.add(Codec.RAW, b"leaf")
    entries = [(f"{folder}/{name}", leaf, 4) for folder in ("deep", "other", "deep/down") for name in range(60)]
    entries.append(("deep/down/wanted", file.cid, file.dag_bytes))
    return build_tree(entries, SHARDED, dag.blocks.__setitem__).cid, file.cid


async def test_a_path_below_a_directory_that_is_not_here_fetches_the_way_and_the_file(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    data = random_bytes(100_000)
    root, file = tree(dag, data)
    blocks_of_file = object_of(data)[1].blocks
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url])) as storage:
        with pytest.raises(NotStored):
            await storage.resolve(root, "deep/down/wanted")
        assert not gateway.requests, "who may not fetch asks nobody"
        assert await storage.resolve(root, "deep/down/wanted", fetch=True) == file
        way = asked(gateway)
        assert way[0] == root
        assert len(way) <= 2 + 3 + 3, "a block or so a step, of more than 180 entries"
        assert not set(way) & blocks_of_file.keys()
        async with storage.open_or_fetch(file) as reader:
            assert await reader.read(50_000, 10_000) == data[50_000:60_000]
            assert b"".join([await reader.read(at, 10_000) for at in range(0, len(data), 10_000)]) == data
        assert set(asked(gateway)) == {*way, *blocks_of_file}
        assert [each.cid for each in storage.files.listing()] == [file], "nothing of the way is kept"
        assert (await storage.object(file)).state is State.WHOLE, "who has read all of it leaves it here"
        with pytest.raises(NoSuchEntry):
            await storage.resolve(root, "deep/nowhere/wanted", fetch=True)
        with pytest.raises(NoSuchEntry):
            await storage.resolve(root, "deep/down/1/below", fetch=True)


async def test_a_way_that_is_here_asks_nobody(tmp_path: Path, pool: Pool, gateway: GatewayServer) -> None:
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url])) as storage:
        cid = await add(storage, b"here")
        folder = (await storage.add_directory([("a/b", cid)], OWNER)).cid
        assert await storage.resolve(folder, "a/b", fetch=True) == cid
        async with storage.open_or_fetch(cid) as reader:
            assert await reader.read(0, 10) == b"here"
    assert not gateway.requests


async def test_a_way_that_nobody_has_or_that_lies_is_refused(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    root, _ = tree(dag, b"data")
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url], block_budget_s=2.0)) as storage:
        with pytest.raises(StorageFault) as nowhere:
            await storage.resolve(Cid.of(Codec.DAG_PB, b"nowhere"), "a", fetch=True)
        assert nowhere.value.code == "block_not_found"
        with pytest.raises(InvalidRequest, match="directory"):
            async with storage.open_or_fetch(await storage.resolve(root, "deep", fetch=True)):
                pass
        dag.blocks[root] = b"not what its name says"
        with pytest.raises(StorageFault) as lied:
            await storage.resolve(root, "deep", fetch=True)
        assert lied.value.code == "block_not_fetched"


async def test_who_leaves_on_the_way_is_waited_for_by_no_thread(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    root, _ = tree(dag, b"data")
    async with (
        proxied(gateway.url, chance=1.0, kinds=[Trouble.HANG]) as proxy,
        opened(storage_at(tmp_path, pool, gateways=[proxy.url], block_budget_s=600.0)) as storage,
    ):
        walking = asyncio.create_task(storage.resolve(root, "deep", fetch=True))
        await until(lambda: answered(proxy.did[Trouble.HANG] > 0))
        walking.cancel()
        await asyncio.wait([walking])
        assert walking.cancelled()
    assert not [each.name for each in threading.enumerate() if each.name.startswith("storage-")]


async def answered(holds: object) -> object:
    return holds


async def test_what_is_read_next_comes_before_the_rest(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    data = random_bytes(2_000_000, 5)
    cid, blocks = object_of(data)
    dag.blocks.update(blocks.blocks)
    last = [Cid.of(Codec.RAW, data[at : at + 16_384]) for at in range(0, len(data), 16_384)][-20:]
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url], limit_bytes_s=400_000, workers=4)) as storage:
        async with storage.open_or_fetch(cid) as reader:
            from_last = len(data) - len(last) * 16_384 + 16_384 // 2
            await reader.read(from_last, 1000, len(data) - from_last - 1000)
            await reader.read(len(data) - 1000, 1000)
            done_bytes = storage.transfers[0].done_bytes
            assert done_bytes < len(data) * 2 / 3, "the end was read long before all was here"
        order = asked(gateway)
        first = min(order.index(each) for each in last)
        assert len(set(order[first : first + 28]) & set(last)) == 20, "the others have waited"


async def test_one_who_has_read_only_a_part_lets_the_transfer_end_and_another_goes_on_where_it_was(
    tmp_path: Path, pool: Pool, dag: MemoryDag, gateway: GatewayServer
) -> None:
    data = random_bytes(1_000_000, 6)
    cid, blocks = object_of(data)
    dag.blocks.update(blocks.blocks)
    async with opened(storage_at(tmp_path, pool, gateways=[gateway.url], limit_bytes_s=2_000_000)) as storage:
        async with storage.open_or_fetch(cid) as reader:
            await reader.read(0, 200_000)
            async with storage.open_or_fetch(cid) as other:
                assert len(storage.transfers) == 1
                await other.read(0, 100)
            assert len(storage.transfers) == 1, "it is still read"
        assert not storage.transfers
        await storage.fetch(cid)
        assert await content(storage, cid) == data
    assert sum(gateway.requests.values()) < 1.4 * len(dag.blocks)
