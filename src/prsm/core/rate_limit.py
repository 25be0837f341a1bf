"""Request rates: the generic cell rate algorithm (GCRA, ITU-T I.371), in one process and shared by many.

The law: in any span of t seconds a key is let through at most burst + rate * t times. What is full, unknown or away
makes a limit stricter, never looser: only keys without debt are forgotten, and without Valkey each worker keeps to its
own share of the rate.
"""

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1_000_000
_NS_PER_US = 1000
_US_PER_MINUTE = 60_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """One request every ``interval_ns`` on average, and ``burst`` at once after a pause."""

    interval_ns: int
    burst: int

    @classmethod
    def per_minute(cls, requests: int, burst: int) -> "Rate":
        """``requests`` a minute; the interval is rounded up to a whole microsecond, so never more than asked."""
        if requests < 1 or burst < 1:
            raise ValueError("a rate needs at least one request per minute and a burst of at least one")
        return cls(-(-_US_PER_MINUTE // requests) * _NS_PER_US, burst)

    def share(self, workers: int) -> "Rate":
        """One worker's part. A burst below the number of workers cannot be divided: each then has a burst of one."""
        return Rate(self.interval_ns * workers, max(1, self.burst // workers))


class Decision(NamedTuple):
    """Whether a request may pass. ``reset_ns``: until the whole burst is there again; ``retry_after_ns``: 0 if allowed.

    ``tat_ns`` is the theoretical arrival time to keep: the whole state of a key.
    """

    allowed: bool
    remaining: int
    retry_after_ns: int
    reset_ns: int
    tat_ns: int = 0


def gcra(tat_ns: int, now_ns: int, rate: Rate) -> Decision:
    """Decide on one request at ``now_ns`` given a key's state; an unknown key has the state 0. Pure, exact integers."""
    tolerance = rate.interval_ns * rate.burst
    before = max(tat_ns, now_ns)
    after = before + rate.interval_ns
    early = after - tolerance - now_ns
    if early > 0:
        return Decision(False, 0, early, before - now_ns, before)
    return Decision(True, -early // rate.interval_ns, 0, after - now_ns, after)


class RateLimiter:
    """GCRA for many keys of one process; at most ``max_keys`` at a time.

    A key is forgotten only when it owes nothing, so forgetting never gives anything away. When all are in debt a new
    key is refused until the first of them is even.
    """

    def __init__(self, max_keys: int = 100_000, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._max_keys = max_keys
        self._clock_ns = clock_ns
        self._tats: dict[str, int] = {}
        # Each key once, by its state when it was pushed: never more than its state now, so the top is a lower bound.
        self._heap: list[tuple[int, str]] = []

    def check(self, key: str, rate: Rate, *, even_at_ns: int = 0) -> Decision:
        """Decide on one request and remember it; a key is taken to owe at least what it takes until ``even_at_ns``."""
        at = self._clock_ns()
        known = self._tats.get(key)
        if known is None:
            wait = self._make_room(at)
            if wait:
                return Decision(False, 0, wait, wait)
        decision = gcra(max(known or 0, even_at_ns), at, rate)
        if not decision.allowed:
            return decision
        if known is None:
            heapq.heappush(self._heap, (decision.tat_ns, key))
        self._tats[key] = decision.tat_ns
        return decision

    def __len__(self) -> int:
        return len(self._tats)

    def _make_room(self, at: int) -> int:
        """Forget one even key if all places are taken; answers how long to wait where none is even, else 0."""
        while len(self._tats) >= self._max_keys:
            pushed, key = self._heap[0]
            if pushed > at:
                return pushed - at
            tat = self._tats[key]
            if tat > at:
                heapq.heapreplace(self._heap, (tat, key))
            else:
                heapq.heappop(self._heap)
                del self._tats[key]
        return 0


# KEYS[1]: the key's state, microseconds of the server's clock (exact in a double until the year 2255).
# A worker tells the state it last saw and what it let through alone, so that neither a restart of Valkey without its
# data nor an outage is a gift. The state is capped at an empty bucket, so that a clock set back cannot lock a key out.
_LEASE_SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local wanted, seen, owed = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local full = now + interval * burst
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), seen, now)
tat = math.min(tat + owed * interval, full)
local granted = math.min(wanted, math.floor((full - tat) / interval))
tat = tat + granted * interval
if tat > now then
  redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
end
return {granted, tat, tat - now}
"""
_LEASE_MAX = 64
_SCAN = 16
"""Leases looked at for one to drop before a new key is refused."""


def lease_size(burst: int, workers: int) -> int:
    """Requests leased at a time: few enough that all workers' unspent ones are at most an eighth of the burst."""
    return min(_LEASE_MAX, 1 + burst // (8 * workers))


class _Lease:
    """What one worker holds of one key: ``units`` leased and unspent, and what it knows of the shared state."""

    __slots__ = ("busy", "owed", "owed_until_ns", "refused_until_ns", "seen_us", "tat_ns", "units", "waiting")

    def __init__(self) -> None:
        self.busy = asyncio.Lock()
        self.waiting = 0
        self.units = 0
        self.owed = 0
        """Let through alone while Valkey was away, not yet told to it; after ``owed_until_ns`` time has paid it."""
        self.owed_until_ns = 0
        self.seen_us = 0
        self.tat_ns = 0
        self.refused_until_ns = 0


class LeasedLimiter:
    """GCRA over all workers: each leases blocks from Valkey and spends them without a round trip.

    The shared burst is smaller by what all workers together may hold unspent, so the law holds over all of them; the
    burst a single caller sees is between seven eighths and all of the stated one. While Valkey is away, each worker
    keeps to its share of the rate and starts with no burst at all: the others may just have spent it. What it let
    through alone is charged when it next asks. So only a worker cut off from a Valkey that the others still reach can
    add to the rate, by its share. ``workers`` counts all that share the Valkey.
    """

    def __init__(
        self,
        valkey: Redis,
        workers: int,
        *,
        max_keys: int = 100_000,
        timeout_s: float = 0.25,
        retry_s: float = 1,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._script: Any = valkey.register_script(_LEASE_SCRIPT)  # Any: redis-py leaves the answer of a call untyped
        self._workers = workers
        self._max_keys = max_keys
        self._timeout_s = timeout_s
        self._retry_ns = int(retry_s * _NS_PER_S)
        self._clock_ns = clock_ns
        self._local = RateLimiter(max_keys, clock_ns=clock_ns)
        self._leases: OrderedDict[str, _Lease] = OrderedDict()
        self._away_since_ns: int | None = None
        self._retry_at_ns = 0

    @property
    def degraded(self) -> bool:
        """Whether Valkey is away, and each worker keeps to its own share."""
        return self._away_since_ns is not None

    async def check(self, key: str, rate: Rate) -> Decision:
        """Decide on one request of ``key``; waits for Valkey only when the leased block is used up."""
        lease = self._leases.get(key)
        if lease is None:
            wait = self._make_room()
            if wait:
                return Decision(False, 0, wait, wait)
            lease = self._leases[key] = _Lease()
        decision = self._spend(lease, rate)
        if decision is not None:
            return decision
        lease.waiting += 1
        try:
            async with lease.busy:  # one asks for all that wait
                return self._spend(lease, rate) or await self._renew(key, lease, rate)
        finally:
            lease.waiting -= 1

    def _spend(self, lease: _Lease, rate: Rate) -> Decision | None:
        """Decide by what this worker holds; None when Valkey must be asked."""
        at = self._clock_ns()
        if lease.units:
            lease.units -= 1
            return self._allowed(lease, rate, at)
        if lease.refused_until_ns > at:
            return Decision(False, 0, lease.refused_until_ns - at, max(lease.tat_ns - at, 0))
        return None

    async def _renew(self, key: str, lease: _Lease, rate: Rate) -> Decision:
        at = self._clock_ns()
        if self._away_since_ns is not None:
            if at < self._retry_at_ns:
                return self._alone(key, lease, rate)
            self._retry_at_ns = at + self._retry_ns  # this request tries; the others go on alone meanwhile
        size = lease_size(rate.burst, self._workers)
        shared = Rate(rate.interval_ns, rate.burst - self._workers * (size - 1))
        owed = lease.owed if lease.owed_until_ns > at else 0
        try:
            async with asyncio.timeout(self._timeout_s):
                granted, seen_us, ahead_us = await self._script(
                    keys=[f"rl:{key}"],
                    args=[shared.interval_ns // _NS_PER_US, shared.burst, size, lease.seen_us, owed],
                )
        except (RedisError, OSError, TimeoutError):
            at = self._clock_ns()
            self._away_since_ns = at if self._away_since_ns is None else self._away_since_ns
            self._retry_at_ns = at + self._retry_ns
            return self._alone(key, lease, rate)
        self._away_since_ns = None
        at = self._clock_ns()
        lease.owed = 0
        lease.seen_us = seen_us
        lease.tat_ns = at + ahead_us * _NS_PER_US
        if granted:
            lease.units = granted - 1
            return self._allowed(lease, rate, at)
        wait = max(lease.tat_ns + shared.interval_ns * (1 - shared.burst) - at, _NS_PER_US)
        lease.refused_until_ns = at + wait
        return Decision(False, 0, wait, max(lease.tat_ns - at, 0))

    def _allowed(self, lease: _Lease, rate: Rate, at: int) -> Decision:
        size = lease_size(rate.burst, self._workers)
        shared_burst = rate.burst - self._workers * (size - 1)
        ahead = max(lease.tat_ns - at, 0)
        free = max(shared_burst - -(-ahead // rate.interval_ns), 0)
        return Decision(True, free + lease.units, 0, ahead)

    def _alone(self, key: str, lease: _Lease, rate: Rate) -> Decision:
        share = rate.share(self._workers)
        # Everyone starts an outage with an empty bucket, filling at this worker's share.
        empty_since = self._away_since_ns or 0
        decision = self._local.check(key, share, even_at_ns=empty_since + share.interval_ns * share.burst)
        if decision.allowed:
            lease.owed = min(lease.owed + 1, share.burst)
            lease.owed_until_ns = decision.tat_ns
        return decision

    def _make_room(self) -> int:
        """Drop a lease that owes nothing (unspent units are lost, which is strict); answers how long to wait, or 0."""
        if len(self._leases) < self._max_keys:
            return 0
        at = self._clock_ns()
        for _ in range(_SCAN):
            key, lease = self._leases.popitem(last=False)
            if not lease.waiting and not (lease.owed and lease.owed_until_ns > at):
                return 0
            self._leases[key] = lease
        return self._retry_ns


def headers(rate: Rate, decision: Decision) -> list[tuple[str, str]]:
    """The ``x-ratelimit-*`` headers as OpenAI writes them; ``retry-after`` is the refusal's own.

    The limit is the burst: what ``remaining`` counts down from, and what ``reset`` brings back.
    """
    return [
        ("x-ratelimit-limit-requests", str(rate.burst)),
        ("x-ratelimit-remaining-requests", str(decision.remaining)),
        ("x-ratelimit-reset-requests", format_duration(decision.reset_ns)),
    ]


def retry_after_s(decision: Decision) -> int:
    """Whole seconds after which the request may pass, at least 1."""
    return max(1, -(-decision.retry_after_ns // _NS_PER_S))


def format_duration(ns: int) -> str:
    """``6ms``, ``1.5s``, ``6m0s``, ``1h0m0s``: whole milliseconds, rounded up, written as Go and OpenAI do."""
    ms = -(-ns // _NS_PER_MS)
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, ms = divmod(ms, 60_000)
    seconds = f"{ms // 1000}.{ms % 1000:03d}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds
