"""The law of quality: a better model is never thought worse, outcomes count in any order, callers are bounded."""

from dataclasses import fields, replace
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.routers.quality import (
    CALLER_BUCKETS,
    MAX_ABILITY,
    MAX_CALLER_EVIDENCE,
    Abilities,
    Item,
    Outcomes,
    Score,
    carry,
    draw,
    forget,
    quality,
    start,
    update,
)
from prsm.core.errors import InvalidRequest

MODELS, CLUSTERS = 4, 3
UNBOUNDED = 1e9

items = st.builds(
    Item, difficulty=st.floats(-5, 5), discrimination=st.floats(0.01, 6), cluster=st.integers(0, CLUSTERS - 1)
)
scores = st.lists(st.builds(Score, st.floats(0, 1), st.integers(1, 10_000), st.floats(-2, 2)), max_size=3)
rosters = st.lists(scores, min_size=MODELS, max_size=MODELS).map(lambda each: start(each, CLUSTERS, 0.5))


def observed(rows: list[tuple[int, Item, float, float, int]]) -> Outcomes:
    """Outcomes from rows of model, item, success, weight and caller."""
    return Outcomes(
        model=np.array([model for model, *_ in rows], np.intp),
        cluster=np.array([item.cluster for _, item, *_ in rows], np.intp),
        difficulty=np.array([item.difficulty for _, item, *_ in rows], np.float64),
        discrimination=np.array([item.discrimination for _, item, *_ in rows], np.float64),
        success=np.array([success for _, _, success, _, _ in rows], np.float64),
        weight=np.array([weight for *_, weight, _ in rows], np.float64),
        caller=np.array([caller for *_, caller in rows], np.intp),
    )


batches = st.lists(
    st.tuples(st.integers(0, MODELS - 1), items, st.floats(0, 1), st.floats(0, 1), st.integers(0, 3)), max_size=30
)


def same(left: Abilities, right: Abilities) -> None:
    for field in fields(Abilities):
        np.testing.assert_allclose(getattr(left, field.name), getattr(right, field.name), atol=1e-9)


def simulate(abilities: Abilities, truth: npt.NDArray[np.float64], rounds: int, limit: float) -> Abilities:
    """Batches of 64 answers by 64 callers, right as often as ``truth`` (models by clusters, log-odds) says."""
    chance = np.random.default_rng(7)
    for _ in range(rounds):
        rows: list[tuple[int, Item, float, float, int]] = []
        for caller in range(64):
            model, cluster = int(chance.integers(MODELS)), int(chance.integers(CLUSTERS))
            item = Item(float(chance.normal()), float(chance.uniform(0.5, 2)), cluster)
            right = chance.random() < 1 / (1 + np.exp(item.difficulty - item.discrimination * truth[model, cluster]))
            rows.append((model, item, float(right), 1.0, caller))
        abilities = update(abilities, observed(rows), limit)
    return abilities


@given(rosters, batches, items)
def test_quality_is_a_chance_and_a_stronger_model_is_never_thought_worse(
    abilities: Abilities, rows: list[tuple[int, Item, float, float, int]], item: Item
) -> None:
    abilities = update(abilities, observed(rows))
    chances = quality(abilities, item)
    assert chances.shape == (MODELS,)
    assert np.all((chances >= 0) & (chances <= 1))
    better = quality(replace(abilities, mean=abilities.mean + 0.5), item)
    assert np.all(better > chances)
    assert np.all(quality(abilities, replace(item, difficulty=item.difficulty + 0.5)) < chances)


@given(rosters, items, st.lists(st.floats(-9, 9), min_size=MODELS, max_size=MODELS))
def test_a_draw_grows_with_its_normal_and_stays_within_three_deviations(
    abilities: Abilities, item: Item, normals: list[float]
) -> None:
    z = np.array(normals)
    drawn = draw(abilities, item, z)
    assert np.all(draw(abilities, item, z + 1) >= drawn)
    edge = np.full(MODELS, 3.0)
    assert np.all((drawn >= draw(abilities, item, -edge)) & (drawn <= draw(abilities, item, edge)))
    np.testing.assert_array_equal(draw(abilities, item, edge), draw(abilities, item, edge + 5))


@given(rosters, batches, st.randoms(use_true_random=False))
def test_the_order_within_a_batch_does_not_matter(
    abilities: Abilities, rows: list[tuple[int, Item, float, float, int]], random: Random
) -> None:
    mixed = list(rows)
    random.shuffle(mixed)
    same(update(abilities, observed(rows)), update(abilities, observed(mixed)))


@given(rosters, batches, batches)
def test_without_one_caller_a_batch_ends_no_further_than_its_evidence_over_the_precision(
    abilities: Abilities,
    honest: list[tuple[int, Item, float, float, int]],
    hostile: list[tuple[int, Item, float, float, int]],
) -> None:
    attack = [(model, item, success, weight, 200) for model, item, success, weight, _ in hostile * 20]
    without, together = update(abilities, observed(honest)), update(abilities, observed([*honest, *attack]))
    bound = MAX_CALLER_EVIDENCE / abilities.precision
    assert np.all(np.abs(together.mean - without.mean) <= bound + 1e-9)
    assert np.all(np.abs(together.local_mean - without.local_mean) <= MAX_CALLER_EVIDENCE / 4 + 1e-9)


def test_one_caller_comes_to_its_end_over_many_batches_and_others_undo_it() -> None:
    abilities = start([[Score(0.8, 5_000)]] * MODELS, CLUSTERS, 0.0)
    slander = observed([(0, Item(0.0, 1.5, 0), 0.0, 1.0, 9)] * 10)
    slandered = abilities
    for _ in range(200):
        slandered = update(slandered, slander)
    # One caller's two halves of evidence over two precisions of at least 4.
    moved = abilities.mean[0] - slandered.mean[0]
    assert 0 < moved <= MAX_CALLER_EVIDENCE / abilities.precision[0]
    same(update(slandered, slander), slandered)
    assert slandered.spent[0, 9] == pytest.approx(MAX_CALLER_EVIDENCE)
    others = observed([(0, Item(0.0, 1.5, 0), 1.0, 1.0, caller) for caller in range(10, 30)])
    assert update(slandered, others).mean[0] > slandered.mean[0]
    assert np.all(update(slandered, others).spent[:, 9] == slandered.spent[:, 9])


def test_a_caller_spends_on_one_model_only_what_it_says_of_that_one() -> None:
    abilities = start([[]] * MODELS, CLUSTERS, 0.0)
    after = update(abilities, observed([(0, Item(0.0, 2.0, 0), 1.0, 1.0, 5)] * 50))
    assert after.spent[0, 5] == pytest.approx(MAX_CALLER_EVIDENCE)
    assert np.count_nonzero(after.spent) == 1
    assert np.all(after.mean[1:] == abilities.mean[1:])


@given(rosters, batches)
def test_precision_never_falls_and_rises_for_what_was_seen(
    abilities: Abilities, rows: list[tuple[int, Item, float, float, int]]
) -> None:
    after = update(abilities, observed(rows))
    assert np.all(after.precision >= abilities.precision)
    assert np.all(after.local_precision >= abilities.local_precision)
    for model, item, _, weight, _ in rows:
        if weight * item.discrimination**2 > 1e-6:
            assert after.precision[model] > abilities.precision[model]
            assert after.local_precision[item.cluster, model] > abilities.local_precision[item.cluster, model]
    assert np.all(np.abs(after.mean) <= MAX_ABILITY)


def test_outcomes_find_the_true_abilities_and_what_is_special_to_a_cluster() -> None:
    truth = np.array([[1.5, 1.5, 1.5], [0.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [0.0, 0.0, 2.0]])
    learnt = simulate(start([[]] * MODELS, CLUSTERS, 0.0), truth, 300, UNBOUNDED)
    np.testing.assert_allclose((learnt.mean + learnt.local_mean).T, truth, atol=0.35)


def test_a_model_that_lied_about_its_scores_is_found_out() -> None:
    liar, honest = [Score(0.99, 100_000)], [Score(0.7, 1_000)]
    told = start([liar, honest, honest, honest], CLUSTERS, 0.0)
    item = Item(0.0, 1.0, 1)
    assert quality(told, item).argmax() == 0
    truth = np.array([[-1.0] * 3, [0.85] * 3, [0.85] * 3, [0.85] * 3])
    seen = simulate(told, truth, 8, MAX_CALLER_EVIDENCE)
    assert quality(seen, item).argmin() == 0


def test_scores_order_models_and_more_items_prove_more_up_to_a_limit() -> None:
    abilities = start([[], [Score(0.6, 100)], [Score(0.9, 100)], [Score(0.9, 10**9)]], CLUSTERS, 0.0)
    assert abilities.mean[1] < abilities.mean[2] < abilities.mean[3] < np.log(9)
    assert abilities.precision[0] < abilities.precision[2] < abilities.precision[3] <= 5
    harder = start([[Score(0.6, 100, hardness=1.0)]], CLUSTERS, 0.0)
    assert harder.mean[0] > abilities.mean[1]
    assert np.all(np.isfinite(start([[Score(0.0, 5), Score(1.0, 5)]], CLUSTERS, 0.0).mean))


@given(rosters, batches, st.floats(0, 1))
def test_forgetting_leads_back_to_the_prior(
    abilities: Abilities, rows: list[tuple[int, Item, float, float, int]], keep: float
) -> None:
    after = update(abilities, observed(rows))
    same(forget(after, 1.0), after)
    same(forget(after, 0.0), abilities)
    between = forget(after, keep)
    low, high = np.minimum(abilities.mean, after.mean), np.maximum(abilities.mean, after.mean)
    assert np.all((between.mean >= low - 1e-9) & (between.mean <= high + 1e-9))
    assert np.all(between.precision <= after.precision + 1e-9)
    assert np.all(between.spent <= after.spent)


@given(rosters, batches)
def test_a_changed_roster_keeps_what_was_learnt_of_those_that_stay(
    abilities: Abilities, rows: list[tuple[int, Item, float, float, int]]
) -> None:
    learnt = update(abilities, observed(rows))
    fresh = start([[Score(0.5, 10)]] * 3, CLUSTERS, 0.0)
    moved = carry(learnt, np.array([2, -1, 0]), fresh)
    for name in ("mean", "precision", "local_mean", "local_precision", "prior_mean"):
        column = getattr(moved, name)
        np.testing.assert_array_equal(column[..., 0], getattr(learnt, name)[..., 2])
        np.testing.assert_array_equal(column[..., 1], getattr(fresh, name)[..., 1])
        np.testing.assert_array_equal(column[..., 2], getattr(learnt, name)[..., 0])
    np.testing.assert_array_equal(moved.spent[[0, 2]], learnt.spent[[2, 0]])
    same(carry(learnt, np.arange(MODELS), start([[]] * MODELS, CLUSTERS, 0.0)), learnt)


def test_no_outcomes_change_nothing() -> None:
    abilities = start([[]] * MODELS, CLUSTERS, 0.3)
    same(update(abilities, observed([])), abilities)


GOOD = observed([(1, Item(0.0, 1.0, 1), 1.0, 1.0, 0)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", [MODELS]),
        ("model", [-1]),
        ("cluster", [CLUSTERS]),
        ("caller", [CALLER_BUCKETS]),
        ("success", [1.5]),
        ("success", [np.nan]),
        ("weight", [-0.1]),
        ("difficulty", [np.inf]),
        ("discrimination", [0.0]),
        ("discrimination", [np.inf]),
        ("weight", [1.0, 1.0]),
    ],
)
def test_a_bad_outcome_is_refused_by_name(field: str, value: list[float]) -> None:
    column = np.array(value, getattr(GOOD, field).dtype)
    with pytest.raises(InvalidRequest) as refused:
        update(start([[]] * MODELS, CLUSTERS, 0.0), replace(GOOD, **{field: column}))
    assert refused.value.param == field


def test_other_bad_input_is_refused() -> None:
    abilities = start([[]] * MODELS, CLUSTERS, 0.0)
    with pytest.raises(InvalidRequest):
        draw(abilities, Item(0, 1, 0), np.zeros(MODELS + 1))
    with pytest.raises(InvalidRequest):
        forget(abilities, 1.1)
    with pytest.raises(InvalidRequest):
        start([[Score(1.1, 10)]], CLUSTERS, 0.0)
    with pytest.raises(InvalidRequest):
        carry(abilities, np.array([MODELS]), start([[]], CLUSTERS, 0.0))
    with pytest.raises(InvalidRequest):
        carry(abilities, np.array([0, 1]), start([[]], CLUSTERS, 0.0))
