"""How much a mean is known, however often one looks: intervals that hold at all times together.

Each observation lies between 0 and 1 (an error, a slow answer, a rating). The interval is that of Robbins' mixture with
Jeffreys' prior: by Ville's inequality the chance that the true mean is ever outside it is at most ``alpha``. That a
guard looks after every answer therefore costs nothing, unlike with intervals for a sample of a size fixed before.
Robbins (1970), "Statistical methods related to the law of the iterated logarithm"; for means of bounded variables by
convexity of the likelihood ratio.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, lgamma, log

_PRIOR = 0.5
_STEPS = 60


@dataclass(frozen=True, slots=True)
class Mean:
    """``count`` observations that sum to ``total``."""

    count: int = 0
    total: float = 0.0

    @property
    def value(self) -> float:
        """The mean seen; 0 where nothing was."""
        return self.total / self.count if self.count else 0.0

    def plus(self, observation: float) -> "Mean":
        """With one more."""
        return Mean(self.count + 1, self.total + min(max(observation, 0.0), 1.0))


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a mean, or a difference of two, lies."""

    low: float
    high: float


def interval(mean: Mean, alpha: float) -> Interval:
    """The means that the observations do not refute at level ``alpha`` (0 to 1)."""
    ones, zeros = mean.total, mean.count - mean.total
    bound = log(1 / alpha) - _log_beta(ones + _PRIOR, zeros + _PRIOR) + _log_beta(_PRIOR, _PRIOR)

    def refuted(p: float) -> bool:
        return -_times_log(ones, p) - _times_log(zeros, 1 - p) >= bound

    value = mean.value
    low = _edge(refuted, 0.0, value) if refuted(0.0) else 0.0
    high = _edge(refuted, 1.0, value) if refuted(1.0) else 1.0
    return Interval(low, high)


def difference(ours: Mean, theirs: Mean, alpha: float) -> Interval:
    """Where ``ours`` minus ``theirs`` lies; half of ``alpha`` is spent on each."""
    if not (ours.count and theirs.count):
        return Interval(-1.0, 1.0)
    mine, others = interval(ours, alpha / 2), interval(theirs, alpha / 2)
    return Interval(mine.low - others.high, mine.high - others.low)


def _edge(refuted: Callable[[float], bool], outside: float, inside: float) -> float:
    """Bisection between a refuted mean and the one that was seen, which never is."""
    for _ in range(_STEPS):
        middle = (outside + inside) / 2
        if refuted(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _times_log(weight: float, p: float) -> float:
    if not weight:
        return 0.0
    return weight * log(p) if p > 0 else -inf


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
