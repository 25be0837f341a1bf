"""The pure rules of discovery: what is kept of a listing, waits between readings, and the order of answers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.listed import listing, priced

from prsm.federation.discovery.entry import (
    MAX_NUMBER,
    attributes_of,
    digest_of,
    fields_of,
    kept,
    key_of,
    meaning_of,
    words_of,
)
from prsm.federation.discovery.listings import Seen
from prsm.federation.discovery.search import Wanted, fused, sql_conditions, vector_filters
from prsm.federation.discovery.source_book import is_stale
from prsm.federation.discovery.sync import wait_after_failure_s, wait_after_success_s

NAMES = st.lists(st.text(min_size=1, max_size=20), max_size=50)
CHANCES = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("same", ["gpt-4o-mini", "GPT4o mini", "gpt 4o mini", "Gpt_4o.Mini"])
def test_names_are_compared_without_what_stands_between_words(same: str) -> None:
    assert key_of(same) == "gpt4omini"


def test_names_are_words() -> None:
    assert words_of("meta-llama/Llama-3.1-8B_Instruct") == ["meta", "llama", "llama", "3", "1", "8b", "instruct"]


def test_what_is_unknown_has_no_attribute() -> None:
    assert attributes_of("hub", listing("a", capabilities=frozenset())) == {"source": "hub"}
    known = listing("a", price=priced(0, None), gated=False, context_tokens=1, licence="mit")
    assert attributes_of("hub", known) == {
        "source": "hub",
        "usd_in": 0,
        "gated": False,
        "context": 1,
        "licence": "mit",
        "can_chat": True,
    }
    assert "usd_in" not in attributes_of("hub", listing("a", price=priced(3, 4, "FTNS")))


def test_the_time_of_a_price_changes_no_digest_and_its_amount_does() -> None:
    price = priced(1, 2)
    first = digest_of(fields_of(listing("a", price=price)))
    assert digest_of(fields_of(listing("a", price=replace(price, as_of=datetime.now(UTC))))) == first
    for changed in (priced(1, 3), priced(1, None), priced(1, 2, "FTNS"), None):
        assert digest_of(fields_of(listing("a", price=changed))) != first


@given(st.text(max_size=400), st.text(max_size=5_000), st.none() | st.integers(-5, 2**70))
def test_what_is_kept_can_be_stored(name: str, text: str, number: int | None) -> None:
    entry = kept(listing(name, text, title=text, licence=text, context_tokens=number, price=priced(number, None)))
    if entry is None:
        return
    assert 1 <= len(entry.name) <= 300
    for written in (entry.name, entry.title, entry.description, entry.licence or ""):
        assert "\0" not in written
        assert len(written.encode()) <= 4 * 4_000
    assert entry.context_tokens is None or 0 <= entry.context_tokens <= MAX_NUMBER
    assert kept(entry) == entry
    assert meaning_of(entry)


@given(NAMES, NAMES)
def test_what_was_seen_is_not_missing_and_what_was_not_is(seen: list[str], others: list[str]) -> None:
    met = Seen()
    met.add(seen)
    assert met.lookup().missing(seen) == []
    assert met.lookup().missing(others) == [name for name in others if name not in seen]


@given(st.integers(0, 10_000), CHANCES)
def test_waits_grow_with_failures_and_are_bounded(failures: int, chance: float) -> None:
    wait_s = wait_after_failure_s(failures, None, chance)
    assert 1 <= wait_s <= min(6 * 3_600, max(1, 30 * 2.0 ** min(failures, 20)))


def test_waits_are_spread_over_the_whole_interval() -> None:
    assert wait_after_failure_s(3, None, 0.0) == 1
    assert wait_after_failure_s(3, None, 0.5) == 120
    assert wait_after_failure_s(3, None, 0.999) > 239


@given(st.integers(0, 100), st.floats(0, 86_400), CHANCES)
def test_nobody_is_asked_before_it_said_that_it_may_be(failures: int, retry_after_s: float, chance: float) -> None:
    assert wait_after_failure_s(failures, retry_after_s, chance) > retry_after_s


def test_a_source_that_asks_for_a_year_is_tried_after_a_day() -> None:
    assert 86_400 < wait_after_failure_s(0, 3e7, 0.5) < 2 * 86_400


@given(st.integers(60, 10**6), CHANCES)
def test_intervals_vary_by_a_tenth(every_s: int, chance: float) -> None:
    assert 0.9 * every_s <= wait_after_success_s(every_s, chance) <= 1.1 * every_s


def test_stale_is_what_missed_two_readings() -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    assert is_stale(None, 60, at)
    assert not is_stale(at - timedelta(seconds=120), 60, at)
    assert is_stale(at - timedelta(seconds=121), 60, at)


def test_names_come_first_then_the_sum_of_reciprocal_ranks_then_the_name() -> None:
    tiers = {"full": (0, 9), "longer": (2, 20), "shorter": (2, 10)}
    assert fused(tiers, ["x", "y", "longer"], ["y", "z"]) == ["full", "shorter", "longer", "y", "x", "z"]
    assert fused({}, ["b"], ["a"]) == ["a", "b"]


@given(st.lists(st.text(max_size=3), unique=True), st.lists(st.text(max_size=3), unique=True))
def test_every_item_of_any_list_is_answered_once(first: list[str], second: list[str]) -> None:
    order = fused({}, first, second)
    assert sorted(order) == sorted({*first, *second})


def test_each_condition_is_asked_of_the_index_and_of_the_table() -> None:
    assert vector_filters(Wanted()) == []
    every = Wanted(("chat", "tools"), 1, 2, "FTNS", 3, ("MIT",), ("hub",), ungated=True)
    filters = vector_filters(every)
    assert [each.attribute for each in filters] == [
        *("can_chat", "can_tools", "ftns_in", "ftns_out", "context", "licence", "source", "gated"),
    ]
    arguments: list[object] = []
    conditions = sql_conditions(every, arguments)
    assert arguments == [["chat", "tools"], "FTNS", 1, 2, 3, ["mit"], ["hub"], False]
    assert conditions.count(" AND ") == len(arguments)
