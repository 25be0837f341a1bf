"""Bodies too large to hold: read by a thread as they come, sent in pieces of a known length; over real sockets."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from prsm.api.body_pipe import HIGH_WATER_BYTES, BodyPipe
from prsm.api.http_exchange import Exchange
from prsm.api.http_server import Application, HttpServer, Limits
from prsm.core.errors import PrsmError

LIMIT_BYTES = 64 * 1024 * 1024


class Reader:
    """An application that reads each body in a thread, and answers its SHA-256 or what went wrong."""

    def __init__(self, *, pause_s: float = 0.0, limit_bytes: int = LIMIT_BYTES) -> None:
        self.pause_s = pause_s
        self.limit_bytes = limit_bytes
        self.refusals: list[str] = []
        self.mostheld_bytes = 0
        self.refused = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.path == "/sized":
            exchange.start(200, [], length=6)
            await exchange.send(b"one")
            exchange.end(b"two")
            return
        if exchange.path == "/short":
            exchange.start(200, [], length=6)
            await exchange.send(b"one")
            raise RuntimeError("the rest cannot be had")
        too_large = PrsmError("too large", code="body_too_large")
        try:
            async with BodyPipe(exchange, limit_bytes=self.limit_bytes, too_large=too_large, idle_s=0.3) as pipe:
                digest = await asyncio.to_thread(self._read, pipe)
        except PrsmError as error:
            self.refusals.append(error.code)
            self.refused.set()
            exchange.respond(400, [], error.code.encode())
        else:
            exchange.respond(200, [], digest.encode())

    def _read(self, pipe: BodyPipe) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
        while count := pipe.read_into(buffer):
            digest.update(buffer[:count])
            self.mostheld_bytes = max(self.mostheld_bytes, pipe.held_bytes)
            time.sleep(self.pause_s)
        return digest.hexdigest()


@asynccontextmanager
async def serving(application: Application) -> AsyncGenerator[int]:
    server = HttpServer(application, Limits(linger_s=0.1, sweep_s=0.05, flush_s=0.5))
    port = await server.listen("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop(0)


async def post(port: int, body: bytes, *, length: int | None = None, close: bool = True) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (length or len(body))
        )
        writer.write(body)
        if close:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("size", [0, 1, HIGH_WATER_BYTES - 1, HIGH_WATER_BYTES + 1, 5 * HIGH_WATER_BYTES])
async def test_a_body_arrives_whole(size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    async with serving(Reader()) as port:
        assert (await post(port, body[:size])).endswith(hashlib.sha256(body[:size]).hexdigest().encode())


async def test_a_slow_reader_holds_the_sender_back() -> None:
    body = bytes(8 * HIGH_WATER_BYTES)
    reader = Reader(pause_s=0.005)
    async with serving(reader) as port:
        assert (await post(port, body)).endswith(hashlib.sha256(body).hexdigest().encode())
    assert reader.mostheld_bytes < 2 * HIGH_WATER_BYTES


async def test_a_body_that_is_cut_off_is_an_error_for_its_reader() -> None:
    reader = Reader()
    async with serving(reader) as port:
        await post(port, b"some", length=1000)
        await asyncio.wait_for(reader.refused.wait(), 5)
    assert reader.refusals == ["body_incomplete"]


async def test_a_body_that_stops_coming_is_given_up() -> None:
    async with serving(Reader()) as port:
        assert (await post(port, b"some", length=1000, close=False)).endswith(b"body_timeout")


async def test_a_body_beyond_the_limit_is_refused() -> None:
    async with serving(Reader(limit_bytes=1000)) as port:
        assert (await post(port, bytes(1001))).endswith(b"body_too_large")


async def test_a_reader_is_never_left_waiting() -> None:
    """Even when the request is ended before a single byte was carried."""
    failed: list[str] = []

    async def application(exchange: Exchange) -> None:
        too_large = PrsmError("too large", code="body_too_large")
        async with BodyPipe(exchange, limit_bytes=1, too_large=too_large, idle_s=60) as pipe:
            reading = asyncio.get_running_loop().run_in_executor(None, pipe.read_into, memoryview(bytearray(1)))
        with contextlib.suppress(PrsmError):
            await asyncio.wait_for(reading, 5)
            failed.append("it read something")
        exchange.respond(200, [], b"ended")

    async with serving(application) as port:
        assert (await post(port, b"", length=10, close=False)).endswith(b"ended")
    assert not failed


async def test_a_response_of_known_length_leaves_the_connection_open() -> None:
    async with serving(Reader()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET /sized HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert b"content-length: 6\r\n" in head
            assert b"chunked" not in head
            assert await reader.readexactly(6) == b"onetwo"
        writer.write(b"HEAD /sized HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"content-length: 6\r\n" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()


async def test_a_response_that_falls_short_ends_the_connection() -> None:
    async with serving(Reader()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert not (await asyncio.wait_for(reader.read(), 5)).endswith(b"onetwo")
        writer.close()
