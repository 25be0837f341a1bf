"""While the node stops a request keeps the attempt it is in, or gets its first, and no other begins."""

import asyncio

import pytest
from msgspec import structs
from tests.support.asks import ask, chat, plan, target

from prsm.agents.attempts import Attempts
from prsm.agents.call import Target
from prsm.agents.executors.retry import RetryPolicy
from prsm.agents.hedging import HedgePolicy, Hedger
from prsm.agents.liveness.board import Liveness
from prsm.agents.seams import UpstreamError
from prsm.monitoring.metrics import Metrics
from prsm.safety.circuit_breaker import BreakerBoard

A, B = target("a/m"), target("b/m")


class Setting:
    def __init__(self, hedger: Hedger | None = None) -> None:
        self.liveness = Liveness()
        self.asked: list[str] = []
        self.attempts = Attempts(
            BreakerBoard(asyncio.get_running_loop().time),
            Metrics(),
            RetryPolicy(max_attempts=3, base_delay_s=0, max_delay_s=0),
            timeout_s=30,
            clock=asyncio.get_running_loop().time,
            hedger=hedger,
            draining=lambda: self.liveness.draining,
        )

    async def fails(self, at: Target) -> str:
        self.asked.append(at.name)
        await asyncio.sleep(0)
        raise UpstreamError("It failed.", retryable=True, code="upstream_failed")


async def test_the_first_attempt_is_made_and_its_failure_told() -> None:
    here = Setting()
    here.liveness.drain()
    with pytest.raises(UpstreamError):
        await here.attempts.first_answer(plan(A, B), here.fails)
    assert here.asked == ["a/m"]


async def test_without_a_stop_the_same_request_is_tried_again_and_elsewhere() -> None:
    here = Setting()
    with pytest.raises(UpstreamError):
        await here.attempts.first_answer(plan(A, B), here.fails)
    assert set(here.asked) == {"a/m", "b/m"}
    assert len(here.asked) > 2


async def test_an_attempt_that_is_under_way_goes_on_to_its_end() -> None:
    here = Setting()
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def run(at: Target) -> str:
        here.asked.append(at.name)
        begun.set()
        await may_end.wait()
        return "fine"

    answer = asyncio.create_task(here.attempts.first_answer(plan(A, B), run))
    await begun.wait()
    here.liveness.drain()
    may_end.set()
    assert (await answer)[1] == "fine"
    assert here.asked == ["a/m"]


async def test_no_second_model_is_asked_for_being_quicker() -> None:
    for draining, asked in ((False, ["a/m", "b/m"]), (True, ["a/m"])):
        here = Setting(Hedger(HedgePolicy(min_wait_s=0.01, share_bps=10_000), lambda _name: 0.01))
        streamed = plan(A, B, asked=ask(structs.replace(chat(limit=50), stream=True)))
        if draining:
            here.liveness.drain()

        async def run(at: Target, here: Setting = here) -> str:
            here.asked.append(at.name)
            await asyncio.sleep(0.1 if at is A else 0)
            return at.name

        async def discard(_answer: str) -> None:
            """Nothing was opened."""

        await here.attempts.first_answer(streamed, run, discard)
        await here.attempts.close()
        assert here.asked == asked
