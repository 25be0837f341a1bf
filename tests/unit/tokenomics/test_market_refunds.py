"""Refunds: exact to the micro-FTNS, in proportion, never more than an account was paid, whatever was granted before."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest, PrsmError
from prsm.core.money import MAX_AMOUNT_MICRO
from prsm.tokenomics.market.refunds import Parts, check_asked, check_in_time, divide, left_of, paid_parts, reach
from prsm.tokenomics.splits import Leg

parts = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, MAX_AMOUNT_MICRO // 20), max_size=19)


@given(parts, st.data())
def test_a_division_is_exact_in_proportion_and_within_what_was_paid(paid: Parts, data: st.DataObject) -> None:
    total = sum(paid.values())
    amount = data.draw(st.integers(0, total))
    back = divide(amount, paid)
    assert sum(back.values()) == amount
    for account, part in paid.items():
        share = back.get(account, 0)
        assert 0 <= share <= part
        assert abs(share * total - amount * part) < total  # within one micro-FTNS of the exact share
    assert divide(total, paid) == paid


@given(parts, st.data())
def test_refund_after_refund_never_gives_back_more_than_was_paid(paid: Parts, data: st.DataObject) -> None:
    grants: list[Parts] = []
    for _ in range(4):
        left = left_of(paid, grants)
        grants.append(divide(data.draw(st.integers(0, sum(left.values()))), left))
    last = left_of(paid, grants)
    grants.append(divide(sum(last.values()), last))
    assert left_of(paid, grants) == {}
    assert {account: sum(grant.get(account, 0) for grant in grants) for account in paid} == paid


@given(parts)
def test_more_than_is_left_cannot_be_divided(paid: Parts) -> None:
    for amount in (-1, sum(paid.values()) + 1):
        with pytest.raises(ValueError, match="is not from 0"):
            divide(amount, paid)


def test_what_the_payer_was_paid_itself_is_no_part_and_an_account_is_counted_once() -> None:
    legs = (
        Leg("node", "owner", 7),
        Leg("node", "executor", 2),
        Leg("me", "royalty", 5),
        Leg("treasury", "treasury", 1),
    )
    assert paid_parts(legs, "me") == {"node": 9, "treasury": 1}


def test_a_seller_gives_back_its_own_and_an_admin_everybodys() -> None:
    left = {"seller": 7, "treasury": 1}
    assert reach(left, "seller", "seller", is_admin=False) == {"seller": 7}
    assert reach(left, "seller", "admin", is_admin=True) == left
    with pytest.raises(PrsmError) as refused:
        reach(left, "seller", "treasury", is_admin=False)
    assert refused.value.code == "not_the_seller"


def test_what_may_be_asked() -> None:
    assert check_asked("other", "", None, 9) == 9
    assert check_asked("other", "", 1, 9) == 1
    for reason, note, amount, most in (("", "", 1, 9), ("other", "x" * 2001, 1, 9), ("other", "\0", 1, 9)):
        with pytest.raises(InvalidRequest):
            check_asked(reason, note, amount, most)
    for amount, most in ((0, 9), (10, 9), (-1, 9), (None, 0)):
        with pytest.raises(InvalidRequest, match="at most"):
            check_asked("other", "", amount, most)


def test_the_window() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    check_in_time(at, at + timedelta(seconds=60), 60)
    with pytest.raises(PrsmError, match="within 60 seconds"):
        check_in_time(at, at + timedelta(seconds=60, microseconds=1), 60)
