"""Prices of listings in FTNS: only by the operator's rate, rounded up, and never made up."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from prsm.federation.discovery.seams import MAX_PRICE_NANO, NANO, ListedPrice
from prsm.node.discovery import price_micro

AT = datetime(2026, 11, 1, tzinfo=UTC)


def price(nano: int | None, currency: Any = "USD") -> ListedPrice:
    return ListedPrice("s", AT, currency, nano, None)


def test_without_a_rate_a_price_in_usd_is_no_price_in_ftns() -> None:
    assert price_micro(price(0), "input_nano", None) is None
    assert price_micro(price(5), "input_nano", None) is None


def test_what_is_unknown_stays_unknown_at_any_rate() -> None:
    assert price_micro(None, "input_nano", 1_000_000) is None
    assert price_micro(price(None), "input_nano", 1_000_000) is None
    assert price_micro(price(5), "output_nano", 1_000_000) is None


def test_a_rate_turns_usd_into_micro_ftns() -> None:
    assert price_micro(price(2_500_000_000), "input_nano", 4_000_000) == 10_000_000
    assert price_micro(price(0), "input_nano", 4_000_000) == 0


@given(st.integers(0, MAX_PRICE_NANO), st.integers(1, 10**12))
def test_it_is_rounded_up_by_less_than_one(nano: int, rate: int) -> None:
    micro = price_micro(price(nano), "input_nano", rate)
    assert micro is not None
    assert 0 <= micro * NANO - nano * rate < NANO


@given(st.integers(0, MAX_PRICE_NANO), st.none() | st.integers(1, 10**12))
def test_a_price_in_ftns_needs_no_rate(nano: int, rate: int | None) -> None:
    micro = price_micro(price(nano, "FTNS"), "input_nano", rate)
    assert micro is not None
    assert 0 <= micro * 1_000 - nano < 1_000
