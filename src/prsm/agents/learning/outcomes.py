"""What counts as an outcome and how much: a verdict in full, what callers do afterwards little, faults least.

A caller who asks the same again soon after an answer was not content with it; one who says and asks nothing more
probably was. Both are weak, and together they leave a model where it stands that is as good as it is thought to be.
Faults of a model are one witness's word, the node's, so that an outage moves no estimate far. Pure.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from uuid import UUID

from prsm.agents.routers.quality import Item

REGENERATION_S: Final = 300
"""Within this long after an answer, the same question of the same caller is a regeneration."""
READING_S: Final = 1.0
"""Nobody judges an answer faster: what is asked again sooner is a program's repeat."""
MAX_REPEATS: Final = 3
"""The same question more often than this within REGENERATION_S is a program that polls; it says nothing of answers."""


class Ended(StrEnum):
    """How an observed answer ended."""

    WHOLE = "whole"
    LEFT = "left"
    CUT_OFF = "cut_off"
    ERROR = "error"


class Reason(StrEnum):
    """Why an answer was good or bad, as far as the caller says."""

    WRONG = "wrong"
    INCOMPLETE = "incomplete"
    OFF_TOPIC = "off_topic"
    REFUSED = "refused"
    UNSAFE = "unsafe"
    FORMAT = "format"
    STYLE = "style"
    SLOW = "slow"
    EXPENSIVE = "expensive"
    OTHER = "other"


FEEDBACK_WEIGHT: Final = 1.0
REASON_WEIGHTS: Final[Mapping[Reason, float]] = MappingProxyType(
    {Reason.FORMAT: 0.5, Reason.STYLE: 0.5, Reason.SLOW: 0.0, Reason.EXPENSIVE: 0.0}
)
"""Share of a verdict that is about the answer itself; what is not here counts in full. Speed and price are measured."""
REGENERATION_WEIGHT: Final = 0.2
CUT_OFF_WEIGHT: Final = 0.1
ERROR_WEIGHT: Final = 0.05
LEFT_WEIGHT: Final = 0.02
SILENCE_WEIGHT: Final = 0.02


@dataclass(frozen=True, slots=True)
class Seen:
    """One observed answer. ``caller`` and ``prompt`` are keyed hashes."""

    request_id: UUID
    model: str
    item: Item
    caller: int
    prompt: bytes
    asked_at: datetime
    answered_at: datetime
    ended: Ended


@dataclass(frozen=True, slots=True)
class Evidence:
    """One outcome for the law: ``success`` and ``weight`` are 0 to 1."""

    model: str
    item: Item
    caller: int
    success: float
    weight: float


def verdict(seen: Seen, score: float, reason: Reason | None) -> Evidence | None:
    """What a caller's explicit ``score`` of an answer says; None when the reason is not about the answer."""
    weight = FEEDBACK_WEIGHT * (REASON_WEIGHTS.get(reason, 1.0) if reason else 1.0)
    return Evidence(seen.model, seen.item, seen.caller, score, weight) if weight else None


def implied(seen: Seen, asks: Sequence[datetime], witness: int) -> Evidence | None:
    """What follows from how an answer ended and what its caller did then.

    ``asks`` are the times, in order, at which the same caller asked the same, this one among them.
    """
    if seen.ended in (Ended.CUT_OFF, Ended.ERROR):
        weight = CUT_OFF_WEIGHT if seen.ended is Ended.CUT_OFF else ERROR_WEIGHT
        return Evidence(seen.model, seen.item, witness, 0.0, weight)
    span = timedelta(seconds=REGENERATION_S)
    if _count(asks, seen.asked_at - span, seen.answered_at + span) > MAX_REPEATS:
        return None
    read_at = seen.answered_at + timedelta(seconds=READING_S)
    if _count(asks, read_at, seen.answered_at + span):
        return Evidence(seen.model, seen.item, seen.caller, 0.0, REGENERATION_WEIGHT)
    if seen.ended is Ended.LEFT:
        return Evidence(seen.model, seen.item, seen.caller, 0.0, LEFT_WEIGHT)
    return Evidence(seen.model, seen.item, seen.caller, 1.0, SILENCE_WEIGHT)


def settled(seen: Iterable[Seen], asks: Mapping[bytes, Sequence[datetime]], witness: int) -> list[Evidence]:
    """The evidence of observed answers of which no caller has said anything explicit."""
    found = (implied(each, asks.get(each.prompt, ()), witness) for each in seen)
    return [evidence for evidence in found if evidence is not None]


def _count(times: Sequence[datetime], first: datetime, last: datetime) -> int:
    return bisect_right(times, last) - bisect_left(times, first)
