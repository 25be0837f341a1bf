import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.rate_limit import Decision, Rate, RateLimiter, format_duration, gcra, headers, lease_size, retry_after_s

MS = 1_000_000
S = 1000 * MS
rates = st.builds(Rate, st.integers(1, 50), st.integers(1, 10))
gaps = st.lists(st.integers(0, 60), min_size=1, max_size=80)


class Time:
    def __init__(self) -> None:
        self.ns = 1_000_000

    def __call__(self) -> int:
        return self.ns


def admitted(rate: Rate, steps: list[int]) -> list[int]:
    tat, at, passed = 0, 1000, []
    for step in steps:
        at += step
        decision = gcra(tat, at, rate)
        tat = decision.tat_ns
        if decision.allowed:
            passed.append(at)
    return passed


@given(rates, gaps)
def test_no_window_lets_more_through_than_burst_plus_rate(rate: Rate, steps: list[int]) -> None:
    passed = admitted(rate, steps)
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= rate.burst + (passed[last] - start) / rate.interval_ns


@given(rates, gaps)
def test_a_refusal_says_exactly_when_it_would_pass(rate: Rate, steps: list[int]) -> None:
    tat, at = 0, 1000
    for step in steps:
        at += step
        decision = gcra(tat, at, rate)
        if not decision.allowed:
            assert decision.tat_ns == tat
            assert gcra(tat, at + decision.retry_after_ns, rate).allowed
            assert not gcra(tat, at + decision.retry_after_ns - 1, rate).allowed
        else:
            assert decision.retry_after_ns == 0
        tat = decision.tat_ns


@given(rates, gaps)
def test_remaining_and_reset_are_true(rate: Rate, steps: list[int]) -> None:
    tat, at = 0, 1000
    for step in steps:
        at += step
        decision = gcra(tat, at, rate)
        tat = decision.tat_ns
        count, probe = 0, tat
        while (after := gcra(probe, at, rate)).allowed:
            count, probe = count + 1, after.tat_ns
        assert decision.remaining == count
        assert gcra(tat, at + decision.reset_ns, rate).remaining == rate.burst - 1


@given(rates)
def test_patience_is_served_at_the_rate(rate: Rate) -> None:
    assert len(admitted(rate, [rate.interval_ns] * 30)) == 30
    assert len(admitted(rate, [0] * 30)) == rate.burst


def test_rates_are_stated_per_minute_and_never_rounded_up() -> None:
    assert Rate.per_minute(6000, 600) == Rate(10 * MS, 600)
    assert Rate.per_minute(7, 1).interval_ns * 7 >= 60 * S
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(ValueError):
            Rate.per_minute(*wrong)


@given(st.integers(1, 1_000_000), st.integers(1, 1_000_000), st.integers(1, 64))
def test_shares_never_add_up_to_more(per_minute: int, burst: int, workers: int) -> None:
    rate = Rate.per_minute(per_minute, burst)
    share = rate.share(workers)
    assert share.interval_ns == rate.interval_ns * workers
    assert share.burst * workers <= max(burst, workers)
    unspent = workers * (lease_size(burst, workers) - 1)
    assert 0 <= unspent <= burst // 8


def test_keys_are_limited_apart() -> None:
    clock = Time()
    limiter = RateLimiter(clock_ns=clock)
    rate = Rate(S, 2)
    assert [limiter.check("a", rate).allowed for _ in range(3)] == [True, True, False]
    assert limiter.check("b", rate).allowed
    clock.ns += S
    assert [limiter.check("a", rate).allowed for _ in range(2)] == [True, False]


def test_a_full_limiter_refuses_new_keys_and_forgets_only_even_ones() -> None:
    clock = Time()
    limiter = RateLimiter(2, clock_ns=clock)
    rate = Rate(S, 1)
    assert limiter.check("a", rate).allowed
    clock.ns += S // 2
    assert limiter.check("b", rate).allowed
    refused = limiter.check("c", rate)
    assert (refused.allowed, refused.retry_after_ns) == (False, S // 2)
    assert not limiter.check("a", rate).allowed
    clock.ns += S // 2
    assert limiter.check("c", rate).allowed  # in the place of a, which is even now
    assert not limiter.check("b", rate).allowed
    assert len(limiter) == 2


def test_a_key_that_came_back_into_debt_keeps_its_place() -> None:
    clock = Time()
    limiter = RateLimiter(2, clock_ns=clock)
    rate = Rate(S, 2)
    assert [limiter.check(key, rate).allowed for key in "aac"] == [True, True, True]
    clock.ns += S  # c is even; a was when it came, but owes one second more
    assert limiter.check("b", rate).allowed
    assert [limiter.check("a", rate).allowed for _ in range(2)] == [True, False]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40)), max_size=120), st.integers(1, 4))
def test_forgetting_never_gives_anything_away(calls: list[tuple[str, int]], places: int) -> None:
    clock = Time()
    small, large = RateLimiter(places, clock_ns=clock), RateLimiter(clock_ns=clock)
    rate = Rate(20, 2)
    passed: dict[str, list[int]] = {}
    for key, step in calls:
        clock.ns += step
        if small.check(key, rate).allowed:
            assert large.check(key, rate).allowed
            passed.setdefault(key, []).append(clock.ns)
        assert len(small) <= places


def test_a_key_may_start_in_debt() -> None:
    clock = Time()
    limiter = RateLimiter(clock_ns=clock)
    rate = Rate(S, 3)
    even_at = clock.ns + 3 * S
    assert not limiter.check("a", rate, even_at_ns=even_at).allowed
    clock.ns += S
    assert [limiter.check("a", rate, even_at_ns=even_at).allowed for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (6 * MS, "6ms"),
        (999 * MS, "999ms"),
        (999 * MS + 1, "1s"),
        (8640 * MS, "8.64s"),
        (60 * S, "1m0s"),
        (86_400 * MS, "1m26.4s"),
        (3600 * S, "1h0m0s"),
        (59_999 * MS + 1, "1m0s"),
    ],
)
def test_durations(ns: int, text: str) -> None:
    assert format_duration(ns) == text


def test_headers() -> None:
    rate = Rate.per_minute(6000, 600)
    assert headers(rate, Decision(True, 599, 0, 10 * MS)) == [
        ("x-ratelimit-limit-requests", "600"),
        ("x-ratelimit-remaining-requests", "599"),
        ("x-ratelimit-reset-requests", "10ms"),
    ]
    refused = Decision(False, 0, 10 * MS, 6 * S)
    assert headers(rate, refused)[1] == ("x-ratelimit-remaining-requests", "0")
    assert retry_after_s(Decision(False, 0, 1001 * MS, 0)) == 2
