"""Start, recognise and end server processes that may have outlived the process which started them.

The process table is the truth, never a pid file: pids are reused and pid files go stale. A process is ours when
its user, its program and its data folder are ours; signals go through psutil, which compares the start time
first, so a reused pid is never hit.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import psutil

from prsm.core.errors import ConfigError, Unavailable

UNPRIVILEGED_REMEDY = (
    "Start the node as an ordinary user, or name your own servers in PRSM_DATABASE_URL and PRSM_REDIS_URL."
)

_KILL_PATIENCE_S = 10.0
_LOG_LIMIT_BYTES = 4 * 1024 * 1024
_POLL_MIN_S = 0.01
_POLL_MAX_S = 0.25


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged numeric user and group, in no other group; needs no entry in the password file."""

    uid: int
    gid: int


class Answer(Enum):
    """What a server says when asked whether it can work."""

    READY = auto()
    STARTING = auto()
    SILENT = auto()


@dataclass(frozen=True, slots=True)
class Plan:
    """All that starts one server and tells it from every other process.

    ``child_title`` is how the titles of its own workers begin, for servers that fork workers.
    """

    name: str
    argv: tuple[str, ...]
    data_dir: Path
    log_path: Path
    account: Account | None
    polite: signal.Signals
    child_title: str | None = None

    @property
    def uid(self) -> int:
        return self.account.uid if self.account else os.geteuid()


class ServerProcess:
    """One server process by its plan, whether this process started it or an earlier one did."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._process: psutil.Process | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while the server lives."""
        return self._process.pid if self._process and self.alive() else None

    def alive(self) -> bool:
        """Whether the process runs; reaps it when it was our child and has ended."""
        if self._process is None or (self._child is not None and self._child.poll() is not None):
            return False
        return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE

    async def ended(self, within_s: float) -> None:
        """Return as soon as the process has ended, after ``within_s`` in any case; the kernel tells, nobody polls."""
        if self._process is None:
            return
        try:
            fd = os.pidfd_open(self._process.pid)
        except OSError:  # it has ended, or this kernel cannot tell: then whoever watches looks
            return
        gone, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(fd, gone.set)
        try:
            if self.alive():  # the pid is not another's by now
                async with asyncio.timeout(within_s):
                    await gone.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def adopt(self) -> bool:
        """Take over a server left by an earlier process if it is exactly what the plan would start; end all others.

        A server with other arguments (an upgrade, a changed setting) is ended in good order.
        """
        heads, orphans = _ours(self.plan)
        if len(heads) == 1 and _argv(heads[0]) == self.plan.argv:
            self._process, self._child = heads[0], None
            return True
        end_all(heads, self.plan.polite, patience_s=20)
        # A forked worker without its head can save nothing, and holds shared memory that a fresh server needs gone.
        end_all(orphans, signal.SIGKILL, patience_s=0)
        return False

    def spawn(self) -> None:
        """Start the process in its own session: a terminal's Ctrl-C must reach the node, not its servers."""
        bound_log(self.plan.log_path)
        fd = os.open(self.plan.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            self._child = launch(self.plan.argv, self.plan.account, output=fd)
        finally:
            os.close(fd)
        self._process = psutil.Process(self._child.pid)

    def end(self, patience_s: float) -> None:
        """End the server: politely, then by force; returns when nothing of it is left."""
        if self._process is not None and self.alive():
            end_all([self._process], self.plan.polite, patience_s)
        heads, orphans = _ours(self.plan)
        end_all([*heads, *orphans], signal.SIGKILL, patience_s=0)
        if self._child is not None:
            self._child.poll()
        self._process = self._child = None

    async def wait_ready(self, ask: Callable[[], Awaitable[Answer]], *, patience_s: float, limit_s: float) -> None:
        """Wait until ``ask`` says READY. Silence may last ``patience_s``, start-up work (recovery) ``limit_s``."""
        begun = spoke = time.monotonic()
        pause_s = _POLL_MIN_S
        while (answer := await ask()) is not Answer.READY:
            now = time.monotonic()
            if answer is Answer.STARTING:
                spoke = now
            if not self.alive():
                raise self._failure("ended while starting")
            if now - spoke > patience_s or now - begun > limit_s:
                raise self._failure(f"gave no answer for {now - spoke:.0f} s")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _POLL_MAX_S)

    def _failure(self, what: str) -> Unavailable:
        return Unavailable(
            f"The embedded {self.plan.name} {what}. Its log ends: {_tail(self.plan.log_path)}",
            remedy=f"Read {self.plan.log_path}.",
        )


def launch(
    argv: tuple[str, ...], account: Account | None, *, output: int, uid: int | None = None
) -> subprocess.Popen[bytes]:
    """Start ``argv`` as ``account`` (or as ``uid`` with the account's group) with nothing of the node's environment."""
    try:
        return subprocess.Popen(  # noqa: S603  the arguments are our own
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            # The node's environment holds keys of providers; a database server has no business with them.
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            umask=0o077,
            user=uid if uid is not None else account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"{argv[0]} cannot be started{f' as user id {account.uid}' if account else ''}: {error}.",
            remedy=UNPRIVILEGED_REMEDY,
        ) from error


def end_all(processes: list[psutil.Process], polite: signal.Signals, patience_s: float) -> None:
    """Send ``polite``, wait, then kill what is left; raises Unavailable when even that does not end one."""
    for process in processes:
        _send(process, polite)
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for process in alive:
        _send(process, signal.SIGKILL)
    _, alive = psutil.wait_procs(alive, timeout=_KILL_PATIENCE_S)
    if alive:
        raise Unavailable(f"Process {alive[0].pid} does not end.", remedy="End it by hand, then start again.")


def is_long(path: Path) -> bool:
    """Whether a log has grown so large that ``bound_log`` would shorten it."""
    return path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES


def bound_log(path: Path) -> None:
    """Keep one old log and start the live one anew once it is large; the server appends, so it never notices."""
    if is_long(path):
        shutil.copyfile(path, path.with_suffix(".old.log"))
        os.truncate(path, 0)


def _ours(plan: Plan) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The plan's server processes, and its forked workers whose head is gone."""
    program, heads, workers = Path(plan.argv[0]).name, list[psutil.Process](), list[psutil.Process]()
    for process in psutil.process_iter():
        try:
            if process.uids().real != plan.uid:
                continue
            argv = process.cmdline()
        except psutil.Error:
            continue
        if not argv:
            continue
        if Path(argv[0]).name == program and str(plan.data_dir) in argv and _runs(process, program):
            heads.append(process)
        elif plan.child_title and argv[0].startswith(plan.child_title):
            workers.append(process)
    # A fork that has not yet taken its title (or never does: Valkey's log rewriter) looks like its head.
    pids = {process.pid for process in heads}
    forks = [process for process in heads if _parent(process) in pids]
    heads = [process for process in heads if process not in forks]
    living = {process.pid for process in heads}
    return heads, [process for process in (*forks, *workers) if _parent(process) not in living]


def _runs(process: psutil.Process, program: str) -> bool:
    """Whether the executable bears the program's name. Unreadable (no CAP_SYS_PTRACE): user and arguments decide."""
    try:
        return Path(process.exe()).name.startswith(program)
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def _argv(process: psutil.Process) -> tuple[str, ...]:
    try:
        return tuple(process.cmdline())
    except psutil.Error:
        return ()


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace")[-1000:].splitlines()
    except FileNotFoundError:
        return "(no log)"
    return " | ".join(line.strip() for line in lines[-4:])
