"""What a node was asked lately, from its counters: rates, latencies, load. Bounded memory; pure but for what it keeps.

How many requests are in work is not counted but follows: the time that all requests took together, for each second, is
their mean number (Little, "A Proof for the Queuing Formula L = λW", 1961).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prsm.monitoring.objectives.selector import Sample

FAMILIES = (
    "prsm_requests", "prsm_failed_requests", "prsm_request_duration_seconds", "prsm_time_to_first_token_seconds",
    "prsm_tokens", "prsm_cost_micro_ftns",
)  # fmt: skip
WINDOW_S = 300.0
_RATE_S = 60.0
_MINUTE_S = 60.0
_MINUTES = 360
_SHARES = (0.5, 0.95, 0.99)
_DURATION, _FIRST = "prsm_request_duration_seconds_bucket", "prsm_time_to_first_token_seconds_bucket"


class LoadPoint(NamedTuple):
    """One minute: requests a second, and how many were in work on average."""

    at_s: float
    per_s: float
    in_work: float


class TrafficNow(NamedTuple):
    """Rates of the last minute; quantiles of the last five, None where nothing came. Seconds."""

    requests_per_s: float
    failed_per_s: float
    in_work: float
    tokens_per_s: float
    earned_micro_per_s: float
    duration_s: dict[str, float] | None
    first_token_s: dict[str, float] | None
    by_model: dict[str, float]
    """Tokens a second of each model that was asked."""


class _Reading(NamedTuple):
    at_s: float
    requests: float
    failed: float
    busy_s: float
    tokens: Mapping[str, float]
    earned_micro: float
    durations: Mapping[str, float]
    firsts: Mapping[str, float]


class Traffic:
    """The traffic of one node, fed with samples of FAMILIES every few seconds."""

    def __init__(self) -> None:
        self.minutes: deque[LoadPoint] = deque(maxlen=_MINUTES)
        self._readings: deque[_Reading] = deque()
        self._minute: _Reading | None = None

    def add(self, samples: Sequence[Sample], now_s: float) -> None:
        """Take in one reading; one that counts less than the one before begins anew."""
        reading = _reading(samples, now_s)
        if self._readings and reading.requests < self._readings[-1].requests:
            self._readings.clear()
            self._minute = None
        self._readings.append(reading)
        while self._readings[0].at_s < now_s - WINDOW_S:
            self._readings.popleft()
        if self._minute is None:
            self._minute = reading
        elif now_s - self._minute.at_s >= _MINUTE_S:
            self.minutes.append(_load(self._minute, reading))
            self._minute = reading

    def now(self) -> TrafficNow:
        """As of the last reading."""
        if len(self._readings) < 2:
            return TrafficNow(0.0, 0.0, 0.0, 0.0, 0.0, None, None, {})
        last, first = self._readings[-1], self._readings[0]
        since = next(each for each in self._readings if each.at_s >= last.at_s - _RATE_S)
        if since is last:
            since = self._readings[-2]
        span_s = last.at_s - since.at_s
        tokens = {
            model: (count - since.tokens.get(model, 0.0)) / span_s
            for model, count in last.tokens.items()
            if count > since.tokens.get(model, 0.0)
        }
        return TrafficNow(
            (last.requests - since.requests) / span_s,
            (last.failed - since.failed) / span_s,
            (last.busy_s - since.busy_s) / span_s,
            sum(tokens.values()),
            (last.earned_micro - since.earned_micro) / span_s,
            quantiles(first.durations, last.durations),
            quantiles(first.firsts, last.firsts),
            tokens,
        )


def quantiles(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float] | None:
    """p50, p95 and p99 of what came between two readings of a histogram, linear within a bucket; None of nothing.

    What lies beyond the last bound is that bound, as in Prometheus.
    """
    bounds = sorted(after, key=float)
    counts = [after[bound] - before.get(bound, 0.0) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    return {f"p{share * 100:.0f}": _quantile(share, list(map(float, bounds)), counts) for share in _SHARES}


def _quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float:
    wanted = share * counts[-1]
    place = next(place for place, count in enumerate(counts) if count >= wanted)
    if place == len(bounds) - 1:
        return bounds[-2] if len(bounds) > 1 else 0.0
    low, under = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    return low + (bounds[place] - low) * (wanted - under) / (counts[place] - under)


def _load(since: _Reading, until: _Reading) -> LoadPoint:
    span_s = until.at_s - since.at_s
    return LoadPoint(until.at_s, (until.requests - since.requests) / span_s, (until.busy_s - since.busy_s) / span_s)


def _reading(samples: Sequence[Sample], now_s: float) -> _Reading:
    sums: dict[str, float] = {}
    tokens: dict[str, float] = {}
    buckets: dict[str, dict[str, float]] = {_DURATION: {}, _FIRST: {}}
    for sample in samples:
        sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        if sample.name in buckets:
            bound = sample.labels["le"]
            buckets[sample.name][bound] = buckets[sample.name].get(bound, 0.0) + sample.value
        elif sample.name == "prsm_tokens_total":
            model = sample.labels["model"]
            tokens[model] = tokens.get(model, 0.0) + sample.value
    return _Reading(
        now_s,
        sums.get("prsm_requests_total", 0.0),
        sums.get("prsm_failed_requests_total", 0.0),
        sums.get("prsm_request_duration_seconds_sum", 0.0),
        tokens,
        sums.get("prsm_cost_micro_ftns_total", 0.0),
        buckets[_DURATION],
        buckets[_FIRST],
    )
