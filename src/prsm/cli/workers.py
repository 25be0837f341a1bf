"""Several worker processes on one port: started, restarted when they die, ended with the parent.

The kernel spreads connections over them. They share PostgreSQL and Valkey and nothing else; limits are leased, money
is sequenced by the database. One that dies again and again is started ever later; one that never came up is given up.
"""

import asyncio
import contextlib
import ctypes
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import structlog
import uvloop
from prometheus_client import multiprocess

from prsm.api.main import serve
from prsm.core.config import Settings, load_settings
from prsm.core.config_sources import ENV_PREFIX
from prsm.core.errors import Kind, PrsmError
from prsm.monitoring import logs
from prsm.monitoring.metrics import MULTIPROCESS_ENV
from prsm.node import open_node

_END_S = 20
_UP = b"up"
_PR_SET_PDEATHSIG = 1
_log = structlog.stdlib.get_logger("workers")


@dataclass(frozen=True, slots=True)
class Respawn:
    """How a worker that died is started again.

    The pause before it is drawn from zero to ``first_s``, doubled with each death in a row up to ``most_s`` (full
    jitter); a worker that was up for ``steady_s`` begins a new row. ``tries`` bounds the starts of one that never
    came up.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    steady_s: float = 10.0
    tries: int = 5


@dataclass(frozen=True, slots=True)
class Past:
    """What became of one worker so far: deaths in a row, and whether it ever came up."""

    deaths: int = 0
    came_up: bool = False


def after_death(past: Past, up_s: float | None, policy: Respawn) -> Past:
    """The past with one death more, of a worker that was up for ``up_s`` (None: it did not come up)."""
    deaths = 0 if up_s is not None and up_s >= policy.steady_s else past.deaths
    return Past(deaths + 1, past.came_up or up_s is not None)


def pause_s(past: Past, policy: Respawn, chance: float) -> float:
    """How long to wait before the next start; ``chance`` is from 0 to 1."""
    doublings = min(past.deaths - 1, 60)
    return chance * min(policy.first_s * 2**doublings, policy.most_s)


async def run_workers(settings: Settings, postgres_url: str, valkey_url: str, respawn: Respawn = Respawn()) -> None:
    """Keep ``settings.workers`` processes answering until cancelled. Raises PrsmError for one that never comes up."""
    folder = settings.home / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)},
        **as_env(settings),
        "PRSM_DATABASE_URL": postgres_url,
        "PRSM_REDIS_URL": valkey_url,
        MULTIPROCESS_ENV: str(folder),
    }
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(settings.workers):
                group.create_task(_keep(number, env, respawn))
    except* PrsmError as gave_up:
        failed = gave_up
    else:
        return
    raise failed.exceptions[0]


def on_hang_up(loop: asyncio.AbstractEventLoop, then: Callable[[], object]) -> None:
    """Call ``then`` when the terminal goes away, unless that is ignored (nohup).

    What is written to the terminal goes nowhere from then on: an error there would break off the stop.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return
    shown = [stream for stream in (1, 2) if os.isatty(stream)]

    def left() -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in shown:
            os.dup2(nowhere, stream)
        then()

    loop.add_signal_handler(signal.SIGHUP, left)


def as_env(settings: Settings) -> dict[str, str]:
    """All settings as variables, or a worker would read from the settings file what its parent was told otherwise."""
    return {ENV_PREFIX + name.upper(): _written(value) for name, value in settings.model_dump(mode="json").items()}


async def _keep(number: int, env: Mapping[str, str], respawn: Respawn) -> None:
    past = Past()
    while past.came_up or past.deaths < respawn.tries:
        if past.deaths:
            await asyncio.sleep(pause_s(past, respawn, random.random()))  # noqa: S311 - jitter, not a secret
        code, up_s = await _one_life(number, env)
        _log.warning("worker died", number=number, code=code, came_up=up_s is not None)
        past = after_death(past, up_s, respawn)
    raise PrsmError(
        f"A worker ended {past.deaths} times without coming up.",
        kind=Kind.UNAVAILABLE,
        code="worker_failed",
        remedy="The lines before this one say why; PRSM_WORKERS=1 prsm up does without workers.",
    )


async def _one_life(number: int, env: Mapping[str, str]) -> tuple[int, float | None]:
    """Run one worker until it ends: its exit code, and for how long it was up, None if it never was."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "prsm.cli.workers", str(os.getpid()),
        env=dict(env), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        came_up = bool(await process.stdout.read(len(_UP)))
        since_s = time.monotonic()
        code = await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_S)
        if process.returncode is None:
            _log.warning("worker did not stop and is killed", number=number)
            process.kill()
        raise
    # Or its part of what is summed over workers would be counted for ever.
    multiprocess.mark_process_dead(process.pid, env[MULTIPROCESS_ENV])  # pyright: ignore[reportUnknownMemberType]
    return code, time.monotonic() - since_s if came_up else None


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)


async def _work(settings: Settings) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal sends it to all; the parent decides
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    on_hang_up(loop, lambda: None)
    with contextlib.suppress(asyncio.CancelledError):
        async with open_node(settings, settings.database_url, settings.redis_url) as node:
            await serve(node, ready=lambda: os.write(sys.stdout.fileno(), _UP))


def main() -> None:
    """One worker; ends when its parent does, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        return
    try:
        settings = load_settings(os.environ, {}).settings
        logs.configure(settings.log_level, settings.log_format)
        uvloop.run(_work(settings))
    except PrsmError as error:
        _log.error("worker cannot run", code=error.code, reason=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
