"""What a count of right answers shows: intervals, paired tests and how many prompts a difference takes to be seen.

Pure; the only randomness is the bootstrap's, by its seed. Shares are from 0 to 1; ``confidence`` is two-sided. For data
that are looked at while they come, see ``agents/rollouts/evidence.py``: nothing here may be read again and again.
"""

from collections.abc import Mapping, Sequence
from math import ceil, comb, exp, log, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prsm.teachers.curriculum import bounds

CONFIDENCE = 0.95
_NORMAL = NormalDist()
_BISECTIONS = 60
_REDRAWN_AT_ONCE = 1_000


class Interval(NamedTuple):
    """Where a share, or a difference of two, lies."""

    low: float
    high: float


def wilson(right: float, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share: near its level on average over shares. Wilson (1927), JASA 22.

    ``right`` may be a sum of shares; the interval then errs wide.
    """
    return Interval(*bounds(right, count, _NORMAL.inv_cdf((1 + confidence) / 2)))


def clopper_pearson(right: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """The exact interval of a share: never below its level, whatever the share. Clopper and Pearson (1934)."""
    tail = (1 - confidence) / 2
    low = _share_with_tail(right, count, tail) if right else 0.0
    high = 1 - _share_with_tail(count - right, count, tail) if right < count else 1.0
    return Interval(low, high)


class SignTest(NamedTuple):
    """Prompts on which one did better and the other did, and the chance of that if neither is better."""

    gained: int
    lost: int
    p_better: float
    p_worse: float
    p_either: float


def sign_test(gained: int, lost: int) -> SignTest:
    """The exact test on the prompts where two differ; with one answer a prompt it is McNemar's.

    ``p_better`` is one-sided: so many gains or more, had each differing prompt been a fair coin. McNemar (1947).
    """
    differing = gained + lost
    better, worse = _fair_coin_tail(gained, differing), _fair_coin_tail(lost, differing)
    return SignTest(gained, lost, better, worse, min(1.0, 2 * min(better, worse)))


def paired_bootstrap(
    differences: Mapping[str, Sequence[float]], *, seed: int, draws: int = 10_000, confidence: float = CONFIDENCE
) -> Interval:
    """The percentile interval of the mean difference a prompt, redrawn within each task (stratum).

    ``differences`` are candidate minus live of each prompt, by task. A redraw is a multinomial over the few values
    that differences have, which is the same as redrawing the prompts. Efron and Tibshirani (1993), chapter 13.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(draws)
    for _, values in sorted(differences.items()):
        distinct, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
        for begin in range(0, draws, _REDRAWN_AT_ONCE):
            some = min(_REDRAWN_AT_ONCE, draws - begin)
            redrawn = generator.multinomial(len(values), counts / len(values), some)
            total[begin : begin + some] += redrawn @ distinct
    means: npt.NDArray[np.float64] = total / sum(map(len, differences.values()))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Each p-value corrected for there being several: any false alarm is that rare. Holm (1979)."""
    corrected: dict[str, float] = {}
    reached = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        reached = max(reached, min(1.0, p * (len(p_values) - rank)))
        corrected[name] = reached
    return corrected


def needed_prompts(difference: float, differing: float, *, alpha: float = 0.01, power: float = 0.9) -> int:
    """How many prompts show a true ``difference`` in share, one-sided at ``alpha``, with a chance of ``power``.

    ``differing`` is the share of prompts on which the two differ, at least the difference. Connor (1987).
    """
    if not 0 < difference <= differing <= 1:
        raise ValueError("0 < difference <= differing <= 1 must hold")
    spread = sqrt(differing - difference * difference)
    reach = _NORMAL.inv_cdf(1 - alpha) * sqrt(differing) + _NORMAL.inv_cdf(power) * spread
    return ceil((reach / difference) ** 2)


def detectable_difference(count: int, differing: float, *, alpha: float = 0.01, power: float = 0.9) -> float:
    """The smallest true difference in share that ``count`` prompts show; ``differing`` where none is small enough."""
    low, high = 0.0, differing
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle and needed_prompts(middle, differing, alpha=alpha, power=power) <= count:
            high = middle
        else:
            low = middle
    return high


def _fair_coin_tail(heads: int, tosses: int) -> float:
    """P(so many heads or more), from whole numbers: exact but for the last rounding."""
    term = ways = comb(tosses, heads)
    for index in range(heads, tosses):
        term = term * (tosses - index) // (index + 1)
        ways += term
    return ways / 2**tosses


def _share_with_tail(right: int, count: int, tail: float) -> float:
    """The share under which so many right answers or more have the chance ``tail``."""
    factors = np.log(np.arange(1, count + 1))
    factorials = np.concatenate([[0.0], np.cumsum(factors)])
    rights = np.arange(right, count + 1)
    ways = factorials[count] - factorials[rights] - factorials[count - rights]
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        share = (low + high) / 2
        terms = ways + rights * log(share) + (count - rights) * log(1 - share)
        peak = float(terms.max())
        if exp(peak) * float(np.exp(terms - peak).sum()) < tail:
            low = share
        else:
            high = share
    return (low + high) / 2
