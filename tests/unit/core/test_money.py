"""Money: what is written can be read back exactly, what is no amount is refused, and no price is rounded down."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest
from prsm.core.money import MAX_AMOUNT_MICRO, MICRO_PER_FTNS, format_ftns, parse_ftns, tokens_cost_micro

amounts = st.integers(0, MAX_AMOUNT_MICRO)


@given(amounts)
def test_what_is_written_is_read_back(micro: int) -> None:
    assert parse_ftns(format_ftns(micro)) == micro


@given(amounts)
def test_a_debt_is_written_as_the_amount_with_a_sign(micro: int) -> None:
    assert format_ftns(-micro) == ("-" if micro else "") + format_ftns(micro)


@given(st.integers(0, 10**10), st.text("0123456789", max_size=12))
def test_reading_is_exact_or_refused(whole: int, decimals: str) -> None:
    text = f"{whole}.{decimals}" if decimals else str(whole)
    exact = Fraction(text) * MICRO_PER_FTNS
    if exact.denominator == 1 and exact <= MAX_AMOUNT_MICRO:
        assert parse_ftns(text) == exact
    else:
        with pytest.raises(InvalidRequest):
            parse_ftns(text)


@pytest.mark.parametrize(
    ("text", "micro"),
    [("0", 0), ("1", 1_000_000), ("1.25", 1_250_000), ("0.000001", 1), ("007.10", 7_100_000), ("1.0000000", 10**6)],
)
def test_examples(text: str, micro: int) -> None:
    assert parse_ftns(text) == micro


def test_the_largest_amount_is_read_and_one_more_is_refused() -> None:
    assert parse_ftns(format_ftns(MAX_AMOUNT_MICRO)) == MAX_AMOUNT_MICRO
    with pytest.raises(InvalidRequest, match="outside"):
        parse_ftns(format_ftns(MAX_AMOUNT_MICRO + 1))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", "-1", "+1", "-0", "1e3", "1E3", "nan", "inf", "-inf", "sNaN", "1,5", "1_000", " 1", "1 ", "1\n",
        "٣", "１", "1.2.3", "0x10", "ftns", "1" * 5000, "0.0000001", "1." + "0" * 30 + "1", "1\0",
    ],
)  # fmt: skip
def test_what_is_no_amount_is_refused_in_a_short_sentence(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_ftns(text)
    assert len(refused.value.message) < 200


@given(st.integers(0, 10**9), st.integers(0, 10**12))
def test_a_price_is_rounded_up_by_less_than_one(tokens: int, price: int) -> None:
    exact = Fraction(tokens * price, 1_000_000)
    assert 0 <= tokens_cost_micro(tokens, price) - exact < 1


def test_one_token_is_never_free_unless_its_price_is_zero() -> None:
    assert tokens_cost_micro(1, 1) == 1
    assert tokens_cost_micro(1, 0) == tokens_cost_micro(0, 10**12) == 0
