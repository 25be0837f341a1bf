"""Traces by OpenTelemetry: spans of requests and of calls to models, sent by OTLP over HTTP. Off unless told where to.

The names are those of the semantic conventions of SEMCONV. No text of a prompt or an answer is in a span unless the
operator says so. Spans wait in a bounded queue that a thread of the SDK empties; when it is full they are dropped.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from prsm import __version__
from prsm.core.errors import ConfigError, PrsmError
from prsm.core.money import BASIS_POINTS

SEMCONV = "1.41.1"
"""Version of the conventions whose names stand here."""
OPERATION, PROVIDER = "gen_ai.operation.name", "gen_ai.provider.name"
REQUEST_MODEL, RESPONSE_MODEL = "gen_ai.request.model", "gen_ai.response.model"
MAX_TOKENS, FINISH_REASONS = "gen_ai.request.max_tokens", "gen_ai.response.finish_reasons"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
INPUT_MESSAGES, OUTPUT_MESSAGES = "gen_ai.input.messages", "gen_ai.output.messages"
METHOD, STATUS, ROUTE = "http.request.method", "http.response.status_code", "http.route"
SERVER_ADDRESS, ERROR_TYPE = "server.address", "error.type"
REQUEST_ID, STREAMED = "prsm.request.id", "prsm.streamed"

_FLUSH_MS = 2000
_MOST_TEXT = 64 * 1024


class Tracing:
    """Makes spans and sends them; ``content``: with the texts of prompts and answers."""

    def __init__(self, provider: Any, api: Any, propagator: Any, *, content: bool) -> None:
        self.content = content
        self._provider = provider
        self._api = api
        self._propagator = propagator
        self._tracer = provider.get_tracer(
            "prsm", __version__, schema_url=f"https://opentelemetry.io/schemas/{SEMCONV}"
        )

    @contextmanager
    def serving(self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, Any]) -> Generator[Any]:
        """A span of a request that came in, under the caller's where it sent one (W3C ``traceparent``)."""
        parent = self._propagator.extract(carrier)
        kind = self._api.SpanKind.SERVER
        with self._tracer.start_as_current_span(name, parent, kind, dict(attributes)) as span:
            yield span

    def calling(self, name: str, attributes: Mapping[str, Any]) -> Any:
        """A span of a call to somebody else, begun; whoever has it ends it."""
        return self._tracer.start_span(name, kind=self._api.SpanKind.CLIENT, attributes=dict(attributes))

    def inside(self, span: Any) -> Any:
        """``with`` it, what is sent belongs to the span."""
        return self._api.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)

    def failed(self, span: Any, error: BaseException) -> None:
        """Mark a span with the kind of an error, never with its text, which may quote what was sent."""
        code = error.code if isinstance(error, PrsmError) else type(error).__name__
        span.set_attribute(ERROR_TYPE, code)
        span.set_status(self._api.StatusCode.ERROR)

    def header_lines(self) -> bytes:
        """``traceparent`` of the span that is current, as lines of a request's head; nothing where there is none."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return "".join(f"{name}: {value}\r\n" for name, value in carrier.items()).encode()

    def close(self) -> None:
        """Send what waits, within two seconds."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()


def open_tracing(endpoint: str, headers: str, node: str, *, share_bps: int, content: bool) -> Tracing | None:
    """Tracing to an OTLP receiver (``http://host:4318``); None where ``endpoint`` is empty. Raises ConfigError."""
    if not endpoint:
        return None
    try:  # The one place that imports the SDK, and only where it is wanted: it is an extra.
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError as error:
        raise ConfigError(
            "otlp_endpoint is set, and what sends traces is not installed.", remedy='pip install "prsm[tracing]"'
        ) from error
    resource = Resource.create(
        {"service.name": "prsm", "service.version": __version__, "service.instance.id": node},
        schema_url=f"https://opentelemetry.io/schemas/{SEMCONV}",
    )
    provider = TracerProvider(
        ParentBased(TraceIdRatioBased(share_bps / BASIS_POINTS)), resource, shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", headers=_pairs(headers), timeout=10)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=8192, schedule_delay_millis=1000))
    return Tracing(provider, trace, TraceContextTextMapPropagator(), content=content)


def cut(text: str) -> str:
    """A text as it may stand in a span."""
    return text[:_MOST_TEXT]


def _pairs(headers: str) -> dict[str, str]:
    pairs = (each.partition("=") for each in headers.split(",") if each)
    return {name: value for name, _, value in pairs}
