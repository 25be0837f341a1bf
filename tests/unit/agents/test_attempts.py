"""Attempts: who is tried, how often, and what breakers and metrics are told of it. Models here are small scripts."""

import asyncio
from collections.abc import Awaitable

import pytest
from tests.support.asks import plan, target

from prsm.agents.attempts import Attempts
from prsm.agents.call import Target
from prsm.agents.executors.retry import RetryPolicy
from prsm.agents.seams import UpstreamError
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.monitoring.metrics import Metrics
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy, State

SWIFT = RetryPolicy(max_attempts=3, base_delay_s=0, max_delay_s=0)
FRAGILE = BreakerPolicy(min_calls=2, failure_rate=1.0, open_s=10, max_probes=1, probes_to_close=1)
PATIENT = BreakerPolicy(min_calls=1000)
A, B, C = target("a/m"), target("b/m"), target("c/m")
OK = "fine"

Script = dict[str, list[str | BaseException]]


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Scripted:
    """Models that answer or fail as written, one word for each call; the last word is repeated."""

    def __init__(self, clock: Clock, script: Script) -> None:
        self.clock = clock
        self.script = script
        self.asked: list[str] = []

    async def __call__(self, model: Target) -> str:
        self.asked.append(model.name)
        self.clock.now_s += 0.1
        await asyncio.sleep(0)
        words = self.script[model.name]
        word = words.pop(0) if len(words) > 1 else words[0]
        if isinstance(word, BaseException):
            raise word
        return word


class Setting:
    """Attempts with their breakers, metrics and clock."""

    def __init__(self, policy: RetryPolicy = SWIFT, *, breaker: BreakerPolicy = FRAGILE, timeout_s: float = 60) -> None:
        self.clock = Clock()
        self.breakers = BreakerBoard(self.clock, breaker)
        self.metrics = Metrics()
        self.attempts = Attempts(self.breakers, self.metrics, policy, timeout_s=timeout_s, clock=self.clock)

    def scripted(self, **script: list[str | BaseException]) -> Scripted:
        return Scripted(self.clock, {f"{name}/m": words for name, words in script.items()})

    def metric(self, sample: str) -> float:
        for line in self.metrics.render().decode().splitlines():
            if line.startswith(sample + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def failures(self, model: str, code: str) -> float:
        return self.metric(f'prsm_upstream_errors_total{{code="{code}",model="{model}"}}')


@pytest.fixture
def here() -> Setting:
    return Setting()


def failure(code: str = "upstream_reset", *, retryable: bool = True, blames_caller: bool = False) -> UpstreamError:
    return UpstreamError("It failed.", retryable=retryable, blames_caller=blames_caller, code=code)


async def refused(call: Awaitable[object]) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        await call
    return raised.value


async def test_the_first_model_that_answers_is_the_only_one_asked(here: Setting) -> None:
    models = here.scripted(a=[OK], b=[OK])
    candidate, answer = await here.attempts.first_answer(plan(A, B), models)
    assert (candidate.target, answer, models.asked) == (A, OK, ["a/m"])
    assert here.metric('prsm_time_to_first_token_seconds_count{model="a/m"}') == 1
    assert here.metric('prsm_time_to_first_token_seconds_sum{model="a/m"}') == pytest.approx(0.1)


async def test_a_failure_that_may_pass_is_tried_again_at_the_same_model() -> None:
    here = Setting(breaker=PATIENT)
    models = here.scripted(a=[failure(), failure(), OK], b=[OK])
    candidate, _ = await here.attempts.first_answer(plan(A, B), models)
    assert (candidate.target, models.asked) == (A, ["a/m"] * 3)
    assert here.failures("a/m", "upstream_reset") == 2


async def test_one_that_cannot_pass_sends_the_request_on_at_once(here: Setting) -> None:
    models = here.scripted(a=[failure("upstream_bad_answer", retryable=False)], b=[InvalidRequest("no tools")], c=[OK])
    candidate, _ = await here.attempts.first_answer(plan(A, B, C), models)
    assert (candidate.target, models.asked) == (C, ["a/m", "b/m", "c/m"])


async def test_attempts_are_bounded_and_the_last_failure_is_told(here: Setting) -> None:
    models = here.scripted(a=[failure("upstream_busy")], b=[failure("upstream_reset", retryable=False)])
    error = await refused(here.attempts.first_answer(plan(A, B), models))
    assert error.code == "upstream_reset"
    assert models.asked == ["a/m", "a/m", "b/m"]  # FRAGILE opens after two


async def test_a_refusal_that_blames_the_caller_is_told_at_once_and_no_mark_against_the_model(here: Setting) -> None:
    models = here.scripted(a=[failure("content_refused", retryable=False, blames_caller=True)], b=[OK])
    for _ in range(5):
        error = await refused(here.attempts.first_answer(plan(A, B), models))
        assert error.code == "content_refused"
    assert models.asked == ["a/m"] * 5
    assert not here.breakers.resting("a/m")
    assert here.failures("a/m", "content_refused") == 5


async def test_an_unexpected_error_goes_up_and_is_no_mark_against_the_model(here: Setting) -> None:
    models = here.scripted(a=[ZeroDivisionError()], b=[OK])
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await here.attempts.first_answer(plan(A, B), models)
    assert not here.breakers.resting("a/m")


async def test_where_no_model_takes_the_form_the_caller_is_told_why(here: Setting) -> None:
    models = here.scripted(a=[InvalidRequest("no tools here")])
    assert (await refused(here.attempts.first_answer(plan(A), models))).message == "no tools here"


async def test_a_resting_model_is_passed_over_and_its_calls_are_refused_without_asking(here: Setting) -> None:
    models = here.scripted(a=[failure(retryable=False)], b=[OK])
    for _ in range(2):
        await here.attempts.first_answer(plan(A, B), models)
    assert here.breakers.resting("a/m")
    models.asked.clear()
    assert (await here.attempts.first_answer(plan(A, B), models))[0].target == B
    assert models.asked == ["b/m"]
    error = await refused(here.attempts.first_answer(plan(A), models))
    assert (error.kind, error.code) == (Kind.UNAVAILABLE, "model_resting")
    assert error.retry_after_s
    assert models.asked == ["b/m"]


async def test_a_resting_model_is_probed_and_comes_back(here: Setting) -> None:
    models = here.scripted(a=[failure(retryable=False), failure(retryable=False), OK])
    for _ in range(2):
        await refused(here.attempts.first_answer(plan(A), models))
    here.clock.now_s += 10
    assert (await here.attempts.first_answer(plan(A), models))[1] == OK
    assert here.breakers.snapshot()["a/m"].state is State.CLOSED


async def test_a_caller_that_leaves_frees_the_probe_and_is_no_mark_against_the_model(here: Setting) -> None:
    models = here.scripted(a=[failure(retryable=False), failure(retryable=False), OK])
    for _ in range(2):
        await refused(here.attempts.first_answer(plan(A), models))
    here.clock.now_s += 10
    waiting = asyncio.create_task(here.attempts.first_answer(plan(A), _never))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (await refused(here.attempts.first_answer(plan(A), models))).code == "model_resting"  # the one probe is out
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await here.attempts.first_answer(plan(A), models))[1] == OK


async def test_a_call_from_before_the_rest_does_not_take_or_end_a_probe(here: Setting) -> None:
    old = asyncio.create_task(here.attempts.first_answer(plan(A), _never))
    await asyncio.sleep(0)
    models = here.scripted(a=[failure(retryable=False)])
    for _ in range(2):
        await refused(here.attempts.first_answer(plan(A), models))
    here.clock.now_s += 10
    probe = asyncio.create_task(here.attempts.first_answer(plan(A), _never))
    await asyncio.sleep(0)
    old.cancel()
    await asyncio.gather(old, return_exceptions=True)
    # The probe is still out: nobody else may ask.
    assert (await refused(here.attempts.first_answer(plan(A), models))).code == "model_resting"
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)


async def test_all_attempts_together_have_a_time_and_who_used_it_up_is_marked() -> None:
    here = Setting(timeout_s=0.01)
    for _ in range(2):
        error = await refused(here.attempts.first_answer(plan(A, B), _never))
        assert (error.kind, error.code) == (Kind.TIMEOUT, "upstream_timeout")
    assert here.breakers.resting("a/m")
    assert not here.breakers.resting("b/m")
    assert here.failures("a/m", "upstream_timeout") == 2


async def test_retries_stop_when_the_budget_of_all_requests_is_spent() -> None:
    here = Setting(RetryPolicy(max_attempts=10, base_delay_s=0, max_delay_s=0), breaker=PATIENT)
    models = here.scripted(a=[failure()])
    for _ in range(20):
        await refused(here.attempts.first_answer(plan(A), models))
    assert 20 + 10 <= len(models.asked) <= 20 + 10 + 20 * 0.2


async def test_a_stream_that_breaks_off_is_a_mark_against_its_model(here: Setting) -> None:
    for _ in range(2):
        here.attempts.failed_midway(A)
    assert here.breakers.resting("a/m")
    assert here.failures("a/m", "cut_off") == 2


async def test_cancelled_between_two_attempts_nothing_is_left_open() -> None:
    here = Setting(RetryPolicy(max_attempts=3, base_delay_s=1000, max_delay_s=1000, total_s=1e9))
    models = here.scripted(a=[failure()])
    waiting = asyncio.create_task(here.attempts.first_answer(plan(A), models))
    while not models.asked:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert here.failures("a/m", "upstream_reset") == 1


async def _never(model: Target) -> str:
    await asyncio.Event().wait()
    return OK


async def test_whose_request_opened_a_breaker_is_told_once() -> None:
    here, told = Setting(), list[str]()
    attempts = Attempts(here.breakers, here.metrics, SWIFT, timeout_s=60, clock=here.clock, tripped=told.append)
    models = here.scripted(a=[failure(retryable=False)])
    await refused(attempts.first_answer(plan(A), models))
    assert told == []
    for _ in range(3):
        await refused(attempts.first_answer(plan(A), models))
    assert told == [plan(A).ask.caller.account]


async def test_a_provider_that_rests_is_not_asked_for_any_of_its_models() -> None:
    here = Setting()
    providers = BreakerBoard(here.clock, FRAGILE)
    attempts = Attempts(here.breakers, here.metrics, SWIFT, timeout_s=60, clock=here.clock, providers=providers)
    models = here.scripted(a=[OK], b=[OK])
    providers.trip("a", "by hand")
    candidate, _ = await attempts.first_answer(plan(A, B), models)
    assert candidate.target == B
    assert models.asked == ["b/m"]
    providers.reset("a")
    for _ in range(FRAGILE.min_calls):
        await refused(attempts.first_answer(plan(A), here.scripted(a=[failure(retryable=False)])))
    assert providers.resting("a")
