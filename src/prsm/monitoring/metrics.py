"""The node's Prometheus metrics: native names, base units, and no label that a caller can invent.

Model and provider labels come from the catalogue, never from a request.
"""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BREAKER_LEVEL = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """All metrics of one node, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("prsm_requests", "Requests by how they ended.", "operation", "outcome")
        self._duration = self._histogram("prsm_request_duration_seconds", "Time from arrival to end.", "operation")
        self._first_answer = self._histogram(
            "prsm_time_to_first_token_seconds",
            "Asking a model to its first token (its whole answer where not streamed).",
            "model",
        )
        self._tokens = self._counter("prsm_tokens", "Metered tokens.", "model", "direction")
        self._cost = self._counter("prsm_cost_micro_ftns", "Captured micro-FTNS.", "model")
        self._upstream_errors = self._counter("prsm_upstream_errors", "Failed upstream attempts.", "model", "code")
        self._uncovered = self._counter(
            "prsm_uncovered_micro_ftns", "Metered beyond the hold and borne by the node.", "model"
        )

    def request_ended(self, operation: str, outcome: str, seconds: float) -> None:
        """A request ended: ``ok``, or the code of its error."""
        self._requests.labels(operation, outcome).inc()
        self._duration.labels(operation).observe(seconds)

    def first_answer(self, model: str, seconds: float) -> None:
        """A model gave its first token, or its whole answer where it was not streamed."""
        self._first_answer.labels(model).observe(seconds)

    def charged(
        self, model: str, input_tokens: int, output_tokens: int, captured_micro: int, metered_micro: int
    ) -> None:
        """A request was metered and captured."""
        self._tokens.labels(model, "input").inc(input_tokens)
        self._tokens.labels(model, "output").inc(output_tokens)
        self._cost.labels(model).inc(captured_micro)
        if metered_micro > captured_micro:
            self._uncovered.labels(model).inc(metered_micro - captured_micro)

    def upstream_failed(self, model: str, code: str) -> None:
        """One attempt at an upstream failed."""
        self._upstream_errors.labels(model, code).inc()

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A gauge read at each scrape."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def levels(self, name: str, meaning: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """A gauge family read at each scrape: one value for each label value."""
        self.registry.register(_Levels(name, meaning, label, read))

    def render(self) -> bytes:
        """The exposition text (Prometheus text format 0.0.4)."""
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, registry=self.registry, buckets=_LATENCY_S)


def breaker_level(state: str) -> float:
    """0 closed, 1 half-open, 2 open."""
    return _BREAKER_LEVEL[state]


class _Levels(Collector):
    def __init__(self, name: str, meaning: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._name, self._meaning, self._label, self._read = name, meaning, label, read

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily(self._name, self._meaning, labels=[self._label])
        for value, level in self._read().items():
            family.add_metric([value], level)
        return [family]
