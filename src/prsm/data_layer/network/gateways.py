"""Blocks from trustless gateways: whoever runs one need not be believed, since the hash of every block is checked.

(IPFS Trustless Gateway specification, https://specs.ipfs.tech/http-gateways/trustless-gateway/.)
"""

import ssl
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Literal, Self

from prsm.data_layer.codec.block import Block
from prsm.data_layer.codec.car import BadCar, CarLimits, CarReader
from prsm.data_layer.codec.cid import BadCid, Cid
from prsm.data_layer.network.addresses import LookUp, Origin, PrivateHosts, system_look_up
from prsm.data_layer.network.classify import lied, of_status
from prsm.data_layer.network.http_fetch import UNPACED, HttpLimits, HttpOrigin, Reply
from prsm.data_layer.seams import Fault, Pace, StorageFault

PROBE_CID = "bafkqaaa"
"""The empty block by its identity CID: every gateway can give it without having anything."""

_RAW = "application/vnd.ipld.raw"
_CAR = "application/vnd.ipld.car"

DagScope = Literal["block", "entity", "all"]


class Gateway:
    """One gateway; satisfies ``seams.BlockSource``."""

    def __init__(self, http: HttpOrigin) -> None:
        self._http = http
        self.name = http.name

    @classmethod
    def at(
        cls,
        url: str,
        *,
        private_hosts: PrivateHosts = frozenset(),
        tls: ssl.SSLContext | None = None,
        limits: HttpLimits | None = None,
        look_up: LookUp = system_look_up,
    ) -> Self:
        """The gateway at ``http(s)://host[:port][/path]``. Raises BadAddress."""
        origin = Origin.parse(url)
        name = f"gateway {origin}"
        return cls(HttpOrigin(origin, name=name, private_hosts=private_hosts, tls=tls, limits=limits, look_up=look_up))

    def fetch(self, cid: Cid, into: memoryview, *, deadline_s: float, pace: Pace) -> int:
        """Put what the gateway calls the block into ``into``; answers how many bytes. Not verified here.

        Raises StorageFault; BAN for more bytes than ``into`` has room for.
        """
        with self._get(f"/ipfs/{cid}?format=raw", _RAW, f"block {cid}", deadline_s, pace) as reply:
            return reply.read_into(into)

    @contextmanager
    def fetch_car(
        self, root: Cid, scope: DagScope, *, limits: CarLimits, deadline_s: float, pace: Pace
    ) -> Generator[Iterator[Block]]:
        """The blocks under ``root`` as they come, each verified; whether they belong to it is not known here.

        Raises StorageFault; BAN when what comes is no archive of verified blocks within ``limits``.
        """
        target = f"/ipfs/{root}?format=car&dag-scope={scope}"
        accept = f"{_CAR};version=1;order=dfs;dups=n"
        with self._get(target, accept, f"the archive of {root}", deadline_s, pace) as reply:
            yield self._blocks(root, reply, limits)

    def probe(self, deadline_s: float) -> float:
        """Seconds that a healthy answer takes now. Raises StorageFault."""
        started_s = time.monotonic()
        with self._get(f"/ipfs/{PROBE_CID}?format=raw", _RAW, "the empty block", deadline_s, UNPACED) as reply:
            reply.read_into(memoryview(bytearray()))
        return time.monotonic() - started_s

    def close(self) -> None:
        """End open connections; a fetch that runs fails soon after."""
        self._http.close()

    @contextmanager
    def _get(self, target: str, accept: str, asked: str, deadline_s: float, pace: Pace) -> Generator[Reply]:
        with self._http.exchange(
            "GET", target, asked=asked, deadline_s=deadline_s, pace=pace, headers={"Accept": accept}
        ) as reply:
            if reply.status != 200:
                reply.pass_over()
                raise of_status(reply.status, reply.headers, endpoint=self.name, asked=asked)
            yield reply

    def _blocks(self, root: Cid, reply: Reply, limits: CarLimits) -> Iterator[Block]:
        def read(size_bytes: int) -> bytes:
            piece = bytearray(min(size_bytes, 64 * 1024))
            return bytes(memoryview(piece)[: reply.read_piece(memoryview(piece))])

        try:
            yield from CarReader(read, limits)
        except (BadCar, BadCid) as error:
            raise lied(self.name, root, error.message) from error
        if not reply.ended:
            raise StorageFault(f"{self.name} sent more than the archive.", fault=Fault.RETRY, endpoint=self.name)
