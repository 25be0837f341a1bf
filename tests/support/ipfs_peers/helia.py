"""Helia 7, the IPFS implementation in JavaScript, in a process of its own.

It listens on loopback only. Blocks come by bitswap from peers it was told to dial and over HTTP from the trustless
gateways it was started with; it knows nobody else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.ipfs_peers.json_lines import JsonLinesProcess
from tests.support.npm import install, node

_FOLDER = Path(__file__).parent
_GRACE_S = 30


class Helia:
    """A running Helia node. It fetches the blocks it lacks; a call that finds one nowhere ends by its time-out."""

    def __init__(self, process: JsonLinesProcess, gateways: Sequence[str]) -> None:
        self._process = process
        self.addresses: list[str] = self._ask("start", gateways=list(gateways))["addresses"]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def add(self, path: Path, **options: object) -> str:
        """Import a file or a folder; answers the root.

        Options are those of npm's ``ipfs-unixfs-importer`` (``rawLeaves``, ``cidVersion``, ``shardSplitThresholdBytes``
        ...) and ``chunkBytes`` (1 MiB) and ``maxLinks`` (1,024).
        """
        return self._ask("add", path=str(path), folder=path.is_dir(), options=options)

    def get(self, cid: str, into: Path, *, timeout_s: float = 60) -> None:
        """Write a file or directory to ``into``."""
        self._ask("get", cid=cid, into=str(into), timeout_s=timeout_s)

    def names(self, cid: str) -> list[str]:
        """What a directory holds, sharded or not."""
        return self._ask("names", cid=cid)

    def has(self, cid: str) -> bool:
        """Whether the block is here; asks nobody else."""
        return self._ask("has", cid=cid)

    def put_block(self, cid: str, path: Path) -> None:
        """Store the bytes of a file as a block; its hash is checked."""
        self._ask("put_block", cid=cid, path=str(path))

    def get_block(self, cid: str, into: Path, *, timeout_s: float = 60) -> None:
        """Write a block's bytes to ``into``."""
        self._ask("get_block", cid=cid, into=str(into), timeout_s=timeout_s)

    def import_car(self, path: Path) -> tuple[list[str], int]:
        """Store the blocks of a CAR file, each hashed; answers its roots and how many blocks it held."""
        read = self._ask("import_car", path=str(path))
        return read["roots"], read["blocks"]

    def export_car(self, cid: str, into: Path, *, timeout_s: float = 60) -> None:
        """Write everything under ``cid`` as a CAR file, fetching what is not here."""
        self._ask("export_car", cid=cid, into=str(into), timeout_s=timeout_s)

    def dial(self, address: str) -> None:
        """Connect to the peer at a multiaddr."""
        self._ask("dial", address=address)

    def peers(self) -> list[str]:
        """The multiaddrs of the peers it is connected to."""
        return self._ask("peers")

    def serve(self) -> str:
        """Serve raw blocks and CARs on loopback, fetching what is not here; answers the base URL."""
        return self._ask("serve")

    def _ask(self, method: str, *, timeout_s: float = 60, **arguments: object) -> Any:
        # It stops by itself in time and says what it waited for; the wait here is for a node that hangs.
        return self._process.ask(method, timeout_s=timeout_s + _GRACE_S, within_s=timeout_s, **arguments)


@contextmanager
def running(folder: Path, gateways: Sequence[str] = ()) -> Iterator[Helia]:
    """An empty Helia node; its log is written to ``folder``. Skips the test where Node or the packages are missing."""
    install(_FOLDER)
    command = [node(), _FOLDER / "helia_node.mjs"]
    with JsonLinesProcess(command, log=folder / "helia.log") as process:
        yield Helia(process, gateways)
