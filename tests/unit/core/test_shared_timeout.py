"""One timer for many tasks: who is late gets TimeoutError, and nobody else notices."""

import asyncio

import pytest

from prsm.core.cancellation import SharedTimeout


async def inside(timeout: SharedTimeout, waits_s: float) -> str:
    with timeout:
        await asyncio.sleep(waits_s)
    return "in time"


async def test_only_who_is_late_is_ended() -> None:
    timeout = SharedTimeout(0.05)
    late, early = await asyncio.gather(inside(timeout, 60), inside(timeout, 0), return_exceptions=True)
    assert isinstance(late, TimeoutError)
    assert early == "in time"


async def test_it_serves_again_after_it_had_nothing_to_watch() -> None:
    timeout = SharedTimeout(0.02)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await inside(timeout, 60)
        await asyncio.sleep(0.01)


async def test_a_task_goes_on_after_its_timeout() -> None:
    timeout = SharedTimeout(0.02)
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError):
        await inside(timeout, 60)
    assert task.cancelling() == 0
    assert await inside(timeout, 0) == "in time"


async def test_another_cancellation_stays_one() -> None:
    task = asyncio.create_task(inside(SharedTimeout(60), 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_inside_passes() -> None:
    with pytest.raises(KeyError), SharedTimeout(60):
        raise KeyError


async def test_a_late_task_that_is_cancelled_too_is_cancelled() -> None:
    """Both at once: whoever cancelled the task from outside must get what it asked for."""
    timeout = SharedTimeout(0.02)

    async def stubborn() -> None:
        with timeout:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.set()
                await asyncio.sleep(0.01)
                raise

    ended = asyncio.Event()
    task = asyncio.create_task(stubborn())
    await ended.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
