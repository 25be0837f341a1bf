"""Downloads and uploads for tests and benchmarks: objects of random bytes, endpoints on loopback and in memory.

As a program it does one transfer that may be killed at any time:
``python -m tests.support.transfers download FOLDER CID URL...`` or ``... upload FOLDER CID NODE_FOLDER DIE_AFTER``.
"""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

from tests.support.memory_dag import MemoryDag

from prsm.data_layer.codec import dag_pb
from prsm.data_layer.codec.block import Block
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import Profile
from prsm.data_layer.network.addresses import parse_private_hosts
from prsm.data_layer.network.endpoints import Endpoints
from prsm.data_layer.network.gateways import Gateway
from prsm.data_layer.network.http_fetch import HttpLimits
from prsm.data_layer.seams import BlockSource, Pace, StorageFault
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.download import download
from prsm.data_layer.transfer.download_plan import Hedging
from prsm.data_layer.transfer.fetching import DownloadLimits, Supply
from prsm.data_layer.transfer.throttle import Bandwidth, Traffic
from prsm.data_layer.transfer.upload import Outlet, upload
from prsm.safety.circuit_breaker import BreakerBoard

SMALL = Profile("small-for-tests", chunk_bytes=16 * 1024, max_links=16)
QUICK = HttpLimits(connect_s=2, idle_s=0.5, slow_after_s=0.6, slow_bytes_s=64 * 1024)


def random_bytes(size: int, seed: int = 0) -> bytes:
    draw, piece = random.Random(seed), 16 * 1024 * 1024
    return b"".join(draw.randbytes(min(piece, size - start)) for start in range(0, size, piece))


def object_of(payload: bytes, profile: Profile = SMALL) -> tuple[Cid, MemoryDag]:
    """A file's CID and all its blocks."""
    dag = MemoryDag()
    return dag.add_file(BytesIO(payload), profile).cid, dag


def gateway_at(url: str, limits: HttpLimits = QUICK) -> Gateway:
    return Gateway.at(url, private_hosts=parse_private_hosts([url.partition("://")[2]]), limits=limits)


def endpoints_of(sources: Iterable[BlockSource]) -> Endpoints:
    return Endpoints(sources, breakers=BreakerBoard(time.monotonic))


def supply_of(
    sources: Sequence[BlockSource],
    *,
    bandwidth: Bandwidth | None = None,
    cancelled: Cancellation | None = None,
    limits: DownloadLimits | None = None,
    hedging: Hedging | None = None,
) -> Supply:
    return Supply(
        endpoints_of(sources),
        bandwidth or Bandwidth(),
        Traffic.BULK,
        cancelled or Cancellation(),
        limits or DownloadLimits(block_budget_s=30.0),
        hedging or Hedging(),
    )


class MemorySource:
    """An endpoint over blocks in memory, held by the contract of ``BlockSource``; counts what it was asked for.

    Blocks in ``held`` are given only once they are let go: by ``let_go``, or by the caller's cancelling.
    """

    def __init__(self, name: str, dag: MemoryDag, held: Iterable[Cid] = ()) -> None:
        self.name = name
        self.asked: Counter[Cid] = Counter()
        self.order: list[Cid] = []
        self._dag = dag
        self._held = set(held)
        self._lock = threading.Lock()
        self._gate = threading.Condition(self._lock)

    def fetch(self, cid: Cid, into: memoryview, *, deadline_s: float, pace: Pace) -> int:
        with self._lock:
            self.asked[cid] += 1
            self.order.append(cid)
            self._gate.notify_all()
        while True:
            pace.take(0)
            with self._gate:
                if cid not in self._held:
                    break
                self._gate.wait(0.01)
        block = self._dag[cid]
        pace.take(len(block))
        into[: len(block)] = block
        return len(block)

    def let_go(self, *cids: Cid) -> None:
        with self._gate:
            self._held.difference_update(cids or set(self._held))
            self._gate.notify_all()

    def wait_until_asked(self, cid: Cid) -> None:
        with self._gate:
            assert self._gate.wait_for(lambda: self.asked[cid] > 0, timeout=30)

    def probe(self, deadline_s: float) -> float:
        return 0.0

    def close(self) -> None:
        """Nothing is open."""


class FolderSink:
    """An own node that keeps each block as a file of its folder, so that it outlives whoever fills it.

    ``pin`` demands that everything under the CID is there, as a real node does. ``faults`` are raised first. After
    ``die_after`` blocks the process kills itself, whatever its other threads do just then.
    """

    def __init__(self, folder: Path, faults: Iterable[StorageFault] = (), *, die_after: int = 0) -> None:
        self.name = "folder node"
        self.pinned: set[Cid] = set()
        self.got: list[Cid] = []
        self.asked: list[Cid] = []
        self._die_after = die_after
        self._faults = list(faults)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, cid: Cid, *, deadline_s: float) -> bool:
        self._fail()
        self.asked.append(cid)
        return self._path(cid).exists()

    def put(self, blocks: Iterable[Block], *, deadline_s: float, pace: Pace) -> int:
        self._fail()
        size = 0
        for block in blocks:
            assert block.cid.names(block.data)
            pace.take(len(block.data))
            with (self._folder / "log").open("a") as log:
                log.write(f"{block.cid}\n")
            fresh = self._path(block.cid).with_suffix(f".{threading.get_native_id()}")
            fresh.write_bytes(block.data)
            fresh.rename(self._path(block.cid))
            self.got.append(block.cid)
            if len(self.got) == self._die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            size += len(block.data)
        return size

    def pin(self, cid: Cid, *, deadline_s: float) -> None:
        self._fail()
        stack, seen = [cid], set[Cid]()
        while stack:
            below = stack.pop()
            if below not in seen and not below.identity:
                seen.add(below)
                block = self._path(below).read_bytes()
                if below.codec is Codec.DAG_PB:
                    stack.extend(link.cid for link in dag_pb.decode(block).links)
        self.pinned.add(cid)

    def unpin(self, cid: Cid, *, deadline_s: float) -> None:
        self.pinned.discard(cid)

    def blocks(self) -> dict[Cid, bytes]:
        paths = [path for path in self._folder.iterdir() if path.name != "log" and not path.suffix]
        return {Cid.parse(path.name): path.read_bytes() for path in paths}

    def sent(self) -> list[Cid]:
        """Every block that was ever put, by whichever process, in order."""
        return [Cid.parse(line) for line in (self._folder / "log").read_text().split()]

    def _path(self, cid: Cid) -> Path:
        return self._folder / str(cid)

    def _fail(self) -> None:
        if self._faults:
            raise self._faults.pop(0)


def main() -> None:
    verb, folder, cid, *rest = sys.argv[1:]
    files = ObjectFiles(Path(folder), keep_free_bytes=0)
    if verb == "download":
        moved = download(Cid.parse(cid), files, supply_of([gateway_at(url) for url in rest])).moved_bytes
    else:
        sink = FolderSink(Path(rest[0]), die_after=int(rest[1]))
        moved = upload(Cid.parse(cid), files, Outlet(sink, Bandwidth())).moved_bytes
    print("done", moved, flush=True)


if __name__ == "__main__":
    main()
