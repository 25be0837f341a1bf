"""Session state, counters and pub/sub in Valkey or Redis, off the request path and never the truth of anything.

When the server is away every call raises Unavailable at once and the caller decides: state is read from PostgreSQL
instead, a limit refuses. A call never waits longer than its time-out, and a dead server is asked again only after a
back-off, by one call at a time.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from prsm.core.cancellation import end_tasks
from prsm.core.clock import Clock, now
from prsm.core.errors import Kind, PrsmError, Unavailable

Handler = Callable[[str, bytes], Awaitable[None]]
OnGap = Callable[[], Awaitable[None]]

_T = TypeVar("_T")
# redis-py's types are partly unknown: its client is Any in this file and nowhere else.
_driver: Any = redis.asyncio
_AWAY = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CacheState:
    """Whether the last call reached the server, since when that is so, and what went wrong last (one sentence)."""

    up: bool
    since: datetime
    last_error: str


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Every bound of a cache client."""

    call_timeout_s: float = 0.25
    max_concurrent_calls: int = 64
    max_value_bytes: int = 1024 * 1024
    backoff_min_s: float = 0.05
    backoff_max_s: float = 5.0
    max_pending_messages: int = 1024
    heartbeat_s: float = 15.0


class Cache:
    """A client of one server (``unix://`` or ``redis://``); keys and topics live under ``namespace``."""

    def __init__(
        self, url: str, *, namespace: str = "prsm", limits: CacheLimits | None = None, clock: Clock = now
    ) -> None:
        self._limits = limits or CacheLimits()
        self._prefix = f"{namespace}:"
        self._where = _without_password(url)
        self._clock = clock
        self._client = _driver.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0))
        self._slots = asyncio.Semaphore(self._limits.max_concurrent_calls)
        self._failures = 0
        self._retry_at_s = 0.0
        self._state = CacheState(up=False, since=clock(), last_error="No call was made yet.")
        self._subscriptions: list[Subscription] = []

    @property
    def client(self) -> Any:
        """The redis-py client, for who runs scripts and bounds and fails by rules of its own."""
        return self._client

    @property
    def state(self) -> CacheState:
        """As the last call found it; ``ping()`` brings it up to date."""
        return self._state

    async def get(self, key: str) -> bytes | None:
        """The value, or None where there is none (or no longer)."""
        return await self._call(lambda client: client.get(self._prefix + key))

    async def set(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s``; nothing is kept for ever."""
        self._check_size(value)
        await self._call(lambda client: client.set(self._prefix + key, value, px=max(1, round(ttl_s * 1000))))

    async def delete(self, *keys: str) -> int:
        """Remove; returns how many there were."""
        names = [self._prefix + key for key in keys]
        return await self._call(lambda client: client.delete(*names)) if names else 0

    async def incr_by(self, key: str, amount: int, *, ttl_s: float) -> int:
        """Add to a counter and return it; it ends ``ttl_s`` after its first addition, later ones do not extend it.

        After Unavailable the addition may or may not have happened: not to be repeated blindly.
        """

        async def add(client: Any) -> int:
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.incrby(self._prefix + key, amount)
                pipeline.pexpire(self._prefix + key, max(1, round(ttl_s * 1000)), nx=True)
                return (await pipeline.execute())[0]

        return await self._call(add)

    async def publish(self, topic: str, payload: bytes) -> int:
        """Send to whoever listens now; returns how many that were."""
        self._check_size(payload)
        return await self._call(lambda client: client.publish(self._prefix + topic, payload))

    def subscribe(self, pattern: str, handler: Handler, *, on_gap: OnGap) -> "Subscription":
        """Call ``handler(topic, payload)`` for each message of the topics that match the glob ``pattern``.

        ``on_gap`` is awaited whenever messages may have been lost, and first as soon as it listens, for what was read
        before may be out of date: flush what the messages would have invalidated.
        """
        subscription = Subscription(self._client, self._prefix, pattern, handler, on_gap, self._limits)
        self._subscriptions.append(subscription)
        return subscription

    async def ping(self) -> float:
        """The latency of one round trip, in milliseconds."""
        begun = time.perf_counter()
        await self._call(lambda client: client.ping())
        return (time.perf_counter() - begun) * 1000

    async def aclose(self) -> None:
        """End the subscriptions and close the connections."""
        for subscription in self._subscriptions:
            await subscription.aclose()
        await self._client.aclose()

    async def _call(self, operation: Callable[[Any], Awaitable[_T]]) -> _T:
        self._refuse_while_away()
        waiting = True
        try:
            async with asyncio.timeout(self._limits.call_timeout_s), self._slots:
                waiting = False
                result = await operation(self._client)
        except _AWAY as error:
            if waiting:
                raise Unavailable(
                    f"The cache at {self._where} has {self._limits.max_concurrent_calls} calls waiting.",
                    remedy="Try again shortly.",
                ) from error
            raise self._away(error) from error
        except ResponseError as error:
            # It answered, so it is up, but did nothing: full (OOM), disk trouble (MISCONF), a replica (READONLY).
            raise Unavailable(
                f"The cache at {self._where} refused: {error}.", remedy="Read the cache's log."
            ) from error
        self._back()
        return result

    def _refuse_while_away(self) -> None:
        if not self._failures:
            return
        wait_s = self._retry_at_s - time.monotonic()
        if wait_s > 0:
            raise Unavailable(
                f"The cache at {self._where} is away: {self._state.last_error}", retry_after_s=round(wait_s, 3)
            )
        # This call is the trial; until it is decided the others are refused.
        self._retry_at_s = time.monotonic() + self._limits.call_timeout_s

    def _away(self, error: BaseException) -> Unavailable:
        said = (str(error) or "no answer in time").rstrip(".") + "."
        if self._state.up or not self._failures:
            self._state = CacheState(up=False, since=self._clock(), last_error=said)
            _log.warning("cache_away", where=self._where, error=said)
        else:
            self._state = CacheState(up=False, since=self._state.since, last_error=said)
        self._failures += 1
        pause_s = self._limits.backoff_min_s + _full_jitter_s(self._failures, self._limits)
        self._retry_at_s = time.monotonic() + pause_s
        return Unavailable(f"The cache at {self._where} is away: {said}", retry_after_s=round(pause_s, 3))

    def _back(self) -> None:
        self._failures = 0
        if not self._state.up:
            self._state = CacheState(up=True, since=self._clock(), last_error=self._state.last_error)
            _log.info("cache_up", where=self._where)

    def _check_size(self, value: bytes) -> None:
        if len(value) > self._limits.max_value_bytes:
            raise PrsmError(
                f"A cache value has {len(value)} bytes; the limit is {self._limits.max_value_bytes}.",
                kind=Kind.TOO_LARGE,
                code="cache_value_too_large",
            )


class Subscription:
    """A running listener with a connection of its own; it reconnects by itself until closed.

    While ``listening`` is not set nothing arrives, so what rests on invalidation must not be trusted.
    """

    def __init__(
        self, client: Any, prefix: str, pattern: str, handler: Handler, on_gap: OnGap, limits: CacheLimits
    ) -> None:
        self.listening = asyncio.Event()
        self._client = client
        self._prefix = prefix
        self._pattern = prefix + pattern
        self._handler = handler
        self._on_gap = on_gap
        self._limits = limits
        self._failures = 0
        self._pending: deque[tuple[str, bytes]] = deque()
        self._gap = False
        self._wake = asyncio.Event()
        self._tasks = [asyncio.create_task(self._stay_connected()), asyncio.create_task(self._deliver())]

    async def aclose(self) -> None:
        """Stop listening; messages not yet handled are dropped."""
        await end_tasks(self._tasks)
        self.listening.clear()

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001  whatever happens, a listener goes on until it is closed
                if not self._failures:
                    _log.warning("subscription_lost", pattern=self._pattern, error=repr(error))
            finally:
                self.listening.clear()
            self._failures += 1
            await asyncio.sleep(_full_jitter_s(self._failures, self._limits))

    async def _listen(self) -> None:
        pubsub = self._client.pubsub()
        try:
            async with asyncio.timeout(self._limits.call_timeout_s * 4):
                await pubsub.psubscribe(self._pattern)
                await pubsub.get_message(timeout=None)
            self._lose()
            self._failures = 0
            self.listening.set()
            await self._read(pubsub)
        finally:
            await pubsub.aclose()

    async def _read(self, pubsub: Any) -> None:
        asked = False
        while True:
            message = await pubsub.get_message(timeout=self._limits.heartbeat_s)
            if message is None:
                # Silence is a quiet topic or a dead peer; only an answer tells which.
                if asked:
                    raise RedisConnectionError("The server did not answer a heartbeat.")
                await pubsub.ping()
                asked = True
                continue
            asked = False
            if message["type"] == "pmessage":
                self._take(message["channel"].decode().removeprefix(self._prefix), message["data"])

    def _take(self, topic: str, payload: bytes) -> None:
        if len(self._pending) >= self._limits.max_pending_messages:
            _log.warning("subscription_overflow", pattern=self._pattern, dropped=len(self._pending) + 1)
            self._pending.clear()
            self._lose()
            return
        self._pending.append((topic, payload))
        self._wake.set()

    def _lose(self) -> None:
        self._gap = True
        self._wake.set()

    async def _deliver(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._gap:
                    self._gap = False
                    await self._on_gap()
                while self._pending:
                    await self._handler(*self._pending.popleft())
            except Exception as error:  # noqa: BLE001  the owner's code: whatever it raises is a message not handled
                _log.error("subscription_handler_failed", pattern=self._pattern, error=type(error).__name__)
                self._lose()
                await asyncio.sleep(_full_jitter_s(4, self._limits))


def _full_jitter_s(failures: int, limits: CacheLimits) -> float:
    """A random pause below an exponentially growing bound."""
    bound_s = min(limits.backoff_max_s, limits.backoff_min_s * 2 ** min(failures, 16))
    return random.uniform(0.0, bound_s)  # noqa: S311  spreads load, guards nothing


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
