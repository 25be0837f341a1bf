"""Two choices: the order is a permutation, the lighter of two wins, and who is out stands last."""

import random

from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.liveness.balance import Load, order

loads = st.lists(
    st.builds(
        Load,
        in_flight=st.integers(0, 100),
        latency_s=st.none() | st.floats(0.001, 60),
        weight=st.floats(0.1, 1),
        success=st.floats(0, 1),
        out=st.booleans(),
    ),
    max_size=12,
)


@given(loads, st.integers(1, 5), st.integers(0, 2**32))
def test_an_order_holds_each_once_and_chooses_nobody_that_is_out_while_others_live(
    loads: list[Load], choices: int, seed: int
) -> None:
    placed = order(len(loads), choices, loads.__getitem__, random.Random(seed).random)
    assert sorted(placed) == list(range(len(loads)))
    live = sum(not load.out for load in loads)
    assert not any(loads[number].out for number in placed[: min(choices, live)])


def pick(*loads: Load) -> set[int]:
    """Who is chosen first, over many draws."""
    draw = random.Random(1).random
    return {order(len(loads), 1, loads.__getitem__, draw)[0] for _ in range(200)}


def test_of_two_the_one_that_costs_less_is_always_first() -> None:
    assert pick(Load(0, 1.0), Load(0, 2.0)) == {0}
    assert pick(Load(3, 1.0), Load(0, 2.0)) == {1}
    assert pick(Load(0, 1.0, weight=0.1), Load(5, 1.0)) == {1}
    assert pick(Load(0, 1.0, success=0.2), Load(0, 2.0)) == {1}


def test_equals_are_drawn_and_one_not_seen_yet_counts_as_the_other() -> None:
    assert pick(Load(), Load()) == {0, 1}
    assert pick(Load(0, None), Load(1, 9.0)) == {0}
    assert pick(Load(1, None), Load(0, 9.0)) == {1}
    assert pick(Load(0, None), Load(0, 0.001)) == {0, 1}


def test_the_costliest_of_three_is_never_first() -> None:
    assert pick(Load(0, 1.0), Load(0, 1.0), Load(0, 9.0)) == {0, 1}


def test_where_all_are_out_somebody_is_asked_all_the_same() -> None:
    assert pick(Load(out=True), Load(out=True)) == {0, 1}


def test_only_the_drawn_are_looked_at() -> None:
    looked: list[int] = []

    def load_of(number: int) -> Load:
        looked.append(number)
        return Load()

    assert len(order(1000, 3, load_of, random.Random(1).random)) == 1000
    assert len(looked) == 4
