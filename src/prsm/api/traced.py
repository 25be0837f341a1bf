"""Spans of the requests that come in, where traces are on: by route, with the status, under the caller's trace."""

from collections.abc import Callable, Coroutine
from typing import Any

from prsm.api.docs import QUESTION_PATHS
from prsm.api.incoming import Incoming
from prsm.api.storage_content import CONTENT
from prsm.monitoring import tracing
from prsm.monitoring.tracing import Tracing

_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
_CARRIED = ("traceparent", "tracestate")
_FAULT = 500


def traced(traces: Tracing) -> Callable[[Incoming, Coroutine[Any, Any, None]], Coroutine[Any, Any, None]]:
    """Runs what answers a request inside a span; what is asked all the time by machines has none."""

    async def run(incoming: Incoming, answering: Coroutine[Any, Any, None]) -> None:
        exchange = incoming.exchange
        if exchange.path in _QUIET:
            await answering
            return
        route = route_of(exchange.path)
        attributes = {tracing.METHOD: exchange.method, tracing.ROUTE: route, tracing.REQUEST_ID: str(incoming.id)}
        carrier = {name: value for name in _CARRIED if (value := _text(incoming, name))}
        with traces.serving(f"{exchange.method} {route}", carrier, attributes) as span:
            try:
                await answering
            except Exception as error:
                traces.failed(span, error)
                raise
            finally:
                span.set_attribute(tracing.STATUS, exchange.status)
                if exchange.status >= _FAULT:
                    span.set_attribute(tracing.ERROR_TYPE, str(exchange.status))

    return run


def route_of(path: str) -> str:
    """A path without what names single things: the same for all requests of one kind."""
    if path in QUESTION_PATHS or path in ("/", "/docs", "/openapi.json", "/v1/models", CONTENT):
        return path
    for prefix in (f"{CONTENT}/", "/ipfs/", "/v1/models/"):
        if path.startswith(prefix):
            return f"{prefix}{{id}}"
    return "/".join(path.split("/")[:4]) if path.startswith("/node/v1/") else "other"


def _text(incoming: Incoming, name: str) -> str:
    value = incoming.exchange.header(name.encode())
    return "" if value is None else value.decode("latin-1")
