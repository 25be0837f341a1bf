"""The universal scalability law fitted to what a node carried: how throughput grows with the requests in work. Pure.

X(N) = λN / (1 + σ(N-1) + κN(N-1)): λ of one alone, σ what must wait in turn, κ what each costs every other. (Gunther,
"Guerrilla Capacity Planning", 2007.) N/X is linear in 1, N-1 and N(N-1), so that least squares answer exactly; the
intervals are percentiles of fits to points drawn again (bootstrap).
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MIN_POINTS = 12
MIN_SPREAD = 3.0
"""The most requests in work over the least, below which the curve's bend cannot be seen."""
_DRAWS = 200
_LOW, _HIGH = 5.0, 95.0
_Array = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate, and where it lies with 90 % confidence; infinite where there is no limit to be seen."""

    value: float
    low: float
    high: float


class Scaling(NamedTuple):
    """A fitted law. ``peak_in_work`` and ``peak_per_s``: where throughput is greatest; ``fit``: R² of throughput."""

    alone_per_s: Interval
    contention: Interval
    coherency: Interval
    peak_in_work: Interval
    peak_per_s: Interval
    fit: float
    points: int


def fit(in_work: Sequence[float], per_s: Sequence[float], seed: int = 0) -> Scaling | str:
    """The law of these points, or in one sentence why there is none to be seen."""
    given = [(n, x) for n, x in zip(in_work, per_s, strict=True) if n > 0 and x > 0]
    if len(given) < MIN_POINTS:
        return f"{len(given)} minutes with requests were seen; {MIN_POINTS} are wanted."
    n, x = np.array([each[0] for each in given]), np.array([each[1] for each in given])
    if n.max() / n.min() < MIN_SPREAD:
        return "The load was too even to see how throughput grows with it."
    found = _solve(n, x)
    drawing = np.random.default_rng(seed)
    drawn = [_solve(n[chosen], x[chosen]) for chosen in drawing.integers(0, len(n), (_DRAWS, len(n)))]
    rows = np.array([[*each, *_peak(each)] for each in drawn])
    values = [*found, *_peak(found)]
    intervals = [Interval(value, *_between(rows[:, column])) for column, value in enumerate(values)]
    left = x - throughput(n, *found)
    spread = float(((x - x.mean()) ** 2).sum())
    return Scaling(*intervals, fit=1 - float((left**2).sum()) / spread if spread else 1.0, points=len(n))


def throughput(n: _Array, alone: float, contention: float, coherency: float) -> _Array:
    """X(N)."""
    return alone * n / (1 + contention * (n - 1) + coherency * n * (n - 1))


def _solve(n: _Array, x: _Array) -> tuple[float, float, float]:
    """λ, σ and κ, the latter two not negative: the best of the fits with one, both or none of them."""
    columns, wanted = np.stack([np.ones_like(n), n - 1, n * (n - 1)], axis=1), n / x
    weights = 1 / wanted  # relative errors count alike
    best, least = (float(np.median(x / n)), 0.0, 0.0), math.inf
    for size in (1, 2, 3):
        for chosen in combinations((0, 1, 2), size):
            if 0 not in chosen:
                continue
            solved: Any = np.linalg.lstsq(columns[:, chosen] * weights[:, None], wanted * weights, rcond=None)[0]
            full = np.zeros(3)
            full[list(chosen)] = solved
            error = float((((columns @ full) - wanted) * weights).dot(((columns @ full) - wanted) * weights))
            if full[0] > 0 and (full >= 0).all() and error < least * (1 - 1e-9):
                best, least = (1 / full[0], full[1] / full[0], full[2] / full[0]), error
    return best


def _peak(law: tuple[float, float, float]) -> tuple[float, float]:
    alone, contention, coherency = law
    if coherency > 0 and contention < 1:
        at = max(1.0, math.sqrt((1 - contention) / coherency))
        return at, float(throughput(np.array([at]), *law)[0])
    return math.inf, alone / contention if contention > 0 else math.inf


def _between(values: _Array) -> tuple[float, float]:
    ordered = np.sort(values)  # with infinities, which percentiles between two would spoil
    last = len(ordered) - 1
    return float(ordered[round(last * _LOW / 100)]), float(ordered[round(last * _HIGH / 100)])
