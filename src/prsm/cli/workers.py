"""Several worker processes on one port: started, restarted when they die, ended with the parent.

The kernel spreads connections over them. They share PostgreSQL and Valkey and nothing else; limits are leased, money
is sequenced by the database.
"""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Mapping

import structlog
import uvloop

from prsm.api.main import serve
from prsm.core.config import ENV_PREFIX, Settings, load_settings
from prsm.monitoring import logs
from prsm.monitoring.metrics import MULTIPROCESS_ENV
from prsm.node import open_node

_RESPAWN_PAUSE_S = 0.5
_END_S = 20
_PR_SET_PDEATHSIG = 1
_log = structlog.stdlib.get_logger("workers")


async def run_workers(settings: Settings, postgres_url: str, valkey_url: str) -> None:
    """Keep ``settings.workers`` processes answering until cancelled."""
    folder = settings.home / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)},
        **_as_env(settings),
        "PRSM_DATABASE_URL": postgres_url,
        "PRSM_REDIS_URL": valkey_url,
        MULTIPROCESS_ENV: str(folder),
    }
    async with asyncio.TaskGroup() as group:
        for number in range(settings.workers):
            group.create_task(_keep(number, env))


async def _keep(number: int, env: Mapping[str, str]) -> None:
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "prsm.cli.workers", str(os.getpid()), env=dict(env), stdin=asyncio.subprocess.DEVNULL
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _END_S)
            if process.returncode is None:
                _log.warning("worker did not stop and is killed", number=number)
                process.kill()
            raise
        _log.warning("worker died", number=number, code=code)
        await asyncio.sleep(_RESPAWN_PAUSE_S)


def _as_env(settings: Settings) -> dict[str, str]:
    # All of them, or a worker would read from the settings file what its parent was told otherwise.
    shown = settings.model_dump(mode="json")
    return {
        ENV_PREFIX + name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in shown.items()
    }


async def _work(settings: Settings) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal sends it to all; the parent decides
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with open_node(settings, settings.database_url, settings.redis_url) as node:
            await serve(node)


def main() -> None:
    """One worker; ends when its parent does, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        return
    settings = load_settings(os.environ, {}).settings
    logs.configure(settings.log_level, settings.log_format)
    uvloop.run(_work(settings))


if __name__ == "__main__":
    main()
