"""The threads of storage, by what they wait for: work on this node's own disk never queues behind the network.

Each pool is bounded; what finds all threads of its pool busy waits for one of them, and for nothing else.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Pools:
    """``disk`` waits for the disk, ``taking_in`` for who sends a file, ``moving`` and ``following`` for downloads.

    ``care`` is for long work that nobody waits for at once.
    """

    disk: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 32, "storage-disk"))
    taking_in: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 16, "storage-taking-in"))
    moving: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 16, "storage-moving"))
    following: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 64, "storage-following"))
    care: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 4, "storage-care"))

    async def aclose(self) -> None:
        """Wait until all work has ended; whoever gave it has told it to."""
        for pool in (self.taking_in, self.moving, self.following, self.care, self.disk):
            await asyncio.to_thread(pool.shutdown)


async def run_in(pool: ThreadPoolExecutor, work: Callable[[], Answer]) -> Answer:
    """The answer of blocking work, done in a thread of the pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)
