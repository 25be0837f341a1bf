"""The node's Prometheus metrics: native names, base units, and no label that a caller can invent.

Model and provider labels come from the catalogue, never from a request.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from prsm.monitoring.objectives.selector import Sample

MULTIPROCESS_ENV = "PROMETHEUS_MULTIPROC_DIR"
_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
Direction = Literal["added", "fetched", "served", "uploaded"]
HISTOGRAM_ENDS = ("_bucket", "_count", "_sum")
_BREAKER_LEVEL = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """All metrics of one node. Several workers count into files they share (PROMETHEUS_MULTIPROC_DIR, set by the
    parent); what is read at a scrape is of the worker that answers it.
    """

    def __init__(self) -> None:
        self._counted = CollectorRegistry()
        self._read = CollectorRegistry()
        self._requests = self._counter("prsm_requests", "Requests by how they ended.", "operation", "outcome")
        self._duration = self._histogram("prsm_request_duration_seconds", "Time from arrival to end.", "operation")
        self._first_answer = self._histogram(
            "prsm_time_to_first_token_seconds",
            "Asking a model to its first token (its whole answer where not streamed).",
            "model",
        )
        self._tokens = self._counter("prsm_tokens", "Metered tokens.", "model", "direction")
        self._cost = self._counter("prsm_cost_micro_ftns", "Captured micro-FTNS.", "model")
        self._by_model: dict[str, _ModelMeters] = {}
        self._endings: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._failed = self._counter(
            "prsm_failed_requests", "Requests that failed by the fault of the node or of a model (5xx).", "operation"
        )
        self._part_checks = self._counter(
            "prsm_part_checks", "Looks at a part of the node, and whether it did what it is to do.", "part", "outcome"
        )
        self._notices = self._counter(
            "prsm_alert_notices", "Messages about alerts, by how they ended: sent, failed, dropped.", "sink", "outcome"
        )
        self._shared: list[tuple[Gauge, Callable[[], float]]] = []
        self._upstream_errors = self._counter("prsm_upstream_errors", "Failed upstream attempts.", "model", "code")
        self._uncovered = self._counter(
            "prsm_uncovered_micro_ftns", "Metered beyond the hold and borne by the node.", "model"
        )
        self._hedges = self._counter(
            "prsm_hedges", "Second models asked because the first was silent, and which of the two answered.",
            "model", "outcome",
        )  # fmt: skip
        self._broken_off = self._counter(
            "prsm_broken_off_answers", "Streams that a model broke off: resumed by another, or left partial.",
            "model", "outcome",
        )  # fmt: skip
        self._cached = self._counter(
            "prsm_cache_lookups", "Requests that might be answered from the response cache, by what was found.", "found"
        )
        self._screened = self._counter(
            "prsm_screened_texts",
            "Texts that were screened, by direction and by what was done.",
            "direction",
            "outcome",
        )
        self._unscreened = self._counter(
            "prsm_unscreened_answers", "Answers that broke off with a last part that no detector could look at."
        )
        storage_bytes = self._counter(
            "prsm_storage_bytes", "Bytes of objects: added, fetched, served, uploaded.", "direction"
        )
        self._storage_bytes = {each: storage_bytes.labels(each) for each in get_args(Direction)}

    def request_ended(self, operation: str, outcome: str, seconds: float) -> None:
        """A request ended: ``ok``, or the code of its error."""
        ended, duration = self._endings.get((operation, outcome)) or self._bind_ending(operation, outcome)
        ended.inc()
        duration.observe(seconds)

    def request_failed(self, operation: str) -> None:
        """Of the requests that ended, one failed by the fault of the node or of a model."""
        self._failed.labels(operation).inc()

    def checked(self, part: str, *, ok: bool) -> None:
        """A part of the node was looked at."""
        self._part_checks.labels(part, "ok" if ok else "failed").inc()

    def notice(self, sink: str, outcome: Literal["sent", "failed", "dropped"]) -> None:
        """A message about alerts ended."""
        self._notices.labels(sink, outcome).inc()

    def first_answer(self, model: str, seconds: float) -> None:
        """A model gave its first token, or its whole answer where it was not streamed."""
        self._of(model).first_answer.observe(seconds)

    def charged(
        self, model: str, input_tokens: int, output_tokens: int, captured_micro: int, metered_micro: int
    ) -> None:
        """A request was metered and captured."""
        meters = self._of(model)
        meters.input_tokens.inc(input_tokens)
        meters.output_tokens.inc(output_tokens)
        meters.cost_micro.inc(captured_micro)
        if metered_micro > captured_micro:
            meters.uncovered_micro.inc(metered_micro - captured_micro)

    def tokens(self, model: str) -> int:
        """Tokens metered of a model, by this process since it started."""
        meters = self._by_model.get(model)
        if meters is None:
            return 0
        found = (*meters.input_tokens.collect(), *meters.output_tokens.collect())
        return int(sum(s.value for family in found for s in family.samples if s.name == "prsm_tokens_total"))

    def upstream_failed(self, model: str, code: str) -> None:
        """One attempt at an upstream failed."""
        self._upstream_errors.labels(model, code).inc()

    def hedged(self, model: str, *, won: bool) -> None:
        """``model`` was asked beside a silent one, and answered first or not."""
        self._hedges.labels(model, "won" if won else "lost").inc()

    def broken_off(self, model: str, *, resumed: bool) -> None:
        """``model`` broke its stream off after the first piece; another went on with it, or nobody did."""
        self._broken_off.labels(model, "resumed" if resumed else "partial").inc()

    def looked_up(self, found: Literal["exact", "semantic", "nothing"]) -> None:
        """The response cache was asked."""
        self._cached.labels(found).inc()

    def screened(self, direction: str, action: str, texts: int) -> None:
        """Texts of one request were screened, with the strictest action that they met."""
        self._screened.labels(direction, action).inc(texts)

    def unscreened(self) -> None:
        """An answer broke off, and its last part, within what policies let be shown, could not be looked at."""
        self._unscreened.inc()

    def storage_moved(self, direction: Direction, size_bytes: int) -> None:
        """Bytes were added by a caller, fetched from an endpoint, served to a reader, or uploaded to an own node."""
        self._storage_bytes[direction].inc(size_bytes)

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A gauge read at each scrape."""
        self._read.register(_Levels(name, meaning, "", lambda: {"": read()}))

    def levels(self, name: str, meaning: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """A gauge family read at each scrape: one value for each label value."""
        self._read.register(_Levels(name, meaning, label, read))

    def summed(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A gauge that is the sum over all workers; each writes its own at ``write_shared``."""
        gauge = Gauge(name, meaning, registry=self._counted, multiprocess_mode="livesum")
        self._shared.append((gauge, read))

    def write_shared(self) -> None:
        """Write this worker's part of what is summed over workers."""
        for gauge, read in self._shared:
            gauge.set(read())

    def render(self) -> bytes:
        """The exposition text (Prometheus text format 0.0.4)."""
        self.write_shared()
        return generate_latest(self._all_counted()) + generate_latest(self._read)

    def counted(self, families: Iterable[str]) -> list[Sample]:
        """What was counted of the named families, by all workers: names without the endings of their series.

        Histograms are summed over all labels but their bounds: each model has one. May be called in a thread, for it
        takes 70 us a model, or reads the files of the workers.
        """
        sums: dict[tuple[str, str], float] = {}
        found: list[Sample] = []
        for sample in _collected(self._all_counted(), families):
            if sample.name.endswith(HISTOGRAM_ENDS):
                key = (sample.name, sample.labels.get("le", ""))
                sums[key] = sums.get(key, 0.0) + sample.value
            else:
                found.append(sample)
        return found + [Sample(name, {"le": bound} if bound else {}, value) for (name, bound), value in sums.items()]

    def levels_now(self, families: Iterable[str]) -> list[Sample]:
        """Gauges of the named families as this worker has them."""
        return _collected(self._read, families)

    def _all_counted(self) -> CollectorRegistry:
        """What is counted, of all workers."""
        if MULTIPROCESS_ENV not in os.environ:
            return self._counted
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # pyright: ignore[reportUnknownMemberType]
        return registry

    def _of(self, model: str) -> "_ModelMeters":
        """A model's meters, bound to their labels once: finding a label costs more than counting."""
        meters = self._by_model.get(model)
        if meters is None:
            meters = self._by_model[model] = _ModelMeters(
                self._first_answer.labels(model),
                self._tokens.labels(model, "input"),
                self._tokens.labels(model, "output"),
                self._cost.labels(model),
                self._uncovered.labels(model),
            )
        return meters

    def _bind_ending(self, operation: str, outcome: str) -> tuple[Counter, Histogram]:
        bound = (self._requests.labels(operation, outcome), self._duration.labels(operation))
        self._endings[operation, outcome] = bound
        return bound

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._counted)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, registry=self._counted, buckets=_LATENCY_S)


def _collected(registry: CollectorRegistry, families: Iterable[str]) -> list[Sample]:
    names = [name + end for name in families for end in ("", "_total", *HISTOGRAM_ENDS)]
    chosen: Any = registry.restricted_registry(names)
    return [Sample(one.name, one.labels, one.value) for family in chosen.collect() for one in family.samples]


def breaker_level(state: str) -> float:
    """0 closed, 1 half-open, 2 open."""
    return _BREAKER_LEVEL[state]


@dataclass(frozen=True, slots=True)
class _ModelMeters:
    first_answer: Histogram
    input_tokens: Counter
    output_tokens: Counter
    cost_micro: Counter
    uncovered_micro: Counter


class _Levels(Collector):
    def __init__(self, name: str, meaning: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._name, self._meaning, self._label, self._read = name, meaning, label, read

    def describe(self) -> list[Metric]:
        """The family alone: what is asked for by name is found without reading the rest."""
        return [GaugeMetricFamily(self._name, self._meaning)]

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily(self._name, self._meaning, labels=[self._label] if self._label else [])
        for value, level in self._read().items():
            family.add_metric([value] if self._label else [], level)
        return [family]
