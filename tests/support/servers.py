"""Real PostgreSQL and Valkey servers for tests, each in a folder of its own.

Run as a program it is a node that only keeps servers: ``python -m tests.support.servers HOME OUTSIDE postgres valkey``
starts those named, prints one JSON line (its servers' pids) and waits to be killed.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from prsm.core.embedded import EmbeddedPostgres, EmbeddedValkey, NodeHome, Site
from prsm.core.embedded.server import EmbeddedServer
from prsm.core.schema import upgrade

T = TypeVar("T")

# Survives a crash of the server, not one of the machine; several times faster on a busy disk.
FAST = {"fsync": "off", "full_page_writes": "off"}
_MIGRATED = "migrated"


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread, whatever loop the caller stands in."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@contextmanager
def outside_folder() -> Iterator[Path]:
    """A folder that any account can reach, for the servers of a node that runs as root."""
    folder = Path(tempfile.mkdtemp(prefix="prsm-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server_site(tmp: Path) -> Iterator[Site]:
    """The held home ``tmp/home`` and the site of its servers."""
    with outside_folder() as outside, NodeHome.claim(tmp / "home") as home:
        yield home.server_site(outside=outside)


@contextmanager
def taken_over(home: Path, outside: Path) -> Iterator[Site]:
    """The site of a home that another node left, held by this process."""
    with NodeHome.claim(home) as held:
        yield held.server_site(outside=outside)


async def dead(pid: int) -> None:
    """Wait until the process is gone (or a zombie, which waits for nothing but its parent)."""
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        await asyncio.sleep(0.01)


@contextmanager
def other_node(home: Path, outside: Path, *names: str, prefix: tuple[str, ...] = ()) -> Iterator[dict[str, int]]:
    """Another process that holds ``home`` and started the servers ``names``; yields pids and is killed after."""
    argv = [*prefix, sys.executable, "-m", "tests.support.servers", str(home), str(outside), *names]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as node:
        try:
            assert node.stdout is not None
            yield json.loads(next(line for line in node.stdout if line.startswith(b"{")))
        finally:
            node.kill()


@contextmanager
def postgres_server(tmp: Path) -> Iterator[str]:
    """A PostgreSQL server with the settings FAST; yields its URL."""
    with server_site(tmp) as site:
        yield from _running(EmbeddedPostgres(site, settings=FAST))


@contextmanager
def valkey_server(tmp: Path) -> Iterator[str]:
    """A Valkey server; yields its URL."""
    with server_site(tmp) as site:
        yield from _running(EmbeddedValkey(site))


@contextmanager
def new_database(server_url: str, name: str, *, empty: bool = False) -> Iterator[str]:
    """A new database on the server, with this version's tables or ``empty``; yields its URL and drops it after.

    Tables are copied: to migrate takes a second, and what the migrations make is tested where they are.
    """
    run_apart(_create(server_url, name, "template1" if empty else _MIGRATED))
    try:
        yield _at(server_url, name)
    finally:
        run_apart(_execute(server_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


async def _create(server_url: str, name: str, template: str) -> None:
    statement = f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy'
    try:
        await _execute(server_url, statement)
    except asyncpg.InvalidCatalogNameError:
        await _execute(server_url, f'CREATE DATABASE "{template}" STRATEGY file_copy')
        await upgrade(_at(server_url, template))
        await _execute(server_url, statement)


def _at(server_url: str, name: str) -> str:
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


def _running(server: EmbeddedServer) -> Iterator[str]:
    url = run_apart(server.start())
    try:
        yield url
    finally:
        run_apart(server.stop())


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _keep(home_path: str, outside: str, *names: str) -> None:
    with NodeHome.claim(Path(home_path)) as home:
        site = home.server_site(outside=Path(outside))
        servers: dict[str, EmbeddedServer] = {}
        for name in names:
            servers[name] = EmbeddedPostgres(site, settings=FAST) if name == "postgres" else EmbeddedValkey(site)
        for server in servers.values():
            await server.start()
        print(json.dumps({"node": os.getpid()} | {name: server.pid for name, server in servers.items()}), flush=True)
        signal.pause()


if __name__ == "__main__":
    asyncio.run(_keep(*sys.argv[1:]))
