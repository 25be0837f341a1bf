"""When a level reaches its limit, if it goes on as it did: the median of all slopes, and how sure that is. Pure.

(Theil, 1950; Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968.) A few outliers do not move
it. The interval takes the points for independent; where they follow each other it is too narrow.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MIN_POINTS = 10
_Z = 1.645
"""Of the normal distribution: 90 % lie within."""
_MOST_POINTS = 180


class Trend(NamedTuple):
    """Change of a level for each second, and where that lies with 90 % confidence."""

    per_s: float
    low: float
    high: float


class Hit(NamedTuple):
    """Seconds until a limit is reached; ``earliest`` and ``latest`` with 90 % confidence, infinite: not at all."""

    in_s: float
    earliest_s: float
    latest_s: float


def trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """The trend of points (seconds, level); None of fewer than ten."""
    if len(points) < MIN_POINTS:
        return None
    step = -(-len(points) // _MOST_POINTS)
    kept = np.array(points[::-1][::step][::-1])
    first, second = np.triu_indices(len(kept), k=1)
    apart = kept[second, 0] - kept[first, 0]
    slopes = np.sort((kept[second, 1] - kept[first, 1])[apart > 0] / apart[apart > 0])
    if not len(slopes):
        return None
    n = len(kept)
    reach = _Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low, high = int((len(slopes) - reach) / 2), math.ceil((len(slopes) + reach) / 2)
    return Trend(float(np.median(slopes)), float(slopes[max(low, 0)]), float(slopes[min(high, len(slopes) - 1)]))


def hit(points: Sequence[tuple[float, float]], limit: float) -> Hit | None:
    """When the level reaches ``limit`` from below; None where too little was seen, or it does not grow for sure."""
    found = trend(points)
    if found is None or found.low <= 0:
        return None
    room = max(limit - points[-1][1], 0.0)
    return Hit(room / found.per_s, room / found.high, room / found.low)
