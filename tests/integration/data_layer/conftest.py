"""What tests of storage stand on: a database of each module's own, emptied for each test, and a gateway of blocks."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.support.gateway_server import GatewayServer, gateway_server
from tests.support.memory_dag import MemoryDag
from tests.support.servers import new_database
from tests.support.storage_nodes import TABLES

from prsm.core import database
from prsm.core.database import Pool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    with new_database(postgres_url, f"storage_{uuid4().hex}") as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_pool(database_url: str) -> AsyncIterator[Pool]:
    db = await database.connect(database_url, pool_size=8, timeout_ms=20_000)
    yield db.pool
    await db.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pools(database_url: str) -> AsyncIterator[list[Pool]]:
    """Those of two workers on one database."""
    connected = [await database.connect(database_url, pool_size=8, timeout_ms=20_000) for _ in range(2)]
    yield [each.pool for each in connected]
    for each in connected:
        await each.close()


@pytest_asyncio.fixture(loop_scope="module")
async def pool(shared_pool: Pool) -> Pool:
    await shared_pool.execute(f"TRUNCATE {TABLES}")
    return shared_pool


@pytest.fixture
def dag() -> MemoryDag:
    return MemoryDag()


@pytest.fixture
def gateway(dag: MemoryDag) -> Iterator[GatewayServer]:
    with gateway_server(dag.blocks) as server:
        yield server
