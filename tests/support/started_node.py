"""A node as users have it: the ``prsm`` command in a process of its own, with a home and a port of its own.

Everything is done from outside, by HTTP, signals and the command line. Leaving the block ends the node and its
embedded servers and removes what they kept; a failing block prints the end of the node's log.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
from tests.support.upstream import UpstreamServer

PROGRAM = Path(sys.executable).with_name("prsm")
_START_S = 120
_STOP_S = 60


class StartedNode:
    """One node's home, and its process while it runs. ``settings`` are ``PRSM_`` variables without the prefix."""

    def __init__(self, home: Path, **settings: str | int) -> None:
        self.home = home
        self.port = free_port()
        self.log_path = home.with_name(home.name + ".log")
        given = {"HOME": home, "PORT": self.port, **settings}
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("PRSM_")}
        self.env |= {f"PRSM_{name}": str(value) for name, value in given.items()} | {"COLUMNS": "200"}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        host = self.env.get("PRSM_HOST", "127.0.0.1")
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What the OpenAI SDK is given."""
        return f"{self.url}/v1"

    @property
    def key(self) -> str:
        """The operator's API key."""
        return (self.home / "operator.key").read_text().strip()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it is ready and has announced itself."""
        begun = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "up"], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_S
        while b"PRSM node is up" not in self.log_path.read_bytes()[begun:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the node did not start:\n{self.log_tail()}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask the node to stop and wait for it; answers its exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(_STOP_S)

    def kill(self) -> None:
        """``kill -9``: the node only; its servers live on."""
        self.stop(signal.SIGKILL)

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def server_pid(self, name: str) -> int | None:
        """The pid of the embedded ``postgres`` or ``valkey`` of this home."""
        site = self._site()
        if site is None:
            return None
        for process in psutil.process_iter():
            try:
                argv = process.cmdline()
            except psutil.Error:
                continue
            if argv and Path(argv[0]).name.startswith(name) and str(site / name / "data") in argv:
                return process.pid
        return None

    def call(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """A request to the node's API; the decoded answer. Raises HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {key or self.key}", "content-type": "application/json"}
        with urlopen(Request(self.url + path, data, headers, method=method), timeout=60) as response:
            answer = response.read()
        return json.loads(answer) if answer.startswith((b"{", b"[")) else answer.decode()

    def until_ready(self, timeout_s: float = 90) -> dict[str, Any]:
        """Wait until every part of the node answers."""
        deadline = time.monotonic() + timeout_s
        parts: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                parts = self.call("GET", "/readyz")
            except (HTTPError, URLError, OSError) as error:
                parts = {"node": {"ok": False, "error": str(error)}}
            if all(part["ok"] for part in parts.values()):
                return parts
            time.sleep(0.1)
        raise AssertionError(f"the node is not ready: {parts}")

    def cli(self, *arguments: str, stdin: str | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run ``prsm`` with this node's settings."""
        return subprocess.run(
            [PROGRAM, *arguments], env=self.env | env, input=stdin, capture_output=True, text=True, timeout=120
        )

    def new_key(self, name: str = "test", **what: Any) -> tuple[str, str]:
        """A new key of the operator: its id and its token."""
        made = self.call("POST", "/node/v1/keys", {"name": name, **what})
        return made["id"], made["token"]

    def new_client(self, name: str = "user") -> tuple[str, str]:
        """A new ordinary user with an account: its principal's id and the token of a key with all user scopes."""
        principal = self.call("POST", "/node/v1/principals", {"name": name})
        scopes = ["chat", "embeddings", "read", "storage", "keys"]
        return principal["id"], self.new_key(name, principal_id=principal["id"], scopes=scopes)[1]

    def receipt(self, receipt_id: str, *, key: str | None = None) -> dict[str, Any]:
        """A stored receipt, without its signature."""
        return self.call("GET", f"/node/v1/receipts/{receipt_id}", key=key)["receipt"]

    def wallet(self, key: str | None = None) -> dict[str, Any]:
        return self.call("GET", "/node/v1/wallet", key=key)

    def metric(self, name: str, **labels: str) -> float | None:
        """One sample of ``/metrics``; None where it is not there."""
        for line in self.call("GET", "/metrics").splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                return float(value)
        return None

    def add_provider(self, name: str, base_url: str) -> None:
        self.call("PUT", f"/node/v1/providers/{name}", {"kind": "vllm", "base_url": base_url})

    def add_model(self, name: str, *, price_in: int = 1_000_000, price_out: int = 2_000_000, **what: Any) -> None:
        body = {"capabilities": ["chat", "tools"], "input_price_micro": price_in, "output_price_micro": price_out}
        self.call("PUT", f"/node/v1/models/{name}", body | what)

    def until_known(self, name: str, timeout_s: float = 30) -> None:
        """Wait until every worker has heard of a model: each connection goes to one by chance, so ask many times."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        while seen < 25:
            assert time.monotonic() < deadline, f"not every worker has heard of {name}"
            known = any(model["id"] == name for model in self.call("GET", "/v1/models")["data"])
            seen = seen + 1 if known else 0

    def remove_model(self, name: str) -> None:
        self.call("DELETE", f"/node/v1/models/{name}")

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def clear(self) -> None:
        """End what still runs and remove what the servers of a root node keep outside the home."""
        if self.running():
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        for name in ("postgres", "valkey"):
            if (pid := self.server_pid(name)) is not None:
                psutil.Process(pid).kill()
        site = self._site()
        if site is not None:
            shutil.rmtree(site, ignore_errors=True)

    def _site(self) -> Path | None:
        record = self.home / "servers.json"
        if not record.exists():
            return None
        outside = json.loads(record.read_text())["outside"]
        return Path(outside) if outside else self.home / "servers"


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds; the test fails with ``what`` after a minute."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def started_node(folder: Path, **settings: str | int) -> Iterator[StartedNode]:
    """A started node with its home in ``folder``; ended after the block."""
    node = StartedNode(folder / "home", **settings)
    try:
        node.start()
        yield node
    except BaseException:
        print(f"-- the end of {node.log_path}:\n{node.log_tail()}")
        raise
    finally:
        node.clear()


@contextmanager
def upstream_server() -> Iterator[UpstreamServer]:
    """The upstream of ``tests.support.upstream`` on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(UpstreamServer().start(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
