"""The node's HTTP server over real sockets: framing, order, limits, and clients that do not behave."""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prsm.api.http_exchange import BodyBroken, Exchange, split_target
from prsm.api.http_server import HttpServer, Limits

QUICK = Limits(header_s=0.2, idle_s=0.2, write_s=0.3, linger_s=0.1, sweep_s=0.05, flush_s=0.5)
PIECE = b"p" * 65_536


class Site:
    """An application with one path for each thing to be seen, and its server."""

    def __init__(self, limits: Limits) -> None:
        self.server = HttpServer(self.answer, limits)
        self.port = 0
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()
        self.sent_bytes = 0

    async def answer(self, exchange: Exchange) -> None:
        match exchange.path:
            case "/echo":
                try:
                    while not exchange.complete:
                        await exchange.more()
                except BodyBroken as error:
                    exchange.respond(400, [], str(error).encode())
                else:
                    exchange.respond(200, [], exchange.take())
            case "/stream":
                exchange.start(200, [])
                await exchange.send(b"one")
                await exchange.send(b"two")
                exchange.end(b"three")
            case "/slow":
                await self.go_on.wait()
                exchange.respond(200, [], b"slow")
            case "/hanging":
                exchange.watch(self.left.set)
                exchange.start(200, [])
                await exchange.send(b"begun")
                await self.go_on.wait()
            case "/flood":
                exchange.start(200, [])
                while exchange.carrier.addresses()[0] is not None:
                    await exchange.send(PIECE)
                    self.sent_bytes += len(PIECE)
                self.left.set()
            case "/fails":
                raise RuntimeError("as the test wants it")
            case "/splits":
                exchange.respond(200, [("x-a", "b\r\nx-c: d")], b"")
            case "/empty":
                exchange.respond(204, [], b"")
            case _:
                exchange.respond(200, [("x-path", exchange.path)], exchange.path.encode())

    async def talk(self, *pieces: bytes, pause_s: float = 0.0, half_close: bool = False) -> bytes:
        """All that the server says to ``pieces`` until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(pause_s)
            if half_close:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()


@asynccontextmanager
async def site(limits: Limits = QUICK) -> AsyncGenerator[Site]:
    made = Site(limits)
    made.port = await made.server.listen("127.0.0.1", 0)
    try:
        yield made
    finally:
        made.go_on.set()
        await made.server.stop(1)
        assert not made.server.connections


def request(path: str, *headers: str, body: bytes = b"", method: str = "GET", last: bool = False) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: node", *headers]
    if body and not any(line.startswith("transfer-encoding") for line in headers):
        lines.append(f"content-length: {len(body)}")
    if last:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)]


def bodies(said: bytes) -> list[bytes]:
    """The bodies of responses with a length."""
    found: list[bytes] = []
    while said:
        head, _, said = said.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        found.append(said[:length])
        said = said[length:]
    return found


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def test_many_requests_on_one_connection_one_after_another() -> None:
    async with site() as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        for i in range(5):
            writer.write(request(f"/{i}"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"connection" not in head
            assert await reader.readexactly(2) == b"/%d" % i
        writer.close()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with site() as node:
        node.server.loop.call_later(0.1, node.go_on.set)
        data = request("/slow") + request("/echo", body=b"body") + request("/1") + request("/2", last=True)
        assert bodies(await node.talk(data)) == [b"slow", b"body", b"/1", b"/2"]
        # The same in two reads, while the first is in work; and with the sending side closed at once.
        node.go_on.clear()
        node.server.loop.call_later(0.2, node.go_on.set)
        assert bodies(await node.talk(request("/slow"), data, pause_s=0.05)) == [
            b"slow",
            b"slow",
            b"body",
            b"/1",
            b"/2",
        ]
        said = await node.talk(request("/slow") + request("/1"), half_close=True)
        assert bodies(said) == [b"slow", b"/1"]
        assert statuses(await node.talk(request("/1") * 500))[-1] == 400


async def test_a_request_split_anywhere_is_the_same_request() -> None:
    whole = request(
        "/echo", "transfer-encoding: chunked", body=b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-t: 1\r\n\r\n", method="POST"
    )
    async with site(Limits()) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        for place in range(1, len(whole)):
            for piece in (whole[:place], whole[place:]):
                writer.write(piece)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(5) == b"abcde"
        for i in range(len(whole)):
            writer.write(whole[i : i + 1])
            await asyncio.sleep(0.001)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(5) == b"abcde"
        writer.close()


async def test_streams_are_chunked_and_for_http_1_0_end_with_the_connection() -> None:
    async with site() as node:
        said = await node.talk(request("/stream", last=True))
        assert b"transfer-encoding: chunked" in said
        assert said.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")
        said = await node.talk(b"GET /stream HTTP/1.0\r\n\r\n")
        assert said.startswith(b"HTTP/1.0 200 OK")
        assert b"chunked" not in said
        assert said.endswith(b"\r\n\r\nonetwothree")
        kept = await node.talk(b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n")
        assert kept.count(b"connection: keep-alive") == 1
        assert bodies(kept) == [b"/a", b"/b"]


async def test_head_and_empty_answers_have_no_body() -> None:
    async with site() as node:
        said = await node.talk(
            request("/x", method="HEAD"), request("/stream", method="HEAD"), request("/empty", last=True)
        )
        assert statuses(said) == [200, 200, 204]
        assert b"content-length: 2" in said
        assert said.endswith(b"connection: close\r\n\r\n")
        assert b"one" not in said
        assert said.count(b"content-length") == 1


async def test_expect_100_continue() -> None:
    async with site(Limits()) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(request("/echo", "expect: 100-continue", "content-length: 3", method="POST"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(3) == b"abc"
        # Refused before the body was asked for: no 100, and the connection cannot be used again.
        writer.write(request("/x", "expect: 100-continue", "content-length: 3", method="POST"))
        rest = await asyncio.wait_for(reader.read(), 20)
        assert statuses(rest) == [200]
        assert b"connection: close" in rest
        writer.close()


SMUGGLING = {
    "both lengths": "content-length: 3\r\ntransfer-encoding: chunked\r\n",
    "both, turned": "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
    "two lengths": "content-length: 3\r\ncontent-length: 4\r\n",
    "the same length twice": "content-length: 3\r\ncontent-length: 3\r\n",
    "a list of lengths": "content-length: 3, 3\r\n",
    "negative": "content-length: -3\r\n",
    "hexadecimal": "content-length: 0x3\r\n",
    "overflow": "content-length: 99999999999999999999999\r\n",
    "two codings": "transfer-encoding: gzip, chunked\r\n",
    "chunked not last": "transfer-encoding: chunked, identity\r\n",
    "coding twice": "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    "odd coding": "transfer-encoding: xchunked\r\n",
    "vertical tab": "transfer-encoding: \x0bchunked\r\n",
    "space before the colon": "content-length : 3\r\n",
    "folded": "x-a: b\r\n content-length: 3\r\n",
    "bare line feed": "x-a: b\ncontent-length: 3\r\n",
    "bare carriage return": "x-a: b\rcontent-length: 3\r\n",
    "NUL": "x-a: \x00\r\n",
    "no name": ": x\r\n",
    "second host": "host: elsewhere\r\n",
}


@pytest.mark.parametrize("headers", SMUGGLING.values(), ids=SMUGGLING.keys())
async def test_forms_that_two_servers_may_read_differently_are_refused(headers: str) -> None:
    data = (
        f"POST /x HTTP/1.1\r\nhost: node\r\n{headers}\r\n".encode()
        + b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    )
    async with site() as node:
        said = await node.talk(data)
        assert statuses(said) == [400], said
        assert b"smuggled" not in said
        assert b"connection: close" in said


async def test_chunks_that_are_none_break_the_body() -> None:
    async with site() as node:
        for body in (
            b"zz\r\n",
            b"-1\r\n",
            b"3\r\nabcd\r\n",
            b"3\nabc\r\n",
            b"ffffffffffffffffff\r\n",
            b"3\r\nabc0\r\n\r\n",
        ):
            said = await node.talk(request("/echo", "transfer-encoding: chunked", body=body, method="POST"))
            assert statuses(said) == [400], body
            assert b"connection: close" in said


async def test_heads_beyond_the_limits() -> None:
    async with site(Limits(sweep_s=0.05, linger_s=0.2)) as node:
        for data in (
            request("/x", "x-a: " + "b" * 70_000),
            request("/x", "n" * 70_000 + ": b"),
            request("/" + "a" * 70_000),
            request("/x", *["x-a: b"] * 201),
            b"GET /" + b"a" * 3_000_000,
            b"\r\n" * 40_000,
            request("/x", "transfer-encoding: chunked", body=b"0\r\nx-a: " + b"b" * 300_000, method="POST"),
        ):
            said = await node.talk(data)
            assert statuses(said)[-1:] in ([431], [200]), data[:50]
            assert b"connection: close" in said
        assert statuses(await node.talk(request("/x", *["x-a: b"] * 100, last=True))) == [200]


async def test_a_head_that_never_ends_and_a_silent_client_are_ended() -> None:
    async with site() as node:
        assert await node.talk(b"GET /x HTTP/1.1\r\n", *[b"x-a: b\r\n"] * 6, pause_s=0.02) == b""
        assert await node.talk() == b""
        assert bodies(await node.talk(request("/x"))) == [b"/x"]  # and one that was answered, after a while


async def test_a_client_that_leaves_a_stream_is_noticed() -> None:
    for half in (True, False):
        async with site() as node:
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.write(request("/hanging"))
            await reader.readuntil(b"begun")
            assert not node.left.is_set()
            writer.write_eof() if half else writer.transport.abort()
            await asyncio.wait_for(node.left.wait(), 20)
            writer.close()


async def test_a_client_that_reads_nothing_costs_little_memory_and_is_ended() -> None:
    async with site() as node:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", node.port))
            client.sendall(request("/flood"))
            await asyncio.wait_for(node.left.wait(), 20)
        assert 0 < node.sent_bytes < 16 * 1024 * 1024


async def test_a_client_that_reads_slowly_gets_everything() -> None:
    async with site() as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port, limit=4096)
        body = bytes(range(256)) * 8192
        writer.write(request("/echo", body=body, method="POST", last=True))
        got = bytearray()
        while part := await reader.read(65_536):
            got += part
            await asyncio.sleep(0.002)
        assert got.endswith(body)
        writer.close()


async def test_a_body_that_nobody_takes_is_not_gathered() -> None:
    async with site(Limits(sweep_s=0.05, linger_s=0.2)) as node:
        with socket.socket() as client:
            client.setblocking(False)
            await node.server.loop.sock_connect(client, ("127.0.0.1", node.port))
            await node.server.loop.sock_sendall(client, request("/slow", f"content-length: {10**9}", method="POST"))
            sent = 0
            try:
                async with asyncio.timeout(1):
                    while True:
                        await node.server.loop.sock_sendall(client, PIECE)
                        sent += len(PIECE)
            except TimeoutError:
                pass
            assert sent < 32 * 1024 * 1024
            (connection,) = node.server.connections
            assert connection._queue[0].buffered < 2 * 1024 * 1024  # type: ignore[index]
            node.go_on.set()
            said = await asyncio.wait_for(node.server.loop.sock_recv(client, 65_536), 20)
            assert b"connection: close" in said


async def test_an_application_that_fails_is_answered_for() -> None:
    async with site() as node:
        said = await node.talk(request("/fails"))
        assert statuses(said) == [500]
        assert b"as the test" not in said
        assert statuses(await node.talk(request("/splits"))) == [500]


async def test_other_protocols_are_not_spoken() -> None:
    async with site() as node:
        upgrade = request("/x", "connection: upgrade", "upgrade: h2c")
        assert statuses(await node.talk(upgrade + b"anything")) == [200]
        assert statuses(await node.talk(b"CONNECT /x HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n")) == [200]


async def test_more_connections_than_allowed_are_turned_away() -> None:
    async with site(Limits(max_connections=1)) as node:
        _, writer = await asyncio.open_connection("127.0.0.1", node.port)
        await until(lambda: node.server.connections)
        assert statuses(await node.talk()) == [503]
        writer.close()
        await until(lambda: not node.server.connections)
        assert statuses(await node.talk(request("/x", last=True))) == [200]


async def test_stopping_lets_the_request_in_work_end() -> None:
    async with site() as node:
        slow = asyncio.create_task(node.talk(request("/slow") + request("/1")))
        idle = asyncio.create_task(node.talk(pause_s=0))
        await until(lambda: len(node.server.connections) == 2 and any(c.task for c in node.server.connections))
        stopping = asyncio.create_task(node.server.stop(20))
        assert await idle == b""
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", node.port)
        node.go_on.set()
        await stopping
        said = await slow
        assert bodies(said) == [b"slow"]
        assert b"connection: close" in said


async def test_stopping_cuts_off_what_takes_too_long() -> None:
    async with site() as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(request("/hanging"))
        await reader.readuntil(b"begun")
        await node.server.stop(0.05)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"0\r\n\r\n")
        writer.close()


TOKENS = st.sampled_from(
    [b"GET ", b"POST ", b"/echo", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"host: x", b"content-length: ", b"3", b"chunked",
     b"transfer-encoding: ", b"0\r\n\r\n", b"expect: 100-continue", b"connection: close", b"\x00", b": ", b"upgrade"]
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(TOKENS | st.binary(max_size=20), max_size=20).map(b"".join), min_size=1, max_size=4))
def test_no_bytes_whatever_break_the_server(pieces: list[bytes]) -> None:
    async def go() -> None:
        async with site() as node:
            said = await node.talk(*pieces, half_close=True)
            assert not said or said.startswith(b"HTTP/1.")
            assert all(status in (100, 200, 400, 431) for status in statuses(said))
            assert statuses(await node.talk(request("/x", last=True))) == [200]

    asyncio.run(go())


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a%20b?c=%20#d", "/a b", "c=%20"),
        ("/a?b?c", "/a", "b?c"),
        ("*", "*", ""),
        ("http://x/a?b", "/a", "b"),
        ("http://x", "/", ""),
        ("http://x?b", "/", "b"),
        ("x:443", "x:443", ""),
        ("//a", "//a", ""),
        ("/http://x/a", "/http://x/a", ""),
    ],
)
def test_targets(target: str, path: str, query: str) -> None:
    assert split_target(target) == (path, query)
