"""How tasks are ended: those that run for ever, and those that take too long.

What a task waits in may swallow a cancellation: Python 3.11's ``asyncio.wait_for``, which database and cache drivers
use, loses one that comes with its result, and asyncpg may end a cancelled query with an error that a loop outlives.
"""

import asyncio
from collections.abc import Iterable
from itertools import takewhile
from types import TracebackType
from typing import Any

_AGAIN_S = 1.0
"""Long enough for a task to clean up undisturbed."""
_SWEEP_S = 0.25


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel the tasks, again while any goes on, and wait until all have ended; what they end with is dropped."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=_AGAIN_S)
        for task in ended:
            if not task.cancelled():
                task.exception()


class SharedTimeout:
    """The same bound for many tasks with one timer for all; ``asyncio.timeout`` has one for each, which costs more.

    ``with`` it, whatever takes longer than ``allowed_s`` is cancelled at the next sweep and raises TimeoutError. A task
    may be inside once at a time.
    """

    __slots__ = ("_allowed_s", "_due", "_sweep_s", "_timer")

    def __init__(self, allowed_s: float) -> None:
        self._allowed_s = allowed_s
        self._sweep_s = min(_SWEEP_S, allowed_s / 10)
        self._due: dict[asyncio.Task[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        task = _this_task()
        loop = task.get_loop()
        self._due[task] = loop.time() + self._allowed_s
        if self._timer is None:
            self._timer = loop.call_later(self._sweep_s, self._sweep, loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        task = _this_task()
        in_time = self._due.pop(task, None) is not None
        if not in_time and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel what is late: the first in the order in which they came, for all have the same time."""
        now = loop.time()
        for task in list(takewhile(lambda task: self._due[task] <= now, self._due)):
            del self._due[task]
            task.cancel()
        self._timer = loop.call_later(self._sweep_s, self._sweep, loop) if self._due else None


def _this_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None
    return task
