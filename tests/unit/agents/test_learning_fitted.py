"""The fitted state: evidence adds up, ages and is written and read back; callers are told apart while there is room."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.learning.callers import FREE, caller_id, seated, vacated
from prsm.agents.learning.fitted import IMPLIED_SHARE, Fitted, aged, general, learn, nothing, pack, unpack
from prsm.agents.learning.outcomes import Evidence
from prsm.agents.routers.quality import CALLER_BUCKETS, MAX_CALLER_EVIDENCE, Abilities, Item, Score, start
from prsm.core.errors import InvalidRequest

CLUSTERS = 3
AT = datetime(2026, 1, 1, tzinfo=UTC)
ITEM = Item(0.0, 1.2, 1)
FRESH = nothing(CLUSTERS, AT)


def prior(models: object) -> Abilities:
    named: list[str] = list(models)  # type: ignore[call-overload]
    return start([[Score(0.7, 500)] for _ in named], CLUSTERS, 0.0)


def bad(model: str, callers: range, times: int = 1) -> list[Evidence]:
    return [Evidence(model, ITEM, caller, 0.0, 1.0) for _ in range(times) for caller in callers]


def mean(known: Fitted, model: str) -> float:
    return float(known.abilities.mean[known.models.index(model)])


def same(one: Fitted, other: Fitted) -> None:
    assert one.models == other.models
    np.testing.assert_array_equal(one.outcomes, other.outcomes)
    np.testing.assert_array_equal(one.owners, other.owners)
    for each in fields(Abilities):
        np.testing.assert_allclose(getattr(one.abilities, each.name), getattr(other.abilities, each.name), atol=1e-12)


# -- callers ----------------------------------------------------------------------------------------------------------


def test_a_caller_is_known_by_its_account_under_a_key() -> None:
    assert caller_id(b"k", "principal:a") == caller_id(b"k", "principal:a")
    assert len({caller_id(b"k", "principal:a"), caller_id(b"k", "principal:b"), caller_id(b"l", "principal:a")}) == 3
    assert 0 < caller_id(b"k", "x") < 2**63


@given(st.lists(st.integers(1, 2**63 - 1), max_size=CALLER_BUCKETS, unique=True))
def test_as_many_callers_as_there_are_columns_have_one_each(callers: list[int]) -> None:
    columns, owners = seated(FRESH.owners, np.array(callers, np.int64))
    assert len(set(columns.tolist())) == len(callers)
    assert owners[columns].tolist() == callers
    again, unchanged = seated(owners, np.array(callers[::-1], np.int64))
    assert again.tolist() == columns.tolist()[::-1]
    np.testing.assert_array_equal(owners, unchanged)


def test_beyond_that_a_caller_shares_the_column_of_its_hash_and_one_that_is_done_makes_room() -> None:
    _, owners = seated(FRESH.owners, np.arange(1, CALLER_BUCKETS + 1))
    late = np.array([5 * CALLER_BUCKETS + 9])
    columns, after = seated(owners, late)
    assert columns.tolist() == [9]
    np.testing.assert_array_equal(after, owners)
    spent = np.ones((2, CALLER_BUCKETS))
    spent[:, 30] = 0.001
    freed = vacated(owners, spent)
    assert np.flatnonzero(freed == FREE).tolist() == [30]
    columns, after = seated(freed, late)
    assert columns.tolist() == [30]
    assert after[30] == late[0]


# -- learning ---------------------------------------------------------------------------------------------------------


def test_a_model_comes_in_with_its_first_outcome_and_starts_from_its_scores() -> None:
    known = learn(FRESH, bad("m", range(1, 4)), [], prior)
    assert known.models == ("m",)
    assert known.outcomes.tolist() == [3]
    assert mean(known, "m") < prior(["m"]).mean[0]
    more = learn(known, bad("n", range(1, 2)), [], prior)
    assert more.models == ("m", "n")
    assert mean(more, "m") == mean(known, "m")


@given(st.integers(1, 400), st.booleans())
def test_one_caller_moves_no_model_beyond_its_bound_however_much_it_says(times: int, good: bool) -> None:
    lies = [Evidence("m", ITEM, 9, float(good), 1.0)] * times
    known = learn(FRESH, lies, [], prior)
    before = prior(["m"])
    bound = MAX_CALLER_EVIDENCE / before.precision[0]
    assert abs(mean(known, "m") - before.mean[0]) <= bound
    assert np.abs(known.abilities.local_mean).max() <= MAX_CALLER_EVIDENCE / 4


def test_who_says_nothing_explicit_spends_a_quarter_and_can_still_speak() -> None:
    signs = [Evidence("m", ITEM, 9, 0.0, 0.3)] * 500
    known = learn(FRESH, [], signs, prior)
    assert known.abilities.spent.max() == pytest.approx(IMPLIED_SHARE * MAX_CALLER_EVIDENCE)
    same(learn(known, [], [], prior), known)
    spoken = learn(known, [Evidence("m", ITEM, 9, 1.0, 1.0)], [], prior)
    assert mean(spoken, "m") > mean(known, "m")
    assert spoken.abilities.spent.max() > known.abilities.spent.max()


def test_an_outage_is_one_witness_and_moves_a_model_little() -> None:
    faults = [Evidence("m", ITEM, 1, 0.0, 0.1)] * 5_000
    before = prior(["m"])
    bound = IMPLIED_SHARE * MAX_CALLER_EVIDENCE / before.precision[0]
    assert 0 < before.mean[0] - mean(learn(FRESH, [], faults, prior), "m") <= bound


def test_many_callers_say_more_than_one() -> None:
    one, many = learn(FRESH, bad("m", range(1, 2), 100), [], prior), learn(FRESH, bad("m", range(1, 101)), [], prior)
    assert mean(many, "m") < mean(one, "m") - 0.3


def test_evidence_halves_and_in_the_end_the_model_is_gone_and_its_callers_with_it() -> None:
    known = learn(FRESH, bad("m", range(1, 101)), [], prior)
    half = aged(known, AT + timedelta(days=30), 30 * 86_400)
    gained = known.abilities.precision - known.abilities.prior_precision
    np.testing.assert_allclose(half.abilities.precision - half.abilities.prior_precision, gained / 2)
    assert mean(known, "m") < mean(half, "m") < prior(["m"]).mean[0]
    same(aged(aged(known, AT + timedelta(days=10), 1e6), AT + timedelta(days=30), 1e6),
         aged(known, AT + timedelta(days=30), 1e6))  # fmt: skip
    gone = aged(known, AT + timedelta(days=3000), 30 * 86_400)
    assert gone.models == ()
    assert not gone.owners.any()


def test_a_clock_that_goes_back_changes_nothing() -> None:
    known = learn(FRESH, bad("m", range(1, 5)), [], prior)
    back = aged(known, AT - timedelta(days=3), 86_400)
    same(back, known)
    assert back.at == AT


def test_a_state_is_read_back_as_it_was_written() -> None:
    known = learn(FRESH, bad("m", range(1, 40)) + bad("ü/n", range(3, 9)), bad("m", range(7, 9)), prior)
    same(unpack(pack(known), known.models, AT), known)
    same(unpack(pack(FRESH), (), AT), FRESH)
    assert len(pack(known)) < 3_000


def test_of_other_clusters_what_is_general_is_kept() -> None:
    known = learn(FRESH, bad("m", range(1, 40)), [], prior)
    moved = general(known, 5)
    assert moved.clusters == 5
    assert mean(moved, "m") == mean(known, "m")
    assert not moved.abilities.local_mean.any()
    assert learn(moved, [Evidence("m", replace(ITEM, cluster=4), 3, 0.0, 1.0)], [], lambda models: start(
        [[] for _ in models], 5, 0.0)).outcomes.tolist() == [40]  # fmt: skip


def test_a_state_that_is_damaged_is_refused() -> None:
    known = learn(FRESH, bad("m", range(1, 4)), [], prior)
    packed = pack(known)
    broken = replace(known.abilities, mean=np.array([np.nan]))
    for content, models in (
        (packed[:-9], ("m",)),
        (b"nonsense", ("m",)),
        (packed, ("m", "n")),
        (packed, ()),
        (pack(replace(known, abilities=broken)), ("m",)),
    ):
        with pytest.raises(InvalidRequest):
            unpack(content, models, AT)
