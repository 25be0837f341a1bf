"""The HTTP edge: one RSGI application in which the routes that ask models are bare handlers and the rest is FastAPI.

Every path is served by exactly one handler; every refusal, whatever its path, has a body that the client can read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from prsm.api import asgi_bridge
from prsm.api.answers import Answers
from prsm.api.door import Door
from prsm.api.formats import ChatFormat, MessagesFormat, ResponsesFormat
from prsm.api.incoming import Incoming
from prsm.api.node_api import build_node_api
from prsm.core.errors import PrsmError
from prsm.node import Node

Handler = Callable[[Incoming], Awaitable[None]]

_MAX_HEADER_BYTES = 64 * 1024
_STOP_LISTENING_S = 5
_log: Any = structlog.get_logger("edge")


def hot_routes(answers: Answers) -> dict[str, Handler]:
    """The paths that FastAPI does not serve; each has the method POST only."""
    return {
        "/v1/chat/completions": lambda incoming: answers.text(incoming, ChatFormat),
        "/v1/responses": lambda incoming: answers.text(incoming, ResponsesFormat),
        "/v1/messages": lambda incoming: answers.text(incoming, MessagesFormat),
        "/v1/messages/count_tokens": answers.count_tokens,
        "/v1/embeddings": answers.embeddings,
    }


class Edge:
    """The RSGI application of one node."""

    def __init__(self, node: Node) -> None:
        door = Door(node)
        answers = Answers(node, door)
        self.drain = answers.drain
        self._node = node
        self._api = build_node_api(node, door)
        self._hot = hot_routes(answers)
        node.metrics.gauge("prsm_requests_in_flight", "Requests being answered.", lambda: answers.in_flight)

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        """One request."""
        if scope.proto != "http":
            proto.close(404)
            return
        incoming = Incoming(scope, proto)
        handler = self._hot.get(scope.path)
        if handler is None:
            await self._serve_api(incoming)
        elif scope.method == "POST":
            await handler(incoming)
        else:
            incoming.refuse_method("POST")

    async def _serve_api(self, incoming: Incoming) -> None:
        settings = self._node.settings
        try:
            await asgi_bridge.serve(self._api, incoming, settings.body_limit_bytes, settings.body_timeout_s)
        except PrsmError as error:
            incoming.refuse(error)
        except Exception:  # noqa: BLE001 - the application has answered with a 500; the operator gets the trace
            _log.exception("request failed", request_id=str(incoming.id))


async def serve(node: Node) -> None:
    """Listen until cancelled, then end open requests in good order."""
    edge = Edge(node)
    server = Server(
        edge,
        address=node.settings.host,
        port=node.settings.port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=4096,
        backpressure=node.settings.max_inflight_requests * 2,
        http1_settings=HTTP1Settings(
            header_read_timeout=node.settings.header_timeout_s * 1000, max_buffer_size=_MAX_HEADER_BYTES
        ),
        log_level=LogLevels.warning,
        log_access=False,
    )
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(serving)
    finally:
        server.stop()
        await asyncio.wait([serving], timeout=_STOP_LISTENING_S)
        await edge.drain(node.settings.shutdown_grace_s)
