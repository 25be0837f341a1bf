"""Which hosts may be connected to, and at which addresses.

A host's text is read in one strict form or refused, never interpreted. Its name is resolved once, every address found
is checked, and a connection goes to an address that was checked: what the name leads to later cannot matter. Only plain
global unicast passes (IANA special-purpose registries, RFC 6890), unless the operator named that very host and port.
"""

import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Self

from prsm.core.errors import InvalidRequest, PrsmError

LookUp = Callable[[str, int], Sequence[str]]
"""What a name service does: host and port to addresses in text. Raises OSError."""

PrivateHosts = frozenset[tuple[str, int]]
"""Host and port of the services on private networks that the operator named."""

IpAddress = IPv4Address | IPv6Address

_PORTS = {"http": 80, "https": 443}
_MAX_URL = 2048
_MAX_ADDRESSES = 64
_MAX_LOOKUPS = 16
_URL = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^/:\[\]]+)(?::([0-9]{1,5}))?(/[A-Za-z0-9._~/-]*)?", re.IGNORECASE)
_HOST_PORT = re.compile(r"(\[[0-9a-f:.]+\]|[^/:\[\]]+):([0-9]{1,5})", re.IGNORECASE)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")


class BadAddress(InvalidRequest):
    """A URL or host whose text is in no form that is taken."""

    code = "bad_address"


class ForbiddenAddress(PrsmError):
    """A host that leads somewhere this node must not connect to."""

    code = "forbidden_address"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a service listens. ``host`` is in lower case, IPv6 without brackets; ``path`` goes before every request."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read ``http(s)://host[:port][/path]``: no user, query or fragment. Raises BadAddress."""
        match = _URL.fullmatch(url) if len(url) <= _MAX_URL else None
        if match is None:
            raise BadAddress(
                f"{_shown(url)} is no address of the form http(s)://host[:port][/path].",
                param="url",
                remedy="Write it without user, password, query and fragment; credentials have a setting of their own.",
            )
        scheme, host, port, path = match[1].lower(), match[2], match[3], match[4] or ""
        if "//" in path or any(part in (".", "..") for part in path.split("/")):
            raise BadAddress(f"The path of {_shown(url)} is not in its plain form.", param="url")
        return cls(scheme, parse_host(host), _port(port) if port else _PORTS[scheme], path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The value of ``Host`` (RFC 9112, 3.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class Address:
    """An address that was checked, and the port to connect to."""

    ip: IpAddress
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """For ``socket.socket``."""
        return socket.AF_INET if self.ip.version == 4 else socket.AF_INET6


def parse_host(text: str) -> str:
    """Read a host name, a dotted IPv4 address or an IPv6 address in brackets; answers its one form.

    Raises BadAddress for every other spelling of an address that a resolver would take (octal, hexadecimal, short
    forms, one number, zones), and for names outside ASCII.
    """
    if text.startswith("[") and text.endswith("]"):
        return str(_ipv6(text[1:-1]))
    host = text.lower() if text.isascii() else ""
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadAddress(
            f"{_shown(text)} is no host name.",
            param="host",
            remedy="Write names in ASCII (Punycode for others), IPv4 as 192.0.2.1, IPv6 in brackets.",
        )
    if _NUMBER_LABEL.fullmatch(labels[-1]):  # whatever ends in a number is an address (WHATWG URL, 3.5)
        return str(_ipv4(host))
    return host


def parse_private_hosts(entries: Iterable[str]) -> PrivateHosts:
    """Read ``host:port`` entries of a setting. Raises BadAddress."""
    hosts: set[tuple[str, int]] = set()
    for entry in entries:
        match = _HOST_PORT.fullmatch(entry)
        if match is None:
            raise BadAddress(
                f"{_shown(entry)} is no host and port.",
                param="private_hosts",
                remedy="Write each as host:port, for example 127.0.0.1:5001 or [::1]:5001.",
            )
        hosts.add((parse_host(match[1]), _port(match[2])))
    return frozenset(hosts)


def literal_ip(host: str) -> IpAddress | None:
    """The address that a host (as ``parse_host`` answers it) is; None for a name."""
    try:
        return IPv6Address(host) if ":" in host else IPv4Address(host)
    except AddressValueError:
        return None


def special_use(ip: IpAddress) -> str:
    """What an address is for if it is not plain global unicast; empty if it is."""
    if isinstance(ip, IPv4Address):
        return next((use for network, use in _SPECIAL_V4 if ip in network), "")
    special = next((use for network, use in _SPECIAL_V6 if ip in network), "")
    if not special and (int(ip) >> 32) & 0xFDFFFFFF == 0x5EFE:  # 0000:5efe or 0200:5efe before an IPv4 address
        return "ISATAP"
    return special or ("" if ip in _GLOBAL_V6 else "reserved")


def system_look_up(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def resolve(
    host: str,
    port: int,
    *,
    private_hosts: PrivateHosts = frozenset(),
    look_up: LookUp = system_look_up,
    deadline_s: float,
) -> tuple[Address, ...]:
    """The addresses to connect to, in the resolver's order. ``host`` is as ``parse_host`` answers it.

    One address that may not be connected to and the whole answer is refused: it is how a name is turned against the
    node. Raises ForbiddenAddress, OSError when the name cannot be resolved, TimeoutError at ``deadline_s``.
    """
    literal = literal_ip(host)
    texts = [host] if literal is not None else _look_up_by(look_up, host, port, deadline_s)
    addresses = tuple(Address(_parsed(host, text), port) for text in texts[:_MAX_ADDRESSES])
    if not addresses:
        raise OSError(f"the name {host} has no address")
    named = (host, port) in private_hosts
    for address in addresses:
        use = special_use(address.ip)
        if use and not (named and use in _MAY_BE_NAMED):
            shown = host if literal is not None else f"{host} ({address.ip})"
            raise ForbiddenAddress(
                f"{shown} is not an address of the public internet ({use}); nothing was sent.",
                remedy=f"If it is a service of your own, add {_host_port(host, port)} to the private hosts of storage."
                if use in _MAY_BE_NAMED
                else "",
            )
    return addresses


def _look_up_by(look_up: LookUp, host: str, port: int, deadline_s: float) -> Sequence[str]:
    # A system's resolver has no deadline and cannot be stopped: a thread waits for it, and is left behind if need be.
    if not _lookups.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
        raise TimeoutError("the name service does not answer")
    answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(look_up(host, port))
        except (OSError, UnicodeError) as error:
            answers.put(error)
        finally:
            _lookups.release()

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.0, deadline_s - time.monotonic()))
    except queue.Empty:
        raise TimeoutError(f"the name {host} was not resolved in time") from None
    if isinstance(answer, UnicodeError):
        raise OSError(f"the name {host} cannot be resolved: {answer}") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _parsed(host: str, text: str) -> IpAddress:
    ip = None if "%" in text else literal_ip(text)
    if ip is None:
        raise ForbiddenAddress(f"{host} leads to {_shown(text)}, which is no plain address; nothing was sent.")
    return ip


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)  # refuses leading zeros, hexadecimal and short forms
    except AddressValueError:
        raise BadAddress(
            f"{_shown(text)} is not an IPv4 address in its plain form.", param="host", remedy="Write it as 192.0.2.1."
        ) from None


def _ipv6(text: str) -> IPv6Address:
    try:
        ip = IPv6Address(text)
    except AddressValueError:
        ip = None
    if ip is None or ip.scope_id is not None:
        raise BadAddress(f"{_shown(text)} is not an IPv6 address without a zone.", param="host")
    return ip


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise BadAddress(f"The port {port} is not between 1 and 65535.", param="port")
    return port


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _shown(text: str) -> str:
    # What stands before an @ may be a password.
    return repr(text.rpartition("@")[2][:80])


_MAY_BE_NAMED = frozenset({"loopback", "private network", "shared address space", "unique local"})

_SPECIAL_V4 = tuple(
    (IPv4Network(network), use)
    for network, use in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private network"),
        ("100.64.0.0/10", "shared address space"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's platform service"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private network"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "AMT"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private network"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    (IPv6Network(network), use)
    for network, use in (
        ("::1/128", "loopback"),
        ("::/128", "unspecified"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("100::/64", "discard only"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "AS112"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_lookups = threading.BoundedSemaphore(_MAX_LOOKUPS)
