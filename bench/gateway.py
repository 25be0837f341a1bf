"""Compares gateways under one load, interleaved in one run: the node, a passthrough, LiteLLM's proxy.

For each server: CPU per request, requests per second and per core, latency at several numbers of connections, CPU per
50-token stream, and the memory of idle streams. Rounds alternate between the servers so that a slow minute of the
machine meets all of them; medians are reported. Only loopback traffic; every process is ended by its id.

    python -m bench.gateway [--servers node,passthrough,litellm] [--quick]
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.processes import Cores, cpu_s, memory, raise_file_limit, share_cores, spawn
from bench.report import IDLE, STREAMS, table
from bench.servers import MODELS, ROOT, SERVERS, Server, Site, UpstreamServer
from bench.upstream import TOKENS

_PROMPT = "Summarise in two sentences why a ledger keeps both sides of every transfer, and what a hold is good for."
MESSAGES = [{"role": "system", "content": "You answer briefly."}, {"role": "user", "content": _PROMPT}]
_SETTLE_S = 0.3
"""Work that a server puts off until after its answer is counted too."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. ``name`` is plain, paced or burst; the model of that name behaves so at the upstream."""

    name: str
    connections: int


class Load:
    """One load generator process and the conversation with it: one JSON line each way."""

    def __init__(self, job: dict[str, Any], cores: Cores, limit_s: float) -> None:
        command = [sys.executable, "-m", "bench.load"]
        self._process = spawn(command, cores.load, os.environ, subprocess.PIPE, ROOT)
        self._limit_s = limit_s
        self.tell(json.dumps(job))

    def tell(self, line: str) -> None:
        """Send one line."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next line. Raises RuntimeError when the generator ended instead."""
        assert self._process.stdout
        with _alarm(self._process, self._limit_s):
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended early")
        return json.loads(line)

    def close(self) -> None:
        """End the generator if it has not ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self._process.kill()
        self._process.wait()


def measure(server: Server, upstream: UpstreamServer, scenario: Scenario, args: argparse.Namespace) -> dict[str, Any]:
    """One measured window: nothing is in flight when it begins, and nothing when it ends."""
    job = {
        "mode": "closed",
        "port": server.site.port,
        "headers": server.headers,
        "body": _body(server, scenario.name),
        "connections": scenario.connections,
        "markers": TOKENS,
        "seconds": args.seconds,
        "warmup_requests": args.warmup,
        "drain_s": args.drain_s,
    }
    load = Load(job, server.site.cores, args.seconds + 2 * args.drain_s + 60)
    try:
        warm = load.hear()
        time.sleep(_SETTLE_S)
        before = [cpu_s(group) for group in (server.members(), server.front(), upstream.members())]
        load.tell("go")
        seen = load.hear()
        time.sleep(_SETTLE_S)
        after = [cpu_s(group) for group in (server.members(), server.front(), upstream.members())]
    finally:
        load.close()
    used = [late - early for early, late in zip(before, after, strict=True)]
    return {**seen, **warm, **_figures(seen, used)}


def measure_idle(server: Server, upstream: UpstreamServer, args: argparse.Namespace) -> dict[str, Any]:
    """Memory of streams that rest open, on a freshly started server that has answered a little before."""
    measure(server, upstream, Scenario("burst", 20), argparse.Namespace(**{**vars(args), "seconds": 1.0}))
    job = {
        "mode": "hold",
        "port": server.site.port,
        "headers": server.headers,
        "body": _body(server, "idle"),
        "connections": args.idle,
        "markers": 1,
        "ramp_s": args.ramp_s,
        "drain_s": args.drain_s,
    }
    time.sleep(1)
    empty_all, empty_front = memory(server.members()), memory(server.front())
    load = Load(job, server.site.cores, args.ramp_s + 2 * args.drain_s + 60)
    try:
        opened = load.hear()
        time.sleep(args.hold_s)
        full_all, full_front = memory(server.members()), memory(server.front())
        load.tell("check")
        alive = load.hear()["alive"]
        held = upstream.held()
        upstream.release()
        load.tell("finish")
        ended = load.hear()
    finally:
        load.close()
        upstream.release()
    streams = max(alive, 1)
    return {
        "asked": args.idle,
        "opened": opened["opened"],
        "alive": alive,
        "held_by_upstream": held,
        "ended_properly": ended["ended_properly"],
        "errors": ended["errors"],
        "ramp_s": opened["ramp_s"],
        "rss_bytes": (full_all.rss - empty_all.rss) / streams,
        "pss_bytes": (full_all.pss - empty_all.pss) / streams,
        "front_rss_bytes": (full_front.rss - empty_front.rss) / streams,
        "front_pss_bytes": (full_front.pss - empty_front.pss) / streams,
        "empty_rss_bytes": empty_all.rss,
    }


def run(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """All rounds, then the idle streams; figures are added to ``result`` as they come, so that a failure keeps them."""
    cores = share_cores(not args.no_pin)
    os.sched_setaffinity(0, cores.load)
    result.update(machine=_machine(cores), args=vars(args), background_cpu_ms_per_s={}, runs=[], idle=[])
    scenarios = [Scenario("plain", count) for count in args.connections]
    scenarios += [Scenario(name, args.stream_connections) for name in STREAMS]
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder, contextlib.ExitStack() as stack:
        Path(folder).chmod(0o711)  # a database run as another user passes through
        upstream = UpstreamServer(Site(0, free_port(), cores, Path(folder) / "upstream"))
        _start(upstream, stack)
        servers = [_server(name, upstream, Path(folder)) for name in args.servers]
        with contextlib.ExitStack() as started:
            for server in servers:
                _start(server, started)
            result["background_cpu_ms_per_s"] = _background(servers)
            for number in range(args.rounds):
                for scenario in scenarios:
                    for server in servers:
                        seen = measure(server, upstream, scenario, args)
                        seen = {"server": server.name, "round": number, **asdict(scenario), **seen}
                        result["runs"].append(seen)
                        _progress(seen)
        for name in args.servers if args.idle else ():
            with contextlib.ExitStack() as started:
                server = _server(name, upstream, Path(folder), fresh=True)
                _start(server, started)
                result["idle"].append({"server": name, **measure_idle(server, upstream, args)})
                _progress(result["idle"][-1])


def main() -> None:
    args = _arguments()
    signal.signal(signal.SIGTERM, _unwind)
    raise_file_limit()
    result: dict[str, Any] = {}
    try:
        run(args, result)
    finally:
        if result.get("runs"):
            print(table(result))
            print(f"\nwritten to {_write(result).relative_to(ROOT)}")


def _write(result: dict[str, Any]) -> Path:
    out = ROOT / "bench" / "out"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"gateway-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(result, indent=1))
    return path


def _unwind(number: int, _frame: object) -> None:
    """Leave by an exception, so that every process is ended on the way out."""
    sys.exit(128 + number)


def _body(server: Server, kind: str) -> dict[str, Any]:
    """The call every connection sends; all but ``plain`` stream."""
    assert f"bench-{kind}" in MODELS
    model = f"{server.model_prefix}bench-{kind}"
    call: dict[str, Any] = {"model": model, "messages": MESSAGES, "max_tokens": 64, "temperature": 0.7}
    return call if kind == "plain" else {**call, "stream": True}


def _figures(seen: dict[str, Any], used_s: list[float]) -> dict[str, float]:
    """Per request and per core. ``used_s``: CPU of the whole server, of its front, of the upstream."""
    requests, seconds = max(seen["requests"], 1), seen["seconds"]
    whole_s, front_s, upstream_s = used_s
    return {
        "cpu_us": whole_s / requests * 1e6,
        "front_cpu_us": front_s / requests * 1e6,
        "rps": seen["requests"] / seconds,
        "rps_per_core": seen["requests"] / max(whole_s, 1e-6),
        "server_cores": whole_s / seconds,
        "load_cores": (seen["generator_cpu_s"] + upstream_s) / seconds,
    }


def _server(name: str, upstream: UpstreamServer, folder: Path, fresh: bool = False) -> Server:
    place = folder / (f"{name}-idle" if fresh else name)
    return SERVERS[name](Site(free_port(), upstream.site.upstream_port, upstream.site.cores, place))


def _start(server: Server | UpstreamServer, stack: contextlib.ExitStack) -> None:
    stack.callback(server.stop)
    server.start()


def _background(servers: list[Server]) -> dict[str, float]:
    """CPU that each server uses while nobody asks it anything."""
    time.sleep(2)
    seconds = 3.0
    before = [cpu_s(server.members()) for server in servers]
    time.sleep(seconds)
    pairs = zip(servers, before, strict=True)
    return {server.name: (cpu_s(server.members()) - early) / seconds * 1000 for server, early in pairs}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _alarm(process: subprocess.Popen[str], limit_s: float) -> Generator[None]:
    """End the generator if it says nothing for so long; the read then sees the end of its output."""
    timer = threading.Timer(limit_s, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _machine(cores: Cores) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "server_cores": sorted(cores.server),
        "load_cores": sorted(cores.load),
        "load_average": os.getloadavg(),
    }


def _progress(seen: dict[str, Any]) -> None:
    if "name" in seen:
        what = f"{seen['name']} x{seen['connections']}"
        print(f"{seen['server']:>12} {what:<12} {seen['cpu_us']:10,.0f} us  {seen['rps']:8,.0f}/s", file=sys.stderr)
    else:
        print(f"{seen['server']:>12} {IDLE:<12} {seen['alive']} alive", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=_names, default=list(SERVERS), help="comma-separated; default: all")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=_counts, default=[1, 50, 500, 2000], help="default: 1,50,500,2000")
    parser.add_argument("--stream-connections", type=int, default=20)
    parser.add_argument("--idle", type=int, default=9900, help="streams to hold open; 0: leave out")
    parser.add_argument("--hold-s", type=float, default=10.0, help="how long idle streams rest")
    parser.add_argument("--ramp-s", type=float, default=300.0, help="longest time to open the idle streams")
    parser.add_argument("--drain-s", type=float, default=120.0, help="longest wait for the last answers")
    parser.add_argument("--warmup", type=int, default=100, help="requests before a window; at least one per connection")
    parser.add_argument("--no-pin", action="store_true", help="let servers and load share all cores")
    parser.add_argument("--quick", action="store_true", help="one round, 2 s, 1 and 50 connections, 500 idle streams")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.rounds, args.connections, args.idle, args.hold_s = 2.0, 1, [1, 50], 500, 3.0
    return args


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SERVERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown server {unknown[0]!r}; there are {', '.join(SERVERS)}")
    return names


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
