"""A trial of a candidate version against the stable one: what was seen of each, what that shows, when it must end.

Pure. Errors, slow answers and ratings are each a mean between 0 and 1, so one kind of interval judges all three. A
candidate is withdrawn when it is certain that it is worse by more than the trial allows, never for bad luck: the chance
of withdrawing one that is within its limits is at most ``ALPHA`` for the whole trial, however often it is judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prsm.agents.rollouts.assignment import CANDIDATE, SHADOW, STABLE
from prsm.agents.rollouts.evidence import Interval, Mean, difference, interval
from prsm.core.errors import InvalidRequest

ARMS: Final = (STABLE, CANDIDATE, SHADOW)
Metric = Literal["error", "slow", "quality"]
METRICS: Final[tuple[Metric, ...]] = ("error", "slow", "quality")
PREFERRED: Final = "preferred"
"""How often a judge prefers the answers of copies. It ends no trial: a judge has tastes, and is no caller."""
ALPHA: Final = 0.05
"""Chance that any verdict of a trial is wrong; a third of it for each metric."""
MIN_SEEN: Final = 10
"""Observations before a metric can end a trial: two failures in a row may be one blip, which no interval knows of."""
Counts = Mapping[tuple[str, str], Mean]
"""What was seen, by arm and metric."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much worse than the stable version a candidate may be, as shares; an answer is slow from ``slow_ms`` on."""

    error_increase: float = 0.02
    slow_increase: float = 0.10
    quality_drop: float = 0.05
    slow_ms: int = 5_000

    def __post_init__(self) -> None:
        for name in ("error_increase", "slow_increase", "quality_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidRequest(f"{name} is a share from 0 to below 1.", param=name)
        if not 1 <= self.slow_ms <= 600_000:
            raise InvalidRequest("slow_ms is from 1 to 600,000.", param="slow_ms")

    def allowed(self, metric: Metric) -> float:
        """How much worse the candidate may be by this metric."""
        return {"error": self.error_increase, "slow": self.slow_increase, "quality": self.quality_drop}[metric]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of two arms: what was seen, and where the difference (tried minus stable) lies."""

    arm: str
    metric: Metric
    stable: Mean
    tried: Mean
    stable_interval: Interval
    tried_interval: Interval
    difference: Interval


@dataclass(frozen=True, slots=True)
class Verdict:
    """``withdraw`` with the sentence why, or what there is to say of a trial that goes on."""

    withdraw: bool
    reason: str


def compare(counts: Counts, arm: str, metric: Metric) -> Comparison:
    """What is known of one metric of ``arm`` beside the stable version."""
    stable, tried = counts.get((STABLE, metric), Mean()), counts.get((arm, metric), Mean())
    alpha = ALPHA / len(METRICS)
    return Comparison(
        arm,
        metric,
        stable,
        tried,
        interval(stable, alpha / 2),
        interval(tried, alpha / 2),
        difference(tried, stable, alpha),
    )


def judge(counts: Counts, limits: Limits, arm: str = CANDIDATE) -> Verdict:
    """Whether the candidate must go, by the first limit that it certainly breaks."""
    found: dict[Metric, Comparison] = {metric: compare(counts, arm, metric) for metric in METRICS}
    worse: dict[Metric, tuple[float, str]] = {
        "error": (found["error"].difference.low, "fails"),
        "slow": (found["slow"].difference.low, "is too slow"),
        "quality": (-found["quality"].difference.high, "is rated worse"),
    }
    for metric, (certain, what) in worse.items():
        allowed = limits.allowed(metric)
        if certain > allowed and found[metric].tried.count >= MIN_SEEN:
            return Verdict(withdraw=True, reason=_broken(found[metric], certain, allowed, what))
    return Verdict(withdraw=False, reason=_standing(found, limits))


def _broken(seen: Comparison, certain: float, allowed: float, what: str) -> str:
    unit = "ratings" if seen.metric == "quality" else "answers"
    return (
        f"The candidate {what}: {seen.tried.value:.1%} over {seen.tried.count} {unit}, the stable version "
        f"{seen.stable.value:.1%} over {seen.stable.count}; certainly worse by {certain:.1%} ({allowed:.1%} allowed)."
    )


def _standing(found: Mapping[Metric, Comparison], limits: Limits) -> str:
    answers = found["error"].tried.count
    if not answers:
        return "No answers of the candidate yet."
    cleared = [metric for metric in METRICS if _cleared(found[metric], limits.allowed(metric))]
    if len(cleared) == len(METRICS):
        return f"After {answers} answers the candidate is certainly within every limit."
    open_still = ", ".join(metric for metric in METRICS if metric not in cleared)
    return f"After {answers} answers no limit is broken; not certain yet: {open_still}."


def _cleared(seen: Comparison, allowed: float) -> bool:
    """Certainly not worse than allowed."""
    if seen.metric == "quality":
        return -seen.difference.low <= allowed
    return seen.difference.high <= allowed
