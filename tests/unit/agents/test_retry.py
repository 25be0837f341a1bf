"""Retries: bounded, jittered and budgeted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.executors.retry import RetryBudget, RetryPolicy, retry_delay_s
from prsm.agents.seams import UpstreamError

POLICY = RetryPolicy(max_attempts=4, base_delay_s=1, max_delay_s=5, total_s=30, max_retry_after_s=20)


def failure(*, retryable: bool = True, retry_after_s: float | None = None) -> UpstreamError:
    return UpstreamError("x", retryable=retryable, retry_after_s=retry_after_s)


def delay(
    error: UpstreamError | None = None,
    *,
    attempts: int = 1,
    elapsed_s: float = 0.0,
    random: float = 0.5,
    budget: RetryBudget | None = None,
) -> float | None:
    return retry_delay_s(
        POLICY,
        budget or RetryBudget(),
        error or failure(),
        attempts=attempts,
        elapsed_s=elapsed_s,
        random=random,
    )


def test_the_ceiling_doubles_up_to_its_cap() -> None:
    assert [delay(attempts=n) for n in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert delay(attempts=3, random=0.999) == pytest.approx(0.999 * 4)
    wide = RetryPolicy(max_attempts=1000, base_delay_s=1, max_delay_s=5, total_s=30)
    late = retry_delay_s(wide, RetryBudget(), failure(), attempts=900, elapsed_s=0, random=0.999)
    assert late == pytest.approx(0.999 * 5)


def test_what_is_never_retried() -> None:
    assert delay(failure(retryable=False)) is None
    assert delay(attempts=4) is None
    assert delay(elapsed_s=30) is None
    assert delay(elapsed_s=29.6) is None
    assert delay(elapsed_s=29.4) == 0.5


def test_retry_after_is_a_floor_and_too_long_a_one_gives_up() -> None:
    assert delay(failure(retry_after_s=3)) == 3.5
    assert delay(failure(retry_after_s=20), random=0) == 20
    assert delay(failure(retry_after_s=20.1)) is None
    assert delay(failure(retry_after_s=15), elapsed_s=16) is None


def test_the_budget_is_charged_only_for_retries() -> None:
    budget = RetryBudget(ratio=0.0, burst=1)
    assert delay(failure(retryable=False), budget=budget) is None
    assert delay(elapsed_s=30, budget=budget) is None
    assert delay(budget=budget) == 0.5
    assert delay(budget=budget) is None


@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.0, 0.1, 0.2, 1.0]), st.integers(1, 10))
def test_retries_never_exceed_their_share(tries: list[bool], ratio: float, burst: int) -> None:
    budget = RetryBudget(ratio, burst)
    calls = retries = 0
    for wants_retry in tries:
        if wants_retry:
            retries += budget.take()
        else:
            calls += 1
            budget.note_call()
        assert retries <= burst + ratio * calls + 1e-6


@given(
    st.integers(1, 10),
    st.floats(0, 100),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 100),
)
def test_every_delay_stays_within_all_bounds(
    attempts: int, elapsed_s: float, random: float, retry_after_s: float | None
) -> None:
    error = failure(retry_after_s=retry_after_s)
    result = delay(error, attempts=attempts, elapsed_s=elapsed_s, random=random)
    if result is not None:
        assert attempts < POLICY.max_attempts
        assert (retry_after_s or 0) <= result <= (retry_after_s or 0) + POLICY.max_delay_s
        assert elapsed_s + result < POLICY.total_s


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="burst"):
        RetryBudget(burst=0)
    with pytest.raises(ValueError, match="ratio"):
        RetryBudget(ratio=-0.1)
