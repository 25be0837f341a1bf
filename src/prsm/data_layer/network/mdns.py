"""Nodes on the same link find each other: the part of multicast DNS that says "a gateway is at my address".

Off unless the operator names an interface. Asks for ``_prsm._tcp.local``, answers when asked, and believes of an answer
only port and path: the address is the one that it came from. IPv4 only; no probing for conflicts, since the instance is
named by the node's id. (RFC 6762, RFC 6763.)
"""

import math
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import psutil
import structlog
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.SRV import SRV

from prsm.core.errors import InvalidRequest

GROUP = "224.0.0.251"
PORT = 5353
_SERVICE = dns.name.from_text("_prsm._tcp.local.")
_MAX_MESSAGE_BYTES = 9000
_TTL_S = 120
_ASK_EVERY_S = 300.0
_ANSWER_EVERY_S = 1.0  # RFC 6762, 6: at most one answer a second, however many ask
_PAUSE_S = (0.02, 0.12)  # RFC 6762, 6: before an answer that others may give at the same time
_TICK_S = 0.5
_AGAIN_S = 5.0
_CLOSE_S = 5.0
_IP_MULTICAST_ALL = 49  # Linux, ip(7); the module socket does not name it
_log: Any = structlog.get_logger("storage")


@dataclass(frozen=True, slots=True)
class Service:
    """A gateway as its node announces it. ``instance`` is the node's id, at most 63 characters."""

    instance: str
    port: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class OwnGateway:
    """The gateway of this node: who it is, and where it listens, as the settings name it."""

    node_id: str
    host: str
    port: int

    def at(self, address: IPv4Address) -> Service | None:
        """What is announced at an address of this machine; None when nothing listens there. Resolves ``host``."""
        with suppress(OSError, UnicodeError):
            found = socket.getaddrinfo(self.host, self.port, socket.AF_INET, socket.SOCK_STREAM)
            if {"0.0.0.0", str(address)} & {entry[4][0] for entry in found}:  # noqa: S104 # nosec B104 - compared, not bound
                return Service(self.node_id, self.port)
        return None


@dataclass(slots=True)
class Turns:
    """When this node asks and when it answers; times are seconds of one monotonic clock.

    What another worker of the same node says counts as said, so that several workers are no louder than one.
    """

    ask_at_s: float
    answer_at_s: float = math.inf
    answered_s: float = -math.inf

    def asked(self, now_s: float, pause_s: float) -> None:
        """Somebody asks: all hear the answers, so nobody need ask again soon; ours is due after a pause."""
        self.ask_at_s = now_s + _ASK_EVERY_S
        self.answer_at_s = min(self.answer_at_s, max(now_s + pause_s, self.answered_s + _ANSWER_EVERY_S))

    def answered(self, now_s: float) -> None:
        """The answer was given."""
        self.answer_at_s, self.answered_s = math.inf, now_s


def question() -> bytes:
    """The message that asks who is there."""
    message = dns.message.make_query(_SERVICE, dns.rdatatype.PTR)
    message.id, message.flags = 0, dns.flags.Flag(0)
    return message.to_wire()


def announcement(service: Service, address: IPv4Address) -> bytes:
    """The message that answers it: PTR, and with it SRV, TXT and A."""
    instance = dns.name.Name((service.instance.encode(), *_SERVICE.labels))
    host = dns.name.Name((service.instance.encode(), b"local", b""))
    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR | dns.flags.AA
    message.answer.append(_record(_SERVICE, dns.rdatatype.PTR, instance.to_text()))
    message.additional += [
        _record(instance, dns.rdatatype.SRV, f"0 0 {service.port} {host}"),
        _record(instance, dns.rdatatype.TXT, f'"path={service.path}"'),
        _record(host, dns.rdatatype.A, str(address)),
    ]
    return message.to_wire()


def read(data: bytes) -> bool | tuple[Service, ...]:
    """What a message says: True if it asks for our service, else the services that it announces, often none."""
    try:
        message = dns.message.from_wire(data)
        if not message.flags & dns.flags.QR:
            return any(asked.name == _SERVICE for asked in message.question)
        records = [*message.answer, *message.additional]
        ports = {
            rrset.name: data.port
            for rrset in records
            for data in cast("Iterable[dns.rdata.Rdata]", rrset)
            if isinstance(data, SRV) and rrset.name.parent() == _SERVICE
        }
        paths = {
            rrset.name: text.removeprefix(b"path=").decode("ascii")
            for rrset in records
            for data in cast("Iterable[dns.rdata.Rdata]", rrset)
            if isinstance(data, TXT)
            for text in data.strings
            if text.startswith(b"path=")
        }
        return tuple(Service(name.labels[0].decode("ascii"), port, paths.get(name, "")) for name, port in ports.items())
    except (dns.exception.DNSException, ValueError):
        return ()


def address_of(interface: str) -> IPv4Address:
    """The IPv4 address that ``interface`` is, or has by its name. Raises OSError."""
    try:
        return IPv4Address(interface)
    except AddressValueError:
        for entry in psutil.net_if_addrs().get(interface, ()):
            if entry.family == socket.AF_INET:
                return IPv4Address(entry.address)
    raise OSError(f"there is no network interface {interface} with an IPv4 address")


class Responder:
    """Asks and answers on one link until closed; ``interface`` is an IPv4 address of this machine or a name.

    ``heard`` is called with a sender's address, port and path, from a thread of this object's own; an InvalidRequest of
    it is dropped. An interface that is not there, or goes, is waited for.
    """

    def __init__(
        self,
        interface: str,
        heard: Callable[[str, int, str], object],
        gateway: OwnGateway | None = None,
        port: int = PORT,
    ) -> None:
        self._interface = interface
        self._heard = heard
        self._gateway = gateway
        self._to = (GROUP, port)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mdns", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; takes half a second, unless a name service hangs."""
        self._closing.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        trouble = ""
        while not self._closing.is_set():
            try:
                address = address_of(self._interface)
                with _joined(address, self._to[1]) as sock:
                    service = self._gateway.at(address) if self._gateway else None
                    _log.info("on the link", interface=self._interface, address=str(address), announced=bool(service))
                    trouble = ""
                    self._take_part(sock, address, service)
            except OSError as error:
                if str(error) != trouble:
                    _log.warning("not on the link", interface=self._interface, reason=str(error))
                trouble = str(error)
                self._closing.wait(_AGAIN_S)

    def _take_part(self, sock: socket.socket, address: IPv4Address, service: Service | None) -> None:
        turns = Turns(time.monotonic() + random.uniform(*_PAUSE_S))  # noqa: S311 - no secret
        while not self._closing.is_set():
            now_s = time.monotonic()
            if now_s >= turns.ask_at_s:
                sock.sendto(question(), self._to)
                turns.asked(now_s, 0.0)  # whoever comes says so unasked
            if service is not None and now_s >= turns.answer_at_s:
                sock.sendto(announcement(service, address), self._to)
                turns.answered(now_s)
            due_s = min(turns.ask_at_s, turns.answer_at_s if service else math.inf)
            sock.settimeout(min(_TICK_S, max(0.001, due_s - now_s)))
            try:
                data, (sender, _) = sock.recvfrom(_MAX_MESSAGE_BYTES)
            except TimeoutError:
                continue
            said = read(data)
            if said is True:
                turns.asked(time.monotonic(), random.uniform(*_PAUSE_S))  # noqa: S311
            for each in said if isinstance(said, tuple) else ():
                if service is None or each.instance != service.instance:
                    with suppress(InvalidRequest):  # a neighbour's nonsense is nobody's error
                        self._heard(sender, each.port, each.path)
                elif (sender, each) == (str(address), service):
                    turns.answered(time.monotonic())


def _joined(address: IPv4Address, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # other programs of the machine listen there too
        if sys.platform == "linux":  # or it hears what other programs have joined on other interfaces
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        else:  # Linux needs no SO_REUSEPORT, and may give what is for one socket to another that has it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((GROUP, port))  # so that nothing sent to this machine alone, from afar perhaps, is heard
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + address.packed)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address.packed)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    except BaseException:
        sock.close()
        raise
    return sock


def _record(name: dns.name.Name, kind: dns.rdatatype.RdataType, text: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(name, _TTL_S, dns.rdataclass.IN, kind, text)
