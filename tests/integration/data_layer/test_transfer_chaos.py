"""Whole objects through faulty networks and from lying gateways: equal to the byte or a clear failure, nothing else.

``PRSM_TEST_CORRUPTIONS`` lies are told to downloads; all of them must be found.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from tests.support.fault_proxy import ALL_TROUBLE, LIES, FaultProxy, Trouble, fault_proxy
from tests.support.gateway_server import gateway_server
from tests.support.transfers import (
    SMALL,
    MemorySource,
    gateway_at,
    object_of,
    random_bytes,
    supply_of,
)

from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.seams import Fault, Pace, StorageFault
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.transfer.download import download
from prsm.data_layer.transfer.fetching import DownloadLimits, Supply
from prsm.data_layer.transfer.throttle import Bandwidth

CORRUPTIONS = int(os.environ.get("PRSM_TEST_CORRUPTIONS", "300"))
PAYLOAD = random_bytes(60 * SMALL.chunk_bytes + 5)
ROOT, DAG = object_of(PAYLOAD)


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "storage", keep_free_bytes=0)


@contextmanager
def three_gateways(chances: Sequence[float], kinds: Sequence[Trouble]) -> Iterator[tuple[list[FaultProxy], Supply]]:
    with ExitStack() as stack:
        proxies = []
        for number, chance in enumerate(chances):
            server = stack.enter_context(gateway_server(DAG.blocks))
            proxies.append(stack.enter_context(fault_proxy(server.url, chance=chance, kinds=kinds, seed=number)))
        supply = supply_of([gateway_at(proxy.url) for proxy in proxies], limits=DownloadLimits(block_budget_s=60.0))
        stack.callback(supply.endpoints.close)
        yield proxies, supply


@pytest.mark.parametrize("trouble", ALL_TROUBLE, ids=str)
def test_each_fault_alone_at_one_of_three(files: ObjectFiles, trouble: Trouble) -> None:
    with three_gateways([1.0, 0.0, 0.0], [trouble]) as (proxies, supply):
        download(ROOT, files, supply)
        assert files.payload_path(ROOT).read_bytes() == PAYLOAD
        assert sum(proxy.did[Trouble.NONE] for proxy in proxies) >= len(DAG.blocks)


def test_all_faults_mixed_at_all_three(files: ObjectFiles) -> None:
    with three_gateways([0.2, 0.2, 0.2], ALL_TROUBLE) as (proxies, supply):
        # One in a hundred may fail: where all three gave up on a block for good. Who runs it again goes on from there.
        with suppress(StorageFault):
            download(ROOT, files, supply)
        download(ROOT, files, supply)
        assert files.payload_path(ROOT).read_bytes() == PAYLOAD
        assert sum(sum(proxy.did.values()) - proxy.did[Trouble.NONE] for proxy in proxies) >= 5


@pytest.mark.parametrize("trouble", [*LIES, Trouble.NOT_FOUND, Trouble.REDIRECT], ids=str)
def test_when_all_lie_or_refuse_it_fails_closed(files: ObjectFiles, trouble: Trouble) -> None:
    with three_gateways([1.0, 1.0, 1.0], [trouble]) as (_, supply):
        impatient = DownloadLimits(block_budget_s=1.0)
        with pytest.raises(StorageFault) as failed:
            download(ROOT, files, Supply(supply.endpoints, Bandwidth(), limits=impatient))
    assert failed.value.fault in (Fault.BAN, Fault.OTHER_REPLICA, Fault.RETRY)
    assert str(ROOT) in failed.value.message
    assert not files.has_file(ROOT)


class Liar(MemorySource):
    """Gives every block in ``lies`` other ways than right, until that lie is told; then it is honest about it."""

    def __init__(self, seed: int, lies: int) -> None:
        super().__init__("liar", DAG)
        self.told: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._others = list(DAG.blocks.values())
        self._left = lies

    def fetch(self, cid: Cid, into: memoryview, *, deadline_s: float, pace: Pace) -> int:
        size = super().fetch(cid, into, deadline_s=deadline_s, pace=pace)
        if self._left <= 0 or self._random.random() < 0.5:
            return size
        self._left -= 1
        kind = self._random.choice(["flip", "truncate", "extend", "swap", "empty", "other", "zeros"])
        self.told[kind] += 1
        return self._lie(kind, size, into)

    def _lie(self, kind: str, size: int, into: memoryview) -> int:
        at = self._random.randrange(size)
        match kind:
            case "flip":
                into[at] ^= 1 << self._random.randrange(8)
            case "truncate":
                return at
            case "extend":
                into[size : size + 9] = b"and more."
                return size + 9
            case "swap":
                other = (at + 1 + self._random.randrange(size - 1)) % size
                if into[at] == into[other]:
                    into[at] ^= 0xFF
                else:
                    into[at], into[other] = into[other], into[at]
            case "empty":
                return 0
            case "zeros":
                into[:size] = bytes(size)
            case _:
                block = self._random.choice([block for block in self._others if block != bytes(into[:size])])
                into[: len(block)] = block
                return len(block)
        return size


def test_every_corruption_is_found(tmp_path: Path) -> None:
    """Downloads from a liar alone, until enough lies were told: each ends the attempt, and no byte of it stays."""
    told: Counter[str] = Counter()
    rounds = found = 0
    while sum(told.values()) < CORRUPTIONS:
        rounds += 1
        files = ObjectFiles(tmp_path / str(rounds), keep_free_bytes=0)
        liar = Liar(rounds, CORRUPTIONS - sum(told.values()))
        while (lies := _attempt(files, liar)) > 0:
            found += lies
        assert files.payload_path(ROOT).read_bytes() == PAYLOAD
        told += liar.told
        files.remove(ROOT)
    assert found == sum(told.values()) == CORRUPTIONS
    if CORRUPTIONS >= 100:
        assert len(told) == 7


def _attempt(files: ObjectFiles, liar: Liar) -> int:
    """One download: how many lies it found. One that ends well must have been told none."""
    before = sum(liar.told.values())
    supply = supply_of([liar], limits=DownloadLimits(block_budget_s=0.0, workers=4))
    fault = None
    try:
        download(ROOT, files, supply)
    except StorageFault as failed:
        fault = failed.fault
    lies = sum(liar.told.values()) - before
    assert fault is (Fault.BAN if lies else None)
    return lies
