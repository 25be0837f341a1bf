"""Embedded Valkey: private, persistent, adopted after its node died, and full rather than forgetful."""

import asyncio
import os
import signal
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tests.support.servers import dead, other_node, outside_folder, server_site, taken_over

from prsm.core.embedded import EmbeddedValkey, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with server_site(tmp_path) as site:
        yield site


@asynccontextmanager
async def _client(url: str) -> AsyncIterator[Any]:
    client = redis.asyncio.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    finally:
        await client.aclose()


async def test_first_start_gives_a_private_persistent_server(site: Site) -> None:
    server = EmbeddedValkey(site)
    url = await server.start()
    try:
        async with _client(url) as client:
            assert await client.ping()
            config = await client.config_get("append*", "maxmemory*", "save")
            assert (config["appendonly"], config["appendfsync"], config["save"]) == ("yes", "everysec", "")
            assert (config["maxmemory-policy"], config["maxmemory"]) == ("noeviction", str(256 * 1024 * 1024))
        assert server.pid is not None
        process = psutil.Process(server.pid)
        assert process.uids().real == site.uid != 0
        assert not [socket for socket in process.net_connections("inet") if socket.status == psutil.CONN_LISTEN]
        assert site.secret("valkey.password") not in " ".join(process.cmdline())
        assert stat.S_IMODE((site.home / "valkey.password").stat().st_mode) == 0o600
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
        (conf,) = server.data_dir.parent.glob("*.conf")
        assert stat.S_IMODE(conf.stat().st_mode) & 0o007 == 0
    finally:
        await server.stop()


async def test_a_password_is_needed(site: Site) -> None:
    server = EmbeddedValkey(site)
    url = await server.start()
    try:
        secret = site.secret("valkey.password")
        for wrong in (url.replace(f":{secret}@", ""), url.replace(secret, "wrong")):
            async with _client(wrong) as client:
                with pytest.raises(redis.exceptions.RedisError, match=r"authenticated|WRONGPASS|username-password"):
                    await client.ping()
    finally:
        await server.stop()


async def test_the_end_of_a_server_is_told_whether_this_process_started_or_adopted_it(site: Site) -> None:
    server, heir = EmbeddedValkey(site), EmbeddedValkey(site)
    await server.ended(within_s=30)  # it was not started: nothing to wait for
    await server.start()
    await heir.start()
    try:
        begun_s = time.monotonic()
        await server.ended(within_s=0.2)
        assert 0.2 <= time.monotonic() - begun_s < 10
        waiting = [asyncio.create_task(each.ended(within_s=60)) for each in (server, heir)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await asyncio.wait_for(asyncio.gather(*waiting), 10)
        await server.ended(within_s=60)  # and at once when it is over
    finally:
        await heir.stop()
        await server.stop()


async def test_a_killed_server_comes_back_with_its_data(site: Site) -> None:
    server = EmbeddedValkey(site)
    url = await server.start()
    try:
        async with _client(url) as client:
            await client.set("session", b"kept", ex=600)
            # Resolves once the append-only file is on disk, which everysec does within about a second.
            assert (await client.execute_command("WAITAOF", 1, 0, 5000))[0] == 1
        assert server.pid is not None
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await dead(old)
        assert await server.ensure_running() == url
        assert server.pid not in (None, old)
        async with _client(url) as client:
            assert await client.get("session") == b"kept"
            assert 0 < await client.ttl("session") <= 600
    finally:
        await server.stop()


async def test_the_server_of_a_killed_node_is_adopted_even_while_it_rewrites_its_log(tmp_path: Path) -> None:
    with outside_folder() as outside:
        with other_node(tmp_path / "home", outside, "valkey") as pids:
            pass
        with taken_over(tmp_path / "home", outside) as site:
            server = EmbeddedValkey(site)
            url = await server.start()
            try:
                assert server.pid == pids["valkey"]
                async with _client(url) as client:
                    await client.bgrewriteaof()
                second = EmbeddedValkey(site)
                assert await second.start() == url
                assert second.pid == pids["valkey"]
            finally:
                await server.stop()
            await dead(pids["valkey"])


async def test_stop_keeps_everything_and_leaves_no_process(site: Site) -> None:
    server = EmbeddedValkey(site)
    url = await server.start()
    async with _client(url) as client:
        await client.set("counter", 41)
    assert server.pid is not None
    pid = server.pid
    await server.stop()
    assert not psutil.pid_exists(pid)
    assert await server.start() == url
    try:
        async with _client(url) as client:
            assert await client.incr("counter") == 42
    finally:
        await server.stop()


async def test_a_full_server_refuses_and_forgets_nothing(site: Site) -> None:
    server = EmbeddedValkey(site, settings={"maxmemory": "3mb"})
    url = await server.start()
    try:
        async with _client(url) as client:
            await client.set("limit", 7, ex=600)
            fill = (client.set(f"fill-{number}", b"x" * 100_000, ex=600) for number in range(100))
            answers = await asyncio.gather(*fill, return_exceptions=True)
            assert any(isinstance(answer, redis.exceptions.OutOfMemoryError) for answer in answers)
            assert await client.get("limit") == b"7"
    finally:
        await server.stop()


async def test_loopback_serves_where_sockets_cannot(site: Site) -> None:
    server = EmbeddedValkey(site, loopback=True)
    url = await server.start()
    try:
        assert "@127.0.0.1:" in url
        async with _client(url) as client:
            assert await client.ping()
        old = server.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        await dead(old)
        assert await server.ensure_running() == url
    finally:
        await server.stop()


async def test_two_starts_at_once_make_one_server(site: Site) -> None:
    server = EmbeddedValkey(site)
    try:
        assert len(set(await asyncio.gather(*(server.start() for _ in range(5))))) == 1
        heads = [p for p in psutil.process_iter(["cmdline"]) if str(server.data_dir) in (p.info["cmdline"] or [])]
        assert len(heads) == 1
    finally:
        await server.stop()
