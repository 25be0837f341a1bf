"""Where endpoints are learnt from: the settings, a file of peers, what peers announce, and who is on the same link.

Only settings and the file speak for the operator. Whoever else names an endpoint is a stranger, whose endpoints are few
and forgotten unless they are named again: a peer of the network never leads to a private service, whatever the operator
allowed himself, and one on the link (``mdns.py``) leads to nobody but himself.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

from prsm.core.errors import InvalidRequest
from prsm.data_layer.network.addresses import BadAddress, Origin, PrivateHosts, literal_ip, special_use

MAX_FILE_BYTES = 64 * 1024
MAX_ENDPOINTS = 64
MAX_ANNOUNCED = 16
MAX_ANNOUNCED_BY_ONE = 2
ANNOUNCED_S = 3600.0

_log: Any = structlog.get_logger("storage")
_ON_A_LINK = frozenset({"", "private network", "shared address space", "loopback"})


class EndpointKind(StrEnum):
    """How an endpoint is spoken to."""

    GATEWAY = "gateway"
    NODE = "node"


class FoundBy(StrEnum):
    """Who named an endpoint."""

    OPERATOR = "operator"
    LINK = "link"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class Found:
    """An endpoint that may be asked."""

    kind: EndpointKind
    origin: Origin
    by: FoundBy

    def private_hosts(self, named: PrivateHosts) -> PrivateHosts:
        """Which private services this endpoint may be, where the operator ``named`` some."""
        if self.by is FoundBy.OPERATOR:
            return named
        return frozenset({(self.origin.host, self.origin.port)}) if self.by is FoundBy.LINK else frozenset()


@dataclass(frozen=True, slots=True)
class _Naming:
    who: str
    by: FoundBy
    until_s: float


class Discovery:
    """All endpoints that are known now. Thread-safe.

    ``configured`` and the lines of ``peers_file`` are URLs of gateways, or ``node`` and the URL of an own node's RPC. A
    file that is missing names nobody.
    """

    def __init__(
        self,
        configured: Iterable[str] = (),
        *,
        peers_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._configured = tuple(parse_endpoint(text) for text in configured)
        _check_count(self._configured, "endpoints")
        self._file = peers_file
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._from_file: tuple[Found, ...] = ()
        self._named: dict[Origin, _Naming] = {}
        self.file_error = ""

    def announced(self, url: str, by: str) -> bool:
        """A peer (``by`` is its id) says that it serves a gateway at ``url``; answers whether it was taken up.

        Raises BadAddress for a URL that no gateway of the public internet has.
        """
        origin = Origin.parse(url)
        ip = literal_ip(origin.host)
        if origin.host == "localhost" or (ip is not None and special_use(ip)):
            raise BadAddress(f"{origin.host} is not on the public internet.", param="url")
        return self._take(origin, by, FoundBy.PEER)

    def heard(self, sender: str, port: int, path: str) -> bool:
        """Somebody on the link says that he serves a gateway himself; answers whether it was taken up.

        ``sender`` is the address that his word came from, and the only one that it is taken for. Raises BadAddress.
        """
        origin = Origin.parse(f"http://{sender}:{port}{path}")
        ip = literal_ip(origin.host)
        if ip is None or special_use(ip) not in _ON_A_LINK:
            raise BadAddress(f"{origin.host} is no address that a neighbour has.", param="sender")
        return self._take(origin, sender, FoundBy.LINK)

    def current(self) -> tuple[Found, ...]:
        """What is known now, each origin once, the operator's first; the file is read again when it has changed."""
        with self._lock:
            self._forget(self._clock())
            self._read_file()
            strangers = (Found(EndpointKind.GATEWAY, origin, named.by) for origin, named in self._named.items())
            found: dict[Origin, Found] = {}
            for each in (*self._configured, *self._from_file, *strangers):
                found.setdefault(each.origin, each)
            return tuple(found.values())[:MAX_ENDPOINTS]

    def _take(self, origin: Origin, who: str, by: FoundBy) -> bool:
        with self._lock:
            now_s = self._clock()
            self._forget(now_s)
            known = self._named.get(origin)
            if known is None:
                same = [named for named in self._named.values() if named.by is by]
                if len(same) >= MAX_ANNOUNCED or sum(named.who == who for named in same) >= MAX_ANNOUNCED_BY_ONE:
                    return False
            elif (known.who, known.by) != (who, by):
                return True
            self._named[origin] = _Naming(who, by, now_s + ANNOUNCED_S)
            return True

    def _forget(self, now_s: float) -> None:
        for origin in [origin for origin, named in self._named.items() if named.until_s <= now_s]:
            del self._named[origin]

    def _read_file(self) -> None:
        """Take over the file if it is another than before. One that cannot be read leaves what was known."""
        if self._file is None:
            return
        try:
            with self._file.open("rb") as file:
                info = os.fstat(file.fileno())
                seen = (info.st_ino, info.st_mtime_ns, info.st_size)
                if seen == self._seen:
                    return
                text = file.read(MAX_FILE_BYTES + 1)
            found = parse_peers(text)
            _check_count((*self._configured, *found), "peers_file")
            self._from_file, self.file_error = found, ""
        except FileNotFoundError:
            seen, self._from_file, self.file_error = None, (), ""
        except (OSError, InvalidRequest) as error:
            seen, before = None, self.file_error
            self.file_error = f"{self._file} was not taken over: {error}"
            if self.file_error != before:
                _log.warning("file of peers refused", reason=self.file_error)
        self._seen = seen


def parse_endpoint(text: str) -> Found:
    """Read a gateway's URL, or ``node`` and the URL of a node's RPC. Raises BadAddress."""
    first, _, rest = text.strip().partition(" ")
    if rest and first in tuple(EndpointKind):
        return Found(EndpointKind(first), Origin.parse(rest.strip()), FoundBy.OPERATOR)
    return Found(EndpointKind.GATEWAY, Origin.parse(text.strip()), FoundBy.OPERATOR)


def parse_peers(text: bytes) -> tuple[Found, ...]:
    """Read a file of peers: an endpoint a line, and comments after ``#``. Raises InvalidRequest naming the line."""
    if len(text) > MAX_FILE_BYTES:
        raise InvalidRequest(f"A file of peers has at most {MAX_FILE_BYTES} bytes.", param="peers_file")
    found: list[Found] = []
    for number, line in enumerate(text.decode(errors="replace").splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        try:
            found.append(parse_endpoint(entry))
        except BadAddress as error:
            raise InvalidRequest(f"Line {number}: {error.message}", param="peers_file", remedy=error.remedy) from error
    return tuple(found)


def _check_count(found: tuple[Found, ...], param: str) -> None:
    if len({each.origin for each in found}) > MAX_ENDPOINTS:
        raise InvalidRequest(
            f"A node has at most {MAX_ENDPOINTS} endpoints, those of the file of peers included.",
            param=param,
            remedy="Name fewer.",
        )
