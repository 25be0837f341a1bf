"""Outages of a started node's parts, each made and mended from outside, and what the node's alerter says meanwhile.

The node stands on servers of its own that can be stopped; its alerts are read from its API, or, while that needs what
is away, from its log.
"""

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from urllib.error import HTTPError, URLError

from tests.support.servers import FAST, run_apart, server_site
from tests.support.started_node import StartedNode, started_node
from tests.support.upstream import UpstreamServer

from prsm.core.embedded import EmbeddedPostgres, EmbeddedValkey
from prsm.core.embedded.server import EmbeddedServer

QUESTION = {"messages": [{"role": "user", "content": "hello"}]}


@dataclass
class World:
    """A node on servers that can be stopped, a model behind it that can be, and a small disk that it watches."""

    node: StartedNode
    postgres: EmbeddedServer
    valkey: EmbeddedServer
    upstream: "StoppableUpstream"
    disk: Path | None

    def ask(self, model: str) -> int:
        """The status of one question."""
        try:
            self.node.call("POST", "/v1/chat/completions", QUESTION | {"model": model})
        except HTTPError as error:
            return error.code
        except (URLError, OSError):
            return 0
        return 200

    @contextmanager
    def asking(self, model: str, every_s: float = 0.3) -> Iterator[None]:
        """A caller who asks all the while."""
        over = Event()

        def go_on() -> None:
            while not over.wait(every_s):
                self.ask(model)

        caller = Thread(target=go_on, daemon=True)
        caller.start()
        try:
            yield
        finally:
            over.set()
            caller.join(90)

    def log_after(self, begun: int) -> str:
        return self.node.log_path.read_bytes()[begun:].decode(errors="replace")

    def until_told(self, kind: str, rule: str, begun: int, timeout_s: float) -> float:
        """Wait until the log says that an alert fires or is resolved; how long that took."""
        started_s = time.monotonic()
        while not any(
            f"alert {kind}" in line and f"rule={rule} " in line for line in self.log_after(begun).splitlines()
        ):
            if time.monotonic() - started_s > timeout_s:
                raise AssertionError(f"{rule} was not {kind} within {timeout_s} s:\n{self.log_after(begun)[-3000:]}")
            time.sleep(0.1)
        return time.monotonic() - started_s


class StoppableUpstream:
    """A provider on a fixed port, in a thread of its own, that can be gone and come back."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(UpstreamServer().start())
        self.port = self._server.port

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(10)

    def start(self) -> None:
        self._server = self._run(UpstreamServer().start(self.port))

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: "asyncio.Future[UpstreamServer] | object") -> UpstreamServer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]


@contextmanager
def small_disk(size_mib: int = 16) -> Iterator[Path | None]:
    """A disk in memory; None where this process may not mount one."""
    folder = Path(tempfile.mkdtemp(prefix="prsm-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=False)
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


@contextmanager
def outage_world(folder: Path, **settings: str | int) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(server_site(folder / "servers"))
        postgres, valkey = EmbeddedPostgres(site, settings=FAST), EmbeddedValkey(site)
        urls = [run_apart(server.start()) for server in (postgres, valkey)]
        for server in (postgres, valkey):
            stack.callback(lambda server=server: run_apart(server.stop()))
        disk = stack.enter_context(small_disk())
        if disk is not None:
            settings["WATCHED_FOLDERS"] = str(disk)
        given = {"DATABASE_URL": urls[0], "REDIS_URL": urls[1], "BREAKER_OPEN_S": 2, "PROBE_PER_MINUTE": 600}
        upstream = StoppableUpstream()
        stack.callback(upstream.close)
        node = stack.enter_context(started_node(folder, **(given | settings)))
        node.add_provider("up", f"{upstream.origin}/v1")
        node.add_model("up/echo")
        for number in range(4):
            node.add_model(f"up/fault-50{number}")
        yield World(node, postgres, valkey, upstream, disk)


@dataclass(frozen=True)
class Outage:
    """What breaks, which alert says so, and how it is broken and mended."""

    what: str
    rule: str
    break_it: Callable[[World], object]
    mend_it: Callable[[World], object]
    model: str = ""


def fill(world: World) -> None:
    assert world.disk is not None
    with contextlib.suppress(OSError), (world.disk / "filler").open("wb") as file:
        while True:
            file.write(b"\0" * 65536)


def empty(world: World) -> None:
    assert world.disk is not None
    (world.disk / "filler").unlink()


def _nothing(_world: World) -> None:
    """Whoever asks is the outage."""


OUTAGES = (
    Outage(
        "PostgreSQL stopped",
        "PostgresDown",
        lambda w: run_apart(w.postgres.stop()),
        lambda w: run_apart(w.postgres.start()),
    ),
    Outage("Valkey stopped", "ValkeyDown", lambda w: run_apart(w.valkey.stop()), lambda w: run_apart(w.valkey.start())),
    Outage("an upstream gone", "UpstreamDown", lambda w: w.upstream.stop(), lambda w: w.upstream.start(), "up/echo"),
    Outage("a disk filled", "DiskAlmostFull", fill, empty),
    Outage("a flood of errors", "ErrorFlood", _nothing, _nothing, "up/fault-500"),
)


def firing(world: World) -> set[str]:
    """The rules of which an alert fires."""
    return {one["rule"] for one in world.node.call("GET", "/node/v1/alerts")["alerts"] if one["state"] == "firing"}


def until_quiet(world: World, rule: str, timeout_s: float = 240) -> None:
    """Wait until a rule is quiet: an outage may raise several, and those of a rate outlast it by a minute."""
    deadline_s = time.monotonic() + timeout_s
    while rule in firing(world):
        assert time.monotonic() < deadline_s, f"{rule} goes on firing"
        time.sleep(0.5)


def suffer(world: World, outage: Outage, timeout_s: float) -> tuple[float, float]:
    """Break a part and mend it; seconds until the node's log says that the alert fires, and that it is resolved."""
    until_quiet(world, outage.rule)
    begun = len(world.node.log_path.read_bytes())
    return suffer_until(
        world,
        outage,
        fires=lambda: world.until_told("firing", outage.rule, begun, timeout_s),
        ends=lambda: world.until_told("resolved", outage.rule, begun, timeout_s),
    )


def suffer_until(
    world: World, outage: Outage, fires: Callable[[], float], ends: Callable[[], float]
) -> tuple[float, float]:
    """Break a part, wait until its alert ``fires``, mend it, wait until that ``ends``; the seconds that both took."""
    with contextlib.ExitStack() as asking:
        if outage.model:
            asking.enter_context(world.asking(outage.model))
        outage.break_it(world)
        fired_s = fires()
        outage.mend_it(world)
        if outage.mend_it is _nothing:
            asking.close()
        return fired_s, ends()
