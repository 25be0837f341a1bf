"""Which instances of a model get no calls for a while because their peers do far better, and how they come back. Pure.

This stands beside the circuit breaker: that one sees an instance alone and opens when most calls fail; this one
compares, so it finds the one that fails a third of its calls or takes five times as long. (Envoy's outlier detection.)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class EjectionPolicy:
    """When an instance is ejected and how it returns.

    It is judged from ``min_calls`` on. It is out when its failures are certainly (a one-sided 97.5 % bound) more than
    its peers' by ``failure_gap``, or when its median answer begins ``slow_factor`` times later, or comes so much
    slower, than its peers'. Never are more than ``max_share`` of a model's instances out. It is out
    for ``eject_s``, doubled at each ejection up to ``max_eject_s``; ``forgive_s`` without another takes one doubling
    back. On return its share of the calls grows over ``ramp_s`` from ``first_weight`` to one.
    """

    min_calls: float = 10.0
    failure_gap: float = 0.15
    slow_factor: float = 3.0
    slow_floor_s: float = 0.05
    max_share: float = 0.5
    eject_s: float = 30.0
    max_eject_s: float = 900.0
    forgive_s: float = 300.0
    ramp_s: float = 30.0
    first_weight: float = 0.1


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether an instance is out, and since when it is back."""

    until_s: float = -math.inf
    """Out until then; afterwards, back since then."""
    ejections: int = 0
    reason: str = ""

    def out(self, now_s: float) -> bool:
        """Whether it gets no calls now."""
        return now_s < self.until_s

    def weight(self, now_s: float, policy: EjectionPolicy) -> float:
        """Its share of the calls that it would get, in (0, 1]: grows after a return."""
        back_s = now_s - self.until_s
        return 1.0 if back_s >= policy.ramp_s else max(policy.first_weight, back_s / policy.ramp_s)


NEVER_OUT = Standing()


@dataclass(frozen=True, slots=True)
class Seen:
    """What an instance is judged by: calls and failures (faded counts), median wait and pace, and of how many."""

    calls: float
    failures: float
    first_s: float | None = None
    first_count: float = 0.0
    tokens_s: float | None = None
    pace_count: float = 0.0


def judge(
    seen: Mapping[str, Seen], standings: Mapping[str, Standing], now_s: float, policy: EjectionPolicy
) -> dict[str, Standing]:
    """The instances to be ejected now, the worst first, among all of one model; often none."""
    live = {name: one for name, one in seen.items() if not standings[name].out(now_s)}
    room = int(len(seen) * policy.max_share) - (len(seen) - len(live))
    if room <= 0 or len(live) < 2:
        return {}
    found = [(excess, name, reason) for name in live for excess, reason in _excesses(name, live, policy)]
    worst: dict[str, str] = {}
    for _, name, reason in sorted(found, reverse=True):
        worst.setdefault(name, reason)
    return {name: eject(standings[name], reason, now_s, policy) for name, reason in list(worst.items())[:room]}


def eject(standing: Standing, reason: str, now_s: float, policy: EjectionPolicy) -> Standing:
    """The standing of one that goes out now."""
    forgiven = int(max(now_s - standing.until_s, 0.0) / policy.forgive_s) if standing.ejections else 0
    before = max(standing.ejections - forgiven, 0)
    out_s = min(policy.eject_s * 2.0 ** min(before, 64), policy.max_eject_s)
    return Standing(now_s + out_s, before + 1, reason)


def _excesses(name: str, live: Mapping[str, Seen], policy: EjectionPolicy) -> list[tuple[float, str]]:
    """In what the instance is far worse than its peers: how many times the limit, and a sentence."""
    own = live[name]
    peers = [one for other, one in live.items() if other != name]
    found: list[tuple[float, str]] = []
    rates = [one.failures / one.calls for one in peers if one.calls >= policy.min_calls]
    if own.calls >= policy.min_calls and rates:
        usual = median(rates)
        if _least_rate(own.failures, own.calls) > usual + policy.failure_gap:
            rate = own.failures / own.calls
            found.append(((rate - usual) / policy.failure_gap, f"fails {rate:.0%} of its calls, its peers {usual:.0%}"))
    waits = [one.first_s for one in peers if one.first_s is not None and one.first_count >= policy.min_calls]
    if own.first_s is not None and own.first_count >= policy.min_calls and waits:
        limit_s = max(median(waits) * policy.slow_factor, policy.slow_floor_s)
        if own.first_s > limit_s:
            told = f"begins to answer after {own.first_s:.2f} s, its peers after {median(waits):.2f} s"
            found.append((own.first_s / limit_s, told))
    paces = [one.tokens_s for one in peers if one.tokens_s is not None and one.pace_count >= policy.min_calls]
    if own.tokens_s is not None and own.pace_count >= policy.min_calls and paces:
        limit = median(paces) / policy.slow_factor
        if own.tokens_s < limit:
            told = f"gives {own.tokens_s:.1f} tokens per second, its peers {median(paces):.1f}"
            found.append((limit / own.tokens_s, told))
    return found


def _least_rate(failures: float, calls: float, z: float = 1.96) -> float:
    """The lower end of Wilson's interval for a rate (JASA 1927)."""
    rate, spread = failures / calls, z * z / calls
    middle = rate + spread / 2
    return (middle - z * math.sqrt(rate * (1 - rate) / calls + spread / calls / 4)) / (1 + spread)
