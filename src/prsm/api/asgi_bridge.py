"""Serves an ASGI application behind our own server, so that the node API and the hot routes share one port.

Only HTTP: the lifespan is the node's, and there are no web sockets. (ASGI 3.0.)
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from prsm.api.incoming import Headers, Incoming

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
"""What the server itself says of each response."""


async def serve(app: AsgiApp, incoming: Incoming, body_limit: int, body_timeout_s: int) -> None:
    """Answer one request by ``app``. Raises PrsmError when the body is too large or does not come."""
    bodiless = incoming.exchange.method in ("GET", "HEAD")
    body = b"" if bodiless else await incoming.body(body_limit, body_timeout_s)
    exchange = _Exchange(incoming, body)
    await app(_scope(incoming), exchange.receive, exchange.send)


class _Exchange:
    """One request's two channels; a body in several parts is streamed, one in a single part is sent at once."""

    def __init__(self, incoming: Incoming, body: bytes) -> None:
        self._incoming = incoming
        self._body: bytes | None = body
        self._status = 500
        self._headers: Headers = []
        self._begun = False

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        left = asyncio.Event()
        self._incoming.exchange.watch(left.set)
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in message["headers"]
                if name.lower() not in _FRAMING
            ]
            return
        body: bytes = message.get("body", b"")
        exchange = self._incoming.exchange
        if not self._begun and not message.get("more_body"):
            self._incoming.respond(self._status, self._headers, body)
            return
        if not self._begun:
            self._begun = True
            exchange.start(self._status, [*self._headers, *self._incoming.extra])
        if message.get("more_body"):
            await exchange.send(body)
        else:
            exchange.end(body)


def _scope(incoming: Incoming) -> dict[str, Any]:
    exchange = incoming.exchange
    client, server = exchange.carrier.addresses()
    return {
        "type": "http",
        # Not 2.4: there, ``send`` would have to raise when the client has gone. So ``receive`` is asked, which knows.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": exchange.version,
        # RFC 9110, 9.3.2: HEAD is GET without the body, which the server cuts off.
        "method": "GET" if exchange.method == "HEAD" else exchange.method,
        "scheme": "http",
        "path": exchange.path,
        "raw_path": quote(exchange.path).encode(),
        "query_string": exchange.query.encode("latin-1"),
        "root_path": "",
        "headers": exchange.headers,
        "server": server,
        "client": client,
        "state": {"request_id": str(incoming.id)},
    }
