"""The HTTP edge: one server in which the routes that ask models are bare handlers and the rest is FastAPI.

Every path is served by exactly one handler; every refusal, whatever its path, has a body that the client can read.
"""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from prsm.api import asgi_bridge
from prsm.api.answers import Answers
from prsm.api.door import Door
from prsm.api.formats import ChatFormat, MessagesFormat, ResponsesFormat
from prsm.api.http_exchange import Exchange
from prsm.api.http_server import HttpServer, Limits
from prsm.api.incoming import Incoming
from prsm.api.node_api import build_node_api
from prsm.api.storage_content import StorageContent
from prsm.api.traced import traced
from prsm.core.acting import act_for
from prsm.core.errors import ConfigError, PrsmError
from prsm.node import Node

Handler = Callable[[Incoming], Coroutine[Any, Any, None]]

_GC_YOUNG_OBJECTS = 100_000
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
    """The application of one node."""

    def __init__(self, node: Node) -> None:
        door = Door(node)
        answers = Answers(node, door)
        self._node = node
        self._api = build_node_api(node, door)
        self._hot = hot_routes(answers)
        self._content = StorageContent(node, door)
        self._traced = traced(node.traces) if node.traces else None
        node.metrics.gauge("prsm_requests_in_flight", "Requests being answered.", lambda: answers.in_flight)

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """One request; no coroutine of its own around the handler's, for each open stream would hold it."""
        incoming = Incoming(exchange)
        if self._traced is not None:
            return self._traced(incoming, self._served(incoming))
        return self._served(incoming)

    def _served(self, incoming: Incoming) -> Coroutine[Any, Any, None]:
        exchange = incoming.exchange
        handler = self._hot.get(exchange.path)
        if handler is None:
            streamed = self._content.handler(exchange.path)
            return streamed(incoming) if streamed else self._serve_api(incoming)
        return handler(incoming) if exchange.method == "POST" else self._refuse_method(incoming)

    async def _refuse_method(self, incoming: Incoming) -> None:
        incoming.refuse_method("POST")

    async def _serve_api(self, incoming: Incoming) -> None:
        settings = self._node.settings
        try:
            await asgi_bridge.serve(self._api, incoming, settings.body_limit_bytes, settings.body_timeout_s)
        except PrsmError as error:
            incoming.refuse(error)
        except Exception:  # noqa: BLE001 - the application has answered with a 500; the operator gets the trace
            _log.exception("request failed", request_id=str(incoming.id))
        finally:
            act_for("", "")  # the connection's next request has a caller of its own


async def serve(node: Node, ready: Callable[[], object] | None = None) -> None:
    """Listen until cancelled, then end open requests in good order. Raises ConfigError when it cannot listen.

    ``ready`` is called once it listens.
    """
    settings = node.settings
    limits = Limits(header_s=settings.header_timeout_s, max_connections=settings.max_inflight_requests * 2)
    server = HttpServer(Edge(node), limits)
    try:
        await server.listen(settings.host, settings.port, reuse_port=settings.workers > 1)
    except OSError as error:
        raise ConfigError(
            f"The node cannot listen on {settings.address} ({error.strerror}).",
            remedy="Stop what uses it, or choose another: prsm --port N up.",
        ) from error
    calm_collector()
    if ready:
        ready()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        node.liveness.board.drain()
        await server.stop(settings.shutdown_grace_s)


def calm_collector() -> None:
    """What start-up made lives for ever and need not be walked again; requests make few cycles, so look rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_YOUNG_OBJECTS, 20, 20)
