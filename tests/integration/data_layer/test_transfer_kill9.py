"""Transfers killed at random points, again and again: equal bytes at the end, and nothing fetched or sent in vain.

``PRSM_TEST_TRANSFER_KILLS`` kills of a transfer of ``PRSM_TEST_TRANSFER_MIB`` MiB.
"""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.gateway_server import gateway_server
from tests.support.memory_dag import MemoryDag
from tests.support.transfers import SMALL, FolderSink, MemorySource, object_of, random_bytes, supply_of

from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.transfer.download import download
from prsm.data_layer.transfer.fetching import DownloadLimits
from prsm.data_layer.transfer.upload import UploadLimits

KILLS = int(os.environ.get("PRSM_TEST_TRANSFER_KILLS", "5"))
MIB = int(os.environ.get("PRSM_TEST_TRANSFER_MIB", "8"))
PROFILE = SMALL if MIB <= 64 else PROFILES["unixfs-v1-2025"]
# The spare worker may ask for a second time: one more block on its way.
IN_FLIGHT_BLOCKS = DownloadLimits().workers + 1


class DeadlyBlocks(dict[Cid, bytes]):
    """A gateway's blocks; the ``last``-th that is asked for kills the process ``victim`` while it is looked up."""

    def __init__(self, blocks: dict[Cid, bytes]) -> None:
        super().__init__(blocks)
        self.given = 0
        self.given_bytes = 0
        self.last = 0
        self.victim: subprocess.Popen[str] | None = None

    def get(self, cid: Cid, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
        block = super().get(cid, default)
        self.given += 1
        self.given_bytes += len(block or b"")
        if self.given == self.last and self.victim is not None:
            self.victim.send_signal(signal.SIGKILL)
        return block


@pytest.fixture(scope="module")
def made() -> tuple[bytes, Cid, MemoryDag]:
    payload = random_bytes(MIB * 1024 * 1024 + 12_345)
    return payload, *object_of(payload, PROFILE)


@contextmanager
def transfer(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    argv = [sys.executable, "-m", "tests.support.transfers", *map(str, arguments)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as process:
        try:
            yield process
        finally:
            process.kill()


def points(count: int, blocks: int, seed: int) -> list[int]:
    """Where to kill, each relative to the start of its run; together less than all there is to move."""
    cuts = sorted(random.Random(seed).sample(range(1, int(blocks * 0.9)), count))
    return [after - before for before, after in zip([0, *cuts], cuts, strict=False)]


def test_a_download_survives_kills(tmp_path: Path, made: tuple[bytes, Cid, MemoryDag]) -> None:
    payload, root, dag = made
    files = ObjectFiles(tmp_path / "storage", keep_free_bytes=0)
    blocks = DeadlyBlocks(dag.blocks)
    ends = []
    with gateway_server(blocks) as server:
        for point in [*points(KILLS, len(blocks), seed=1), 0]:
            blocks.last = blocks.given + point if point else 0
            with transfer("download", files.folder, root, server.url) as process:
                blocks.victim = process
                ends.append(process.wait(600))
            assert files.has_file(root) == (ends[-1] == 0), "visible when it is whole, and not before"
    assert ends == [-signal.SIGKILL] * KILLS + [0]
    assert files.payload_path(root).read_bytes() == payload
    whole = sum(map(len, dag.blocks.values()))
    assert blocks.given_bytes - whole <= KILLS * IN_FLIGHT_BLOCKS * PROFILE.chunk_bytes


def test_an_upload_survives_kills(tmp_path: Path, made: tuple[bytes, Cid, MemoryDag]) -> None:
    _, root, dag = made
    files = ObjectFiles(tmp_path / "storage", keep_free_bytes=0)
    download(root, files, supply_of([MemorySource("m", dag)]))
    ends = []
    for point in [*points(KILLS, len(dag.blocks), seed=2), 0]:
        with transfer("upload", files.folder, root, tmp_path / "node", point) as process:
            ends.append(process.wait(600))
        sink = FolderSink(tmp_path / "node")
        assert (root in sink.blocks()) == (ends[-1] == 0), "the root comes last"
    assert ends == [-signal.SIGKILL] * KILLS + [0]
    assert sink.blocks() == dag.blocks
    assert len(sink.sent()) - len(dag.blocks) <= KILLS * UploadLimits().workers


def test_the_last_kill_may_come_while_it_is_published(tmp_path: Path, made: tuple[bytes, Cid, MemoryDag]) -> None:
    """All blocks are given when the process dies: it wrote some of them, or is about to publish."""
    payload, root, dag = made
    files = ObjectFiles(tmp_path / "storage", keep_free_bytes=0)
    blocks = DeadlyBlocks(dag.blocks)
    with gateway_server(blocks) as server:
        blocks.last = len(blocks)
        for _ in range(2):
            with transfer("download", files.folder, root, server.url) as process:
                blocks.victim = process
                process.wait(600)
            blocks.last = 0
    assert files.payload_path(root).read_bytes() == payload
    assert files.payload_path(root).stat().st_mode & 0o777 == 0o444
