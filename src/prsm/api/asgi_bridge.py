"""Serves an ASGI application behind RSGI, so that the node API and the hot routes share one port.

Only HTTP: the lifespan is the node's, and there are no web sockets. (ASGI 3.0, RSGI 1.5.)
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from prsm.api.incoming import Incoming

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


async def serve(app: AsgiApp, incoming: Incoming, body_limit: int, body_timeout_s: int) -> None:
    """Answer one request by ``app``. Raises PrsmError when the body is too large or does not come."""
    bodiless = incoming.scope.method in ("GET", "HEAD")
    body = b"" if bodiless else await incoming.body(body_limit, body_timeout_s)
    exchange = _Exchange(incoming, body)
    await app(_scope(incoming), exchange.receive, exchange.send)


class _Exchange:
    """One request's two channels; a body in several parts is streamed, one in a single part is sent at once."""

    def __init__(self, incoming: Incoming, body: bytes) -> None:
        self._incoming = incoming
        self._body: bytes | None = body
        self._status = 500
        self._headers: list[tuple[str, str]] = []
        self._transport: Any = None

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.shield(self._incoming.proto.client_disconnect())
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            return
        body: bytes = message.get("body", b"")
        if self._transport is None and not message.get("more_body"):
            self._incoming.respond(self._status, self._headers, body)
            return
        if self._transport is None:
            headers = [*self._headers, *self._incoming.extra]
            self._transport = self._incoming.proto.response_stream(self._status, headers)
        if body:
            await self._transport.send_bytes(body)
        if not message.get("more_body"):
            self._transport = None  # nothing refers to it any more: that is what ends the response


def _scope(incoming: Incoming) -> dict[str, Any]:
    scope = incoming.scope
    host, _, port = scope.server.rpartition(":")
    client, _, client_port = scope.client.rpartition(":")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": scope.http_version,
        # RFC 9110, 9.3.2: HEAD is GET without the body, which the server cuts off.
        "method": "GET" if scope.method == "HEAD" else scope.method,
        "scheme": scope.scheme,
        "path": scope.path,
        "raw_path": quote(scope.path).encode(),
        "query_string": scope.query_string.encode("latin-1", "replace"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in scope.headers.items()],
        "server": (host, int(port) if port.isdigit() else None),
        "client": (client, int(client_port) if client_port.isdigit() else 0),
        "state": {"request_id": str(incoming.id)},
    }
