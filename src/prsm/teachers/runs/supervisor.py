"""Starts the trainer's processes, follows their folders, pays for them by slices, and starts them again after a kill.

A trainer outlives the node that started it: the process table and the run's folder are the truth, and any worker of the
node may take the next step, one at a time. A stop is asked for by a signal, and leaves a checkpoint.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
import psutil
import structlog

from prsm.core.clock import Clock
from prsm.core.database import Pool
from prsm.core.errors import PrsmError
from prsm.teachers.runs.run_book import Run, RunBook, RunKind, State
from prsm.teachers.runs.slices import due_micro, hold_id, is_over, to_hold_micro
from prsm.teachers.training.run_folder import RunFolder

MAX_STARTS: Final = 5
"""A run whose process ends so often without a word has failed."""
_PATIENCE_S: Final = 60.0
_LOCK: Final = 0x7072736D_7472
_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PYTHONPATH")
"""What of the node's environment a trainer gets: none of its settings, and so none of its secrets."""
_log: Any = structlog.get_logger("training")


class Meter(Protocol):
    """Where a run's money comes from; both may be asked again with the same id."""

    async def hold(self, hold_id: UUID, run: Run, amount_micro: int) -> None:
        """Set money aside. Raises PrsmError where there is too little."""
        ...

    async def capture(self, hold_id: UUID, run: Run, amount_micro: int) -> None:
        """Charge what was held. Raises PrsmError where the hold is gone."""
        ...


class Supervisor:
    """Over the runs of one node, each in ``folder/ID``; ``modules`` are what is run for each kind."""

    def __init__(
        self,
        pool: Pool,
        book: RunBook,
        folder: Path,
        modules: Mapping[RunKind, str],
        meter: Meter,
        *,
        price_micro: int,
        at_once: int,
        clock: Clock,
    ) -> None:
        """``price_micro`` is of one processor second; of ``at_once`` runs the oldest go first."""
        self._pool = pool
        self._book = book
        self._folder = folder
        self._modules = modules
        self._meter = meter
        self._price_micro = price_micro
        self._at_once = at_once
        self._clock = clock
        self._children: dict[UUID, subprocess.Popen[bytes]] = {}
        self._told: dict[UUID, int] = {}
        self._asked_s: dict[int, float] = {}

    def folder_of(self, run_id: UUID) -> Path:
        """Where a run keeps what it makes."""
        return self._folder / str(run_id)

    async def step(self) -> None:
        """Look at every open run once; nothing where another worker is looking."""
        if not await self._book.waits():
            return
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return
            running = 0
            for run in await self._book.open_runs():
                try:
                    running += await self._follow(run, may_start=running < self._at_once)
                except PrsmError as error:  # the ledger is away: the next step does it
                    _log.warning("run not followed", run=str(run.id), reason=error.code)
            for run in await self._book.unsettled_runs():
                await self._capture(run)

    async def close(self) -> None:
        """Have this node's trainers write a checkpoint and end; the next start goes on with them."""
        for run in await self._book.open_runs():
            if process := _process(self.folder_of(run.id)):
                _signal(process, signal.SIGTERM)
        await asyncio.to_thread(self._reap, _PATIENCE_S)

    async def _follow(self, run: Run, *, may_start: bool) -> bool:
        """Take one run's next step; whether it takes one of the places."""
        self._reap(0)
        place = self.folder_of(run.id)
        process = _process(place)
        await self._note(run, place)
        if process:
            await self._pay(await self._book.run(run.id), process)
            return True
        ended = RunFolder(place).ended()
        if ended and ended.state != "done" and run.starts == 0:  # it was resumed since
            ended = None
        interrupted = ended is not None and ended.is_interrupted
        if ended and (run.wants_stop or not interrupted):
            await self._end(run, ended.state, run.reason if interrupted else ended.reason)
        elif run.wants_stop:
            await self._end(run, "stopped", run.reason)
        elif run.starts >= MAX_STARTS and not interrupted:
            await self._end(run, "failed", f"Its process ended {MAX_STARTS} times; see {place / 'log.txt'}.")
        elif may_start and await self._hold(run):
            await asyncio.to_thread(self._start, run, place)
            await self._book.started(run.id, counts=not interrupted)
            return True
        return False

    async def _end(self, run: Run, state: State, reason: str) -> None:
        """A run has ended: it is paid for before anybody hears of it."""
        await self._capture(await self._book.run(run.id))
        await self._book.end(run.id, state, reason)

    async def _note(self, run: Run, place: Path) -> None:
        """Keep what the folder says since it was looked at last; a run that was killed says some of it again."""
        folder = RunFolder(place)
        size = folder.metrics.stat().st_size if folder.metrics.exists() else 0
        told = self._told.get(run.id, -1)
        if size != told:
            reports = await asyncio.to_thread(folder.reports)
            known = int(run.report.get("step", -1)) if size > told >= 0 else -1
            fresh = [report for report in reports if report["step"] > known]
            await self._book.note(run.id, await asyncio.to_thread(folder.record), fresh)
            self._told[run.id] = size

    async def _pay(self, run: Run, process: psutil.Process) -> None:
        """End the slice that is over and open the next; a run that cannot be paid for is asked to stop."""
        if run.wants_stop:
            self._urge(run, process)
        elif is_over(run.money, self._price_micro, _cpu_ms(run), self._clock()):
            await self._capture(run)
            await self._hold(await self._book.run(run.id))

    async def _hold(self, run: Run) -> bool:
        """Have the next slice held; False, with the run asked to stop, where there is no money for it."""
        if self._price_micro == 0 or run.money.held_micro:
            return True
        amount_micro = to_hold_micro(run.money, self._price_micro)
        if not amount_micro:
            how = f"prsm train resume {run.id} --budget FTNS"
            await self._book.ask_stop(run.id, f"The budget is used up; resume the run with a larger one: {how}.")
            return False
        number = await self._book.open_slice(run, amount_micro, _cpu_ms(run))
        try:
            await self._meter.hold(hold_id(run.id, number), run, amount_micro)
        except PrsmError as error:
            await self._book.close_slice(run.id, captured=False)
            await self._book.ask_stop(run.id, str(error))
            return False
        return True

    async def _capture(self, run: Run) -> None:
        """Charge the open slice with what was used of it; one whose hold is gone is the node's loss."""
        if not run.money.held_micro:
            return
        await self._book.capturing(run.id, due_micro(run.money, self._price_micro, _cpu_ms(run)))
        amount_micro = (await self._book.run(run.id)).capturing_micro or 0
        try:
            await self._meter.capture(hold_id(run.id, run.money.slices), run, amount_micro)
        except PrsmError as error:
            if error.code not in ("hold_already_resolved", "unknown_hold"):
                raise
            _log.warning("training not paid for", run=str(run.id), amount_micro=amount_micro, reason=error.code)
            await self._book.close_slice(run.id, captured=False)
        else:
            await self._book.close_slice(run.id, captured=True)

    def _urge(self, run: Run, process: psutil.Process) -> None:
        """Ask a process to stop, once; one that does not for long is killed: its last checkpoint stands."""
        asked_s = self._asked_s.get(process.pid)
        if asked_s is None:
            self._asked_s[process.pid] = time.monotonic()
            _signal(process, signal.SIGTERM)
        elif time.monotonic() - asked_s > _PATIENCE_S:
            _log.warning("training killed", run=str(run.id))
            _signal(process, signal.SIGKILL)

    def _start(self, run: Run, place: Path) -> None:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        recipe = place / "recipe.toml"
        recipe.write_text(run.recipe, encoding="utf-8")
        RunFolder(place).reopen()
        argv = [sys.executable, "-m", self._modules[run.kind], str(recipe), "--out", str(place)]
        with (place / "log.txt").open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - this interpreter, a module of this package
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            )
        _write_process(place, child.pid)
        self._children[run.id] = child

    def _reap(self, patience_s: float) -> None:
        until_s = time.monotonic() + patience_s
        for run_id, child in list(self._children.items()):
            while child.poll() is None and time.monotonic() < until_s:
                time.sleep(0.05)
            if child.poll() is not None:
                del self._children[run_id]


def _cpu_ms(run: Run) -> int:
    return int(float(run.report.get("cpu_s", 0.0)) * 1000)


class _Started(msgspec.Struct):
    pid: int
    created_s: float


def _write_process(place: Path, pid: int) -> None:
    started = _Started(pid, psutil.Process(pid).create_time())
    (place / "process.json").write_bytes(msgspec.json.encode(started))


def _process(place: Path) -> psutil.Process | None:
    """The run's process, if it lives: never another one that has its pid by now."""
    try:
        started = msgspec.json.decode((place / "process.json").read_bytes(), type=_Started)
        process = psutil.Process(started.pid)
        alive = process.create_time() == started.created_s and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, msgspec.DecodeError, psutil.NoSuchProcess):
        return None
    return process if alive else None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
