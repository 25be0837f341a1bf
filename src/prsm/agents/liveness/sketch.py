"""Quantiles of a stream of positive numbers within 2 %, in fixed memory, the old ones fading by half each half-life.

Buckets grow by a constant factor, as in DDSketch (Masson, Rim, Lee, VLDB 2019). Fading is forward decay (Cormode et
al., ICDE 2009): a later value weighs more, and nothing that is stored has to be touched as time passes.
"""

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

RELATIVE_ERROR = 0.02
LOWEST, HIGHEST = 1e-3, 1e5
"""Values beyond these count as these: a millisecond to a day in seconds, or as many tokens per second."""
_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG = 1 / math.log(_GROWTH)
_FIRST = math.ceil(math.log(LOWEST) * _PER_LOG)
_BUCKETS = math.ceil(math.log(HIGHEST) * _PER_LOG) - _FIRST + 1
_LAST = _BUCKETS - 1
_MIDDLE = 2 / (_GROWTH + 1)
_MOST_HALVINGS = 500.0
"""Weights are doubles: before one reaches 2^500 all are scaled down, once in 500 half-lives."""


class Sketch:
    """Values with the time they came, in seconds of any one clock. Memory: 3.8 KB, whatever is added."""

    __slots__ = ("_landmark_s", "_per_s", "_total", "_weights")

    def __init__(self, half_life_s: float) -> None:
        if not half_life_s > 0:
            raise ValueError("a half-life is more than zero seconds")
        self._per_s = 1 / half_life_s
        self._landmark_s = 0.0
        self._weights = array("d", bytes(8 * _BUCKETS))
        self._total = 0.0

    def add(self, value: float, now_s: float) -> None:
        """One value as of ``now_s``, in constant time; a late one weighs as what it has faded to."""
        halvings = (now_s - self._landmark_s) * self._per_s
        if halvings > _MOST_HALVINGS:
            self._move_landmark(now_s)
            halvings = 0.0
        weight = 2.0**halvings
        if value <= LOWEST:
            place = 0
        elif value >= HIGHEST:
            place = _LAST
        else:
            place = math.ceil(math.log(value) * _PER_LOG) - _FIRST
        self._weights[place] += weight
        self._total += weight

    def count(self, now_s: float) -> float:
        """How many values there are as of ``now_s``, each counted as what is left of it."""
        return self._total * 2.0 ** min((self._landmark_s - now_s) * self._per_s, _MOST_HALVINGS)

    def quantiles(self, shares: Sequence[float]) -> list[float] | None:
        """For each share in (0, 1] the least value with so much of the weight at or below it, within 2 %.

        None where nothing was added.
        """
        if self._total <= 0:
            return None
        reached: Any = np.frombuffer(self._weights).cumsum()  # Any: numpy leaves the result's type open
        return [_value(min(int(reached.searchsorted(share * reached[-1])), _LAST)) for share in shares]

    def merge(self, other: "Sketch") -> None:
        """Add all that ``other``, of the same half-life and clock, has; the same as if it had been added here."""
        if other._per_s != self._per_s:
            raise ValueError("only sketches of one half-life can be merged")
        if other._landmark_s > self._landmark_s:
            self._move_landmark(other._landmark_s)
        scale = 2.0 ** ((other._landmark_s - self._landmark_s) * self._per_s)
        ours, theirs = np.frombuffer(self._weights), np.frombuffer(other._weights)
        ours += theirs * scale
        self._total += other._total * scale

    def clear(self) -> None:
        """Forget everything."""
        self._weights = array("d", bytes(8 * _BUCKETS))
        self._total = 0.0

    def _move_landmark(self, to_s: float) -> None:
        scale = 2.0 ** ((self._landmark_s - to_s) * self._per_s)
        weights = np.frombuffer(self._weights)
        weights *= scale
        self._total *= scale
        self._landmark_s = to_s


def _value(place: int) -> float:
    """The value that is within the relative error of every value of the bucket."""
    return _MIDDLE * math.exp((place + _FIRST) / _PER_LOG)
