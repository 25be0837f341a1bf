"""Which rules hold now, and what is left of each error budget: the same that Prometheus would find. Pure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prsm.monitoring.objectives.declared import (
    AlertRule,
    Burn,
    Forecast,
    Level,
    Objectives,
    Rate,
    Severity,
    Share,
    Slo,
)
from prsm.monitoring.objectives.history import History, Labels, line_ahead
from prsm.monitoring.objectives.rules import alert_name, burn_summary
from prsm.monitoring.objectives.selector import Sample


class Finding(NamedTuple):
    """A rule whose condition holds now, for one series."""

    rule: str
    severity: Severity
    for_s: int
    labels: Labels
    summary: str
    value: float


class Budget(NamedTuple):
    """An objective as it stands; ``left`` is a share of its error budget, below 0 where overspent."""

    name: str
    objective: float
    means: str
    events: float
    bad: float
    left: float
    burn_1h: float


def findings(objectives: Objectives, samples: Sequence[Sample], history: History, now_s: float) -> list[Finding]:
    """All that holds as of ``now_s``; ``samples`` are those that the history was fed with last."""
    burning = [
        Finding(alert_name(slo, burn), burn.severity, 0, (), burn_summary(slo, burn), factor)
        for slo in objectives.slos
        for burn in objectives.burns
        if (factor := _burning(slo, burn, history, now_s)) is not None
    ]
    levels = [
        Finding(rule.name, rule.severity, rule.for_s, labels, _named(rule, labels), value)
        for rule in objectives.alerts
        for labels, value in _beyond(rule, samples, history, now_s)
    ]
    return burning + levels


def budgets(objectives: Objectives, history: History, now_s: float) -> list[Budget]:
    """Each objective over the whole window of its budget."""
    found: list[Budget] = []
    for slo in objectives.slos:
        events, bad = _counted(slo, history, objectives.budget_s, now_s)
        spent = bad / (events * slo.allowed) if events else 0.0
        burn = _share(slo, history, 3600, now_s) / slo.allowed
        found.append(Budget(slo.name, slo.objective, slo.means, events, bad, 1 - spent, burn))
    return found


def _burning(slo: Slo, burn: Burn, history: History, now_s: float) -> float | None:
    """How many times too fast, where that is beyond the factor in both windows."""
    if _counted(slo, history, burn.long_s, now_s)[0] < slo.min_events:
        return None
    limit = burn.factor * slo.allowed
    long = _share(slo, history, burn.long_s, now_s)
    return long / slo.allowed if long > limit and _share(slo, history, burn.short_s, now_s) > limit else None


def _share(slo: Slo, history: History, window_s: float, now_s: float) -> float:
    events, bad = _counted(slo, history, window_s, now_s)
    return bad / events if events else 0.0


def _counted(slo: Slo, history: History, window_s: float, now_s: float) -> tuple[float, float]:
    events, part = history.increase(slo.total, window_s, now_s), history.increase(slo.part, window_s, now_s)
    return events, part if slo.bad else events - part


def _beyond(
    rule: AlertRule, samples: Sequence[Sample], history: History, now_s: float
) -> Iterator[tuple[Labels, float]]:
    match rule.condition:
        case Level(value) as level:
            for sample in value.of(samples):
                if _outside(sample.value, level):
                    yield _labels(sample), sample.value
        case Share(part, whole) as share:
            wholes = {_labels(sample): sample.value for sample in whole.of(samples)}
            for sample in part.of(samples):
                of = wholes.get(_labels(sample), 0.0)
                if of and _outside(sample.value / of, share):
                    yield _labels(sample), sample.value / of
        case Rate() as rate:
            grown = history.increase(rate.value, rate.window_s, now_s)
            of = history.increase(rate.of, rate.window_s, now_s) if rate.of else 0.0
            if grown / rate.window_s > rate.above and (not rate.of or (of and grown / of > rate.share_above)):
                yield (), grown / rate.window_s
        case Forecast() as forecast:
            yield from _running_out(forecast, samples, history, now_s)


def _running_out(
    forecast: Forecast, samples: Sequence[Sample], history: History, now_s: float
) -> Iterator[tuple[Labels, float]]:
    wholes = {_labels(sample): sample.value for sample in forecast.whole.of(samples)}
    for sample in forecast.value.of(samples):
        labels = _labels(sample)
        points = history.points(forecast.value, labels, forecast.window_s, now_s)
        ahead = line_ahead(points, now_s, forecast.ahead_s)
        of = wholes.get(labels, 0.0)
        if ahead is not None and ahead < forecast.below and of and sample.value / of < forecast.share_below:
            yield labels, ahead


def _outside(value: float, limit: Level | Share) -> bool:
    return value > limit.above if limit.above is not None else value < (limit.below or 0.0)


def _labels(sample: Sample) -> Labels:
    return tuple(sorted(sample.labels.items()))


def _named(rule: AlertRule, labels: Labels) -> str:
    summary = rule.summary
    for name, value in labels:
        summary = summary.replace(f"{{{name}}}", value)
    return summary
