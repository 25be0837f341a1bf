import asyncio
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from prsm.core.rate_limit import LeasedLimiter, Rate

S = 1_000_000_000
PATIENT_S = 10  # a busy machine must not look like an outage


class Cable:
    """A TCP connection to the real Valkey that can be cut and mended."""

    def __init__(self, url: str) -> None:
        self._far = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def client(self) -> Redis:
        return Redis(port=self.port, password=self._far.password, retry=Retry(NoBackoff(), 0))

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._far.scheme == "unix":
            far_reader, far_writer = await asyncio.open_unix_connection(self._far.path)
        else:
            far_reader, far_writer = await asyncio.open_connection(self._far.hostname, self._far.port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._writers -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Workers:
    """Limiters as several workers would have them, each with its own connection."""

    def __init__(self, cable: Cable, count: int, retry_s: float, max_keys: int = 1000) -> None:
        self.clients = [cable.client() for _ in range(count)]
        self.limiters = [
            LeasedLimiter(client, count, retry_s=retry_s, max_keys=max_keys, timeout_s=PATIENT_S)
            for client in self.clients
        ]

    async def hammer(self, key: str, rate: Rate, seconds: float) -> int:
        async def one(limiter: LeasedLimiter) -> int:
            passed = 0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                passed += (await limiter.check(key, rate)).allowed
                await asyncio.sleep(0.0005)
            return passed

        return sum(await asyncio.gather(*(one(limiter) for limiter in self.limiters)))

    async def close(self) -> None:
        for client in self.clients:
            await client.aclose()


@pytest.fixture
async def cable(valkey_url: str) -> AsyncIterator[Cable]:
    cable = Cable(valkey_url)
    await cable.mend()
    yield cable
    await cable.cut()


@pytest.fixture
async def four(cable: Cable) -> AsyncIterator[Workers]:
    workers = Workers(cable, 4, retry_s=0.05)
    yield workers
    await workers.close()


@pytest.fixture
def key() -> str:
    return str(uuid4())


async def drain(limiter: LeasedLimiter, key: str, rate: Rate) -> int:
    passed = 0
    while (await limiter.check(key, rate)).allowed:
        passed += 1
    return passed


async def test_workers_together_keep_the_law(four: Workers, key: str) -> None:
    rate = Rate.per_minute(6000, 200)
    started = time.monotonic_ns()
    passed = await four.hammer(key, rate, 0.8)
    span = time.monotonic_ns() - started
    assert passed <= rate.burst + span / rate.interval_ns
    assert passed > 0


async def test_one_caller_gets_most_of_the_burst_and_true_headers(four: Workers, key: str) -> None:
    rate = Rate.per_minute(1, 64)  # nothing comes back during the test
    first = await four.limiters[0].check(key, rate)
    assert first.allowed
    passed = 1 + await drain(four.limiters[0], key, rate)
    assert 56 <= passed <= 64
    assert first.remaining == passed - 1
    refused = await four.limiters[1].check(key, rate)
    assert not refused.allowed
    assert 0 < refused.retry_after_ns <= 60 * S
    assert refused.reset_ns > 50 * 60 * S


async def test_small_limits_are_exact_over_workers(four: Workers, key: str) -> None:
    rate = Rate.per_minute(1, 5)
    checks = (limiter.check(key, rate) for limiter in four.limiters * 5)
    assert sum(decision.allowed for decision in await asyncio.gather(*checks)) == 5


async def test_keys_are_apart(four: Workers, key: str) -> None:
    rate = Rate.per_minute(1, 1)
    assert (await four.limiters[0].check(key, rate)).allowed
    assert not (await four.limiters[1].check(key, rate)).allowed
    assert (await four.limiters[1].check(key + "x", rate)).allowed


async def test_a_refused_key_does_not_ask_again_until_it_may_pass(valkey_url: str, key: str) -> None:
    async with Redis.from_url(valkey_url) as client:
        limiter = LeasedLimiter(client, 1, timeout_s=PATIENT_S)
        await drain(limiter, key, Rate.per_minute(1, 3))
        await client.delete(f"rl:{key}")
        assert not (await limiter.check(key, Rate.per_minute(1, 3))).allowed
        assert await client.exists(f"rl:{key}") == 0


async def test_an_outage_never_opens_the_limit(cable: Cable, four: Workers, key: str) -> None:
    rate = Rate.per_minute(6000, 100)
    started = time.monotonic_ns()
    passed = await four.hammer(key, rate, 0.4)
    await cable.cut()
    alone = await four.hammer(key, rate, 0.8)
    span = time.monotonic_ns() - started
    assert all(limiter.degraded for limiter in four.limiters)
    assert alone > 0
    assert passed + alone <= rate.burst + span / rate.interval_ns


async def test_an_outage_starts_without_a_burst(cable: Cable, four: Workers, key: str) -> None:
    await cable.cut()
    rate = Rate.per_minute(1, 1000)
    decisions = [await limiter.check(key, rate) for limiter in four.limiters]
    assert not any(decision.allowed for decision in decisions)
    assert all(0 < decision.retry_after_ns <= 4 * 60 * S for decision in decisions)


async def test_what_passed_during_an_outage_is_charged_afterwards(cable: Cable, key: str) -> None:
    workers = Workers(cable, 1, retry_s=0.05, max_keys=1)
    limiter, rate = workers.limiters[0], Rate.per_minute(60_000, 600)
    await cable.cut()
    await workers.hammer(key, rate, 0.1)
    assert limiter.degraded
    await asyncio.sleep(0.3)
    slow = Rate.per_minute(60, 600)  # the same key at a rate at which nothing comes back meanwhile
    alone = await drain(limiter, key, rate)
    assert alone > 100
    assert not (await limiter.check("another", rate)).allowed  # the one place is taken by who owes
    await cable.mend()
    async with asyncio.timeout(20):
        while limiter.degraded:
            await asyncio.sleep(0.02)
            await limiter.check(key, slow)
    assert alone + await drain(limiter, key, slow) <= slow.burst
    await workers.close()


async def test_a_valkey_that_lost_its_data_gives_nothing_away(valkey_url: str, key: str) -> None:
    rate = Rate.per_minute(600, 50)
    async with Redis.from_url(valkey_url) as client:
        limiter = LeasedLimiter(client, 1, timeout_s=PATIENT_S)
        started = time.monotonic_ns()
        passed = await drain(limiter, key, rate)
        await client.delete(f"rl:{key}")
        await asyncio.sleep(0.25)
        passed += await drain(limiter, key, rate)
        assert passed <= rate.burst + (time.monotonic_ns() - started) / rate.interval_ns


async def test_a_clock_that_was_ahead_does_not_lock_a_key_out(valkey_url: str, key: str) -> None:
    async with Redis.from_url(valkey_url) as client:
        await client.set(f"rl:{key}", "9000000000000000")
        refused = await LeasedLimiter(client, 1, timeout_s=PATIENT_S).check(key, Rate.per_minute(600, 5))
        assert not refused.allowed
        assert refused.retry_after_ns <= S // 10


async def test_a_foreign_value_refuses_rather_than_opens(valkey_url: str, key: str) -> None:
    async with Redis.from_url(valkey_url) as client:
        await client.set(f"rl:{key}", "no number", ex=60)
        limiter = LeasedLimiter(client, 1, timeout_s=PATIENT_S)
        assert not (await limiter.check(key, Rate.per_minute(1, 5))).allowed
        assert limiter.degraded


async def test_leases_are_bounded_and_debt_is_not_forgotten(cable: Cable) -> None:
    client = cable.client()
    limiter = LeasedLimiter(client, 1, max_keys=3, retry_s=0.01, timeout_s=PATIENT_S)
    rate = Rate.per_minute(60_000, 10)
    names = [str(uuid4()) for _ in range(10)]
    for name in names:
        assert (await limiter.check(name, rate)).allowed
    await cable.cut()
    for name in names:
        await limiter.check(name, rate)
    await asyncio.sleep(0.05)
    outcomes = [(await limiter.check(name, rate)).allowed for name in names]
    assert 0 < sum(outcomes) <= 3
    await client.aclose()
