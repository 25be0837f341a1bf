"""The rule of hedging: who is asked beside a silent model, when, and how often in all."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.asks import ask, chat, plan, target

from prsm.agents.call import ChatCall, Target
from prsm.agents.hedging import Hedge, HedgeBudget, HedgePolicy, Hedger, hedge_for
from prsm.agents.plan import Plan

POLICY = HedgePolicy(share_bps=500, max_output_tokens=64, min_wait_s=0.05, max_wait_s=2)
A, B, C = target("a/m"), target("b/m"), target("c/m")


def streamed(*models: Target, limit: int = 32, **values: Any) -> Plan:
    call = chat(limit=limit)
    return plan(*models, asked=ask(ChatCall(call.request_id, call.messages, "auto", True, limit, {}), **values))


def hedge(of: Plan, usual_s: float | None = 0.4, resting: frozenset[str] = frozenset()) -> Hedge | None:
    return hedge_for(of, POLICY, lambda name: usual_s if name == "a/m" else None, resting.__contains__)


def who(found: Hedge | None) -> str:
    return found.candidate.target.name if found else ""


def test_the_next_is_asked_when_the_first_is_silent_for_longer_than_usual() -> None:
    found = hedge(streamed(A, B, C))
    assert found is not None
    assert (who(found), found.after_s) == ("b/m", 0.4)


def test_one_that_rests_is_passed_over() -> None:
    assert who(hedge(streamed(A, B, C), resting=frozenset({"b/m"}))) == "c/m"


def test_another_instance_of_the_model_is_asked_as_soon_as_it_would_have_begun_itself() -> None:
    usual = {"a/m": 0.9, "b/m": 0.3, "x/other": 0.1}.get
    for models, after_s in (((A, B), 0.3), ((B, A), 0.3), ((A, C), 0.9), ((C, B), 0.3), ((A, target("x/other")), 0.9)):
        found = hedge_for(streamed(*models), POLICY, usual, lambda name: False)
        assert found is not None
        assert found.after_s == after_s


@pytest.mark.parametrize(("usual_s", "after_s"), [(0.001, 0.05), (60, 2)])
def test_the_wait_has_bounds(usual_s: float, after_s: float) -> None:
    found = hedge(streamed(A, B), usual_s)
    assert found is not None
    assert found.after_s == after_s


def test_there_is_no_hedge_without_somebody_else_or_a_known_usual_time_or_for_a_long_or_whole_answer() -> None:
    assert hedge(streamed(A)) is None
    assert hedge(streamed(A, B), None) is None
    assert hedge(streamed(A, B, limit=65)) is None
    assert hedge(streamed(A, B, limit=33, choices=2)) is None
    assert hedge(plan(A, B, asked=ask(chat(limit=32)))) is None
    assert hedge(streamed(A, B), resting=frozenset({"b/m"})) is None


def test_a_dearer_one_is_asked_only_where_the_callers_cap_covers_it() -> None:
    dear, cheap = target("b/m", price_out=3_000_000), target("c/m", price_in=1)
    assert hedge(streamed(A, dear)) is None
    assert who(hedge(streamed(A, dear, cheap))) == "c/m"
    assert who(hedge(streamed(A, dear, cap_micro=10_000))) == "b/m"


@given(st.integers(0, 10_000), st.integers(1, 20), st.lists(st.booleans(), max_size=300))
def test_hedges_never_exceed_their_share_of_the_calls(share_bps: int, burst: int, wants: list[bool]) -> None:
    budget, taken = HedgeBudget(share_bps, burst), 0
    for calls, wanted in enumerate(wants, 1):
        budget.note_call()
        taken += wanted and budget.take()
        assert taken * 10_000 <= calls * share_bps


def test_all_of_the_share_can_be_used() -> None:
    budget = HedgeBudget(500)
    taken = 0
    for _ in range(400):
        budget.note_call()
        taken += budget.take()
    assert taken == 20


def test_what_was_saved_is_bounded() -> None:
    budget = HedgeBudget(10_000, burst=3)
    for _ in range(100):
        budget.note_call()
    assert [budget.take() for _ in range(4)] == [True] * 3 + [False]


def test_a_budget_out_of_range_is_refused() -> None:
    for share_bps, burst in ((-1, 1), (10_001, 1), (500, 0)):
        with pytest.raises(ValueError, match="hedge budget"):
            HedgeBudget(share_bps, burst)


def test_every_call_feeds_the_budget_whether_it_may_be_hedged_or_not() -> None:
    hedger = Hedger(HedgePolicy(share_bps=5_000), lambda name: None)
    assert not hedger.take()
    for _ in range(2):
        assert hedger.hedge_for(streamed(A), lambda name: False) is None
    assert [hedger.take(), hedger.take()] == [True, False]
