"""How suspicious a caller is: events add to a score that halves with time, and its height throttles or suspends. Pure.

A suspension ends by itself; each one in a row is twice as long, up to a bound, until a quiet time has passed.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class Event(StrEnum):
    """What a caller did. ``NEAR`` is a text just below a threshold, which counts while blocks are fresh: probing."""

    BLOCKED = "blocked"
    ESCALATED = "escalated"
    NEAR = "near"
    RATE_LIMITED = "rate_limited"
    BREAKER = "breaker"


@dataclass(frozen=True, slots=True)
class Law:
    """Weights and bounds. ``half_life_s`` halves a score; a quiet ``forget_s`` forgets earlier suspensions."""

    blocked: float = 1.0
    escalated: float = 3.0
    near: float = 0.5
    rate_limited: float = 0.02
    breaker: float = 0.5
    half_life_s: float = 600
    throttle_at: float = 3
    suspend_at: float = 8
    throttle_s: float = 600
    suspend_s: float = 900
    longest_s: float = 86_400
    forget_s: float = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Threat:
    """One caller's state; times are seconds of one clock, 0 where there is none."""

    score: float = 0.0
    at_s: float = 0.0
    throttled_until_s: float = 0.0
    suspended_until_s: float = 0.0
    suspensions: int = 0
    reason: str = ""


UNSUSPECTED: Final = Threat()


def score_at(threat: Threat, now_s: float, law: Law) -> float:
    """The score as of ``now_s``."""
    return threat.score * 0.5 ** (max(0.0, now_s - threat.at_s) / law.half_life_s)


def noted(threat: Threat, event: Event, now_s: float, law: Law, times: int = 1) -> Threat:
    """The state after ``event`` happened ``times``; an event during a suspension lengthens nothing."""
    score = score_at(threat, now_s, law)
    if event is Event.NEAR and score < law.blocked / 2:
        return threat  # nobody probes who was never blocked
    score += getattr(law, event.value) * times
    after = replace(threat, score=score, at_s=max(now_s, threat.at_s))
    if score >= law.suspend_at and threat.suspended_until_s <= now_s:
        quiet = now_s - threat.suspended_until_s > law.forget_s
        before = 0 if quiet else threat.suspensions
        last_s = min(law.longest_s, law.suspend_s * 2.0 ** min(before, 30))
        return replace(
            after,
            score=law.throttle_at,  # who comes back is watched, not suspended again at the first event
            throttled_until_s=now_s + last_s + law.throttle_s,
            suspended_until_s=now_s + last_s,
            suspensions=before + 1,
            reason=f"suspended after {event.value.replace('_', ' ')} requests",
        )
    if score >= law.throttle_at:
        until_s = max(threat.throttled_until_s, now_s + law.throttle_s)
        reason = threat.reason if threat.suspended_until_s > now_s else f"slowed after {event.value} requests"
        return replace(after, throttled_until_s=until_s, reason=reason)
    return after


def lifted(threat: Threat, now_s: float) -> Threat:
    """The state after a person has cleared the caller: nothing counts any more, earlier suspensions neither."""
    return Threat(at_s=now_s)
