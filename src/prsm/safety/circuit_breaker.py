"""The node's one circuit breaker: after too many failures calls are refused at once, then let back in by probes.

A pure state machine: time is passed in as monotonic seconds, nothing sleeps and nothing is drawn. Closed counts calls
in a rolling window; open refuses; half-open admits a bounded number of probes at a time. (Nygard, "Release It!", 2007.)
Where several processes share what they know, one opens and probes, and the others ``adopt`` its word.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Closed lets everything through, open nothing, half-open a few probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and how to come back.

    Opens when at least ``min_calls`` ended in the last ``window_s`` and ``failure_rate`` of them failed. Stays open
    ``open_s``, doubled at each failed return up to ``max_open_s``. Closes after ``probes_to_close`` probes succeeded;
    at most ``max_probes`` are out at a time, and one not reported for ``probe_timeout_s`` no longer counts.
    """

    window_s: float = 30.0
    buckets: int = 10
    min_calls: int = 10
    failure_rate: float = 0.5
    open_s: float = 5.0
    max_open_s: float = 300.0
    max_probes: int = 1
    probes_to_close: int = 2
    probe_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        times_fit = self.window_s > 0 and 0 < self.open_s <= self.max_open_s and self.probe_timeout_s > 0
        counts_fit = min(self.buckets, self.min_calls, self.max_probes, self.probes_to_close) >= 1
        if not (times_fit and counts_fit and 0 < self.failure_rate <= 1):
            raise ValueError("a breaker needs positive times and counts, open_s <= max_open_s, 0 < failure_rate <= 1")


@dataclass(frozen=True, slots=True)
class BreakerView:
    """What metrics and status pages show of a breaker; ``retry_in_s`` is 0 unless it is open."""

    state: State
    calls: int
    failures: int
    retry_in_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Opening:
    """Why and for how long a breaker is open: ``remaining_s`` from now, or ``held`` until a person resets it."""

    remaining_s: float
    opened: int
    reason: str
    held: bool


class CircuitBreaker:
    """One breaker. ``now_s`` never goes back; every call that ``allow`` admits is to be reported by ``record``."""

    __slots__ = (
        "_calls",
        "_epoch",
        "_failures",
        "_held",
        "_opened",
        "_probes",
        "_reason",
        "_state",
        "_successes",
        "_until_s",
        "_window",
        "policy",
        "turns",
    )

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self.policy = policy or BreakerPolicy()
        self.turns = 0
        """How often it has opened or closed; what it is now is news to others when this has moved."""
        self._close()

    def allow(self, now_s: float) -> bool:
        """Whether a call may go ahead; in half-open, True takes one of the probes."""
        state = self.state(now_s)
        if state is State.CLOSED:
            return True
        if state is State.OPEN:
            return False
        if self._state is State.OPEN:
            self._state, self._probes, self._successes = State.HALF_OPEN, [], 0
        self._probes = [s for s in self._probes if now_s - s < self.policy.probe_timeout_s]
        if len(self._probes) >= self.policy.max_probes:
            return False
        self._probes.append(now_s)
        return True

    def record(self, now_s: float, *, ok: bool, admitted_s: float | None = None) -> None:
        """How an admitted call ended.

        ``admitted_s`` is the time that was given to ``allow``: by it, reports of calls from before the breaker opened
        are told from those of probes, and ignored. Without it, any report in half-open counts for the oldest probe.
        """
        if self._state is State.CLOSED:
            self._count(now_s, ok=ok)
            if self._calls >= self.policy.min_calls and self._failures >= self.policy.failure_rate * self._calls:
                self._open(now_s, f"{self._failures} of {self._calls} calls failed")
        elif self._end_probe(admitted_s):
            if not ok:
                self._open(now_s, "a probe failed")
                return
            self._successes += 1
            if self._successes >= self.policy.probes_to_close:
                self._close()

    def release(self, *, admitted_s: float | None = None) -> None:
        """An admitted call ended without saying anything about the upstream (the caller left): free its probe."""
        self._end_probe(admitted_s)

    def trip(self, reason: str) -> None:
        """Open by hand; stays open until ``reset``."""
        self._state, self._held, self._reason = State.OPEN, True, reason
        self._probes, self._successes = [], 0
        self.turns += 1

    def reset(self) -> None:
        """Close by hand, or because who opened it says so, and forget all that happened."""
        self._close()

    def opening(self, now_s: float) -> Opening | None:
        """What others are to be told of it; None where it is not open."""
        if self._state is not State.OPEN:
            return None
        return Opening(max(0.0, self._until_s - now_s), self._opened, self._reason, self._held)

    def adopt(self, now_s: float, opening: Opening) -> None:
        """Be open as another process says; its next failed return will be the longer for it."""
        self._state, self._held, self._reason = State.OPEN, opening.held, opening.reason
        self._until_s, self._opened = now_s + opening.remaining_s, opening.opened
        self._probes, self._successes = [], 0
        self._clear()

    def state(self, now_s: float) -> State:
        """The state as of ``now_s``; an open breaker whose time is over is half-open."""
        if self._state is State.OPEN and not self._held and now_s >= self._until_s:
            return State.HALF_OPEN
        return self._state

    def view(self, now_s: float) -> BreakerView:
        """The breaker as of ``now_s``, for metrics and status pages. It changes nothing: any thread may look."""
        size = self.policy.buckets
        first = max(self._epoch, self._epoch_of(now_s)) - size + 1
        window = [self._window[epoch % size] for epoch in range(first, self._epoch + 1)]
        calls, failures = (sum(counts) for counts in zip((0, 0), *window, strict=True))
        state = self.state(now_s)
        waiting = state is State.OPEN and not self._held
        return BreakerView(state, calls, failures, self._until_s - now_s if waiting else 0.0, self._reason)

    def _close(self) -> None:
        self._state, self._held, self._reason = State.CLOSED, False, ""
        self._until_s, self._opened = 0.0, 0
        self._probes: list[float] = []
        self._successes = 0
        self.turns += 1
        self._clear()

    def _open(self, now_s: float, reason: str) -> None:
        open_s = min(self.policy.max_open_s, self.policy.open_s * 2.0 ** min(self._opened, 64))
        self._state, self._until_s, self._reason = State.OPEN, now_s + open_s, reason
        self._opened += 1
        self.turns += 1
        self._probes, self._successes = [], 0
        self._clear()

    def _end_probe(self, admitted_s: float | None) -> bool:
        if admitted_s is None:
            admitted_s = self._probes[0] if self._probes else None
        if self._state is not State.HALF_OPEN or admitted_s not in self._probes:
            return False
        self._probes.remove(admitted_s)
        return True

    def _epoch_of(self, now_s: float) -> int:
        return int(now_s * self.policy.buckets / self.policy.window_s)

    def _clear(self) -> None:
        self._window = [(0, 0)] * self.policy.buckets
        self._calls = self._failures = self._epoch = 0

    def _count(self, now_s: float, *, ok: bool) -> None:
        self._roll(now_s)
        slot = self._epoch % self.policy.buckets
        calls, failures = self._window[slot]
        self._window[slot] = (calls + 1, failures + (not ok))
        self._calls += 1
        self._failures += not ok

    def _roll(self, now_s: float) -> None:
        epoch = self._epoch_of(now_s)
        for step in range(min(epoch - self._epoch, self.policy.buckets)):
            slot = (epoch - step) % self.policy.buckets
            calls, failures = self._window[slot]
            self._calls -= calls
            self._failures -= failures
            self._window[slot] = (0, 0)
        self._epoch = max(self._epoch, epoch)


Changed = Callable[[str, Opening | None], None]
"""Hears that a breaker has opened, or closed (None). Never waits, never raises."""


class BreakerBoard:
    """Breakers by name. At most ``max_keys``: the one not used for longest is forgotten, closed ones first.

    Any thread may use it. ``changed`` may be set by who shares openings with other processes.
    """

    __slots__ = ("_breakers", "_clock", "_lock", "_max_keys", "_policy", "changed")

    def __init__(self, clock: Callable[[], float], policy: BreakerPolicy | None = None, max_keys: int = 10_000) -> None:
        if max_keys < 1:
            raise ValueError("a breaker board needs room for at least one key")
        self._clock = clock
        self._policy = policy or BreakerPolicy()
        self._max_keys = max_keys
        self._breakers: OrderedDict[str, CircuitBreaker] = OrderedDict()
        self._lock = threading.Lock()
        self.changed: Changed | None = None

    def allow(self, key: str, *, now_s: float | None = None) -> bool:
        """Whether a call to ``key`` may go ahead; True is to be followed by ``record`` or ``release``.

        ``now_s`` is this board's clock as the caller read it, to be given back as ``admitted_s``.
        """
        with self._lock:
            breaker = self._breakers.get(key)
            return True if breaker is None else breaker.allow(self._clock() if now_s is None else now_s)

    def record(self, key: str, *, ok: bool, admitted_s: float | None = None) -> None:
        """How an admitted call to ``key`` ended; ``admitted_s`` as for ``CircuitBreaker.record``."""
        with self._lock:
            breaker = self._of(key)
            turns = breaker.turns
            breaker.record(self._clock(), ok=ok, admitted_s=admitted_s)
            turned = breaker.turns != turns
        if turned:
            self._tell(key)

    def release(self, key: str, *, admitted_s: float | None = None) -> None:
        """An admitted call to ``key`` ended without saying anything about it."""
        with self._lock:
            if key in self._breakers:
                self._breakers[key].release(admitted_s=admitted_s)

    def resting(self, key: str) -> bool:
        """Whether calls to ``key`` would be refused now."""
        breaker = self._breakers.get(key)
        return breaker is not None and breaker.state(self._clock()) is State.OPEN

    def trip(self, key: str, reason: str) -> None:
        """Open ``key`` by hand until ``reset``."""
        with self._lock:
            self._of(key).trip(reason)
        self._tell(key)

    def reset(self, key: str) -> None:
        """Close ``key`` by hand."""
        with self._lock:
            self._breakers.pop(key, None)
        self._tell(key)

    def adopt(self, key: str, opening: Opening | None) -> None:
        """Take another process's word that ``key`` is open, or closed again (None); tells nobody."""
        with self._lock:
            if opening is not None:
                self._of(key).adopt(self._clock(), opening)
            elif key in self._breakers:
                self._breakers[key].reset()

    def view(self, key: str) -> BreakerView | None:
        """One breaker as of now; None where nothing is known of it."""
        breaker = self._breakers.get(key)
        return breaker and breaker.view(self._clock())

    def snapshot(self) -> dict[str, BreakerView]:
        """Every breaker as of now."""
        now_s = self._clock()
        with self._lock:
            breakers = list(self._breakers.items())
        return {key: breaker.view(now_s) for key, breaker in breakers}

    def _tell(self, key: str) -> None:
        if self.changed:
            breaker = self._breakers.get(key)
            self.changed(key, breaker and breaker.opening(self._clock()))

    def _of(self, key: str) -> CircuitBreaker:
        breaker = self._breakers.get(key)
        if breaker is None:
            if len(self._breakers) >= self._max_keys:
                self._forget_one()
            breaker = self._breakers[key] = CircuitBreaker(self._policy)
        else:
            self._breakers.move_to_end(key)
        return breaker

    def _forget_one(self) -> None:
        now_s = self._clock()
        closed = (key for key, breaker in self._breakers.items() if breaker.state(now_s) is State.CLOSED)
        self._breakers.pop(next(closed, next(iter(self._breakers))))
