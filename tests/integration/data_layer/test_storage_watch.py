"""What moved between a storage and its endpoints, as its watch tells it to the metrics."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest_asyncio
from tests.support.gateway_server import gateway_server
from tests.support.kubo_rpc_server import kubo_rpc_server
from tests.support.servers import new_database
from tests.support.storage_nodes import OWNER, opened, until
from tests.support.transfers import object_of, random_bytes

from prsm.core import database
from prsm.core.database import Pool
from prsm.data_layer import assembly
from prsm.data_layer.enhanced_ipfs import StoragePolicy
from prsm.data_layer.storage_watch import StorageWatch
from prsm.monitoring.metrics import Metrics
from prsm.safety.circuit_breaker import BreakerBoard


@pytest_asyncio.fixture
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    with new_database(postgres_url, f"storage_watch_{uuid4().hex}") as url:
        db = await database.connect(url, pool_size=8, timeout_ms=20_000)
        yield db.pool
        await db.close()


async def test_all_that_came_and_went_is_counted_once(tmp_path: Path, pool: Pool) -> None:
    cid, dag = object_of(random_bytes(700_000, 1))
    dag_bytes = sum(map(len, dag.blocks.values()))
    peers = tmp_path / "peers"
    with gateway_server(dag.blocks) as gateway, kubo_rpc_server() as node:
        peers.write_text(f"node {node.url}\n{gateway.url}\n")
        places = assembly.Places(private_hosts=[gateway.url.partition("://")[2]], peers_file=peers)
        breakers = BreakerBoard(time.monotonic)
        async with opened(assembly.assemble(tmp_path / "s", pool, breakers, places, StoragePolicy(), None)) as storage:
            moved: Counter[str] = Counter()
            watch = StorageWatch(storage, lambda direction, size_bytes: moved.update({direction: size_bytes}))
            await storage.fetch(cid)
            peers.write_text(f"node {node.url}\n")
            await storage.meet()  # what came from an endpoint that is gone counts too
            await watch.refresh()
            assert moved == {"fetched": dag_bytes, "uploaded": 0}
            await storage.publish(cid, OWNER)

            async def sent() -> bool:
                await storage.uploads.drain()
                return (await storage.uploads.queue.entries())[0].state == "done"

            await until(sent)
            for _ in range(2):
                await watch.refresh()
                assert moved == {"fetched": dag_bytes, "uploaded": dag_bytes}


def test_each_direction_has_its_sample() -> None:
    metrics = Metrics()
    metrics.storage_moved("uploaded", 7)
    text = metrics.render().decode()
    assert 'prsm_storage_bytes_total{direction="uploaded"} 7.0' in text
    for direction in ("added", "fetched", "served"):
        assert f'prsm_storage_bytes_total{{direction="{direction}"}} 0.0' in text
