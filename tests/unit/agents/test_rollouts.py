"""Trials of a candidate version: who gets it, what is certain of it, when it must go."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.rollouts.assignment import CANDIDATE, STABLE, place
from prsm.agents.rollouts.evidence import Mean, difference, interval
from prsm.agents.rollouts.trial import METRICS, Counts, Limits, compare, judge
from prsm.core.errors import InvalidRequest

SESSIONS = [f"session-{number}" for number in range(20_000)]


def counted(rng: random.Random, share: float, count: int) -> Mean:
    return Mean(count, float(sum(rng.random() < share for _ in range(count))))


def test_sessions_are_spread_evenly() -> None:
    for share_bps in (1_000, 5_000, 9_000):
        got = sum(place("t", session) < share_bps for session in SESSIONS)
        assert abs(got / len(SESSIONS) - share_bps / 10_000) < 0.01


@given(st.text(), st.text())
def test_a_session_stands_in_one_place(trial: str, session: str) -> None:
    assert 0 <= place(trial, session) == place(trial, session) < 10_000


def test_two_trials_divide_the_sessions_independently() -> None:
    both = sum(place("one", session) < 5_000 and place("two", session) < 5_000 for session in SESSIONS)
    assert 4_700 < both < 5_300


@given(st.integers(1, 400), st.data(), st.floats(0.001, 0.5))
def test_an_interval_holds_the_mean_that_was_seen(count: int, data: st.DataObject, alpha: float) -> None:
    total = data.draw(st.floats(0, count))
    found = interval(Mean(count, total), alpha)
    assert 0 <= found.low <= total / count + 1e-9
    assert total / count - 1e-9 <= found.high <= 1


def test_nothing_seen_says_nothing() -> None:
    found = interval(Mean(), 0.05)
    assert (found.low, found.high) == (0.0, 1.0)
    assert (difference(Mean(), Mean(10, 5), 0.05).low, difference(Mean(), Mean(10, 5), 0.05).high) == (-1.0, 1.0)


def test_an_interval_narrows_as_a_sample_of_its_size_should() -> None:
    """About 1.5 to 2 times as wide as one for a sample of fixed size: the price of looking at any time."""
    for count in (100, 1_000, 10_000):
        found = interval(Mean(count, count * 0.2), 0.05)
        fixed = 2 * 1.96 * math.sqrt(0.2 * 0.8 / count)
        assert 1 < (found.high - found.low) / fixed < 2.2


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_true_mean_stays_inside_at_all_times(share: float) -> None:
    """Looking after each of 500 observations, an interval at level 0.2 is ever wrong in at most a fifth of the runs."""
    rng = random.Random(4)
    wrong = 0
    for _ in range(200):
        mean = Mean()
        for _ in range(500):
            mean = mean.plus(float(rng.random() < share))
            if mean.count % 5 == 0:
                found = interval(mean, 0.2)
                if not found.low <= share <= found.high:
                    wrong += 1
                    break
    assert wrong <= 0.2 * 200


def test_a_regression_is_withdrawn_and_says_why() -> None:
    rng = random.Random(1)
    counts: Counts = {(STABLE, "error"): counted(rng, 0.01, 2_000), (CANDIDATE, "error"): counted(rng, 0.2, 150)}
    verdict = judge(counts, Limits())
    assert verdict.withdraw
    assert "fails" in verdict.reason
    assert "150 answers" in verdict.reason


@pytest.mark.parametrize(
    ("metric", "stable", "tried", "word"), [("slow", 0.02, 0.6, "slow"), ("quality", 0.9, 0.4, "rated")]
)
def test_each_metric_can_end_a_trial(metric: str, stable: float, tried: float, word: str) -> None:
    rng = random.Random(2)
    counts: Counts = {(STABLE, metric): counted(rng, stable, 1_000), (CANDIDATE, metric): counted(rng, tried, 200)}
    verdict = judge(counts, Limits())
    assert verdict.withdraw
    assert word in verdict.reason


def test_total_failure_is_found_within_a_dozen_answers() -> None:
    stable = Mean(1_000, 10)
    failures = next(
        n
        for n in range(1, 50)
        if judge({(STABLE, "error"): stable, (CANDIDATE, "error"): Mean(n, n)}, Limits()).withdraw
    )
    assert failures <= 12


def test_an_equal_candidate_is_almost_never_withdrawn() -> None:
    rng = random.Random(3)
    withdrawn = 0
    for _ in range(100):
        stable, candidate = Mean(), Mean()
        for _ in range(60):
            stable = Mean(stable.count + 20, stable.total + sum(rng.random() < 0.05 for _ in range(20)))
            candidate = Mean(candidate.count + 5, candidate.total + sum(rng.random() < 0.05 for _ in range(5)))
            if judge({(STABLE, "error"): stable, (CANDIDATE, "error"): candidate}, Limits()).withdraw:
                withdrawn += 1
                break
    assert withdrawn <= 2


def test_a_good_candidate_is_in_the_end_certainly_within_its_limits() -> None:
    counts = {(arm_, metric): Mean(20_000, 200.0) for arm_ in (STABLE, CANDIDATE) for metric in METRICS}
    verdict = judge(counts, Limits())
    assert not verdict.withdraw
    assert "certainly within every limit" in verdict.reason
    assert "not certain yet: error, slow, quality" in judge({key: Mean(5, 1) for key in counts}, Limits()).reason
    assert judge({}, Limits()).reason == "No answers of the candidate yet."


def test_a_comparison_shows_both_and_their_difference() -> None:
    found = compare({(STABLE, "error"): Mean(100, 1), (CANDIDATE, "error"): Mean(100, 11)}, CANDIDATE, "error")
    assert found.difference.low < 0.10 < found.difference.high
    assert found.stable_interval.low < 0.01 < found.stable_interval.high


@pytest.mark.parametrize(
    "wrong", [{"error_increase": -0.1}, {"quality_drop": 1.0}, {"slow_ms": 0}, {"slow_increase": math.nan}]
)
def test_limits_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Limits(**wrong)  # pyright: ignore[reportArgumentType]
    assert refused.value.param == next(iter(wrong))
