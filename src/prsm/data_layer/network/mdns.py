"""Neighbours on the same link: the part of multicast DNS that says "a gateway of this network is at my address".

Off unless the operator names an interface. Asks for ``_prsm._tcp.local``, answers when asked, and believes of an answer
only port and path: the address is the one that it came from. IPv4 only; no probing for conflicts, since the instance is
named by the node's id. (RFC 6762, RFC 6763.)
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
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
_TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Service:
    """A gateway as its node announces it. ``instance`` is the node's id, at most 63 characters."""

    instance: str
    port: int
    path: str = ""


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


class Neighbours:
    """Listens on the interface that has ``interface`` as its address until closed; announces ``service`` if given.

    ``heard`` is called with a sender's address, port and path, from a thread of this object's own; an InvalidRequest of
    it is dropped. Raises OSError when the interface cannot be listened on.
    """

    def __init__(
        self, interface: str, heard: Callable[[str, int, str], object], service: Service | None = None, port: int = PORT
    ) -> None:
        self._address = IPv4Address(interface)
        self._heard = heard
        self._service = service
        self._to = (GROUP, port)
        self._socket = _joined(self._address, port)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="mdns", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        ask_at_s = answer_from_s = time.monotonic()
        owed = True  # whoever comes says so unasked
        while not self._closing.is_set():
            now_s = time.monotonic()
            if now_s >= ask_at_s:
                self._say(question())
                ask_at_s = now_s + _ASK_EVERY_S
            if owed and self._service is not None and now_s >= answer_from_s:
                self._say(announcement(self._service, self._address))
                owed, answer_from_s = False, now_s + _ANSWER_EVERY_S
            try:
                data, (sender, _) = self._socket.recvfrom(_MAX_MESSAGE_BYTES)
            except TimeoutError:
                continue
            except OSError:  # the interface went down: it may come back
                self._closing.wait(_TICK_S)
                continue
            said = read(data)
            owed = owed or said is True
            for service in said if isinstance(said, tuple) else ():
                if self._service is None or service.instance != self._service.instance:
                    with suppress(InvalidRequest):  # a neighbour's nonsense is nobody's error
                        self._heard(sender, service.port, service.path)

    def _say(self, message: bytes) -> None:
        with suppress(OSError):  # nobody is told while the link is down; the next question comes
            self._socket.sendto(message, self._to)


def _joined(address: IPv4Address, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):  # other programs of the machine listen there too
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind((GROUP, port))  # so that nothing sent to this machine alone, from afar perhaps, is heard
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + address.packed)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address.packed)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.settimeout(_TICK_S)
    except BaseException:
        sock.close()
        raise
    return sock


def _record(name: dns.name.Name, kind: dns.rdatatype.RdataType, text: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(name, _TTL_S, dns.rdataclass.IN, kind, text)
