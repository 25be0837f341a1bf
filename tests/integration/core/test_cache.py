"""The cache client against a real Valkey: what it keeps, what it says when the server is gone, what it never hides."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from tests.support.servers import dead, server_site

from prsm.core.cache import Cache, CacheLimits
from prsm.core.embedded import EmbeddedValkey
from prsm.core.errors import Kind, PrsmError, Unavailable

# A busy test machine is not a dead server.
PATIENT = CacheLimits(call_timeout_s=30)

_numbers = itertools.count(1)


@pytest.fixture
async def cache(valkey_url: str) -> AsyncIterator[Cache]:
    cache = Cache(valkey_url, namespace=f"test-{next(_numbers)}", limits=PATIENT)
    yield cache
    await cache.aclose()


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    with server_site(tmp_path) as site:
        server = EmbeddedValkey(site)
        await server.start()
        yield server
        await server.stop()


async def _kill(server: EmbeddedValkey) -> None:
    assert server.pid is not None
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    await dead(pid)


async def _until_up(cache: Cache) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await cache.ping()
            except Unavailable as error:
                await asyncio.sleep(error.retry_after_s or 0.01)
            else:
                return


async def test_values_are_kept_until_deleted_or_expired(cache: Cache) -> None:
    assert await cache.get("a") is None
    await cache.set("a", b"\x00\xff", ttl_s=60)
    await cache.set("brief", b"x", ttl_s=0.05)
    assert await cache.get("a") == b"\x00\xff"
    assert await cache.delete("a", "missing") == 1
    assert await cache.delete() == 0
    assert await cache.get("a") is None
    async with asyncio.timeout(10):
        while await cache.get("brief") is not None:
            await asyncio.sleep(0.01)
    assert cache.state.up


async def test_a_counter_ends_after_its_first_addition_however_often_it_is_used(cache: Cache, valkey_url: str) -> None:
    assert await cache.incr_by("n", 5, ttl_s=0.3) == 5
    assert await cache.incr_by("n", -2, ttl_s=600) == 3
    async with asyncio.timeout(10):
        while await cache.incr_by("n", 0, ttl_s=600) == 3:
            await asyncio.sleep(0.02)


async def test_namespaces_do_not_see_each_other(cache: Cache, valkey_url: str) -> None:
    other = Cache(valkey_url, namespace="somebody-else", limits=PATIENT)
    try:
        await other.set("key", b"theirs", ttl_s=60)
        assert await cache.get("key") is None
    finally:
        await other.aclose()


async def test_messages_of_matching_topics_arrive_in_order(cache: Cache) -> None:
    got: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    gaps: list[None] = []

    async def handle(topic: str, payload: bytes) -> None:
        await got.put((topic, payload))

    async def gap() -> None:
        gaps.append(None)

    subscription = cache.subscribe("session.*", handle, on_gap=gap)
    await subscription.listening.wait()
    assert await cache.publish("other.1", b"no") == 0
    for number in range(50):
        assert await cache.publish(f"session.{number}", str(number).encode()) == 1
    assert [await got.get() for _ in range(50)] == [(f"session.{n}", str(n).encode()) for n in range(50)]
    assert len(gaps) == 1, "once, when it began to listen"
    await subscription.aclose()
    assert await cache.publish("session.1", b"late") == 0


async def test_a_reconnected_subscription_reports_the_gap_and_goes_on(own_server: EmbeddedValkey) -> None:
    cache = Cache(own_server.url, limits=PATIENT)
    got: asyncio.Queue[bytes] = asyncio.Queue()
    gap = asyncio.Event()

    async def handle(_: str, payload: bytes) -> None:
        await got.put(payload)

    async def on_gap() -> None:
        gap.set()

    subscription = cache.subscribe("*", handle, on_gap=on_gap)
    try:
        await subscription.listening.wait()
        await gap.wait()
        gap.clear()
        await _kill(own_server)
        async with asyncio.timeout(30):
            while subscription.listening.is_set():
                await asyncio.sleep(0.01)
            assert not gap.is_set()
            await own_server.ensure_running()
            await gap.wait()
            await subscription.listening.wait()
            await _until_up(cache)
            await cache.publish("after", b"heard")
            assert await got.get() == b"heard"
    finally:
        await cache.aclose()


async def test_a_subscription_begun_while_the_server_was_away_reports_a_gap(own_server: EmbeddedValkey) -> None:
    cache = Cache(own_server.url, limits=PATIENT)
    await _kill(own_server)
    gap = asyncio.Event()

    async def ignore(_: str, __: bytes) -> None:
        return

    async def on_gap() -> None:
        gap.set()

    cache.subscribe("*", ignore, on_gap=on_gap)
    try:
        await asyncio.sleep(0.05)
        await own_server.ensure_running()
        await asyncio.wait_for(gap.wait(), 30)
    finally:
        await cache.aclose()


async def test_a_slow_or_failing_handler_costs_messages_but_never_silently(valkey_url: str) -> None:
    cache = Cache(valkey_url, namespace="slow", limits=CacheLimits(call_timeout_s=30, max_pending_messages=10))
    handled: list[bytes] = []
    gap, proceed = asyncio.Event(), asyncio.Event()

    async def handle(_: str, payload: bytes) -> None:
        await proceed.wait()
        handled.append(payload)
        if payload == b"bad":
            raise ValueError(payload)

    async def on_gap() -> None:
        gap.set()

    subscription = cache.subscribe("*", handle, on_gap=on_gap)
    try:
        await subscription.listening.wait()
        await asyncio.wait_for(gap.wait(), 30)
        gap.clear()
        for number in range(100):
            await cache.publish("t", str(number).encode())
        proceed.set()
        await asyncio.wait_for(gap.wait(), 30)
        assert len(handled) < 100
        gap.clear()
        await cache.publish("t", b"bad")
        await cache.publish("t", b"last")
        await asyncio.wait_for(gap.wait(), 30)
        async with asyncio.timeout(30):
            while b"last" not in handled:
                await asyncio.sleep(0.01)
    finally:
        await cache.aclose()


async def test_a_dead_server_is_unavailable_and_comes_back(own_server: EmbeddedValkey) -> None:
    cache = Cache(own_server.url, limits=PATIENT)
    try:
        assert await cache.ping() > 0
        up = cache.state
        assert up.up
        await _kill(own_server)
        for call in (cache.get("a"), cache.set("a", b"", ttl_s=1), cache.incr_by("a", 1, ttl_s=1), cache.ping()):
            with pytest.raises(Unavailable) as refused:
                await call
            assert refused.value.kind is Kind.UNAVAILABLE
            assert refused.value.retry_after_s is not None
        assert not cache.state.up
        assert cache.state.since > up.since
        assert cache.state.last_error.endswith(".")
        secret = own_server.url.split(":")[2].split("@")[0]
        assert secret not in cache.state.last_error + str(refused.value)

        await own_server.ensure_running()
        await _until_up(cache)
        assert cache.state.up
    finally:
        await cache.aclose()


async def test_a_silent_server_is_asked_by_one_call_at_a_time(tmp_path: Path) -> None:
    accepted: list[None] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(None)
        await reader.read()
        writer.close()

    path = tmp_path / "s"
    async with await asyncio.start_unix_server(say_nothing, path):
        cache = Cache(f"unix://{path}", limits=CacheLimits(call_timeout_s=0.1, backoff_min_s=60))
        try:
            with pytest.raises(Unavailable, match="no answer in time"):
                await cache.get("a")
            assert len(accepted) == 1
            for _ in range(200):
                with pytest.raises(Unavailable):
                    await cache.get("a")
            assert len(accepted) == 1
        finally:
            await cache.aclose()


async def test_calls_cut_short_never_get_each_others_answers(own_server: EmbeddedValkey) -> None:
    cache = Cache(own_server.url, limits=CacheLimits(call_timeout_s=1, backoff_max_s=0.05))
    try:
        for number in range(40):
            await cache.set(f"k{number}", str(number).encode(), ttl_s=600)
        assert own_server.pid is not None
        process = psutil.Process(own_server.pid)
        process.suspend()
        cut = [asyncio.create_task(cache.get(f"k{number}")) for number in range(20)]
        await asyncio.sleep(0.05)
        for task in cut[:10]:
            task.cancel()
        results = await asyncio.gather(*cut, return_exceptions=True)
        assert all(isinstance(result, Unavailable | asyncio.CancelledError) for result in results)
        process.resume()
        await _until_up(cache)
        values = await asyncio.gather(*(cache.get(f"k{number}") for number in range(20, 40)))
        assert values == [str(number).encode() for number in range(20, 40)]
    finally:
        await cache.aclose()


async def test_a_wrong_password_and_a_missing_server_are_unavailable(valkey_url: str, tmp_path: Path) -> None:
    secret = valkey_url.split(":")[2].split("@")[0]
    for url in (valkey_url.replace(secret, "wrong"), f"unix://{tmp_path}/none", "redis://127.0.0.1:1/0"):
        cache = Cache(url)
        with pytest.raises(Unavailable):
            await cache.ping()
        assert not cache.state.up
        await cache.aclose()


async def test_a_full_server_is_up_but_refuses(tmp_path: Path) -> None:
    with server_site(tmp_path) as site:
        server = EmbeddedValkey(site, settings={"maxmemory": "3mb"})
        cache = Cache(await server.start(), limits=PATIENT)
        try:
            await cache.set("first", b"1", ttl_s=600)
            fill = (cache.set(f"fill-{number}", b"x" * 100_000, ttl_s=600) for number in range(60))
            refusals = [answer for answer in await asyncio.gather(*fill, return_exceptions=True) if answer]
            assert refusals
            assert all(isinstance(refusal, Unavailable) and "refused" in str(refusal) for refusal in refusals)
            assert await cache.get("first") == b"1"
            assert cache.state.up
        finally:
            await cache.aclose()
            await server.stop()


async def test_a_value_over_the_limit_is_refused_with_both_numbers(valkey_url: str) -> None:
    cache = Cache(valkey_url, limits=CacheLimits(max_value_bytes=10))
    with pytest.raises(PrsmError, match=r"11 bytes.*10") as refused:
        await cache.set("a", b"x" * 11, ttl_s=1)
    assert refused.value.kind is Kind.TOO_LARGE
    await cache.aclose()
