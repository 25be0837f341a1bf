"""Paying for a run in slices: never more than the budget, never more than was used or held."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from prsm.teachers.runs.slices import SLICE_AGE, SLICE_CPU_S, Money, due_micro, hold_id, is_over, to_hold_micro

NOW = datetime(2026, 1, 1, tzinfo=UTC)
prices = st.integers(1, 10**7)


@given(
    budget=st.integers(0, 10**10),
    price=prices,
    used=st.lists(st.integers(0, 400_000), max_size=30),
)
def test_a_run_is_charged_what_it_used_within_its_holds_and_its_budget(
    budget: int, price: int, used: list[int]
) -> None:
    money, cpu_ms = Money(budget_micro=budget), 0
    for step_ms in used:
        held = to_hold_micro(money, price)
        if not held:
            assert money.left_micro < price
            break
        assert held <= money.left_micro
        money = Money(
            budget_micro=budget, charged_micro=money.charged_micro, slices=money.slices + 1, held_micro=held,
            began_cpu_ms=cpu_ms, began_at=NOW,
        )  # fmt: skip
        cpu_ms += step_ms
        due = due_micro(money, price, cpu_ms)
        assert due == min(price * step_ms // 1000, held)
        money = Money(budget_micro=budget, charged_micro=money.charged_micro + due, slices=money.slices)
    assert money.charged_micro <= min(budget, price * cpu_ms // 1000)


def test_a_slice_is_over_when_it_is_nearly_used_or_old() -> None:
    money = Money(budget_micro=10**9, slices=1, held_micro=SLICE_CPU_S * 1000, began_at=NOW)
    just, late = NOW + timedelta(seconds=1), NOW + SLICE_AGE
    assert not is_over(money, 1000, 0, just)
    assert not is_over(money, 1000, 70_000, just)
    assert is_over(money, 1000, 96_000, just)
    assert is_over(money, 1000, 0, late)
    assert not is_over(Money(budget_micro=1), 1000, 10**6, late)


def test_a_hold_of_a_slice_has_one_id() -> None:
    run = uuid4()
    assert hold_id(run, 1) == hold_id(run, 1)
    assert len({hold_id(run, 1), hold_id(run, 2), hold_id(uuid4(), 1)}) == 3


def test_what_a_killed_run_says_again_is_not_charged_twice() -> None:
    money = Money(budget_micro=10**9, held_micro=10**6, began_cpu_ms=50_000, began_at=NOW)
    assert due_micro(money, 1000, 40_000) == 0
