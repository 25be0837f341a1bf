"""An ASGI application behind the real server sees and says what ASGI promises."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from prsm.api import asgi_bridge
from prsm.api.http_exchange import Exchange
from prsm.api.http_server import HttpServer, Limits
from prsm.api.incoming import Incoming
from prsm.core.errors import PrsmError


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Says what it was asked; by path it streams, or says nothing in its body."""
    asked = await receive()
    assert asked["type"] == "http.request"
    assert asked["more_body"] is False
    said = {name: scope[name] for name in ("type", "method", "path", "scheme", "http_version", "root_path", "state")}
    said |= {name: scope[name].decode() for name in ("raw_path", "query_string")}
    said |= {"headers": {k.decode(): v.decode() for k, v in scope["headers"]}, "body": asked["body"].decode()}
    said |= {"server": scope["server"], "client": scope["client"]}
    headers = [(b"content-type", b"application/json"), (b"x-from", b"the application")]
    await send({"type": "http.response.start", "status": 207, "headers": headers})
    if scope["path"] == "/streamed":
        for part in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"three"})
    elif scope["path"] == "/bare":
        await send({"type": "http.response.body"})
    else:
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})


async def answer(exchange: Exchange) -> None:
    incoming = Incoming(exchange)
    try:
        await asgi_bridge.serve(application, incoming, 1000, 5)
    except PrsmError as error:
        incoming.refuse(error)


@asynccontextmanager
async def served() -> AsyncGenerator[aiohttp.ClientSession]:
    server = HttpServer(answer, Limits())
    port = await server.listen("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            yield http
    finally:
        await server.stop(5)


async def test_the_scope_is_that_of_the_request() -> None:
    async with served() as http:
        sent = {"x-mine": "a value"}
        async with http.post("/a/caf%C3%A9%20b?q=1&r=%20", data=b"words", headers=sent) as response:
            said = await response.json()
            assert response.status == 207
            assert response.headers["x-from"] == "the application"
            assert response.headers["x-request-id"] == said["state"]["request_id"]
        assert (said["type"], said["method"], said["scheme"], said["root_path"]) == ("http", "POST", "http", "")
        assert (said["path"], said["raw_path"]) == ("/a/café b", "/a/caf%C3%A9%20b")
        assert said["query_string"] == "q=1&r=%20"
        assert (said["headers"]["x-mine"], said["body"]) == ("a value", "words")
        assert said["client"][0] == said["server"][0] == "127.0.0.1"
        assert said["server"][1] == http._base_url.port  # type: ignore[union-attr]


async def test_bodies_whole_in_parts_and_absent() -> None:
    async with served() as http:
        async with http.get("/streamed") as response:
            assert await response.text() == "onetwothree"
            assert response.headers["x-request-id"]
        async with http.get("/bare") as response:
            assert (response.status, await response.read()) == (207, b"")
        # HEAD reaches the application as GET, and its answer arrives without the body.
        async with http.head("/whole") as response:
            assert (response.status, await response.read()) == (207, b"")
            assert int(response.headers["content-length"]) > 0


async def test_a_body_beyond_the_limit_never_reaches_the_application() -> None:
    async with served() as http:
        async with http.post("/a", data=b"x" * 1001) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "body_too_large"
        async with http.post("/a", data=b"x" * 1000) as response:
            assert (await response.json())["body"] == "x" * 1000
