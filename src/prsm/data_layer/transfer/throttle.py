"""How fast bytes may move: token buckets per class of traffic under one shared limit, with priorities.

Interactive traffic goes first, bulk next, background takes what is left; but bulk and background are never starved:
each has a least share of the limit that goes ahead of everybody. ``Buckets`` is the rule, without a clock;
``Bandwidth`` lets threads wait by it. One waiter sleeps until the next grant is due, all others until they are told.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from prsm.core.errors import InvalidRequest
from prsm.data_layer.transfer.cancellation import Cancellation


class Traffic(StrEnum):
    """The classes, in order of priority."""

    INTERACTIVE = "interactive"
    BULK = "bulk"
    BACKGROUND = "background"


LEAST_SHARE: Mapping[Traffic, float] = MappingProxyType(
    {Traffic.INTERACTIVE: 0.0, Traffic.BULK: 0.10, Traffic.BACKGROUND: 0.05}
)
"""The part of the shared limit that a class gets whatever those above it want."""

BURST_S = 0.25
"""What an idle time may save up, in seconds of the limit; it also makes up for a thread that the system wakes late."""

MIN_LIMIT_BYTES_S = 1024

_PIECES_PER_S = 64
_MAX_PIECE_BYTES = 1024 * 1024
_TICK_S = 1e-6  # a grant may be early by this: sums of floats are not exact


@dataclass(slots=True, eq=False)
class Ask:
    """Bytes that wait for their turn."""

    traffic: Traffic
    size_bytes: int
    granted: bool = False
    told: threading.Condition | None = None


@dataclass(slots=True)
class _Bucket:
    rate: float | None = None  # bytes per second; None is unlimited
    tokens: float = 0.0

    def refill(self, elapsed_s: float) -> None:
        if self.rate is not None:
            self.tokens = min(self.tokens + self.rate * elapsed_s, self.rate * BURST_S)

    def ready_in_s(self, size_bytes: int) -> float:
        """When so many bytes may pass. More than a burst passes with the bucket full, and leaves a debt."""
        if self.rate is None:
            return 0.0
        wait = (min(size_bytes, self.rate * BURST_S) - self.tokens) / self.rate
        return wait if wait > _TICK_S else 0.0

    def pay(self, size_bytes: int) -> None:
        if self.rate is not None:
            self.tokens -= size_bytes


@dataclass(slots=True)
class Buckets:
    """Who may move next. Times are seconds of any one clock that does not go back."""

    now_s: float
    _shared: _Bucket = field(default_factory=_Bucket)
    _own: dict[Traffic, _Bucket] = field(default_factory=lambda: {traffic: _Bucket() for traffic in Traffic})
    _least: dict[Traffic, float] = field(default_factory=lambda: dict.fromkeys(Traffic, 0.0))
    _queues: dict[Traffic, deque[Ask]] = field(default_factory=lambda: {traffic: deque() for traffic in Traffic})

    def set_limit(self, limit_bytes_s: int | None, traffic: Traffic | None, now_s: float) -> None:
        """Change the shared limit, or that of one class."""
        self._refill(now_s)
        bucket = self._shared if traffic is None else self._own[traffic]
        bucket.rate = limit_bytes_s
        bucket.tokens = min(bucket.tokens, (limit_bytes_s or 0) * BURST_S)

    def limit(self, traffic: Traffic) -> float | None:
        """The lower of the shared limit and the class's own, in bytes per second; None is unlimited."""
        rates = [rate for rate in (self._shared.rate, self._own[traffic].rate) if rate is not None]
        return min(rates, default=None)

    def piece_bytes(self, traffic: Traffic) -> int:
        """The most to ask for at once: small enough that a higher class never waits long behind it."""
        rate = self.limit(traffic)
        return _MAX_PIECE_BYTES if rate is None else min(_MAX_PIECE_BYTES, int(rate / _PIECES_PER_S))

    def join(self, ask: Ask) -> None:
        """Queue behind those of the same class."""
        self._queues[ask.traffic].append(ask)

    def leave(self, ask: Ask) -> None:
        """Give up an ask that was not granted."""
        self._queues[ask.traffic].remove(ask)

    def grant(self, now_s: float) -> list[Ask]:
        """Grant all that may pass now, in their order."""
        self._refill(now_s)
        passed: list[Ask] = []
        while (ask := self._next()) is not None:
            self._queues[ask.traffic].popleft()
            self._shared.pay(ask.size_bytes)
            self._own[ask.traffic].pay(ask.size_bytes)
            self._least[ask.traffic] = max(0.0, self._least[ask.traffic] - ask.size_bytes)
            ask.granted = True
            passed.append(ask)
        return passed

    def due_in_s(self) -> float | None:
        """How long after the last ``grant`` it is worth asking again; None with nobody waiting."""
        soonest: float | None = None
        for ask in self._in_line():
            own_s = self._own[ask.traffic].ready_in_s(ask.size_bytes)
            ready_s = max(own_s, self._shared.ready_in_s(ask.size_bytes))
            soonest = ready_s if soonest is None else min(soonest, ready_s)
            if own_s == 0.0:
                break  # those behind it cannot pass before it
        return soonest

    def waiting(self) -> Ask | None:
        """Somebody who waits."""
        return next((queue[0] for queue in self._queues.values() if queue), None)

    def _next(self) -> Ask | None:
        for ask in self._in_line():
            if self._own[ask.traffic].ready_in_s(ask.size_bytes) > 0.0:
                continue  # held back by its own class only: the shared tokens are for others meanwhile
            return ask if self._shared.ready_in_s(ask.size_bytes) == 0.0 else None
        return None

    def _in_line(self) -> list[Ask]:
        """The first of each class: those owed their least share, the lowest first, then by priority."""
        heads = [queue[0] for queue in self._queues.values() if queue]
        return [ask for ask in reversed(heads) if self._is_owed(ask)] + heads

    def _is_owed(self, ask: Ask) -> bool:
        return LEAST_SHARE[ask.traffic] > 0.0 and self._least[ask.traffic] >= ask.size_bytes

    def _refill(self, now_s: float) -> None:
        elapsed_s, self.now_s = max(0.0, now_s - self.now_s), max(now_s, self.now_s)
        self._shared.refill(elapsed_s)
        for traffic, share in LEAST_SHARE.items():
            self._own[traffic].refill(elapsed_s)
            if self._shared.rate is not None:
                most = max(self._shared.rate * share * BURST_S, float(self.piece_bytes(traffic)))
                self._least[traffic] = min(self._least[traffic] + self._shared.rate * share * elapsed_s, most)


class Bandwidth:
    """One direction of the node's traffic. ``limit_bytes_s`` None is unlimited. Thread-safe.

    ``clock`` and ``wait`` (a condition, and seconds or None) are given by tests that run on a time of their own.
    """

    def __init__(
        self,
        limit_bytes_s: int | None = None,
        class_limits_bytes_s: Mapping[Traffic, int | None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float | None], object] = threading.Condition.wait,
    ) -> None:
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._buckets = Buckets(clock())
        self._timekeeper: Ask | None = None
        self._free = dict.fromkeys(Traffic, True)  # read without the lock: unlimited traffic pays a dict look-up
        self.set_limit(limit_bytes_s)
        for traffic, limit in (class_limits_bytes_s or {}).items():
            self.set_limit(limit, traffic)

    def set_limit(self, limit_bytes_s: int | None, traffic: Traffic | None = None) -> None:
        """Change the shared limit or that of one class, at once, for those who wait too. Raises InvalidRequest."""
        if limit_bytes_s is not None and limit_bytes_s < MIN_LIMIT_BYTES_S:
            raise InvalidRequest(
                f"A bandwidth limit of {limit_bytes_s} bytes per second would stop all traffic.",
                param="limit_bytes_s",
                remedy=f"Give at least {MIN_LIMIT_BYTES_S}, or none for no limit.",
            )
        with self._lock:
            self._buckets.set_limit(limit_bytes_s, traffic, self._clock())
            self._free = {each: self._buckets.limit(each) is None for each in Traffic}
            self._grant()
            self._hand_on()

    def limit_bytes_s(self, traffic: Traffic) -> int | None:
        """What binds this class now; None is unlimited."""
        with self._lock:
            limit = self._buckets.limit(traffic)
        return None if limit is None else int(limit)

    def pace(self, traffic: Traffic, cancelled: Cancellation) -> "ClassPace":
        """The pace of one transfer."""
        return ClassPace(self, traffic, cancelled)

    def take(self, traffic: Traffic, size_bytes: int, cancelled: Cancellation) -> None:
        """Block until ``size_bytes`` may move. Raises Cancelled."""
        cancelled.check()
        while size_bytes > 0 and not self._free[traffic]:
            with self._lock:
                ask = Ask(traffic, min(size_bytes, self._buckets.piece_bytes(traffic)))
                self._buckets.join(ask)
                self._grant()
            if not ask.granted:
                self._stand_in_line(ask, cancelled)
            size_bytes -= ask.size_bytes

    def _stand_in_line(self, ask: Ask, cancelled: Cancellation) -> None:
        told = threading.Condition(self._lock)

        def wake() -> None:
            with told:
                told.notify()

        with cancelled.waking(wake), told:
            ask.told = told
            self._timekeeper = ask  # the last to come keeps time: what is due soonest may be due to it
            try:
                while not ask.granted and not cancelled.is_set():
                    self._wait(told, self._buckets.due_in_s() if self._timekeeper is ask else None)
                    self._grant()
            finally:
                if not ask.granted:
                    self._buckets.leave(ask)
                if self._timekeeper is ask:
                    self._hand_on()
        if not ask.granted:
            cancelled.check()

    def _grant(self) -> None:
        for ask in self._buckets.grant(self._clock()):
            if ask.told is not None:
                ask.told.notify()

    def _hand_on(self) -> None:
        """Make somebody who waits the one that keeps time."""
        self._timekeeper = self._buckets.waiting()
        if self._timekeeper is not None and self._timekeeper.told is not None:
            self._timekeeper.told.notify()


@dataclass(frozen=True, slots=True)
class ClassPace:
    """The pace of one transfer in its class; satisfies ``seams.Pace``."""

    bandwidth: Bandwidth
    traffic: Traffic
    cancelled: Cancellation

    def take(self, size_bytes: int) -> None:
        """Block until ``size_bytes`` may move. Raises Cancelled."""
        self.bandwidth.take(self.traffic, size_bytes, self.cancelled)
