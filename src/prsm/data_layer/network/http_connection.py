"""One connection: bytes in and out of a socket within the bounds of the exchange that they belong to.

Nothing waits without an end: the deadline, a silent or a dripping sender, the cap on what may come, and the caller's
cancellation each end a wait, to within a tenth of a second, without a thread that watches.
"""

import http.client
import io
import select
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from prsm.data_layer.network.addresses import Address
from prsm.data_layer.seams import Pace

PIECE_BYTES = 256 * 1024
"""The most that is sent or received between two looks at the bounds."""

_CANCEL_POLL_S = 0.1  # how long a cancelled exchange may go on
_NOT_CONNECTED = "it did not accept a connection in time"


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What an exchange may take besides its deadline.

    A sender is given up that is silent for ``idle_s``, or that made us wait ``slow_after_s`` in all at less than
    ``slow_bytes_s``. At most ``idle_connections`` are kept open, each for ``keep_s``.
    """

    connect_s: float = 5.0
    idle_s: float = 15.0
    slow_after_s: float = 10.0
    slow_bytes_s: int = 4096
    head_bytes: int = 32 * 1024
    idle_connections: int = 32
    keep_s: float = 30.0


class Connection:
    """A socket, and the bounds of the exchange that goes over it."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None, host: str, until_s: float) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(_left_s(until_s))
            self._socket = tls.wrap_socket(sock, server_hostname=host) if tls else sock
        except BaseException:
            sock.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._timeout_s = 0.0
        self.idle_since_s = 0.0

    def begin(self, deadline_s: float, pace: Pace, limits: HttpLimits) -> None:
        """Start an exchange: its bounds count from now."""
        self._deadline_s = deadline_s
        self._pace = pace
        self._limits = limits
        self._waited_s = 0.0
        self.allowance = limits.head_bytes
        self.received = 0
        self.in_head = True

    def hurry(self, deadline_s: float) -> None:
        """End the exchange by then, if not before."""
        self._deadline_s = min(self._deadline_s, deadline_s)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What ``http.client`` reads from; closing it leaves the socket open."""
        return io.BufferedReader(_Receiver(self), 8192)

    def send(self, head: bytes, pieces: Iterable[memoryview]) -> None:
        """Send a request. One that is answered before its end is not sent on."""
        self._send(memoryview(head))
        for piece in pieces:
            for start in range(0, len(piece), PIECE_BYTES):
                part = piece[start : start + PIECE_BYTES]
                self._pay(len(part))
                try:
                    self._send(part)
                except ConnectionError:
                    if not self.is_quiet():  # it refused and hung up: read what it says
                        return
                    raise

    def receive(self, into: memoryview) -> int:
        """Read what there is, waiting for at least a byte within all bounds; 0 at the end of the stream."""
        if self.allowance <= 0:
            raise http.client.HTTPException("its message has too much besides content")
        started_s = now_s = time.monotonic()
        while True:
            self._bound(now_s - started_s, now_s)
            try:
                size = self._socket.recv_into(into[: self.allowance])
            except TimeoutError:
                self._pace.take(0)  # raises when the caller cancelled
                now_s = time.monotonic()
                continue
            if self.received:  # how long it takes to begin says nothing about its speed
                self._waited_s += time.monotonic() - started_s
            if size == 0 and self.in_head and self.received:
                # http.client would take it for the end of the head, and what follows for an empty body.
                raise http.client.IncompleteRead(b"")
            self.allowance -= size
            self.received += size
            self._pay(size)
            return size

    def is_quiet(self) -> bool:
        """Whether nothing is there to read, not even the end: a connection that is not quiet is of no more use."""
        return not self._poll.poll(0)

    def shut_down(self) -> None:
        """Make whoever waits on the socket fail; from any thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def _pay(self, size_bytes: int) -> None:
        # Our own limits are no fault of the sender: the deadline moves by what was waited for them.
        started_s = time.monotonic()
        self._pace.take(size_bytes)
        self._deadline_s += time.monotonic() - started_s

    def _send(self, part: memoryview) -> None:
        started_s = now_s = time.monotonic()
        while len(part):
            self._bound(now_s - started_s, now_s)
            try:
                part = part[self._socket.send(part) :]
                started_s = now_s = time.monotonic()
            except TimeoutError:
                self._pace.take(0)
                now_s = time.monotonic()

    def _bound(self, idle_s: float, now_s: float) -> None:
        """Raise TimeoutError when any bound is reached, and let the socket wait no longer than to the next one."""
        limits = self._limits
        if now_s >= self._deadline_s:
            raise TimeoutError("it did not finish in time")
        if idle_s >= limits.idle_s:
            raise TimeoutError(f"nothing moved for {limits.idle_s:g} s")
        waited_s = self._waited_s + idle_s
        if self.received and waited_s >= limits.slow_after_s and self.received < waited_s * limits.slow_bytes_s:
            raise TimeoutError(f"it sent less than {limits.slow_bytes_s} bytes per second")
        timeout_s = min(_CANCEL_POLL_S, self._deadline_s - now_s, limits.idle_s - idle_s)
        if timeout_s != self._timeout_s:  # a system call each
            self._socket.settimeout(timeout_s)
            self._timeout_s = timeout_s


def connect(addresses: Sequence[Address], until_s: float) -> socket.socket:
    """Connect to the first of the addresses that accepts; each gets its share of the time left. Raises OSError."""
    error: OSError = TimeoutError(_NOT_CONNECTED)
    for tried, address in enumerate(addresses):
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            break
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.settimeout(left_s / (len(addresses) - tried))  # a dead address leaves time for those after it
            sock.connect((str(address.ip), address.port))
        except OSError as failed:
            sock.close()
            error = TimeoutError(_NOT_CONNECTED) if isinstance(failed, TimeoutError) else failed
        else:
            return sock
    raise error


class _Receiver(io.RawIOBase):
    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._connection.receive(buffer)


def _left_s(until_s: float) -> float:
    return max(0.001, until_s - time.monotonic())
