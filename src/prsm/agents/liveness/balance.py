"""Which instance of a model is asked: of two drawn at random, the one where the call would cost less time. Pure.

Two choices bring the longest queue from log n / log log n down to log log n (Mitzenmacher, 2001), and a draw keeps
nodes that see the same from all asking the same instance, as they would with one choice of the best.
"""

from collections.abc import Callable
from dataclasses import dataclass

_LEAST_SUCCESS = 0.05


@dataclass(frozen=True, slots=True)
class Load:
    """What one more call would meet: calls under way, the wait to expect (None: unknown), the instance's share of calls
    (slow start), the share of calls that succeed, and whether it is to be asked only when no other is left.
    """

    in_flight: int = 0
    latency_s: float | None = None
    weight: float = 1.0
    success: float = 1.0
    out: bool = False


def order(count: int, choices: int, load_of: Callable[[int], Load], draw: Callable[[], float]) -> list[int]:
    """The instances 0 to ``count`` - 1: the chosen one, then those to fall back on.

    ``choices`` places are filled by two choices each; the rest follow as they come, those found out last. ``draw``
    gives numbers uniform in [0, 1). Only the instances drawn are looked at.
    """
    pool, resting = list(range(count)), list[int]()
    chosen: list[int] = []
    waiting: tuple[int, Load] | None = None

    def next_live() -> tuple[int, Load] | None:
        while pool:
            place = int(draw() * len(pool))
            pool[place], pool[-1] = pool[-1], pool[place]
            number = pool.pop()
            load = load_of(number)
            if not load.out:
                return number, load
            resting.append(number)
        return None

    while len(chosen) < choices:
        first, second = waiting or next_live(), next_live()
        if first is None:
            break
        if second is not None and _costlier(first[1], second[1]):
            first, second = second, first
        chosen.append(first[0])
        waiting = second
    return [*chosen, *([waiting[0]] if waiting else []), *pool, *resting]


def _costlier(one: Load, other: Load) -> bool:
    """Whether ``one`` costs more than ``other``; where a wait is not known it is taken to be as the other's."""
    known_s = one.latency_s if one.latency_s is not None else other.latency_s
    ours_s = 1.0 if known_s is None else known_s
    theirs_s = ours_s if other.latency_s is None else other.latency_s
    return _cost(one, ours_s) > _cost(other, theirs_s)


def _cost(load: Load, latency_s: float) -> float:
    return (load.in_flight + 1) * latency_s / (load.weight * max(load.success, _LEAST_SUCCESS))
