"""A faulty network in front of a gateway: a small HTTP proxy that does to each request what its plan says.

The plan is a fault for every request by chance (seeded, so a run can be repeated) or from a script; ``did`` counts what
was done, ``passed_on`` what reached the gateway, or own node, all the same: the request's path, its bytes and what was
done to the answer. It runs in a thread with an event loop of its own:
``with fault_proxy(gateway.url, chance=0.2, seed=1) as proxy``.
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from urllib.parse import urlsplit

from prsm.data_layer.codec.cid import Cid, Codec

OTHER_BLOCK = b"another block, and a valid one"
OTHER_CID = Cid.of(Codec.RAW, OTHER_BLOCK)
_MAX_HEAD = 64 * 1024
_FRAMING = (b"connection", b"content-length", b"transfer-encoding")


class Trouble(StrEnum):
    """What can be done to a request."""

    NONE = "none"
    RESET = "reset"  # at once
    RESET_MIDWAY = "reset_midway"
    HANG = "hang"
    HANG_MIDWAY = "hang_midway"
    DRIP = "drip"  # the body byte by byte
    TRUNCATE = "truncate"  # the whole length announced, half of it sent, closed
    CORRUPT = "corrupt"  # one bit
    OTHER = "other_block"
    HUGE = "huge_body"
    HUGE_CHUNKED = "huge_chunked"
    SHORT_LENGTH = "short_length"  # a Content-Length below the body's
    LONG_LENGTH = "long_length"  # above it, and the connection stays open
    NOT_FOUND = "404"
    GONE = "410"
    TOO_MANY = "429"
    ERROR = "500"
    UNAVAILABLE = "503"
    REDIRECT = "redirect_link_local"
    SLOW_HEAD = "slow_head"
    ENDLESS_HEAD = "endless_head"
    GARBAGE = "garbage"
    COMPRESSED = "compressed"


ALL_TROUBLE = tuple(trouble for trouble in Trouble if trouble is not Trouble.NONE)
LIES = (Trouble.CORRUPT, Trouble.OTHER, Trouble.HUGE, Trouble.SHORT_LENGTH)


class FaultProxy:
    """A running proxy. ``chance``, ``kinds`` and ``script`` may be changed at any time; the script goes first."""

    def __init__(self, upstream: str, chance: float, kinds: Iterable[Trouble], seed: int) -> None:
        url = urlsplit(upstream)
        self.upstream = (url.hostname or "", url.port or 80)
        self.chance = chance
        self.kinds = tuple(kinds)
        self.script: deque[Trouble] = deque()
        self.did: Counter[Trouble] = Counter()
        self.passed_on: list[tuple[str, int, Trouble]] = []
        self.aborted = 0
        self.drip_s = 0.02
        self.retry_after = "1"
        self.port = 0
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next_trouble(self) -> Trouble:
        if self.script:
            return self.script.popleft()
        return self._random.choice(self.kinds) if self._random.random() < self.chance else Trouble.NONE

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while head := await _read_head(reader):
                trouble = self.next_trouble()
                self.did[trouble] += 1
                if not await self._answer(trouble, head, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.aborted += 1
        finally:
            writer.close()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(
        self, trouble: Trouble, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Do it; answers whether the connection goes on."""
        if trouble is Trouble.RESET:
            _reset(writer)
            return False
        if trouble is Trouble.HANG:
            await _until_gone(reader)
            return False
        sent = await reader.readexactly(_length_of(head))
        if trouble in _CANNED:
            status, lines = _CANNED[trouble]
            extra = f"Retry-After: {self.retry_after}\r\n" if trouble is Trouble.TOO_MANY else lines
            await _send(writer, f"HTTP/1.1 {status}\r\n{extra}Content-Length: 4\r\n\r\nsad\n".encode())
            return True
        if trouble is Trouble.GARBAGE:
            await _send(writer, self._random.randbytes(2048))
            return False
        if trouble in (Trouble.SLOW_HEAD, Trouble.ENDLESS_HEAD):
            await self._spoil_head(trouble, writer)
            return False
        self.passed_on.append((head.split(b" ", 2)[1].decode(), len(sent), trouble))
        status, lines, body = await self._ask(head, sent)
        return await self._send_body(trouble, status, lines, body, reader, writer)

    async def _spoil_head(self, trouble: Trouble, writer: asyncio.StreamWriter) -> None:
        await _send(writer, b"HTTP/1.1 200 OK\r\n")
        line = b"X-More: and more\r\n" * (1000 if trouble is Trouble.ENDLESS_HEAD else 1)
        while True:
            for at in range(len(line)) if trouble is Trouble.SLOW_HEAD else [0]:
                await _send(writer, line[at : at + 1] if trouble is Trouble.SLOW_HEAD else line)
                await asyncio.sleep(self.drip_s if trouble is Trouble.SLOW_HEAD else 0)

    async def _send_body(
        self,
        trouble: Trouble,
        status: bytes,
        lines: bytes,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        length = len(body)
        match trouble:
            case Trouble.CORRUPT:
                spoilt = bytearray(body or b"!")
                spoilt[self._random.randrange(len(spoilt))] ^= 1 << self._random.randrange(8)
                body, length = bytes(spoilt), len(spoilt)
            case Trouble.OTHER:
                body, length = OTHER_BLOCK, len(OTHER_BLOCK)
            case Trouble.SHORT_LENGTH:
                length //= 2
            case Trouble.LONG_LENGTH:
                length += 10
            case Trouble.HUGE | Trouble.HUGE_CHUNKED:
                await self._send_huge(trouble, writer)
                return False
            case Trouble.COMPRESSED:
                lines += b"Content-Encoding: gzip\r\n"
            case _:
                pass
        await _send(writer, status + lines + b"Content-Length: %d\r\n\r\n" % length)
        match trouble:
            case Trouble.TRUNCATE:
                await _send(writer, body[: len(body) // 2])
            case Trouble.RESET_MIDWAY:
                await _send(writer, body[: len(body) // 2])
                _reset(writer)
            case Trouble.HANG_MIDWAY | Trouble.LONG_LENGTH:
                await _send(writer, body[: len(body) // 2] if trouble is Trouble.HANG_MIDWAY else body)
                await _until_gone(reader)
            case Trouble.DRIP:
                for at in range(len(body)):
                    await _send(writer, body[at : at + 1])
                    await asyncio.sleep(self.drip_s)
            case _:
                await _send(writer, body)
                return trouble is not Trouble.SHORT_LENGTH
        return False

    async def _send_huge(self, trouble: Trouble, writer: asyncio.StreamWriter) -> None:
        piece = bytes(64 * 1024)
        if trouble is Trouble.HUGE:
            await _send(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")
            frame = piece
        else:
            await _send(writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            frame = b"%x\r\n%b\r\n" % (len(piece), piece)
        while True:
            await _send(writer, frame)

    async def _ask(self, head: bytes, sent: bytes) -> tuple[bytes, bytes, bytes]:
        """The gateway's answer: status line, header lines but those of framing, and body."""
        reader, writer = await asyncio.open_connection(*self.upstream, limit=_MAX_HEAD)
        try:
            writer.write(head[:-2] + b"Connection: close\r\n\r\n" + sent)
            answer = await _read_head(reader)
            status, _, rest = answer.partition(b"\r\n")
            kept = [line for line in rest.split(b"\r\n") if line and line.partition(b":")[0].lower() not in _FRAMING]
            body = await reader.read()
            if b"transfer-encoding: chunked" in rest.lower():
                body = _unchunked(body)
            return status + b"\r\n", b"".join(line + b"\r\n" for line in kept), body
        finally:
            writer.close()


_CANNED = {
    Trouble.NOT_FOUND: ("404 Not Found", ""),
    Trouble.GONE: ("410 Gone", ""),
    Trouble.TOO_MANY: ("429 Too Many Requests", ""),
    Trouble.ERROR: ("500 Internal Server Error", ""),
    Trouble.UNAVAILABLE: ("503 Service Unavailable", ""),
    Trouble.REDIRECT: ("302 Found", "Location: http://169.254.169.254/latest/meta-data/\r\n"),
}


@contextmanager
def fault_proxy(
    upstream: str, *, chance: float = 0.0, kinds: Iterable[Trouble] = ALL_TROUBLE, seed: int = 0
) -> Iterator[FaultProxy]:
    """A proxy in front of the gateway at ``upstream``, in a thread of its own."""
    proxy = FaultProxy(upstream, chance, kinds, seed)
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(proxy.serve, "127.0.0.1", 0, backlog=128)

    server = loop.run_until_complete(start())
    proxy.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, name="fault-proxy", daemon=True)
    thread.start()

    async def stop() -> None:
        server.close()
        await proxy.stop()

    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _length_of(head: bytes) -> int:
    """The size of the request's body."""
    match = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head.lower())
    return int(match[1]) if match else 0


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _until_gone(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        await reader.read()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _unchunked(data: bytes) -> bytes:
    body, place = bytearray(), 0
    while True:
        end = data.index(b"\r\n", place)
        size = int(data[place:end], 16)
        if size == 0:
            return bytes(body)
        body += data[end + 2 : end + 2 + size]
        place = end + 2 + size + 2
