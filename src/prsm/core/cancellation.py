"""How tasks that run for ever are ended, although what they wait in may swallow a cancellation.

Python 3.11's ``asyncio.wait_for``, which database and cache drivers use, loses one that comes with its result, and
asyncpg may end a cancelled query with an error that a loop outlives.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_S = 1.0
"""Long enough for a task to clean up undisturbed."""


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
