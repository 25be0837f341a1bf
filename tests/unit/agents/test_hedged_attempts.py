"""Two models asked at once: who wins, what becomes of the other, and what breakers and metrics are told."""

import asyncio
import time
from dataclasses import dataclass, field, replace

import pytest
from tests.support.asks import ask, chat, plan, target

from prsm.agents.attempts import Attempts
from prsm.agents.call import ChatCall, Target
from prsm.agents.executors.retry import RetryPolicy
from prsm.agents.hedging import HedgePolicy, Hedger
from prsm.agents.plan import Plan
from prsm.agents.seams import UpstreamError
from prsm.core.errors import InvalidRequest, PrsmError
from prsm.monitoring.metrics import Metrics
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy, State

A, B, C = target("a/m"), target("b/m"), target("c/m")
FRAGILE = BreakerPolicy(min_calls=1, failure_rate=1.0, open_s=10, max_probes=1, probes_to_close=1)
ALWAYS = HedgePolicy(share_bps=10_000, max_output_tokens=64, min_wait_s=0, max_wait_s=2)


@dataclass
class Models:
    """Each model answers, or fails, once its turn is given; what is open and what was thrown away is counted."""

    ready: dict[str, "asyncio.Event"] = field(default_factory=dict[str, asyncio.Event])
    fails: dict[str, BaseException] = field(default_factory=dict[str, BaseException])
    asked: list[str] = field(default_factory=list[str])
    open: list[str] = field(default_factory=list[str])
    discarded: list[str] = field(default_factory=list[str])
    deaf: set[str] = field(default_factory=set[str])

    def turn(self, name: str) -> asyncio.Event:
        return self.ready.setdefault(name, asyncio.Event())

    async def __call__(self, model: Target) -> str:
        name = model.name
        self.asked.append(name)
        self.open.append(name)
        try:
            try:
                await self.turn(name).wait()
            except asyncio.CancelledError:
                if name not in self.deaf:
                    raise
            if name in self.fails:
                raise self.fails[name]
            return name
        finally:
            self.open.remove(name)

    async def discard(self, answer: str) -> None:
        self.discarded.append(answer)


class Setting:
    def __init__(self, policy: HedgePolicy = ALWAYS, usual_s: float | None = 0.0) -> None:
        self.breakers = BreakerBoard(time.monotonic, FRAGILE)
        self.metrics = Metrics()
        hedger = Hedger(policy, lambda name: usual_s)
        self.attempts = Attempts(self.breakers, self.metrics, RetryPolicy(1), timeout_s=5, hedger=hedger)
        self.models = Models()

    def ask(self, of: Plan | None = None) -> "asyncio.Task[str]":
        async def answered() -> str:
            asked = of or short(A, B, C)
            return (await self.attempts.first_answer(asked, self.models, self.models.discard))[1]

        return asyncio.create_task(answered())

    async def until_asked(self, *names: str) -> None:
        async with asyncio.timeout(5):
            while self.models.asked != list(names):
                await asyncio.sleep(0)

    def state(self, name: str) -> State:
        view = self.breakers.snapshot().get(name)
        return view.state if view else State.CLOSED

    def hedges(self, outcome: str) -> float:
        sample = f'prsm_hedges_total{{model="b/m",outcome="{outcome}"}} '
        lines = self.metrics.render().decode().splitlines()
        return next((float(line.removeprefix(sample)) for line in lines if line.startswith(sample)), 0.0)


@pytest.fixture
def here() -> Setting:
    return Setting()


def short(*models: Target) -> Plan:
    call = chat(limit=32)
    return plan(*models, asked=ask(ChatCall(call.request_id, call.messages, "auto", True, 32, {})))


def failure(**values: bool) -> UpstreamError:
    return UpstreamError("It failed.", retryable=False, code="odd", **values)


async def test_a_silent_first_loses_to_the_second_is_ended_and_bears_no_blame(here: Setting) -> None:
    answer = here.ask()
    await here.until_asked("a/m", "b/m")
    here.models.turn("b/m").set()
    assert await answer == "b/m"
    await here.attempts.close()
    assert (here.models.open, here.models.discarded) == ([], [])
    assert (here.state("a/m"), here.state("b/m")) == (State.CLOSED, State.CLOSED)
    assert (here.hedges("won"), here.hedges("lost")) == (1, 0)


async def test_a_first_that_answers_after_all_wins_and_the_second_is_ended(here: Setting) -> None:
    answer = here.ask()
    await here.until_asked("a/m", "b/m")
    here.models.turn("a/m").set()
    assert await answer == "a/m"
    await here.attempts.close()
    assert here.models.open == []
    assert (here.hedges("won"), here.hedges("lost")) == (0, 1)


async def test_a_first_that_is_not_silent_is_the_only_one_asked() -> None:
    here = Setting(usual_s=1.5)
    here.models.turn("a/m").set()
    assert await here.ask() == "a/m"
    assert here.models.asked == ["a/m"]
    assert here.hedges("won") == here.hedges("lost") == 0


async def test_of_two_that_answer_together_the_first_is_taken_and_the_other_thrown_away(here: Setting) -> None:
    answer = here.ask()
    await here.until_asked("a/m", "b/m")
    here.models.turn("b/m").set()
    here.models.turn("a/m").set()
    assert await answer == "a/m"
    await here.attempts.close()
    assert here.models.discarded == ["b/m"]


async def test_a_loser_that_answers_while_it_is_being_ended_is_thrown_away_too(here: Setting) -> None:
    here.models.deaf.add("a/m")
    answer = here.ask()
    await here.until_asked("a/m", "b/m")
    here.models.turn("b/m").set()
    assert await answer == "b/m"
    await here.attempts.close()
    assert here.models.discarded == ["a/m"]


async def test_where_one_of_two_fails_the_other_is_waited_for(here: Setting) -> None:
    here.models.fails["a/m"] = failure()
    answer = here.ask()
    await here.until_asked("a/m", "b/m")
    here.models.turn("a/m").set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not answer.done()
    here.models.turn("b/m").set()
    assert await answer == "b/m"
    assert here.state("a/m") is State.OPEN


async def test_where_both_fail_those_who_are_left_are_tried_and_nobody_twice(here: Setting) -> None:
    here.models.fails |= {"a/m": failure(), "b/m": InvalidRequest("no such form")}
    for name in "abc":
        here.models.turn(f"{name}/m").set()
    here.models.turn("a/m").clear()
    answer = here.ask()
    await here.until_asked("a/m", "b/m")
    here.models.turn("a/m").set()
    assert await answer == "c/m"
    assert here.models.asked == ["a/m", "b/m", "c/m"]


async def test_a_first_that_fails_before_its_time_sends_the_request_on_as_ever() -> None:
    here = Setting(usual_s=1.5)
    here.models.fails["a/m"] = failure()
    for name in "ab":
        here.models.turn(f"{name}/m").set()
    assert await here.ask() == "b/m"
    assert here.models.asked == ["a/m", "b/m"]
    assert here.hedges("won") == here.hedges("lost") == 0


async def test_a_refusal_that_blames_the_caller_ends_both(here: Setting) -> None:
    here.models.fails["a/m"] = failure(blames_caller=True)
    answer = here.ask()
    await here.until_asked("a/m", "b/m")
    here.models.turn("a/m").set()
    with pytest.raises(PrsmError):
        await answer
    await here.attempts.close()
    assert here.models.open == []
    assert here.models.asked == ["a/m", "b/m"]


async def test_a_caller_that_leaves_ends_both(here: Setting) -> None:
    answer = here.ask()
    await here.until_asked("a/m", "b/m")
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    await here.attempts.close()
    assert here.models.open == []
    assert (here.state("a/m"), here.state("b/m")) == (State.CLOSED, State.CLOSED)


async def test_a_lost_probe_is_given_back(here: Setting) -> None:
    """A breaker that lets one call through to see counts nobody as out once that call has lost its race."""
    here.models.fails["a/m"] = failure()
    here.models.turn("a/m").set()
    here.models.turn("b/m").set()
    assert await here.ask() == "b/m"
    assert here.state("a/m") is State.OPEN
    here.breakers.reset("a/m")
    here.models.fails.clear()
    here.models.turn("a/m").clear()
    here.models.asked.clear()
    assert await here.ask() == "b/m"
    await here.attempts.close()
    here.models.turn("a/m").set()
    assert await here.ask() == "a/m"


async def test_the_share_of_hedges_is_kept() -> None:
    here = Setting(replace(ALWAYS, share_bps=2_500))
    here.models.turn("b/m").set()

    async def late(model: Target) -> str:
        here.models.asked.append(model.name)
        await asyncio.sleep(0.005 if model.name == "a/m" else 0)
        return model.name

    for _ in range(40):
        await here.attempts.first_answer(short(A, B), late, here.models.discard)
    assert here.models.asked.count("a/m") == 40
    assert here.models.asked.count("b/m") == 10


async def test_where_an_answer_cannot_be_thrown_away_nobody_is_asked_beside(here: Setting) -> None:
    for name in "ab":
        here.models.turn(f"{name}/m").set()
    assert (await here.attempts.first_answer(short(A, B), here.models))[1] == "a/m"
    assert here.models.asked == ["a/m"]


async def test_both_have_the_time_of_one_request_together() -> None:
    here = Setting()
    here.attempts = Attempts(
        here.breakers, here.metrics, RetryPolicy(1), timeout_s=0.02, hedger=Hedger(ALWAYS, lambda name: 0)
    )
    with pytest.raises(UpstreamError, match="No model answered"):
        await here.ask()
    await here.attempts.close()
    assert here.models.open == []
    assert (here.state("a/m"), here.state("b/m")) == (State.OPEN, State.OPEN)
