"""The prober: who is probed and when, that it never exceeds its budget, and what its findings do."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.asks import target

from prsm.agents.call import ChatCall, Choice, Completion, Delta, EmbedCall, Embeddings, Target, Usage
from prsm.agents.liveness.board import Liveness
from prsm.agents.liveness.observed import Ending
from prsm.agents.liveness.prober import ProbePolicy, Prober, Prospect, choose
from prsm.agents.seams import UpstreamError
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy, State

POLICY = ProbePolicy(per_minute=60, idle_s=300, out_s=15, timeout_s=0.05)
NOW_S = 10_000.0


def at(name: str, **values: Any) -> Target:
    return target(name, base_url=f"http://{name.partition('/')[0]}", **values)


A, B, C = at("a/m"), at("b/m"), at("c/m")


class Upstream:
    """Answers probes as told; counts what was asked of it."""

    def __init__(self) -> None:
        self.listed: list[str] = []
        self.asked: list[ChatCall | EmbedCall] = []
        self.error: Exception | None = None
        self.hangs = False

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        self.listed.append(base_url)
        await self._answer()
        return ["m"]

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        self.asked.append(call)
        await self._answer()
        return Completion([Choice(content="p")], Usage(1, 1))

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        raise AssertionError("a probe does not stream")
        yield []

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        self.asked.append(call)
        await self._answer()
        return Embeddings([[1.0]], Usage(1, 0))

    async def aclose(self) -> None:
        """Nothing was opened."""

    async def _answer(self) -> None:
        await asyncio.sleep(3600 if self.hangs else 0)
        if self.error:
            raise self.error


class Setting:
    def __init__(self, *targets: Target, policy: ProbePolicy = POLICY) -> None:
        self.now_s = NOW_S
        self.breakers = BreakerBoard(lambda: self.now_s, BreakerPolicy(min_calls=2, open_s=10, probes_to_close=1))
        self.board = Liveness(clock=lambda: self.now_s, resting=self.breakers.resting)
        self.upstream = Upstream()
        by_name = {each.name: each for each in targets}
        self.prober = Prober(self.board, self.breakers, {"fake": self.upstream}, lambda: by_name, policy, lambda: 0.0)

    async def turn(self) -> bool:
        task = self.prober.turn()
        if task is not None:
            await task
        return task is not None

    def call(self, at: Target) -> None:
        self.board.began(at).answered()

    def counts(self, at: Target) -> list[str]:
        instance = self.board.instance(at.name)
        counts = instance.observed.counts(self.now_s) if instance else []
        return [Ending(number).name for number, count in enumerate(counts) if count > 0.5]


def unreachable() -> UpstreamError:
    return UpstreamError("Nobody there.", retryable=True, code="upstream_unreachable")


def prospect(at: Target, called: float = 0, probed: float = 0, *, out: bool = False) -> Prospect:
    return Prospect(at, NOW_S - called, NOW_S - probed, out)


def test_the_idle_longest_is_chosen_and_nobody_with_recent_calls_or_probes() -> None:
    assert choose([prospect(A, 400, 301), prospect(B, 400, 500)], (), NOW_S, POLICY) is B
    assert choose([prospect(A, 299, 9000), prospect(B, 9000, 299)], (), NOW_S, POLICY) is None


def test_who_is_out_comes_first_and_again_only_after_its_pause() -> None:
    idle, out = prospect(A, 9000, 9000), prospect(B, 1, 16, out=True)
    assert choose([idle, out], (), NOW_S, POLICY) is B
    assert choose([idle, prospect(B, 1, 14, out=True)], (), NOW_S, POLICY) is A


def test_a_provider_that_is_being_probed_is_left_alone() -> None:
    assert choose([prospect(A, 9000, 9000), prospect(B, 400, 400)], {"a"}, NOW_S, POLICY) is B


prospects = st.lists(
    st.builds(
        lambda name, called, probed, out: prospect(at(f"{name}/m"), called, probed, out=out),
        st.sampled_from("abcdef"), st.floats(0, 1000), st.floats(0, 1000), st.booleans(),
    ),
    max_size=8,
)  # fmt: skip


@given(prospects, st.sets(st.sampled_from("abcdef")))
def test_whoever_is_chosen_was_due(prospects: list[Prospect], busy: set[str]) -> None:
    found = choose(prospects, busy, NOW_S, POLICY)
    due = [
        each
        for each in prospects
        if each.target.provider not in busy
        and (
            NOW_S - each.probed_s >= POLICY.out_s
            if each.out
            else NOW_S - max(each.called_s, each.probed_s) >= POLICY.idle_s
        )
    ]
    assert (found is None) == (not due)
    assert found is None or any(each.target is found for each in due)
    if any(each.out for each in due):
        assert any(each.target is found and each.out for each in due)


async def test_after_its_start_a_node_probes_nobody_until_they_were_idle_for_long_enough() -> None:
    here = Setting(A, target("local/teacher"))
    assert not await here.turn()
    here.now_s += 301
    here.call(A)
    assert not await here.turn()
    here.now_s += 301
    assert await here.turn()
    assert not await here.turn()
    assert (here.upstream.listed, here.prober.made) == (["http://a"], {"ok": 1, "failed": 0})


async def test_a_list_that_comes_is_no_proof_that_the_model_answers() -> None:
    here = Setting(A)
    here.now_s += 301
    await here.turn()
    assert here.counts(A) == []
    assert here.breakers.snapshot() == {}


async def test_a_provider_away_is_a_failed_call_of_the_instance_and_its_breaker() -> None:
    here = Setting(A)
    here.upstream.error = unreachable()
    here.now_s += 301
    await here.turn()
    assert (here.counts(A), here.prober.made["failed"]) == (["UNREACHABLE"], 1)
    assert here.breakers.snapshot()["a/m"].failures == 1
    assert here.board.groups["m"].windows.totals(3600, here.now_s) == [0] * 6


async def test_one_that_does_not_answer_in_time_has_failed() -> None:
    here = Setting(A)
    here.upstream.hangs = True
    here.now_s += 301
    await here.turn()
    assert here.counts(A) == ["TIMEOUT"]


async def test_an_open_breaker_is_probed_once_its_time_is_over_and_a_question_closes_it() -> None:
    here = Setting(A, policy=ProbePolicy(idle_s=10_000, chat=True))
    here.breakers.record(A.name, ok=False)
    here.breakers.record(A.name, ok=False)
    here.now_s += 9
    assert not await here.turn()
    here.now_s += 7
    assert await here.turn()
    assert here.breakers.snapshot()["a/m"].state is State.CLOSED
    call = here.upstream.asked[0]
    assert isinstance(call, ChatCall)
    assert (call.max_output_tokens, here.upstream.listed) == (1, [])
    assert here.counts(A) == ["OK"]


async def test_a_list_only_frees_the_probe_of_a_half_open_breaker_and_its_failure_opens_it() -> None:
    here = Setting(A, policy=ProbePolicy(idle_s=10_000))
    for _ in range(2):
        here.breakers.record(A.name, ok=False)
    here.now_s += 16
    await here.turn()
    assert here.breakers.snapshot()["a/m"].state is State.HALF_OPEN
    assert here.breakers.allow(A.name)
    here.breakers.release(A.name)
    here.upstream.error = unreachable()
    here.now_s += 16
    await here.turn()
    assert here.breakers.snapshot()["a/m"].state is State.OPEN


async def test_who_only_embeds_is_asked_to_embed() -> None:
    here = Setting(at("a/m", capabilities=frozenset({"embeddings"})), policy=ProbePolicy(chat=True))
    here.now_s += 301
    await here.turn()
    assert isinstance(here.upstream.asked[0], EmbedCall)


async def test_a_refusal_of_the_question_shows_that_somebody_is_there() -> None:
    here = Setting(A, policy=ProbePolicy(chat=True))
    here.upstream.error = UpstreamError("No.", retryable=False, code="upstream_rejected", blames_caller=True)
    here.now_s += 301
    await here.turn()
    assert (here.counts(A), here.prober.made["failed"]) == ([], 0)


async def test_while_the_node_stops_nobody_is_probed() -> None:
    here = Setting(A)
    here.now_s += 301
    here.board.drain()
    assert not await here.turn()


async def test_a_large_catalogue_is_looked_at_in_turns_and_everybody_has_one() -> None:
    many = [at(f"p{number}/m") for number in range(1300)]
    here = Setting(*many)
    here.now_s += 301
    for _ in range(2000):
        await here.turn()
    assert len(here.upstream.listed) == len(set(here.upstream.listed)) == 1300


@pytest.mark.parametrize("per_minute", [600, 6000])
async def test_it_keeps_to_its_budget_and_ends_what_is_under_way_when_cancelled(per_minute: int) -> None:
    many = [at(f"p{number}/m") for number in range(200)]
    here = Setting(*many, policy=ProbePolicy(per_minute=per_minute, timeout_s=3600))
    here.upstream.hangs = True
    here.now_s += 301
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    running = asyncio.create_task(here.prober.run())
    await asyncio.sleep(0.25)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert 1 <= len(here.upstream.listed) <= (loop.time() - begun_s) * per_minute / 60
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_budget_of_none_probes_nobody() -> None:
    here = Setting(A, policy=ProbePolicy(per_minute=0))
    here.now_s += 301
    await here.prober.run()
    assert here.upstream.listed == []
