"""Which leaf is fetched next, and which a second time: the plan of one download, without threads or clock.

Leaves go out in ascending order, those a reader waits for first. With nothing left to start, the oldest leaf on its way
that takes longer than nearly all others is asked for once more (hedging: Dean and Barroso, The Tail at Scale, 2013),
within a budget; a spare worker does so even before, for leaves that are stuck, lest all workers hang on one endpoint.
Of the attempts at a leaf one wins; nothing is written twice.
"""

import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

_MOST_AHEAD = 32  # leaves of what is read next


@dataclass(frozen=True, slots=True)
class Hedging:
    """When a leaf is asked for a second time."""

    quantile: float = 0.95
    """Of the recent leaves' times; who takes longer is late."""
    most_extra: float = 0.10
    """Second requests per first request; one is allowed to the smallest object."""
    least_s: float = 0.1
    """Nothing is late before; a second request saves no more than it costs then."""
    unknown_s: float = 2.0
    """What counts as late while fewer than ``least_known`` leaves have come."""
    least_known: int = 8
    stuck_factor: float = 4.0
    """How many times that a leaf must take before it counts as stuck."""

    def under_limit(self, limit_bytes_s: int | None, in_flight_bytes: int) -> "Hedging":
        """The same where bandwidth is limited: a leaf that our own limit makes slow is not late.

        A second request for it would only take bandwidth from the others.
        """
        if limit_bytes_s is None:
            return self
        usual_s = 2.0 * in_flight_bytes / limit_bytes_s
        return replace(self, least_s=max(self.least_s, usual_s), unknown_s=max(self.unknown_s, usual_s))


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at one leaf."""

    number: int
    leaf: int
    started_s: float
    second: bool = False


class _State(IntEnum):
    WAITING = 0
    STARTED = 1
    WON = 2
    WHOLE = 3


@dataclass(slots=True)
class Plan:
    """The state of one download. ``offsets`` are the leaves' places in the file, ascending; times are in seconds."""

    offsets: Sequence[int]
    size_bytes: int
    hedging: Hedging = field(default_factory=Hedging)
    whole: int = 0
    """How many leaves are on the disk."""
    firsts: int = 0
    seconds: int = 0
    _states: bytearray = field(init=False)
    _next: int = 0
    _urgent: deque[int] = field(default_factory=deque)
    _flights: dict[int, list[Claim]] = field(default_factory=dict)  # in the order in which leaves were started
    _times_s: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._states = bytearray(len(self.offsets))

    @property
    def finished(self) -> bool:
        """Whether every leaf is on the disk."""
        return self.whole == len(self.offsets)

    @property
    def in_flight(self) -> int:
        """Leaves that are started and not on the disk."""
        return len(self._flights)

    def skip(self, leaf: int) -> None:
        """This leaf is on the disk already."""
        self._states[leaf] = _State.WHOLE
        self.whole += 1

    def claim(self, now_s: float, *, spare: bool = False) -> Claim | None:
        """What an idle worker does next; None when there is nothing for it now (see ``idle_s``).

        A spare one takes only leaves that are stuck.
        """
        leaf = None if spare else self._next_leaf()
        if leaf is not None:
            self.firsts += 1
            self._states[leaf] = _State.STARTED
            claim = Claim(next(self._numbers), leaf, now_s)
            self._flights[leaf] = [claim]
            return claim
        late = self._hedgeable()
        # The same sum as in ``idle_s``: another rounding could make one say "now" and the other "not yet" for ever.
        if late is None or now_s < late.started_s + self._patience_s(spare):
            return None
        self.seconds += 1
        claim = Claim(next(self._numbers), late.leaf, now_s, second=True)
        self._flights[late.leaf].append(claim)
        return claim

    def idle_s(self, now_s: float, *, spare: bool = False) -> float | None:
        """When ``claim`` may have something again although nothing ends meanwhile; None when it cannot."""
        late = self._hedgeable()
        return None if late is None else max(0.0, late.started_s + self._patience_s(spare) - now_s)

    def win(self, claim: Claim) -> bool:
        """Whether this attempt is the first that brought its leaf; only then may it be written."""
        if self._states[claim.leaf] != _State.STARTED:
            return False
        self._states[claim.leaf] = _State.WON
        return True

    def rivals(self, claim: Claim) -> list[Claim]:
        """The other attempts at the same leaf that run."""
        return [other for other in self._flights.get(claim.leaf, ()) if other is not claim]

    def end(self, claim: Claim, *, fetched_s: float | None = None) -> None:
        """The winner's leaf is on the disk. ``fetched_s``: how long it took, if it came over the network."""
        self._states[claim.leaf] = _State.WHOLE
        self.whole += 1
        del self._flights[claim.leaf]
        if fetched_s is not None:
            self._times_s.append(fetched_s)

    def lose(self, claim: Claim) -> bool:
        """An attempt ended without its leaf; True when that leaf is or will be there without it."""
        if self._states[claim.leaf] in (_State.WON, _State.WHOLE):
            return True
        flight = self._flights[claim.leaf]
        flight.remove(claim)
        return bool(flight)

    def want(self, offset: int, size_bytes: int, ahead_bytes: int = 0) -> bool:
        """Put the leaves of this range ahead of all others; True when all of them are on the disk.

        The first of those behind it come next, up to ``ahead_bytes``: who reads on will want them soon.
        """
        missing = [leaf for leaf in self._leaves_of(offset, size_bytes) if self._states[leaf] != _State.WHOLE]
        behind = self._leaves_of(offset + size_bytes, ahead_bytes)[:_MOST_AHEAD]
        for leaves in (behind, missing):
            self._urgent.extendleft(leaf for leaf in reversed(leaves) if leaf not in self._urgent)
        return not missing

    def late_s(self) -> float:
        """How old a leaf's only attempt must be before a second one is made."""
        if len(self._times_s) < self.hedging.least_known:
            return self.hedging.unknown_s
        times = sorted(self._times_s)
        return max(self.hedging.least_s, times[min(len(times) - 1, int(len(times) * self.hedging.quantile))])

    def _patience_s(self, spare: bool) -> float:
        return self.late_s() * (self.hedging.stuck_factor if spare else 1.0)

    def _next_leaf(self) -> int | None:
        while self._urgent:
            leaf = self._urgent.popleft()
            if self._states[leaf] == _State.WAITING:
                return leaf
        while self._next < len(self._states):
            if self._states[self._next] == _State.WAITING:
                return self._next
            self._next += 1
        return None

    def _hedgeable(self) -> Claim | None:
        """The oldest attempt that has no rival, while the budget lasts."""
        if self.seconds >= max(1, int(self.firsts * self.hedging.most_extra)):
            return None
        alone = (flight[0] for leaf, flight in self._flights.items() if self._may_hedge(leaf, flight))
        return min(alone, key=lambda claim: claim.started_s, default=None)

    def _may_hedge(self, leaf: int, flight: list[Claim]) -> bool:
        return len(flight) == 1 and self._states[leaf] == _State.STARTED

    def _leaves_of(self, offset: int, size_bytes: int) -> range:
        end = min(offset + size_bytes, self.size_bytes)
        if offset >= end:
            return range(0)
        # Leaves may be empty: the first that holds the offset is the last that starts at or before it.
        return range(bisect_right(self.offsets, offset) - 1, bisect_right(self.offsets, end - 1))
