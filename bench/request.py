"""Processor time of whole requests inside one node: its real server, path and databases, but no client's sockets.

Clients are transports in memory, so that what is counted is the node's own process and, apart from it, its PostgreSQL
and Valkey. With ``--against`` another checkout's node runs in turn with this one's, in each round the other first; the
least of the rounds is compared (what comes up every few seconds only is in the median).

    python -m bench.request [--against CHECKOUT] [--rounds 12] [--requests 1500]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import uvloop

from bench.gateway import MESSAGES, free_port
from bench.processes import Cores, Family, cpu_s, share_cores, spawn
from bench.servers import ROOT, Site, UpstreamServer
from prsm.api.http_server import Connection, HttpServer, Limits
from prsm.api.main import Edge, calm_collector
from prsm.core.config import Settings
from prsm.core.identity import SCOPES, Grant
from prsm.monitoring import logs
from prsm.node import open_node, servers

_LOADS = ["plain:50", "plain:500", "burst:20"]


class Pipe(asyncio.Transport):
    """A client in memory: gives a connection one request after another, and counts the answers it took whole."""

    def __init__(self, server: HttpServer, head: bytes, body: bytes, work: "Work") -> None:
        super().__init__()
        self._request = head + body
        self._streams = b'"stream":true' in body
        self._work = work
        self._connection = Connection(server)
        self._connection.connection_made(self)

    def ask(self) -> None:
        """Send the next request, if there is one left."""
        if self._work.take():
            self._connection.data_received(self._request)

    def write(self, data: Any) -> None:
        """What the node answers with."""
        if self._streams and not data.endswith(b"0\r\n\r\n"):
            return
        if not (self._streams or data.startswith(b"HTTP/1.1 20")):
            raise RuntimeError(f"refused: {data[:2000]!r}")
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self.ask)  # by then the request's task has ended, as it has for a real client
        self._work.done()

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Work:
    """A number of requests; ``ended`` is done with the last answer."""

    def __init__(self, requests: int) -> None:
        self._left = self._open = requests
        self.ended = asyncio.get_running_loop().create_future()

    def take(self) -> bool:
        """Whether one more is to be sent."""
        self._left -= 1
        return self._left >= 0

    def done(self) -> None:
        """One was answered."""
        self._open -= 1
        if not self._open:
            self.ended.set_result(None)


async def answer_jobs(home: Path, upstream_url: str) -> None:
    """A node that runs each job of stdin and tells what it cost."""
    logs.configure("warning", "console")
    settings = Settings(
        home=home, rate_limit_per_minute=1_000_000, rate_limit_burst=1_000_000, welcome_grant_micro=10**12
    )
    async with servers(settings) as urls, open_node(settings, *urls, first=True) as node:
        server = HttpServer(Edge(node), Limits())
        principal = await node.enrolment.principal("bench", "admin")
        key = (await node.enrolment.key(principal.id, Grant("bench", SCOPES), actor=None, cap_micro=None)).token
        provider = {"kind": "openai", "base_url": f"{upstream_url}/v1", "api_key": "sk-upstream"}
        await _send(server, key, "PUT", "/node/v1/providers/bench", provider)
        for name in ("plain", "burst"):
            prices = {"input_price_micro": 1_000_000, "output_price_micro": 4_000_000}
            await _send(server, key, "PUT", f"/node/v1/models/bench/bench-{name}", prices)
        calm_collector()
        databases = Family(os.getpid(), home)
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            job = json.loads(line)
            print(json.dumps(await _run(server, key, databases, **job)), flush=True)


async def _run(
    server: HttpServer, key: str, databases: Family, kind: str, connections: int, requests: int
) -> dict[str, float]:
    body: dict[str, Any] = {"model": f"bench/bench-{kind}", "messages": MESSAGES, "max_tokens": 64, "temperature": 0.7}
    message = _message(key, "POST", "/v1/chat/completions", body if kind == "plain" else {**body, "stream": True})
    work = Work(requests)
    others = [process for process in databases.members() if process.pid != os.getpid()]
    before, others_before = time.process_time(), cpu_s(others)
    for pipe in [Pipe(server, *message, work) for _ in range(connections)]:
        pipe.ask()
    await work.ended
    await asyncio.sleep(0.3)  # what is put off until after the answer is counted too
    spent, others_spent = time.process_time() - before, cpu_s(others) - others_before
    return {"front_us": spent / requests * 1e6, "database_us": others_spent / requests * 1e6}


async def _send(server: HttpServer, key: str, method: str, path: str, body: dict[str, Any]) -> None:
    work = Work(1)
    Pipe(server, *_message(key, method, path, body), work).ask()
    await work.ended


def _message(key: str, method: str, path: str, body: dict[str, Any]) -> tuple[bytes, bytes]:
    content = json.dumps(body, separators=(",", ":")).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode(), content


@dataclass(slots=True)
class Contender:
    """A checkout's node in a process of its own."""

    name: str
    process: "subprocess.Popen[str]"

    def run(self, job: dict[str, Any]) -> dict[str, float]:
        """Let it do a job, or, without one, wait until it is ready."""
        assert self.process.stdin
        assert self.process.stdout
        if job:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"{self.name} ended early")
        return cast("dict[str, float]", json.loads(line))


def compare(contenders: list[Contender], loads: list[str], rounds: int, requests: int) -> None:
    """All rounds of all loads; prints the least and the median of each contender."""
    for load in loads:
        kind, connections = load.split(":")
        seen: dict[str, list[dict[str, float]]] = {each.name: [] for each in contenders}
        for number in range(rounds + 1):
            for each in contenders if number % 2 else contenders[::-1]:
                job = {"kind": kind, "connections": int(connections), "requests": requests}
                found = each.run(job)
                if number:  # the first round warms up
                    seen[each.name].append(found)
        for name, runs in seen.items():
            front, database = ([run[part] for run in runs] for part in ("front_us", "database_us"))
            print(
                f"{load:12} {name:8} front {min(front):6.1f} us (median {median(front):6.1f})   "
                f"databases {min(database):6.1f} us (median {median(database):6.1f})",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--loads", nargs="+", default=_LOADS, metavar="KIND:CONNECTIONS", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=1500, help="in one round")
    parser.add_argument("--node", nargs=2, metavar=("HOME", "UPSTREAM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node:
        uvloop.run(answer_jobs(Path(options.node[0]), options.node[1]))
        return
    cores = share_cores(pin=True)
    with tempfile.TemporaryDirectory(prefix="bench-request-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o711)
        upstream = UpstreamServer(Site(0, free_port(), cores, Path(folder) / "upstream"))
        stack.callback(upstream.stop)
        upstream.start()
        trees = {"this": ROOT} | ({"against": options.against.resolve()} if options.against else {})
        contenders = [_start(name, tree, Path(folder), upstream, cores, stack) for name, tree in trees.items()]
        for each in contenders:
            each.run({})
        compare(contenders, options.loads, options.rounds, options.requests)


def _start(name: str, tree: Path, folder: Path, upstream: UpstreamServer, cores: Cores, stack: ExitStack) -> Contender:
    home = folder / name
    home.mkdir(mode=0o711)
    env = {
        **os.environ,
        **(json.loads(os.environ.get("AENV", "{}")) if name == "against" else {}),
        "PYTHONPATH": f"{tree / 'src'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
    }
    command: list[str | Path] = [sys.executable, "-m", "bench.request", "--node", home, upstream.site.upstream_url]
    process = spawn(command, cores.server, env, subprocess.PIPE, ROOT)
    stack.callback(Family(process.pid, home).stop)
    return Contender(name, process)


if __name__ == "__main__":
    main()
