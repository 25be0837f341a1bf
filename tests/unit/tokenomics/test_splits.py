"""Splits: exact to the last micro-FTNS, whatever the shares."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.money import BASIS_POINTS, MAX_AMOUNT_MICRO
from prsm.tokenomics.splits import MAX_ROYALTIES, Leg, Share, pay_upstream, split

amounts = st.integers(0, MAX_AMOUNT_MICRO)


@st.composite
def shares(draw: st.DrawFn) -> tuple[Share, ...]:
    cuts = sorted(draw(st.lists(st.integers(0, BASIS_POINTS), max_size=6)))
    edges = [0, *cuts, BASIS_POINTS]
    return tuple(Share(f"a{place}", f"k{place}", edges[place + 1] - edges[place]) for place in range(len(edges) - 1))


@given(amounts, shares())
def test_the_legs_sum_to_the_amount(amount: int, parts: tuple[Share, ...]) -> None:
    legs = split(amount, parts)
    assert sum(leg.amount_micro for leg in legs) == amount
    assert all(leg.amount_micro > 0 for leg in legs)


@given(amounts, shares())
def test_all_but_the_first_are_rounded_down_and_the_first_gets_the_rest(amount: int, parts: tuple[Share, ...]) -> None:
    paid = {leg.account: leg.amount_micro for leg in split(amount, parts)}
    for share in parts[1:]:
        assert paid.get(share.account, 0) == amount * share.bps // BASIS_POINTS
    over = paid.get(parts[0].account, 0) - amount * parts[0].bps // BASIS_POINTS
    assert 0 <= over < len(parts)


@st.composite
def royalties(draw: st.DrawFn) -> tuple[tuple[str, int], ...]:
    cuts = sorted(draw(st.lists(st.integers(0, BASIS_POINTS), max_size=MAX_ROYALTIES)))
    return tuple((f"up{place}", cut - before) for place, (before, cut) in enumerate(pairwise([0, *cuts])))


@given(amounts, royalties())
def test_what_goes_upstream_is_exact_and_never_more_than_the_owners_part(
    amount: int, upstream: tuple[tuple[str, int], ...]
) -> None:
    legs = pay_upstream(Leg("owner", "owner", amount), upstream)
    assert sum(leg.amount_micro for leg in legs) == amount
    paid = {leg.account: leg.amount_micro for leg in legs}
    for account, bps in upstream:
        assert paid.get(account, 0) == amount * bps // BASIS_POINTS
    assert [leg.kind for leg in legs if leg.account != "owner"] == ["royalty"] * len(legs[1:]) or "owner" not in paid


def test_too_many_or_too_much_upstream_is_refused() -> None:
    owner = Leg("owner", "owner", 100)
    with pytest.raises(ValueError, match="at most 16"):
        pay_upstream(owner, [(f"up{number}", 1) for number in range(MAX_ROYALTIES + 1)])
    with pytest.raises(ValueError, match="basis points"):
        pay_upstream(owner, [("one", BASIS_POINTS), ("other", 1)])
    assert pay_upstream(owner, [("all", BASIS_POINTS)]) == (Leg("all", "royalty", 100),)


def test_an_example() -> None:
    parts = (Share("owner", "owner", 7000), Share("node", "executor", 2000), Share("treasury", "treasury", 1000))
    assert split(777, parts) == (
        Leg("owner", "owner", 545),
        Leg("node", "executor", 155),
        Leg("treasury", "treasury", 77),
    )
    assert split(1, parts) == (Leg("owner", "owner", 1),)
    assert split(0, parts) == ()


@pytest.mark.parametrize("bps", [(), (9_999,), (10_001,), (5_000, 5_001), (-1, 10_001)])
def test_shares_that_are_not_a_whole_are_refused(bps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="10000 basis points"):
        split(100, tuple(Share("a", "k", part) for part in bps))
