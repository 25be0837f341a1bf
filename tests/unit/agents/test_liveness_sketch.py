"""Laws of the sketch: the error bound, merging as adding, and fading."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.liveness.sketch import HIGHEST, LOWEST, RELATIVE_ERROR, Sketch

HALF_LIFE_S = 60.0
SHARES = (0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0)
values = st.floats(LOWEST, HIGHEST)
# Days of an idle node and a clock that starts anywhere; each value some half-lives after the one before.
points = st.lists(st.tuples(values, st.floats(0, 600)), min_size=1, max_size=60)
starts = st.floats(0, 1e7)


def placed(points: Sequence[tuple[float, float]], start_s: float) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for value, later_s in points:
        start_s += later_s
        found.append((value, start_s))
    return found


def filled(points: Sequence[tuple[float, float]]) -> Sketch:
    sketch = Sketch(HALF_LIFE_S)
    for value, at_s in points:
        sketch.add(value, at_s)
    return sketch


def exact(points: Sequence[tuple[float, float]], share: float, now_s: float) -> float:
    """The least value that so much of the faded weight is not above."""
    ordered = sorted((value, 2.0 ** ((at_s - now_s) / HALF_LIFE_S)) for value, at_s in points)
    wanted = share * math.fsum(weight for _, weight in ordered)
    reached = 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= wanted:
            return value
    return ordered[-1][0]


@given(points, starts, st.sampled_from(SHARES))
def test_a_quantile_is_within_the_relative_error_of_the_exact_one(
    points: list[tuple[float, float]], start_s: float, share: float
) -> None:
    seen = placed(points, start_s)
    now_s = seen[-1][1]
    (found,) = filled(seen).quantiles((share,)) or (math.nan,)
    # Where the share falls on the edge between two values, rounding may choose either.
    low = exact(seen, share * (1 - 1e-9), now_s)
    high = exact(seen, min(share * (1 + 1e-9), 1.0), now_s)
    assert low * (1 - RELATIVE_ERROR) * (1 - 1e-9) <= found <= high * (1 + RELATIVE_ERROR) * (1 + 1e-9)


@given(points, points, starts, starts)
def test_merging_two_is_as_if_all_had_been_added_to_one(
    ours: list[tuple[float, float]], theirs: list[tuple[float, float]], start_s: float, other_s: float
) -> None:
    one, other = placed(ours, start_s), placed(theirs, other_s)
    now_s = max(one[-1][1], other[-1][1])
    merged = filled(one)
    merged.merge(filled(other))
    together = filled(sorted([*one, *other], key=lambda point: point[1]))
    assert merged.count(now_s) == pytest.approx(together.count(now_s), rel=1e-9)
    for share in SHARES:
        (found,) = merged.quantiles((share,)) or (math.nan,)
        bounds = together.quantiles((share * (1 - 1e-9), min(share * (1 + 1e-9), 1.0))) or []
        assert min(bounds) <= found <= max(bounds)


@given(points, starts, st.floats(0, 3000))
def test_a_count_halves_each_half_life_and_its_quantiles_stay(
    points: list[tuple[float, float]], start_s: float, later_s: float
) -> None:
    seen = placed(points, start_s)
    now_s = seen[-1][1]
    sketch = filled(seen)
    before = sketch.count(now_s)
    assert before == pytest.approx(math.fsum(2.0 ** ((at_s - now_s) / HALF_LIFE_S) for _, at_s in seen), rel=1e-6)
    quantiles = sketch.quantiles(SHARES)
    assert sketch.count(now_s + later_s) == pytest.approx(before * 2.0 ** (-later_s / HALF_LIFE_S), rel=1e-6)
    assert sketch.quantiles(SHARES) == quantiles


@given(st.one_of(st.floats(-10, LOWEST), st.floats(HIGHEST, 1e300), st.just(math.inf)))
def test_what_is_beyond_the_range_counts_as_its_end(value: float) -> None:
    (found,) = filled([(value, 0.0)]).quantiles((0.5,)) or (math.nan,)
    assert found == pytest.approx(LOWEST if value <= LOWEST else HIGHEST, rel=2 * RELATIVE_ERROR)


def test_the_new_outweighs_the_old_after_any_pause() -> None:
    sketch = Sketch(HALF_LIFE_S)
    for _ in range(1000):
        sketch.add(1.0, 0.0)
    sketch.add(50.0, 1e9)
    assert sketch.count(1e9) == pytest.approx(1.0)
    assert sketch.quantiles((0.01,)) == [pytest.approx(50.0, rel=RELATIVE_ERROR)]


def test_an_empty_one_has_no_quantiles_and_clearing_empties() -> None:
    sketch = Sketch(HALF_LIFE_S)
    assert (sketch.quantiles((0.5,)), sketch.count(7.0)) == (None, 0.0)
    sketch.add(1.0, 7.0)
    sketch.clear()
    assert (sketch.quantiles((0.5,)), sketch.count(7.0)) == (None, 0.0)


def test_sketches_of_different_half_lives_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="half-life"):
        Sketch(1.0).merge(Sketch(2.0))
    with pytest.raises(ValueError, match="half-life"):
        Sketch(0.0)
