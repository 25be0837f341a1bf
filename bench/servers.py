"""The measured servers and how each is started, told of the upstream, counted and ended.

Every server runs one worker, listens on loopback, and is given the same four models. Peers run in virtual environments
of their own, made by ``ensure_peer`` from pinned versions.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from bench.processes import Cores, Family, spawn

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("bench-plain", "bench-paced", "bench-burst", "bench-idle")
_LITELLM_COMPROMISED = ("1.82.7", "1.82.8")
_REQUIREMENTS = {
    "passthrough": ["aiohttp==3.14.5", "starlette==1.10.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0"],
    "litellm": ["litellm[proxy]==1.102.4"],
}
_START_S = 120.0
_KEEP_ALIVE_S = "600"
"""uvicorn's default of 5 s would close waiting connections of a slow server between warm-up and measurement."""
_NO_NETWORK = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
}
_WIDE_POOL = {"AIOHTTP_CONNECTOR_LIMIT": "100000", "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "100000"}
"""LiteLLM takes 0 as "not set" and then holds 100 upstream connections only."""
_NO_ACCESS_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"uvicorn.access": {"level": "WARNING"}},
}


@dataclass(frozen=True, slots=True)
class Site:
    """Where a server is started: its port, its cores, the upstream's port, and a folder of its own."""

    port: int
    upstream_port: int
    cores: Cores
    folder: Path

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"


class Server(Protocol):
    """What the measurement needs of a server."""

    name: str
    model_prefix: str
    site: Site
    headers: dict[str, str]

    def start(self) -> None:
        """Start and return when it answers; the four models then lead to the upstream."""
        ...

    def members(self) -> list[psutil.Process]:
        """Every process that works for this server."""
        ...

    def front(self) -> list[psutil.Process]:
        """Those that hold client connections: all but databases and caches."""
        ...

    def stop(self) -> None:
        """End every process of it."""
        ...


@dataclass(slots=True)
class _Started:
    """What all servers share once they run as one family of processes."""

    site: Site
    headers: dict[str, str] = field(default_factory=dict[str, str])
    _family: Family | None = None

    def members(self) -> list[psutil.Process]:
        return self._family.members() if self._family else []

    def front(self) -> list[psutil.Process]:
        return self.members()

    def stop(self) -> None:
        if self._family:
            self._family.stop()

    def _spawn(self, command: list[str | Path], env: dict[str, str], home: Path | None = None) -> None:
        self.site.folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("w") as output:
            process = spawn(command, self.site.cores.server, {**_clean_env(), **env}, output, ROOT)
        self._family = Family(process.pid, home)

    def _wait(self, ready: Callable[[], bool], name: str) -> None:
        until_s = time.monotonic() + _START_S
        while not ready():
            ended = not self.members()
            if ended or time.monotonic() > until_s:
                why = "ended at its start" if ended else f"did not become ready in {_START_S:.0f} s"
                raise RuntimeError(f"{name} {why}:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.1)

    @property
    def _log(self) -> Path:
        return self.site.folder / "log.txt"


class PassthroughServer(_Started):
    """``bench/passthrough.py`` under uvicorn with uvloop and httptools, one worker."""

    name = "passthrough"
    model_prefix = ""

    def start(self) -> None:
        python = ensure_peer(self.name)
        flags = ["--loop", "uvloop", "--http", "httptools", "--backlog", "4096", "--timeout-keep-alive", _KEEP_ALIVE_S]
        flags += ["--no-access-log", "--log-level", "warning"]
        address = ["--host", "127.0.0.1", "--port", str(self.site.port)]
        env = {"BENCH_UPSTREAM": self.site.upstream_url}
        self._spawn([python, "-m", "uvicorn", "bench.passthrough:app", *address, *flags], env)
        self._wait(lambda: _status(self.site.port, "/") == 404, self.name)


class LiteLLMServer(_Started):
    """LiteLLM's proxy as it documents it for production, without a database: master key, one worker, no callbacks."""

    name = "litellm"
    model_prefix = ""

    def start(self) -> None:
        python = ensure_peer(self.name)
        self.headers = {"authorization": "Bearer sk-bench-master"}
        self.site.folder.mkdir(parents=True, exist_ok=True)
        config = self.site.folder / "config.yaml"  # JSON is YAML
        config.write_text(json.dumps(self._config(), indent=2))
        log_config = self.site.folder / "log.json"
        log_config.write_text(json.dumps(_NO_ACCESS_LOG))
        command: list[str | Path] = [python.parent / "litellm", "--config", config, "--host", "127.0.0.1"]
        command += ["--port", str(self.site.port), "--num_workers", "1", "--telemetry", "False"]
        command += ["--log_config", log_config, "--keepalive_timeout", _KEEP_ALIVE_S]
        env = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", **_NO_NETWORK, **_WIDE_POOL}
        self._spawn(command, env)
        self._wait(lambda: _status(self.site.port, "/health/liveliness") == 200, self.name)

    def _config(self) -> dict[str, object]:
        def model(name: str) -> dict[str, object]:
            upstream = {"model": f"openai/{name}", "api_base": f"{self.site.upstream_url}/v1", "api_key": "sk-upstream"}
            return {"model_name": name, "litellm_params": upstream}

        return {
            "model_list": [model(name) for name in MODELS],
            "litellm_settings": {"callbacks": [], "num_retries": 0},
            "general_settings": {"master_key": "sk-bench-master", "disable_spend_logs": True},
        }


class NodeServer(_Started):
    """The PRSM node as an operator starts it, with its embedded PostgreSQL and Valkey, in a fresh home."""

    name = "node"
    model_prefix = "bench/"
    screening = "off"

    def start(self) -> None:
        home = self.site.folder / "home"
        env = {
            "PRSM_HOME": str(home),
            "PRSM_HOST": "127.0.0.1",
            "PRSM_PORT": str(self.site.port),
            "PRSM_RATE_LIMIT_PER_MINUTE": "1000000",
            "PRSM_RATE_LIMIT_BURST": "1000000",
            "PRSM_WELCOME_GRANT_MICRO": str(10**12),
            "PRSM_SCREENING": self.screening,
            "PRSM_SCREENING_REMEMBER": "0",  # the load sends one text again and again
        }
        home.mkdir(mode=0o711, parents=True)  # a root node's servers run as another user; so they can live inside, too
        key_file = home / "operator.key"
        self._spawn([_prsm(), "up"], env, home)
        self._wait(lambda: key_file.exists() and _status(self.site.port, "/readyz") == 200, self.name)
        self.headers = {"authorization": f"Bearer {key_file.read_text().strip()}"}
        self.add_upstream_models(env)

    def add_upstream_models(self, env: dict[str, str]) -> None:
        """Tell the node of the upstream with its own command, as an operator would; at a price, so that money moves."""
        told = ["--kind", "openai", "--base-url", f"{self.site.upstream_url}/v1", "--price-in", "1", "--price-out", "4"]
        for name in MODELS:
            command = [_prsm(), "models", "add", self.model_prefix + name, *told]
            environment = {**_clean_env(), **env, "PROVIDER_API_KEY": "sk-upstream"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            if done.returncode:
                raise RuntimeError(f"prsm models add {name} failed: {done.stderr[-2000:]}")

    def front(self) -> list[psutil.Process]:
        return [process for process in self.members() if not _is_database(process)]


class ScreenedServer(NodeServer):
    """The same, with its detectors on, and nothing remembered: each text is looked at."""

    name = "screened"
    screening = "standard"


SERVERS: dict[str, type[NodeServer | PassthroughServer | LiteLLMServer]] = {
    server.name: server for server in (NodeServer, ScreenedServer, PassthroughServer, LiteLLMServer)
}


class UpstreamServer(_Started):
    """``bench/upstream.py``, on the load's core."""

    name = "upstream"

    def start(self) -> None:
        self.site.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bench.upstream", "--port", str(self.site.upstream_port)]
        with self._log.open("w") as output:
            process = spawn(command, self.site.cores.load, _clean_env(), output, ROOT)
        self._family = Family(process.pid)
        self._wait(lambda: _status(self.site.upstream_port, "/v1/models") == 200, self.name)

    def held(self) -> int:
        """Streams it holds open now."""
        return int(_call(self.site.upstream_url + "/held", "GET")["held"])

    def release(self) -> int:
        """Finish them all."""
        return int(_call(self.site.upstream_url + "/release", "POST")["released"])


def ensure_peer(name: str) -> Path:
    """The Python of the peer's own virtual environment, made with pip on first use and when its pins change."""
    folder = ROOT / f".venv-{name}"
    python, stamp = folder / "bin" / "python", folder / "bench-requirements.txt"
    wanted = "\n".join(_REQUIREMENTS[name])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up {folder.name}: {', '.join(_REQUIREMENTS[name])}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        excluded = [f"litellm!={version}" for version in _LITELLM_COMPROMISED]
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(excluded) + "\n")
        command = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints, *_REQUIREMENTS[name]]
        subprocess.run(command, check=True, timeout=1200)
        stamp.write_text(wanted)
    return python


def _is_database(process: psutil.Process) -> bool:
    """Whether it belongs to PostgreSQL or Valkey; one that has just ended does, for only they end workers of theirs."""
    try:
        return bool(re.search("postgres|valkey", process.name()))
    except psutil.NoSuchProcess:
        return True


def _prsm() -> Path:
    return Path(sys.executable).parent / "prsm"


def _clean_env() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PRSM_", "LITELLM_", "DATABASE_"))
    }


def _status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _call(url: str, method: str) -> dict[str, int]:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as response:
        return json.loads(response.read())
