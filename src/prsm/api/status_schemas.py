"""A node as a whole, as its API shows it: the state of parts, traffic, models, money, alerts, budgets, capacity."""

import math
from datetime import datetime

from pydantic import BaseModel, Field

from prsm.api.alert_schemas import AlertShown, maybe_at, shown_alert
from prsm.api.schemas import Part
from prsm.monitoring.capacity.forecast import Hit
from prsm.monitoring.capacity.scaling import Interval, Scaling
from prsm.monitoring.objectives.evaluation import Budget
from prsm.node.status import Capacity, State


class TrafficShown(BaseModel):
    """Rates of the last minute, latencies of the last five; null where nothing came."""

    requests_per_s: float
    failed_per_s: float
    in_work: float = Field(description="Requests in work, on average: the time that all took, for each second.")
    tokens_per_s: float
    earned_micro_per_s: float | None = Field(description="What the node took in; told to admins only.")
    duration_ms: dict[str, float] | None
    first_token_ms: dict[str, float] | None


class ModelNow(BaseModel):
    """One model: whether it answers, and what it is asked."""

    model: str
    availability: float | None
    tokens_per_s: float
    resting: bool


class Money(BaseModel):
    """The caller's account; for an admin also the node's and the treasury's. Micro-FTNS."""

    balance_micro: int
    held_micro: int
    node_balance_micro: int | None = None
    treasury_balance_micro: int | None = None


class BudgetShown(BaseModel):
    """An objective; ``left`` is the share of its error budget, negative where overspent."""

    name: str
    objective: float
    means: str
    events: float
    bad: float
    left: float
    burn_1h: float = Field(description="How many times too fast it was spent over the last hour.")


class StatusShown(BaseModel):
    """Everything at a glance. ``money`` is null while PostgreSQL is away; ``alerts`` are told to admins only."""

    node: str
    version: str
    evaluated_at: datetime | None
    ready: bool
    parts: dict[str, Part]
    traffic: TrafficShown
    models: list[ModelNow]
    model_count: int
    money: Money | None
    firing: int
    alerts: list[AlertShown] | None
    budgets: list[BudgetShown]


class Estimate(BaseModel):
    """An estimate and where it lies with 90 % confidence; null: no limit is to be seen."""

    value: float | None
    low: float | None
    high: float | None


class ScalingShown(BaseModel):
    """The universal scalability law fitted to the last six hours' minutes."""

    alone_per_s: Estimate
    contention: Estimate
    coherency: Estimate
    peak_in_work: Estimate
    peak_per_s: Estimate
    fit: float = Field(description="R squared of throughput.")
    points: int


class LevelShown(BaseModel):
    """Something that may be used up; the times are null where it does not grow for sure."""

    used: float
    limit: float
    hit_in_s: float | None
    hit_earliest_s: float | None
    hit_latest_s: float | None


class CapacityShown(BaseModel):
    """How much the node carries, how much it could, and what is used up when. By Little's law ``in_work`` is
    ``requests_per_s`` times the mean time that a request takes, ``mean_s``."""

    in_work: float
    requests_per_s: float
    mean_s: float | None
    scaling: ScalingShown | None
    why_not: str = Field(description="Why no law was fitted; empty where one was.")
    levels: dict[str, LevelShown]


def shown_traffic(state: State, *, trusted: bool) -> TrafficShown:
    """Traffic for callers; money of others only for who is ``trusted``."""
    now = state.traffic
    return TrafficShown(
        requests_per_s=_round(now.requests_per_s),
        failed_per_s=_round(now.failed_per_s),
        in_work=_round(now.in_work),
        tokens_per_s=_round(now.tokens_per_s),
        earned_micro_per_s=_round(now.earned_micro_per_s) if trusted else None,
        duration_ms=_ms(now.duration_s),
        first_token_ms=_ms(now.first_token_s),
    )


def shown_budget(budget: Budget) -> BudgetShown:
    """A budget for callers."""
    return BudgetShown(**budget._asdict())


def shown_alerts(state: State) -> list[AlertShown]:
    """Alerts for admins, the pages first."""
    return [shown_alert(each) for each in sorted(state.alerts, key=lambda one: (one.severity, one.since_s))]


def shown_capacity(found: Capacity) -> CapacityShown:
    """Capacity for callers."""
    law = found.scaling if isinstance(found.scaling, Scaling) else None
    return CapacityShown(
        in_work=_round(found.in_work),
        requests_per_s=_round(found.per_s),
        mean_s=_round(found.in_work / found.per_s) if found.per_s else None,
        scaling=law and _law(law),
        why_not="" if isinstance(found.scaling, Scaling) else found.scaling,
        levels={name: _level(*level) for name, level in found.levels.items()},
    )


def evaluated(state: State) -> datetime | None:
    """When it was evaluated last."""
    return maybe_at(state.at_s or None)


def _law(law: Scaling) -> ScalingShown:
    return ScalingShown(
        alone_per_s=_estimate(law.alone_per_s),
        contention=_estimate(law.contention),
        coherency=_estimate(law.coherency),
        peak_in_work=_estimate(law.peak_in_work),
        peak_per_s=_estimate(law.peak_per_s),
        fit=_round(law.fit),
        points=law.points,
    )


def _estimate(interval: Interval) -> Estimate:
    value, low, high = map(_finite, interval)
    return Estimate(value=value, low=low, high=high)


def _level(used: float, limit: float, hit: Hit | None) -> LevelShown:
    when = (None, None, None) if hit is None else map(_finite, hit)
    in_s, earliest_s, latest_s = when
    return LevelShown(used=used, limit=limit, hit_in_s=in_s, hit_earliest_s=earliest_s, hit_latest_s=latest_s)


def _finite(value: float) -> float | None:
    return _round(value) if math.isfinite(value) else None


def _ms(found: dict[str, float] | None) -> dict[str, float] | None:
    return found and {name: round(value * 1000, 1) for name, value in found.items()}


def _round(value: float) -> float:
    return float(f"{value:.6g}")
