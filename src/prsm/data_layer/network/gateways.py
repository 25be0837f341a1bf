"""Blocks from trustless gateways: whoever runs one need not be believed, since the hash of every block is checked.

(IPFS Trustless Gateway specification, https://specs.ipfs.tech/http-gateways/trustless-gateway/.)
"""

import ssl
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Self

from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.network.addresses import LookUp, Origin, PrivateHosts, system_look_up
from prsm.data_layer.network.classify import of_status
from prsm.data_layer.network.http_fetch import UNPACED, HttpLimits, HttpOrigin, Reply
from prsm.data_layer.seams import Pace

PROBE_CID = "bafkqaaa"
"""The empty block by its identity CID: every gateway can give it without having anything."""

_RAW = "application/vnd.ipld.raw"


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
        with self._get(f"/ipfs/{cid}?format=raw", f"block {cid}", deadline_s, pace) as reply:
            return reply.read_into(into)

    def probe(self, deadline_s: float) -> float:
        """Seconds that a healthy answer takes now. Raises StorageFault."""
        started_s = time.monotonic()
        with self._get(f"/ipfs/{PROBE_CID}?format=raw", "the empty block", deadline_s, UNPACED) as reply:
            reply.read_into(memoryview(bytearray()))
        return time.monotonic() - started_s

    def close(self) -> None:
        """End open connections; a fetch that runs fails soon after."""
        self._http.close()

    @contextmanager
    def _get(self, target: str, asked: str, deadline_s: float, pace: Pace) -> Generator[Reply]:
        with self._http.exchange(
            "GET", target, asked=asked, deadline_s=deadline_s, pace=pace, headers={"Accept": _RAW}
        ) as reply:
            if reply.status != 200:
                reply.pass_over()
                raise of_status(reply.status, reply.headers, endpoint=self.name, asked=asked)
            yield reply
