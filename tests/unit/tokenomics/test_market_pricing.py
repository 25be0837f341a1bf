"""The price rule's laws: inside the bounds, monotone in demand and in price, still at the target, and it comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.tokenomics.market.pricing import DENOMINATOR, Band, next_price

WIDE = Band(1000, 0, 10**12)
capacities = st.integers(1, 10**12)
used = st.integers(0, 10**13)


@st.composite
def bands(draw: st.DrawFn) -> Band:
    floor, base, ceiling = sorted(draw(st.tuples(*[st.integers(0, 10**12)] * 3)))
    return Band(base, floor, ceiling)


@given(bands(), used, capacities, st.data())
def test_the_bounds_are_never_left(band: Band, tokens: int, capacity: int, data: st.DataObject) -> None:
    price = data.draw(st.integers(band.floor_micro, band.ceiling_micro))
    assert band.floor_micro <= next_price(price, tokens, capacity, band) <= band.ceiling_micro


@given(bands(), used, used, capacities, st.data())
def test_more_demand_never_means_a_lower_price(
    band: Band, some: int, more: int, capacity: int, data: st.DataObject
) -> None:
    price = data.draw(st.integers(band.floor_micro, band.ceiling_micro))
    low, high = sorted((some, more))
    assert next_price(price, low, capacity, band) <= next_price(price, high, capacity, band)


@given(st.integers(0, 10**12), st.integers(0, 10**12), used, capacities)
def test_of_two_prices_the_lower_stays_the_lower(one: int, other: int, tokens: int, capacity: int) -> None:
    low, high = sorted((one, other))
    assert next_price(low, tokens, capacity, WIDE) <= next_price(high, tokens, capacity, WIDE)


@given(st.integers(0, 10**12), st.integers(1, 10**11))
def test_at_the_target_nothing_moves(price: int, fifth: int) -> None:
    assert next_price(price, 4 * fifth, 5 * fifth, WIDE) == price


@given(st.integers(1, 10**11), used, capacities)
def test_off_the_target_it_moves_by_one_at_least_and_an_eighth_at_most(price: int, tokens: int, capacity: int) -> None:
    moved = next_price(price, tokens, capacity, WIDE) - price
    if tokens * 5 == capacity * 4:
        assert moved == 0
    else:
        assert (moved > 0) == (tokens * 5 > capacity * 4)
        assert 1 <= abs(moved) <= max(price // DENOMINATOR, 1)


@given(bands(), capacities)
def test_without_demand_it_comes_down_to_the_floor_and_with_it_up_to_the_ceiling(band: Band, capacity: int) -> None:
    for tokens, end in ((0, band.floor_micro), (2 * capacity, band.ceiling_micro)):
        price, steps = band.base_micro, 0
        while price != end:
            price, steps = next_price(price, tokens, capacity, band), steps + 1
            assert steps < 300


@given(st.integers(10_000, 10**9), st.integers(1, 50))
def test_after_a_wave_of_demand_it_comes_back(price: int, epochs: int) -> None:
    """Up by a 32nd at full use, down by a 32nd at three fifths: rounding apart, the way back is as long."""
    after = price
    for _ in range(epochs):
        after = next_price(after, 100, 100, WIDE)
    assert after > price
    for _ in range(epochs):
        after = next_price(after, 60, 100, WIDE)
    # (1 - 1/32^2) an epoch, and less than one micro-FTNS of rounding a step
    assert price * (1023 / 1024) ** epochs - 2 * epochs - 1 <= after <= price


@pytest.mark.parametrize(
    ("price", "tokens", "expected"),
    [(1000, 100, 1031), (1000, 200, 1125), (1000, 160, 1125), (1000, 80, 1000), (1000, 0, 875), (1, 0, 0), (0, 100, 1)],
)
def test_examples_of_a_capacity_of_100(price: int, tokens: int, expected: int) -> None:
    assert next_price(price, tokens, 100, WIDE) == expected
