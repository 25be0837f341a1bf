"""Offers: what may be said, who may say it, how prices follow, what a search finds, what a quote honours."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from prsm.core import canonical
from prsm.core.errors import InvalidRequest, PrsmError
from prsm.tokenomics.market.offers import (
    MAX_PRICE_MICRO,
    Listed,
    Offer,
    State,
    Terms,
    Wanted,
    check_seller,
    check_terms,
    find,
    repriced,
    revised,
)
from prsm.tokenomics.market.pricing import Band
from prsm.tokenomics.market.quoting import DOMAIN, BoundQuote, check_quote, check_use, sign_quote
from prsm.tokenomics.quotes import Price
from prsm.tokenomics.receipts import NodeSigner

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TERMS = Terms(Band(100, 50, 200), Band(400, 100, 800), 6000, Band(10, 5, 20))
WIDEST = Band(MAX_PRICE_MICRO, MAX_PRICE_MICRO, MAX_PRICE_MICRO)
OFFER = Offer(UUID(int=1), "p/m", "seller", State.OPEN, 1, TERMS, TERMS.base, AT)


@st.composite
def bands(draw: st.DrawFn, most: Band = WIDEST) -> Band:
    floor = draw(st.integers(0, most.floor_micro))
    base = draw(st.integers(floor, max(floor, most.base_micro)))
    return Band(base, floor, draw(st.integers(base, max(base, most.ceiling_micro))))


@given(bands(), bands(), st.data(), st.lists(st.integers(0, 10**6), max_size=30))
def test_in_every_epoch_all_prices_are_inside_their_bounds_and_cached_input_is_the_cheaper(
    fresh: Band, output: Band, data: st.DataObject, used: list[int]
) -> None:
    cached = data.draw(bands(fresh))
    offer = replace(OFFER, terms=Terms(fresh, output, 6000, cached))
    check_terms(offer.terms)
    offer = replace(offer, posted=offer.terms.base)
    for tokens in used:
        posted = repriced(offer, tokens, 60)
        assert posted.cached_input_micro is not None
        assert posted.cached_input_micro <= posted.input_micro
        for price, band in (
            (posted.input_micro, fresh),
            (posted.output_micro, output),
            (posted.cached_input_micro, cached),
        ):
            assert band.floor_micro <= price <= band.ceiling_micro
        offer = replace(offer, posted=posted)


def test_the_target_is_four_fifths_of_the_capacity_whatever_the_epochs_length() -> None:
    for epoch_s in (1, 7, 60, 86_400):
        exact = replace(OFFER, terms=replace(TERMS, capacity_tokens_per_minute=75))  # one token a second at the target
        assert repriced(exact, epoch_s, epoch_s) == exact.posted
        assert repriced(exact, epoch_s + 1, epoch_s).output_micro > exact.posted.output_micro
        assert repriced(exact, epoch_s - 1, epoch_s).output_micro < exact.posted.output_micro


def test_a_change_of_the_base_starts_anew_and_any_other_keeps_the_posted_prices() -> None:
    moved = replace(OFFER, posted=Price(150, 700, 19))
    same = revised(moved, replace(TERMS, capacity_tokens_per_minute=9), State.PAUSED)
    assert (same.posted, same.state, same.revision) == (moved.posted, State.PAUSED, 2)
    narrower = replace(TERMS, input=Band(100, 50, 120), cached_input=Band(10, 5, 11))
    assert revised(moved, narrower, State.OPEN).posted == Price(120, 700, 11)
    assert revised(moved, replace(TERMS, cached_input=None), State.OPEN).posted == Price(100, 400, None)
    assert revised(moved, replace(TERMS, output=Band(9, 1, 9)), State.OPEN).posted == Price(100, 9, 10)
    with pytest.raises(PrsmError, match="for good"):
        revised(revised(moved, TERMS, State.WITHDRAWN), TERMS, State.OPEN)


@pytest.mark.parametrize(
    ("terms", "param"),
    [
        (replace(TERMS, input=Band(100, 101, 200)), "input"),
        (replace(TERMS, output=Band(100, 50, 99)), "output"),
        (replace(TERMS, input=Band(-1, -1, 200)), "input"),
        (replace(TERMS, output=Band(1, 1, MAX_PRICE_MICRO + 1)), "output"),
        (replace(TERMS, cached_input=Band(101, 5, 200)), "cached_input"),
        (replace(TERMS, cached_input=Band(100, 51, 200)), "cached_input"),
        (replace(TERMS, cached_input=Band(100, 50, 201)), "cached_input"),
        (replace(TERMS, capacity_tokens_per_minute=0), "capacity_tokens_per_minute"),
        (replace(TERMS, text="x" * 4001), "text"),
        (replace(TERMS, text="\0"), "text"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(terms: Terms, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_terms(terms)
    assert refused.value.param == param


def test_only_the_owner_or_an_admin_offers() -> None:
    check_seller("seller", "seller", is_admin=False)
    check_seller("seller", "admin", is_admin=True)
    with pytest.raises(PrsmError, match="Only the owner"):
        check_seller("seller", "another", is_admin=False)


def test_a_search_finds_what_fits_page_by_page() -> None:
    offers = [
        (
            replace(OFFER, id=UUID(int=number), instance=f"p/m{number}", posted=Price(number, 100 - number)),
            Listed("m" if number % 2 else "n", frozenset({"chat", "tools"} if number % 3 else {"chat"}), "MIT"),
        )
        for number in range(30, 0, -1)
    ]
    paused = (replace(OFFER, id=UUID(int=31), state=State.PAUSED), offers[0][1])

    def ids(wanted: Wanted, **page: object) -> list[int]:
        return [offer.id.int for offer, _ in find([*offers, paused], wanted, **page)]  # type: ignore[arg-type]

    assert ids(Wanted()) == [*range(1, 31)]
    assert ids(Wanted(), limit=3, after=UUID(int=4)) == [5, 6, 7]
    assert ids(Wanted(model="m"), limit=3) == [1, 3, 5]
    assert ids(Wanted(model="p/m8")) == [8]
    assert ids(Wanted(capability="tools", max_input_micro=5)) == [1, 2, 4, 5]
    assert ids(Wanted(max_output_micro=72)) == [28, 29, 30]
    assert ids(Wanted(licence="GPL")) == ids(Wanted(owner_account="another")) == []


# -- quotes -----------------------------------------------------------------------------------------------------

QUOTE = BoundQuote(UUID(int=5), "me", "auto", "p/m", Price(7, 8), 100, 10, AT, AT + timedelta(seconds=60))


def test_a_quote_is_signed_in_a_domain_of_its_own() -> None:
    private = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    signer = NodeSigner("prsm1node", private.public_key().public_bytes_raw().hex(), private.sign)
    signed = json.loads(sign_quote(QUOTE, signer))
    private.public_key().verify(bytes.fromhex(signed["signature"]), DOMAIN + canonical.encode(signed["quote"]))
    assert signed["quote"]["prices"]["cached_input_micro_per_mtok"] == 7
    for name, other in (("account", "you"), ("instance", "p/n"), ("input_tokens", 1), ("valid_until", AT)):
        assert json.loads(sign_quote(replace(QUOTE, **{name: other}), signer))["signature"] != signed["signature"]


def test_what_a_quote_honours() -> None:
    for asked in ("auto", "p/m"):
        check_use(QUOTE, asked, 400, 10, AT + timedelta(seconds=59))
    for asked, size, answers, at, code in (
        ("p/n", 1, 1, AT, "quote_for_another_model"),
        ("auto", 401, 1, AT, "quote_too_small"),
        ("auto", 1, 11, AT, "quote_too_small"),
        ("auto", 1, 1, AT + timedelta(seconds=60), "quote_expired"),
    ):
        with pytest.raises(PrsmError) as refused:
            check_use(QUOTE, asked, size, answers, at)
        assert refused.value.code == code


@pytest.mark.parametrize(("read", "written", "ttl_s"), [(0, 1, 1), (1, -1, 1), (10**9, 1, 1), (1, 1, 0), (1, 1, 601)])
def test_quotes_that_cannot_be_made(read: int, written: int, ttl_s: int) -> None:
    with pytest.raises(InvalidRequest):
        check_quote(read, written, ttl_s, 600)
