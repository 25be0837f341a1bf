"""Whole storages for tests: the facade as the node puts it together, with real endpoints and a real database.

As a program it is a worker that is to be killed: ``python -m tests.support.storage_nodes FOLDER DATABASE GATEWAY CID``.
"""

import asyncio
import io
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.fault_proxy import FaultProxy, fault_proxy

from prsm.core import database
from prsm.core.database import Pool
from prsm.data_layer import assembly
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS, StoragePolicy
from prsm.safety.circuit_breaker import BreakerBoard

TABLES = (
    "storage_objects, storage_blocks, storage_links, storage_pins, storage_leases, storage_ghosts, storage_uploads, "
    "storage_provenance, storage_totals"
)
OWNER = "tester"


def storage_at(
    folder: Path,
    pool: Pool,
    *,
    gateways: Sequence[str] = (),
    nodes: Sequence[str] = (),
    peers_file: Path | None = None,
    limit_bytes_s: int | None = None,
    **policy: Any,
) -> EnhancedIPFS:
    """A storage that may use endpoints on loopback."""
    hosts = [url.partition("://")[2] for url in gateways]
    chosen = StoragePolicy(**{"profile": "kubo-v1", "block_budget_s": 20.0} | policy)
    places = assembly.Places(nodes, gateways, hosts, peers_file)
    return assembly.assemble(folder, pool, BreakerBoard(time.monotonic), places, chosen, limit_bytes_s)


async def pins_read(pool: Pool) -> int:
    """How many rows of the table of pins were read by all that was done so far, over this pool, which must be idle."""
    async with AsyncExitStack() as stack:
        for _ in range(pool.get_size()):
            connection = await stack.enter_async_context(pool.acquire())
            await connection.execute("SELECT pg_stat_force_next_flush()")
            await connection.execute("SELECT 1")  # it was flushed after the answer
    read: int = await pool.fetchval(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'storage_pins'"
    )
    return read


@asynccontextmanager
async def opened(storage: EnhancedIPFS) -> AsyncIterator[EnhancedIPFS]:
    """Close it afterwards."""
    try:
        yield storage
    finally:
        await storage.aclose()


@asynccontextmanager
async def proxied(upstream: str, **faults: Any) -> AsyncIterator[FaultProxy]:
    """A fault proxy for a test that runs on an event loop itself."""
    proxy = fault_proxy(upstream, **faults)
    started = await asyncio.to_thread(proxy.__enter__)
    try:
        yield started
    finally:
        await asyncio.to_thread(proxy.__exit__, None, None, None)


class Gate:
    """A way to a server that can be open, shut, or lead nowhere; ``met`` counts connections by what they met."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.state = "open"
        self.met: Counter[str] = Counter()
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def turn(self, state: str) -> None:
        """Be "open", "shut" or "nowhere" from now on; what is under way is cut."""
        self.state = state
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.met[self.state] += 1
        self._writers.add(writer)
        with suppress(OSError):
            if self.state == "nowhere":
                await reader.read()
            elif self.state == "open":
                there = await asyncio.open_connection(self.upstream.hostname, self.upstream.port)
                self._writers.add(there[1])
                await asyncio.gather(_carry(reader, there[1]), _carry(there[0], writer))
        self._writers.discard(writer)
        writer.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def gated(upstream: str) -> AsyncIterator[Gate]:
    """A gate in front of a server, on the test's own event loop."""
    gate = Gate(upstream)
    server = await asyncio.start_server(gate.serve, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        server.close()
        gate.turn("shut")


async def add(storage: EnhancedIPFS, data: bytes, owner: str = OWNER, **how: Any) -> Cid:
    return (await storage.add(io.BytesIO(data).readinto, owner, **how)).cid


async def content(storage: EnhancedIPFS, cid: Cid) -> bytes:
    """All of a file that is here."""
    with await storage.open(cid) as file:
        data = bytearray(file.size_bytes)
        assert file.read_into(memoryview(data), 0) == len(data)
    return bytes(data)


async def until(holds: Callable[[], Awaitable[Any]], within_s: float = 20.0) -> Any:
    """Wait for a condition; its last answer."""
    until_s = time.monotonic() + within_s
    while not (answer := await holds()):
        assert time.monotonic() < until_s, "it did not come about"
        await asyncio.sleep(0.02)
    return answer


async def _fetch_and_add(folder: Path, database_url: str, gateway: str, cid: Cid) -> None:
    db = await database.connect(database_url, pool_size=4, timeout_ms=20_000)
    storage = storage_at(folder, db.pool, gateways=[gateway], limit_bytes_s=1_000_000)
    added = await add(storage, b"added before the end")
    print(added, flush=True)
    fetching = asyncio.create_task(storage.fetch(cid))
    while not storage.transfers or storage.transfers[0].done_bytes < 300_000:
        await asyncio.sleep(0.01)
    print("under way", flush=True)
    await fetching


if __name__ == "__main__":
    _, _folder, _database, _gateway, _cid = sys.argv
    asyncio.run(_fetch_and_add(Path(_folder), _database, _gateway, Cid.parse(_cid)))
