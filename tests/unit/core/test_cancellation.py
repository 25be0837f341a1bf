"""Ending tasks: also those that lose a cancellation on the way."""

import asyncio

from prsm.core.cancellation import end_tasks


async def test_tasks_end_and_what_they_end_with_is_dropped() -> None:
    async def fails_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    async def ends() -> None:
        return

    tasks = [asyncio.create_task(asyncio.Event().wait()), asyncio.create_task(fails_when_cancelled())]
    tasks.append(asyncio.create_task(ends()))
    await asyncio.sleep(0)
    await end_tasks(tasks)
    assert all(task.done() for task in tasks)
    await end_tasks(tasks)
    await end_tasks([])


async def test_a_task_that_swallows_a_cancellation_is_asked_again() -> None:
    swallowed = 0

    async def goes_on() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed += 1

    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await end_tasks([task])
    assert (task.cancelled(), swallowed) == (True, 1)
