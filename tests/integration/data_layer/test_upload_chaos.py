"""Uploads to an own node over a faulty network: all of it arrives, and nothing is sent twice but what was in flight."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.support.fault_proxy import FaultProxy, Trouble, fault_proxy
from tests.support.kubo_rpc_server import KuboRpcServer, kubo_rpc_server
from tests.support.memory_dag import MemoryDag
from tests.support.servers import new_database
from tests.support.storage_nodes import opened, proxied, storage_at
from tests.support.transfers import QUICK, MemorySource, object_of, random_bytes, supply_of

from prsm.core import database
from prsm.core.database import Pool
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.network.addresses import parse_private_hosts
from prsm.data_layer.network.discovery import Discovery
from prsm.data_layer.network.endpoints import Endpoints
from prsm.data_layer.network.kubo import KuboNode
from prsm.data_layer.network.neighbours import Neighbours
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.transfer.download import download
from prsm.data_layer.transfer.throttle import Bandwidth
from prsm.data_layer.transfer.upload import Outlet, Uploaded, upload
from prsm.data_layer.transfer.upload_drain import Uploads
from prsm.safety.circuit_breaker import BreakerBoard

TROUBLES = (Trouble.RESET, Trouble.HANG, Trouble.TRUNCATE, Trouble.ERROR, Trouble.TOO_MANY)
PUTS = ("/api/v0/dag/import", "/api/v0/block/put")


def node_at(url: str) -> KuboNode:
    return KuboNode.at(url, private_hosts=parse_private_hosts([url.partition("://")[2]]), limits=QUICK)


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "storage", keep_free_bytes=0)


def stored(files: ObjectFiles, size_bytes: int, seed: int = 0) -> tuple[Cid, MemoryDag]:
    root, dag = object_of(random_bytes(size_bytes, seed))
    download(root, files, supply_of([MemorySource("m", dag)]))
    return root, dag


@contextmanager
def troubled(chance: float = 0.0, seed: int = 0) -> Iterator[tuple[KuboRpcServer, FaultProxy]]:
    with kubo_rpc_server() as server, fault_proxy(server.url, chance=chance, kinds=TROUBLES, seed=seed) as proxy:
        yield server, proxy


def sent_in_vain(proxy: FaultProxy) -> int:
    """Bytes of blocks that reached the node in requests whose answers never came back whole."""
    return sum(size for path, size, trouble in proxy.passed_on if path.startswith(PUTS) and trouble is not Trouble.NONE)


def sent_again(server: KuboRpcServer, dag: MemoryDag) -> int:
    return sum((count - 1) * len(dag[cid]) for cid, count in server.received.items())


def send(root: Cid, files: ObjectFiles, url: str) -> Uploaded:
    node = node_at(url)
    try:
        return upload(root, files, Outlet(node, Bandwidth()))
    finally:
        node.close()


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("sending", [False, True], ids=["asking", "sending"])
def test_each_trouble_is_sat_out(files: ObjectFiles, trouble: Trouble, sending: bool) -> None:
    root, dag = stored(files, 900_000)
    with troubled() as (server, proxy):
        asked_first = len(dag.blocks) - 1  # all but the root are one batch
        proxy.script.extend([*[Trouble.NONE] * (asked_first if sending else 0), *[trouble] * 3])
        assert send(root, files, proxy.url).moved_bytes == sum(map(len, dag.blocks.values()))
        assert proxy.did[trouble] == 3
        assert (sent_in_vain(proxy) > 0) == (sending and trouble is Trouble.TRUNCATE)
        assert server.dag.blocks == dag.blocks
        assert server.pins == {root}
        assert sent_again(server, dag) <= sent_in_vain(proxy)


def test_a_fifth_of_chaos_is_sat_out(files: ObjectFiles) -> None:
    root, dag = stored(files, 1_500_000)
    with troubled(0.2, seed=3) as (server, proxy):
        proxy.retry_after = "0"
        send(root, files, proxy.url)
        assert set(proxy.did) == {Trouble.NONE, *TROUBLES}
        assert server.dag.blocks == dag.blocks
        assert sent_again(server, dag) <= sent_in_vain(proxy)


@pytest_asyncio.fixture
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    with new_database(postgres_url, f"upload_chaos_{uuid4().hex}") as url:
        db = await database.connect(url, pool_size=8, timeout_ms=20_000)
        yield db.pool
        await db.close()


async def test_queued_uploads_end_well_over_a_bad_network(tmp_path: Path, pool: Pool) -> None:
    """A step is tried again where that may help, and a whole upload where the step did not."""
    with kubo_rpc_server() as server:
        async with (
            proxied(server.url) as proxy,
            opened(storage_at(tmp_path / "storage", pool)) as storage,
        ):
            for trouble in (*TROUBLES, Trouble.NOT_FOUND, Trouble.RESET_MIDWAY, Trouble.NOT_FOUND):
                proxy.script.extend([*[Trouble.NONE] * 9, trouble])
            node = node_at(proxy.url)
            endpoints = Endpoints(breakers=BreakerBoard(time.monotonic))
            neighbours = Neighbours(endpoints, Discovery(), nodes={node.name: node})
            uploads = Uploads(storage.uploads.queue, storage.files, neighbours, Bandwidth())
            dag = MemoryDag()
            roots: set[Cid] = set()
            for seed in range(3):
                root, blocks = await asyncio.to_thread(stored, storage.files, 300_000, seed)
                dag.blocks.update(blocks.blocks)
                roots.add(root)
            await storage.reconcile()
            for root in roots:
                await uploads.queue.add([root], node.name)
            until_s = time.monotonic() + 120
            while {entry.state for entry in await uploads.queue.entries()} != {"done"}:
                assert time.monotonic() < until_s, await uploads.queue.entries()
                await uploads.welcome_back()
                await uploads.drain()
                await asyncio.sleep(0.05)
            assert sum(entry.attempts for entry in await uploads.queue.entries()) == 2
            await uploads.aclose()
            assert server.dag.blocks == dag.blocks
            assert server.pins == roots
            assert sent_again(server, dag) <= sent_in_vain(proxy)
