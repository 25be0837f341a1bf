"""Quotes: the worst case is never over the cap, the answer is cut to exactly what fits, and no charge exceeds it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.tokenomics.quotes import Price, Quote, charge_micro, estimate_tokens, quote

prices = st.builds(Price, st.integers(0, 10**12), st.integers(0, 10**12))
tokens = st.integers(0, 10**7)
choices = st.integers(1, 128)


@given(prices, tokens, tokens, choices)
def test_without_a_cap_the_worst_case_is_all_choices_at_their_limit(
    price: Price, read: int, written: int, n: int
) -> None:
    assert quote(price, read, written, choices=n, cap_micro=None) == Quote(
        charge_micro(price, read, written * n), read, written
    )


@given(prices, tokens, st.integers(1, 10**7), choices, st.integers(0, 10**14))
def test_the_worst_case_fits_the_cap_and_one_token_more_would_not(
    price: Price, read: int, written: int, n: int, cap: int
) -> None:
    fitted = quote(price, read, written, choices=n, cap_micro=cap)
    if fitted is None:
        assert charge_micro(price, read, n) > cap
        return
    assert fitted.worst_micro == charge_micro(price, read, fitted.output_tokens * n) <= cap
    assert 1 <= fitted.output_tokens <= written
    assert fitted.output_tokens == written or charge_micro(price, read, (fitted.output_tokens + 1) * n) > cap


@given(prices, tokens, tokens, choices, st.data())
def test_what_is_metered_within_the_limits_never_exceeds_the_worst_case(
    price: Price, read: int, written: int, n: int, data: st.DataObject
) -> None:
    cap = data.draw(st.none() | st.integers(0, 10**14))
    fitted = quote(price, read, written, choices=n, cap_micro=cap)
    if fitted is None:
        return
    metered_in = data.draw(st.integers(0, fitted.input_tokens))
    metered_out = data.draw(st.integers(0, fitted.output_tokens * n))
    assert charge_micro(price, metered_in, metered_out) <= fitted.worst_micro


@given(prices, tokens, tokens, tokens, st.integers(0, 10**12))
def test_cached_input_never_raises_a_charge_and_its_price_bounds_it(
    price: Price, read: int, written: int, cached: int, cached_price: int
) -> None:
    cheaper = Price(price.input_micro, price.output_micro, min(cached_price, price.input_micro))
    charged = charge_micro(cheaper, read, written, cached)
    assert charged <= charge_micro(price, read, written)
    assert charged == charge_micro(cheaper, read, written, min(cached, read))
    assert charged >= charge_micro(Price(cheaper.cached_input_micro or 0, price.output_micro), read, written)
    assert charge_micro(price, read, written, cached) == charge_micro(price, read, written)


def test_input_is_rounded_up_once_whatever_it_is_made_of() -> None:
    assert charge_micro(Price(1_000_000, 0, 100_000), 10, 0, 4) == 7  # 6 + 0.4
    assert charge_micro(Price(500_000, 0, 500_000), 3, 0, 1) == 2  # not 1 + 1


def test_embeddings_have_no_answer_to_shorten() -> None:
    assert quote(Price(2_000_000, 5), 10, 0, choices=1, cap_micro=20) == Quote(20, 10, 0)
    assert quote(Price(2_000_000, 5), 10, 0, choices=1, cap_micro=19) is None


@pytest.mark.parametrize(
    ("cap", "expected"),
    [(500, Quote(500, 100, 40)), (499, Quote(490, 100, 39)), (110, Quote(110, 100, 1)), (109, None), (99, None)],
)
def test_the_answer_is_shortened_to_what_fits(cap: int, expected: Quote | None) -> None:
    assert quote(Price(1_000_000, 10_000_000), 100, 40, choices=1, cap_micro=cap) == expected


def test_a_free_answer_is_not_shortened_and_a_free_model_fits_every_cap() -> None:
    assert quote(Price(10**6, 0), 10, 99, choices=1, cap_micro=10) == Quote(10, 10, 99)
    assert quote(Price(10**6, 0), 11, 99, choices=1, cap_micro=10) is None
    assert quote(Price(0, 0), 10**9, 10**9, choices=9, cap_micro=0) == Quote(0, 10**9, 10**9)


def test_both_sides_are_rounded_up_each_by_itself() -> None:
    assert charge_micro(Price(1, 1), 1, 1) == 2
    assert charge_micro(Price(1, 1), 0, 0) == 0


def test_an_estimate_is_four_bytes_a_token_and_at_least_one_of_any_text() -> None:
    assert [estimate_tokens(size) for size in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]
