"""Starts, counts and ends the processes of one server by id. Counts are of the operating system, never of the server.

CPU is user plus system time of every process of the family, children that have ended included. Memory is RSS and PSS.
"""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

_GRACE_S = 20.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the measured servers run on, and which the load generator and the upstream."""

    server: frozenset[int]
    load: frozenset[int]

    @property
    def pinned(self) -> bool:
        return self.server != self.load


def share_cores(pin: bool) -> Cores:
    """The last core for the load, the others for the servers; all for both when asked or when there is one only."""
    every = sorted(os.sched_getaffinity(0))
    if not pin or len(every) == 1:
        return Cores(frozenset(every), frozenset(every))
    return Cores(frozenset(every[:-1]), frozenset(every[-1:]))


def raise_file_limit() -> int:
    """Allow this process and its children as many open files as the hard limit permits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def spawn(
    command: Sequence[str | Path], cores: frozenset[int], env: Mapping[str, str], output: IO[str] | int, cwd: Path
) -> subprocess.Popen[str]:
    """Start a process on these cores, in a session of its own, with stdin as a pipe."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited by the child; a preexec_fn would make a slower, riskier fork
    try:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT if not isinstance(output, int) else None,
            text=True,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, before)


class Family:
    """A process, all its descendants, and every process that works inside ``home`` (servers that left the tree)."""

    def __init__(self, root_pid: int, home: Path | None = None) -> None:
        self._root = psutil.Process(root_pid)
        self._home = home

    def members(self) -> list[psutil.Process]:
        """All that run now."""
        found: dict[int, psutil.Process] = {}
        roots = [self._root] if _runs(self._root) else []
        roots += _living_in(self._home) if self._home else []
        for root in roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [root, *root.children(recursive=True)]:
                    found[process.pid] = process
        return list(found.values())

    def stop(self) -> None:
        """Ask the root to end, wait, then end by id what is left of the family."""
        members = self.members()
        if _runs(self._root):
            self._root.send_signal(signal.SIGTERM)
        with contextlib.suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
            self._root.wait(_GRACE_S)
        left = {process.pid: process for process in [*members, *self.members()] if _runs(process)}
        for process in left.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(list(left.values()), timeout=5)


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """User and system seconds of these processes and of their children that have ended."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes resident; ``pss`` counts a page shared by n processes as 1/n."""

    rss: int
    pss: int


def memory(processes: Sequence[psutil.Process]) -> Memory:
    """Of these processes together."""
    rss = pss = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            full = process.memory_full_info()
            rss += full.rss
            pss += full.pss
    return Memory(rss, pss)


def _runs(process: psutil.Process) -> bool:
    """An ended process that nobody has waited for yet does not run."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _living_in(home: Path) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if Path(process.cwd()).is_relative_to(home):
                found.append(process)
    return found
