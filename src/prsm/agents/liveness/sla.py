"""What a model is to keep, how much of its error budget is left, and whether it burns that too fast. Pure.

Each objective is a share of good events: answered; begun within the limit; fast enough. A breach is a burn rate above
its factor in a long and a short window at once, so that it is neither a blip nor long over. (Google, "The Site
Reliability Workbook", chapter 5.) Whoever acts on a verdict, it is not this file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
import numpy.typing as npt

IN_TIME_SHARE = 0.95
"""Share of the answers that are to keep the limits of time, so that a limit is one of the 95th percentile."""
_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86_400.0


class Event(IntEnum):
    """What is counted. A good event stands right before its opposite."""

    ANSWERED = 0
    FAILED = 1
    PROMPT = 2
    LATE = 3
    BRISK = 4
    SLOW = 5


@dataclass(frozen=True, slots=True)
class Sla:
    """What a model is to keep: share of calls answered; 95 % of first tokens and of paces within the limits (0: none).

    Raises ValueError where the availability is not in (0, 1) or a limit is negative.
    """

    availability: float = 0.99
    first_token_s: float = 0.0
    min_tokens_s: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.availability < 1 and self.first_token_s >= 0 and self.min_tokens_s >= 0):
            raise ValueError("an SLA needs an availability between 0 and 1 and limits that are not negative")


@dataclass(frozen=True, slots=True)
class BurnRule:
    """A breach: the budget is spent ``factor`` times too fast over ``long_s`` and still over ``short_s``.

    An ``urgent`` one is happening now and is to be acted on at once; another is for a person to look at.
    """

    long_s: float
    short_s: float
    factor: float
    urgent: bool = True


@dataclass(frozen=True, slots=True)
class SlaPolicy:
    """The window of the error budget, the rules, and how few calls in a rule's long window say nothing."""

    budget_s: float = 30 * _DAY_S
    rules: tuple[BurnRule, ...] = (
        BurnRule(_HOUR_S, 5 * _MINUTE_S, 14.4),
        BurnRule(6 * _HOUR_S, 30 * _MINUTE_S, 6.0),
        BurnRule(3 * _DAY_S, 6 * _HOUR_S, 1.0, urgent=False),
    )
    min_events: int = 20


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective as it stands. ``budget_left`` is a share, below 0 when overspent; ``breach`` the rule that it
    breaks; ``burn`` the rate over that rule's long window, else over the first rule's.
    """

    name: str
    target: float
    events: int
    bad: int
    budget_left: float
    burn: float
    breach: BurnRule | None

    @property
    def kept(self) -> float | None:
        """The share of good events; None without any."""
        return 1 - self.bad / self.events if self.events else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A model against its SLA. ``sentence`` says what is broken, or that nothing is; ``urgent`` as in BurnRule."""

    model: str
    breached: bool
    urgent: bool
    objectives: tuple[Objective, ...]
    sentence: str


class Windows:
    """Events of the last 30 days in slots of an hour, of the last six hours in slots of a minute.

    It takes 26 KB, whatever comes. A window is read to within one slot. Times are of one clock that does not go back.
    """

    __slots__ = ("_coarse", "_fine", "_minute", "_now", "_until_s")

    def __init__(self, now_s: float) -> None:
        self._fine = _Ring(_MINUTE_S, 362, now_s)
        self._coarse = _Ring(_HOUR_S, 722, now_s)
        self._now = [0] * len(Event)
        self._minute = now_s // _MINUTE_S
        self._until_s = (self._minute + 1) * _MINUTE_S

    def add(self, event: Event, now_s: float) -> None:
        """Count one event, in constant time."""
        if now_s >= self._until_s:
            self._file(now_s)
        self._now[event] += 1

    def totals(self, window_s: float, now_s: float) -> Sequence[int]:
        """Events within the last ``window_s``, by ``Event``."""
        if now_s >= self._until_s:
            self._file(now_s)
        ring = self._fine if window_s <= 6 * _HOUR_S else self._coarse
        kept = ring.total(window_s, now_s)
        return [int(one) + more for one, more in zip(kept, self._now, strict=True)]

    def _file(self, now_s: float) -> None:
        """The minute is over: put what it had where it belongs."""
        at_s = self._minute * _MINUTE_S
        if any(self._now):
            self._fine.add(self._now, at_s)
            self._coarse.add(self._now, at_s)
            self._now = [0] * len(Event)
        self._minute = now_s // _MINUTE_S
        self._until_s = (self._minute + 1) * _MINUTE_S


def judge(model: str, sla: Sla, windows: Windows, now_s: float, policy: SlaPolicy) -> Verdict:
    """The model against its SLA as of ``now_s``."""
    wanted = [("availability", sla.availability, Event.ANSWERED)]
    if sla.first_token_s:
        wanted.append(("first token", IN_TIME_SHARE, Event.PROMPT))
    if sla.min_tokens_s:
        wanted.append(("tokens per second", IN_TIME_SHARE, Event.BRISK))
    objectives = tuple(_objective(name, target, good, windows, now_s, policy) for name, target, good in wanted)
    broken = [objective for objective in objectives if objective.breach]
    sentences = [_sentence(model, sla, objective) for objective in broken]
    urgent = any(objective.breach.urgent for objective in broken if objective.breach)
    return Verdict(model, bool(broken), urgent, objectives, " ".join(sentences) or f"{model} keeps what it is to keep.")


def _objective(name: str, target: float, good: Event, windows: Windows, now_s: float, policy: SlaPolicy) -> Objective:
    allowed = 1 - target

    @cache
    def seen(window_s: float) -> tuple[int, int]:
        totals = windows.totals(window_s, now_s)
        return totals[good] + totals[good + 1], totals[good + 1]

    def burn(window_s: float) -> float:
        events, bad = seen(window_s)
        return bad / events / allowed if events else 0.0

    events, bad = seen(policy.budget_s)
    breach = next(
        (
            rule
            for rule in policy.rules
            if seen(rule.long_s)[0] >= policy.min_events
            and burn(rule.long_s) >= rule.factor
            and burn(rule.short_s) >= rule.factor
        ),
        None,
    )
    left = 1 - bad / (events * allowed) if events else 1.0
    return Objective(name, target, events, bad, left, burn((breach or policy.rules[0]).long_s), breach)


def _sentence(model: str, sla: Sla, objective: Objective) -> str:
    assert objective.breach is not None
    what = {
        "availability": "are answered",
        "first token": f"begin within {sla.first_token_s * 1000:.0f} ms",
        "tokens per second": f"come at {sla.min_tokens_s:g} tokens per second or more",
    }[objective.name]
    return (
        f"Of {model}'s answers {objective.kept or 0.0:.1%} {what}, {objective.target:.1%} are to: over the last "
        f"{_span(objective.breach.long_s)} it spends its error budget {objective.burn:.1f} times too fast "
        f"(limit {objective.breach.factor:g}), and {max(objective.budget_left, 0.0):.0%} of it is left."
    )


def _span(seconds: float) -> str:
    for unit_s, name in ((_DAY_S, "days"), (_HOUR_S, "hours"), (_MINUTE_S, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:g} {name}"
    return f"{seconds / _MINUTE_S:g} minutes"


class _Ring:
    """Counts in the newest ``slots`` slots of ``slot_s``."""

    __slots__ = ("_epoch", "_rows", "_slot_s")

    def __init__(self, slot_s: float, slots: int, now_s: float) -> None:
        self._slot_s = slot_s
        self._rows: npt.NDArray[np.uint32] = np.zeros((slots, len(Event)), np.uint32)
        self._epoch = int(now_s // slot_s)

    def add(self, counts: Sequence[int], at_s: float) -> None:
        self._turn(at_s)
        self._rows[self._epoch % len(self._rows)] += np.asarray(counts, np.uint32)

    def total(self, window_s: float, now_s: float) -> npt.NDArray[np.int64]:
        self._turn(now_s)
        slots = min(math.ceil(window_s / self._slot_s), len(self._rows) - 1)
        epochs = np.arange(self._epoch - slots, self._epoch + 1)
        return self._rows[epochs % len(self._rows)].sum(axis=0, dtype=np.int64)

    def _turn(self, now_s: float) -> None:
        epoch = int(now_s // self._slot_s)
        passed = min(epoch - self._epoch, len(self._rows))
        for step in range(passed):
            self._rows[(epoch - step) % len(self._rows)] = 0
        self._epoch = max(self._epoch, epoch)
