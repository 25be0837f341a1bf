"""The watched executor: whatever a call ends with, it is over exactly once, and what it gave is passed on as it is."""

import asyncio
import gc
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.answering import Model, says
from tests.support.asks import chat, target

from prsm.agents.call import Delta, EmbedCall, Usage
from prsm.agents.liveness.board import Liveness
from prsm.agents.liveness.observed import Ending, Observed
from prsm.agents.liveness.watching import WatchedExecutor
from prsm.agents.seams import UpstreamError

A = target("a/m")
EMBED = EmbedCall(UUID(int=1), ["text"], "m")


def failure() -> UpstreamError:
    return UpstreamError("It failed.", retryable=True, code="upstream_failed")


class Setting:
    def __init__(self, model: Model) -> None:
        self.board = Liveness()
        self.model = model
        self.watched = WatchedExecutor(model, self.board)

    @property
    def observed(self) -> Observed:
        instance = self.board.instance(A.name)
        assert instance is not None
        return instance.observed

    @property
    def endings(self) -> list[str]:
        counts = self.observed.counts(self.board.clock())
        return [ending.name for ending in Ending if counts[ending] > 0.5]


async def drained(stream: AsyncIterator[list[Delta]]) -> list[str | None]:
    return [deltas[0].content async for deltas in stream]


async def test_answers_embeddings_and_streams_are_passed_on_and_counted() -> None:
    here = Setting(Model(says("one", "two"), usage=Usage(1, 20)))
    completion = await here.watched.chat(A, chat())
    assert completion.choices[0].content == "onetwo"
    assert len((await here.watched.embed(A, EMBED)).vectors) == 1
    assert await drained(here.watched.chat_stream(A, chat())) == ["one", "two", None]
    assert (here.endings, here.observed.in_flight) == (["OK"], 0)
    now_s = here.board.clock()
    assert here.observed.counts(now_s)[Ending.OK] == pytest.approx(3, abs=0.1)
    assert here.observed.first_pieces.count(now_s) == pytest.approx(2, abs=0.1)
    assert here.observed.paces.count(now_s) == pytest.approx(2, abs=0.1)


async def test_an_error_is_raised_as_it_is_and_counted() -> None:
    error = failure()
    here = Setting(Model(says("one"), error=error))
    for call in (
        here.watched.chat(A, chat()),
        here.watched.embed(A, EMBED),
        drained(here.watched.chat_stream(A, chat())),
    ):
        with pytest.raises(UpstreamError) as raised:
            await call
        assert raised.value is error
    assert (here.endings, here.observed.in_flight) == (["SERVER_ERROR"], 0)


async def test_a_stream_without_a_piece_is_a_failure() -> None:
    here = Setting(Model([], usage=None))
    assert await drained(here.watched.chat_stream(A, chat())) == []
    assert (here.endings, here.observed.in_flight) == (["CUT_OFF"], 0)


async def test_a_call_is_under_way_until_it_is_cancelled_and_that_is_no_mark() -> None:
    for ask in (
        lambda here: here.watched.chat(A, chat()),
        lambda here: here.watched.embed(A, EMBED),
        lambda here: drained(here.watched.chat_stream(A, chat())),
    ):
        here = Setting(Model(says("one"), pause=0))
        task = asyncio.ensure_future(ask(here))
        await here.model.reached.wait()
        assert here.observed.in_flight == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (here.endings, here.observed.in_flight) == ([], 0)


async def test_a_stream_that_is_closed_early_was_answered_and_its_upstream_call_ends() -> None:
    here = Setting(Model(says("one", "two")))
    stream = here.watched.chat_stream(A, chat())
    await anext(stream)
    assert (here.observed.in_flight, here.model.open_streams) == (1, 1)
    await stream.aclose()
    await stream.aclose()
    assert (here.endings, here.observed.in_flight, here.model.open_streams) == (["OK"], 0, 0)


async def test_a_stream_that_was_never_begun_is_no_call() -> None:
    here = Setting(Model(says("one")))
    stream = here.watched.chat_stream(A, chat())
    await stream.aclose()
    assert here.board.instance(A.name) is None


async def test_a_stream_that_is_dropped_is_over_too() -> None:
    here = Setting(Model(says("one", "two")))
    stream = here.watched.chat_stream(A, chat())
    await anext(stream)
    del stream
    gc.collect()
    for _ in range(5):  # the loop closes it
        await asyncio.sleep(0)
    assert (here.observed.in_flight, here.model.open_streams) == (0, 0)


@given(st.lists(st.sampled_from(["whole", "embed", "stream", "fail", "cancel", "leave"]), max_size=12))
def test_when_all_calls_have_ended_none_is_under_way(ways: list[str]) -> None:
    async def one(here: Setting, way: str) -> None:
        if way == "cancel":
            task = asyncio.ensure_future(drained(here.watched.chat_stream(A, chat())))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        elif way == "leave":
            stream = here.watched.chat_stream(A, chat())
            await anext(stream)
            await stream.aclose()
        elif way == "embed":
            await here.watched.embed(A, EMBED)
        elif way == "whole":
            await here.watched.chat(A, chat())
        else:
            await drained(here.watched.chat_stream(A, chat()))

    async def all_at_once() -> None:
        board = Liveness()
        settings = [Setting(Model(says("one", "two"), error=failure() if way == "fail" else None)) for way in ways]
        for here in settings:
            here.board = board
            here.watched = WatchedExecutor(here.model, board)
        await asyncio.gather(*map(one, settings, ways), return_exceptions=True)
        instance = board.instance(A.name)
        assert instance is None or instance.observed.in_flight == 0
        assert all(here.model.open_streams == 0 for here in settings)

    asyncio.run(all_at_once())
