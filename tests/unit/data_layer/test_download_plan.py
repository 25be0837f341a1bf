"""The plan of a download: order, one winner per leaf, second requests only for what is late and within the budget."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.data_layer.transfer.download_plan import Claim, Hedging, Plan

SIZE = 100


def plan_of(leaves: int, hedging: Hedging | None = None) -> Plan:
    return Plan([index * SIZE for index in range(leaves)], leaves * SIZE, hedging or Hedging())


def claimed(plan: Plan, now_s: float) -> Claim:
    claim = plan.claim(now_s)
    assert claim is not None
    return claim


def come(plan: Plan, claim: Claim, took_s: float = 0.2) -> None:
    assert plan.win(claim)
    plan.end(claim, fetched_s=took_s)


def test_leaves_go_out_in_order_and_then_nothing_does() -> None:
    plan = plan_of(5)
    assert [claimed(plan, 0.0).leaf for _ in range(5)] == [0, 1, 2, 3, 4]
    assert plan.claim(0.0) is None
    assert (plan.in_flight, plan.finished) == (5, False)


def test_an_empty_file_is_finished() -> None:
    plan = Plan([], 0)
    assert plan.finished
    assert plan.claim(0.0) is None
    assert plan.idle_s(0.0) is None


def test_what_a_reader_waits_for_goes_first() -> None:
    plan = plan_of(10)
    come(plan, claimed(plan, 0.0))
    assert plan.want(0, SIZE)
    assert not plan.want(5 * SIZE + 1, 2 * SIZE)
    assert [claimed(plan, 0.0).leaf for _ in range(5)] == [5, 6, 7, 1, 2]
    assert not plan.want(9 * SIZE, 10 * SIZE)
    assert claimed(plan, 0.0).leaf == 9
    assert plan.want(10 * SIZE, SIZE), "nothing lies behind the end"


def test_a_range_in_empty_leaves_and_at_their_borders() -> None:
    plan = Plan([0, 100, 100, 200], 250)
    plan.want(100, 1)
    assert claimed(plan, 0.0).leaf == 2
    plan.want(199, 2)
    assert claimed(plan, 0.0).leaf == 3


def test_the_oldest_late_leaf_is_asked_for_once_more() -> None:
    plan = plan_of(12, Hedging(most_extra=0.5, least_s=0.0))
    claims = [claimed(plan, float(index)) for index in range(12)]
    for claim in claims[2:]:
        come(plan, claim, took_s=3.0)
    assert plan.late_s() == 3.0
    assert plan.idle_s(2.5) == pytest.approx(0.5)
    assert plan.claim(2.5) is None
    second = claimed(plan, 3.0)
    assert (second.leaf, second.second) == (0, True)
    assert plan.rivals(second) == [claims[0]]
    assert plan.claim(3.5) is None, "one second request is enough, and the next leaf is not late yet"
    assert claimed(plan, 4.0).leaf == 1
    assert plan.idle_s(100.0) is None


def test_nothing_is_late_while_too_little_is_known() -> None:
    plan = plan_of(2)
    claims = [claimed(plan, 0.0), claimed(plan, 0.0)]
    come(plan, claims[0], took_s=0.001)
    assert plan.claim(1.9) is None
    assert claimed(plan, 2.0).leaf == 1


def test_the_first_to_come_wins_and_the_loser_ends_quietly() -> None:
    plan = plan_of(1)
    first, second = claimed(plan, 0.0), claimed(plan, 5.0)
    assert second.second
    assert plan.win(second)
    assert not plan.win(first)
    assert plan.lose(first)
    plan.end(second)
    assert plan.finished
    assert plan.lose(first)


def test_a_leaf_is_lost_only_with_its_last_attempt() -> None:
    plan = plan_of(1)
    first, second = claimed(plan, 0.0), claimed(plan, 5.0)
    assert plan.lose(first)
    assert not plan.lose(second)


def test_the_loser_after_the_winner_wrote_is_no_loss() -> None:
    plan = plan_of(1)
    first, second = claimed(plan, 0.0), claimed(plan, 5.0)
    come(plan, first)
    assert plan.lose(second)


def test_second_requests_have_a_budget() -> None:
    plan = plan_of(40, Hedging(unknown_s=1.0, least_known=10**6))
    for _ in range(40):
        claimed(plan, 0.0)
    seconds = 0
    while plan.claim(100.0) is not None:
        seconds += 1
    assert seconds == 4


@given(leaves=st.integers(0, 60), workers=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_every_leaf_comes_once_whatever_happens(leaves: int, workers: int, seed: int) -> None:
    """Workers that take random times; readers that want random ranges; attempts that fail when a rival runs."""
    random = Random(seed)
    plan = plan_of(leaves)
    now = 0.0
    running: dict[int, tuple[float, Claim]] = {}
    written: list[int] = []
    for _ in range(10_000):
        if plan.finished:
            break
        if random.random() < 0.1:
            plan.want(random.randrange(leaves * SIZE), random.randrange(3 * SIZE))
        while len(running) < workers and (claim := plan.claim(now)) is not None:
            running[claim.number] = (now + random.choice([0.1, 0.2, 0.3, 30.0]), claim)
        ends = [end for end, _ in running.values()]
        idle = plan.idle_s(now)
        if idle is not None and len(running) < workers:
            ends.append(now + idle)
        assert ends, "somebody must have something to do"
        now = max(now, min(ends))
        for number, (end, claim) in list(running.items()):
            if end <= now:
                del running[number]
                if plan.rivals(claim) and random.random() < 0.3:
                    assert plan.lose(claim)
                elif plan.win(claim):
                    written.append(claim.leaf)
                    plan.end(claim, fetched_s=now - claim.started_s)
    assert sorted(written) == list(range(leaves))
    assert plan.in_flight == 0
    assert plan.firsts == leaves
    assert plan.seconds <= max(1, leaves // 10)


def test_a_spare_worker_takes_what_is_stuck_and_nothing_else() -> None:
    plan = plan_of(12, Hedging(least_s=0.0, stuck_factor=4.0))
    claims = [claimed(plan, 0.0) for _ in range(11)]
    for claim in claims[1:]:
        come(plan, claim, took_s=1.0)
    assert plan.claim(3.9, spare=True) is None
    assert plan.idle_s(3.9, spare=True) == pytest.approx(0.1)
    assert claimed(plan, 3.9).leaf == 11
    assert claimed(plan, 4.0).leaf == 0
    assert plan.claim(100.0, spare=True) is None, "the budget is spent"
    again = plan_of(12, Hedging(least_s=0.0, unknown_s=1.0))
    stuck = claimed(again, 0.0)
    second = again.claim(4.0, spare=True)
    assert second is not None
    assert (second.leaf, second.second) == (stuck.leaf, True)


def test_what_our_own_limit_makes_slow_is_not_late() -> None:
    hedging = Hedging(least_s=0.1, unknown_s=2.0)
    assert hedging.under_limit(None, 8_000_000) is hedging
    assert hedging.under_limit(10**9, 8_000_000) == hedging
    slow = hedging.under_limit(1_000_000, 8_000_000)
    assert (slow.least_s, slow.unknown_s) == (16.0, 16.0)
    plan = plan_of(1, slow)
    claimed(plan, 0.0)
    assert plan.claim(15.9) is None


def test_what_is_read_next_comes_behind_what_is_wanted_now_and_has_a_bound() -> None:
    plan = plan_of(200)
    assert not plan.want(100 * SIZE + 50, SIZE, 99 * SIZE)
    assert [claimed(plan, 0.0).leaf for _ in range(40)] == [*range(100, 133), *range(7)]
