"""What may become of a version, and when it is moved by itself."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest, PrsmError
from prsm.federation.registry.lifecycle import (
    LEAST_RATINGS,
    MAX_NOTICE,
    OFFERED,
    Limits,
    Observed,
    State,
    Status,
    breach,
    check_limits,
    is_due,
    moved,
    why_not,
)

AT = datetime(2026, 6, 1, tzinfo=UTC)
ALLOWED = {
    ("draft", "candidate"), ("draft", "retired"),
    ("candidate", "draft"), ("candidate", "live"), ("candidate", "deprecated"), ("candidate", "retired"),
    ("live", "deprecated"),
    ("deprecated", "live"), ("deprecated", "retired"),
}  # fmt: skip


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("to", State)
def test_only_the_moves_of_the_table_are_made(state: State, to: State) -> None:
    status = Status(state, AT)
    if (state, to) in ALLOWED:
        assert why_not(state, to) == ""
        assert moved(status, to, AT, "because").state is to
        return
    with pytest.raises(PrsmError) as refused:
        moved(status, to, AT, "because")
    assert refused.value.code == "state_not_reachable"
    assert refused.value.message == why_not(state, to) != ""


@given(st.lists(st.sampled_from(State), max_size=20))
def test_nothing_comes_back_from_retirement(path: list[State]) -> None:
    status, retired = Status(State.DRAFT, AT), False
    for to in path:
        try:
            status = moved(status, to, AT, "")
        except PrsmError:
            continue
        assert not retired
        retired = status.state is State.RETIRED
        assert (status.state in OFFERED) == (status.state not in (State.DRAFT, State.RETIRED))


def test_a_deprecated_version_may_have_a_day_on_which_it_retires() -> None:
    day = AT + timedelta(days=30)
    status = moved(Status(State.LIVE, AT, limits=Limits(error_bps=1)), State.DEPRECATED, AT, "old", day)
    assert (status.retire_at, status.limits) == (day, Limits(error_bps=1))
    assert not is_due(status, day - timedelta(seconds=1))
    assert is_due(status, day)
    later = moved(status, State.DEPRECATED, AT, "a reprieve", day + timedelta(days=1))
    assert not is_due(later, day)
    assert moved(later, State.LIVE, AT, "").retire_at is None
    with pytest.raises(PrsmError, match="already"):
        moved(later, State.DEPRECATED, AT, "", later.retire_at)


@pytest.mark.parametrize(
    ("to", "day"),
    [
        (State.CANDIDATE, AT + timedelta(days=1)),
        (State.DEPRECATED, AT - timedelta(seconds=1)),
        (State.DEPRECATED, datetime(2026, 7, 1)),
        (State.DEPRECATED, AT + MAX_NOTICE + timedelta(days=1)),
        (State.DEPRECATED, datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))),
        (State.DEPRECATED, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))),
    ],
)
def test_a_day_that_cannot_be_is_refused(to: State, day: datetime) -> None:
    status = Status(State.DRAFT if to is State.CANDIDATE else State.LIVE, AT)
    with pytest.raises(InvalidRequest) as refused:
        moved(status, to, AT, "", day)
    assert refused.value.param == "retire_at"


def test_a_reason_is_one_line() -> None:
    for reason in ("a\nb", "x" * 1001):
        with pytest.raises(InvalidRequest):
            moved(Status(State.DRAFT, AT), State.CANDIDATE, AT, reason)


def test_a_breach_names_the_limit_and_what_was_seen() -> None:
    limits = Limits(availability_bps=9900, error_bps=200, quality_bps=7000, least_requests=50)
    assert breach(limits, Observed(50, 9900, 200, 40, 7000, 8300)) == ""
    assert breach(limits, Observed(49, 0, 10_000)) == ""
    assert breach(limits, Observed(50)) == ""
    assert breach(limits, Observed(50, availability_bps=9850)) == (
        "availability 98.5 % is below the declared 99 % over 50 requests"
    )
    assert breach(limits, Observed(60, error_bps=201)) == ("errors 2.01 % are above the declared 2 % over 60 requests")


def test_quality_is_judged_only_where_it_is_certain_that_it_is_too_low() -> None:
    limits = Limits(quality_bps=7000, least_requests=50)
    poor = Observed(0, ratings=40, quality_bps=4000, quality_most_bps=6400)
    assert breach(limits, poor) == (
        "quality 40 % over 40 ratings is at most 64 % (95 % at all times), below the declared 70 %"
    )
    assert breach(limits, replace(poor, quality_most_bps=7000)) == "", "the mean is below, but that may be chance"
    assert breach(limits, replace(poor, ratings=LEAST_RATINGS - 1)) == ""
    assert breach(replace(limits, quality_bps=None), poor) == ""


@given(st.integers(0, 1000), *[st.none() | st.integers(0, 10_000)] * 2, st.integers(0, 99), st.integers(0, 10_000))
def test_who_asks_nothing_deprecates_nothing(requests: int, a: int | None, e: int | None, n: int, q: int) -> None:
    assert breach(Limits(), Observed(requests, a, e, n, q, q)) == ""


@pytest.mark.parametrize("values", [{"error_bps": 10_001}, {"availability_bps": -1}, {"least_requests": 0}])
def test_limits_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_limits(Limits(**values))
    assert refused.value.param in values
