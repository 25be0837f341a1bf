"""Intervals and tests are those of the textbooks (scipy), and hold what they promise where the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.teachers.evaluation.statistics import (
    clopper_pearson,
    detectable_difference,
    holm,
    needed_prompts,
    paired_bootstrap,
    sign_test,
    wilson,
)

stats = pytest.importorskip("scipy.stats", reason="the extra `train` is not installed")

SHARES = [(0, 1), (1, 1), (0, 20), (3, 20), (19, 20), (20, 20), (81, 263), (990, 1000), (5000, 10_000)]


@pytest.mark.parametrize(("right", "count"), SHARES)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_intervals_are_scipys(right: int, count: int, confidence: float) -> None:
    known = stats.binomtest(right, count)
    for ours, method in ((clopper_pearson, "exact"), (wilson, "wilson")):
        theirs = known.proportion_ci(confidence, method)
        assert ours(right, count, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_nothing_seen_is_nothing_known() -> None:
    assert wilson(0, 0) == clopper_pearson(0, 0) == (0, 1)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (0, 7), (10, 2), (30, 30), (700, 600), (4000, 3500)])
def test_sign_test_is_scipys(gained: int, lost: int) -> None:
    found = sign_test(gained, lost)
    if gained + lost == 0:
        assert (found.p_better, found.p_worse, found.p_either) == (1, 1, 1)
        return
    for p, side in ((found.p_better, "greater"), (found.p_worse, "less"), (found.p_either, "two-sided")):
        assert p == pytest.approx(stats.binomtest(gained, gained + lost, 0.5, side).pvalue, rel=1e-9)


def test_a_certain_difference_has_a_chance_beyond_floats_without_failing() -> None:
    assert sign_test(5_000, 0).p_better == 0.0
    assert sign_test(5_000, 0).p_worse == 1.0


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values: dict[str, float]) -> None:
    corrected = holm(p_values)
    assert corrected.keys() == p_values.keys()
    assert all(p_values[name] <= corrected[name] <= 1 for name in p_values)
    by_raw = sorted(p_values, key=lambda name: p_values[name])
    assert [corrected[name] for name in by_raw] == sorted(corrected.values())


def test_holm_of_holms_own_example() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_coverage_where_the_truth_is_known(share: float) -> None:
    """Exactly, not by chance: each count's probability, summed where the interval holds the share."""
    count = 120
    chances = stats.binom.pmf(np.arange(count + 1), count, share)
    exact, score = (
        sum(
            chances[right]
            for right in range(count + 1)
            if low_high(right, count)[0] <= share <= low_high(right, count)[1]
        )
        for low_high in (clopper_pearson, wilson)
    )
    assert exact >= 0.95
    assert score >= 0.92


def test_bootstrap_covers_the_true_difference() -> None:
    """Two strata of unlike difference; 400 worlds, of which 95 % should hold the truth (0.925 is four sigma below)."""
    generator = np.random.default_rng(1)
    truth = (200 * 0.10 + 100 * -0.05) / 300
    held = 0
    for world in range(400):
        strata = {
            "a": generator.choice([-1, 0, 1], 200, p=[0.05, 0.80, 0.15]).tolist(),
            "b": generator.choice([-1, 0, 1], 100, p=[0.15, 0.75, 0.10]).tolist(),
        }
        low, high = paired_bootstrap(strata, seed=world, draws=1_000)
        held += low <= truth <= high
    assert 0.90 < held / 400 < 0.99


def test_bootstrap_is_the_same_for_a_seed_and_stays_within_strata() -> None:
    strata = {"a": [number / 10 for number in range(10)], "b": [1.0] * 10}
    assert paired_bootstrap(strata, seed=3) == paired_bootstrap(strata, seed=3) != paired_bootstrap(strata, seed=4)
    low, high = paired_bootstrap(strata, seed=3)
    assert 0.5 < low < (4.5 + 10) / 20 < high < 1.0


def test_false_alarms_of_the_sign_test_are_rare() -> None:
    """Exactly: the chance that one of two equals is found better at 0.01 is at most that, for any number of prompts."""
    for differing in (5, 50, 333):
        chances = stats.binom.pmf(np.arange(differing + 1), differing, 0.5)
        alarms = sum(
            chance for gained, chance in enumerate(chances) if sign_test(gained, differing - gained).p_better < 0.01
        )
        assert alarms <= 0.01


@pytest.mark.parametrize(("difference", "differing"), [(0.02, 0.1), (0.05, 0.2), (0.01, 0.01)])
def test_so_many_prompts_find_it_so_often(difference: float, differing: float) -> None:
    """By simulation of the exact test; 0.9 asked, which the exact test misses by little as it is conservative."""
    count = needed_prompts(difference, differing)
    generator = np.random.default_rng(2)
    gained_share = (differing + difference) / 2
    worlds = generator.multinomial(count, [gained_share, differing - gained_share, 1 - differing], 1_000)
    found = sum(sign_test(gained, lost).p_better < 0.01 for gained, lost, _ in worlds.tolist())
    assert found / 1_000 > 0.84
    assert math.isclose(detectable_difference(count, differing), difference, rel_tol=0.02)


@pytest.mark.parametrize(("difference", "differing"), [(0.0, 0.1), (0.2, 0.1), (0.1, 1.1)])
def test_a_difference_that_cannot_be_is_refused(difference: float, differing: float) -> None:
    with pytest.raises(ValueError, match="must hold"):
        needed_prompts(difference, differing)
