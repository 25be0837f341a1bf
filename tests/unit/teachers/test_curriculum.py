"""The curriculum's laws: what is mastered opens the next level, what is lost closes those above, shares are a whole."""

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.teachers.curriculum import (
    Curriculum,
    CurriculumPlan,
    Practice,
    Standing,
    begun,
    bounds,
    chosen,
    is_mastered,
    observed,
    shares,
)

PLAN = CurriculumPlan(window=40, mastery=0.8, review=0.25)
TASKS = {"a": 4, "b": 1, "c": 2}


@st.composite
def curricula(draw: st.DrawFn) -> Curriculum:
    """Any that observations can lead to."""
    curriculum = begun(PLAN, TASKS, {})
    skill = st.sampled_from([0.0, 0.5, 0.95, 1.0])
    skills = {name: draw(st.lists(skill, min_size=n, max_size=n)) for name, n in TASKS.items()}
    drawn = random.Random(draw(st.integers(0, 1000)))
    for _ in range(draw(st.integers(0, 300))):
        name, level = chosen(PLAN, curriculum, drawn.random())
        right = sum(drawn.random() < skills[name][level] for _ in range(4)) / 4
        curriculum = observed(PLAN, curriculum, name, level, right)
    return curriculum


@settings(deadline=None)  # the first example imports scipy
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_bounds_are_those_of_scipy(counted: tuple[int, int]) -> None:
    right, asked = counted
    stats = pytest.importorskip("scipy.stats", reason="the extra `train` is not installed")
    low, high = stats.binomtest(right, asked).proportion_ci(method="wilson")
    assert bounds(right, asked, 1.959963984540054) == pytest.approx((low, high), abs=1e-9)


def test_nothing_seen_bounds_nothing() -> None:
    assert bounds(0, 0, 1.96) == (0.0, 1.0)


@given(curricula())
def test_shares_are_a_whole_over_open_levels_only(curriculum: Curriculum) -> None:
    lessons = shares(PLAN, curriculum)
    assert math.isclose(sum(lessons.values()), 1)
    assert all(share > 0 for share in lessons.values())
    assert set(lessons) == {(name, level) for name, task in curriculum.items() for level in range(task.open + 1)}
    below = sum(share for (name, level), share in lessons.items() if level < curriculum[name].open)
    assert below == pytest.approx(PLAN.review if any(task.open for task in curriculum.values()) else 0)


@given(curricula(), st.integers(0, 2**32))
def test_lessons_are_drawn_as_often_as_their_shares(curriculum: Curriculum, seed: int) -> None:
    drawn = random.Random(seed)
    counts = dict.fromkeys(shares(PLAN, curriculum), 0)
    for _ in range(1000):
        counts[chosen(PLAN, curriculum, drawn.random())] += 1
    for lesson, share in shares(PLAN, curriculum).items():
        assert abs(counts[lesson] / 1000 - share) < 0.1
    assert chosen(PLAN, curriculum, math.nextafter(1, 0)) in counts


@given(curricula(), st.data())
def test_one_observation_changes_one_task_by_at_most_a_level_up(curriculum: Curriculum, data: st.DataObject) -> None:
    name, level = data.draw(st.sampled_from(sorted(shares(PLAN, curriculum))))
    right = data.draw(st.floats(0, 1))
    after = observed(PLAN, curriculum, name, level, right)
    assert {other: task for other, task in after.items() if other != name} == {
        other: task for other, task in curriculum.items() if other != name
    }
    assert 0 <= after[name].open <= min(curriculum[name].open + 1, TASKS[name] - 1)
    assert after[name].open >= curriculum[name].open or after[name].open == level
    assert all(len(seen) <= PLAN.window for seen in after[name].recent.values())
    assert after[name].recent[level][-1] == right


@given(curricula())
def test_it_is_json(curriculum: Curriculum) -> None:
    assert msgspec.json.decode(msgspec.json.encode(curriculum), type=Curriculum) == curriculum


def test_a_level_opens_when_its_lower_bound_is_above_and_not_before() -> None:
    curriculum = begun(PLAN, {"a": 2}, {})
    asked = 0
    while not curriculum["a"].open:
        curriculum = observed(PLAN, curriculum, "a", 0, 1.0)
        asked += 1
    assert bounds(asked, asked, PLAN.deviations)[0] > PLAN.mastery >= bounds(asked - 1, asked - 1, PLAN.deviations)[0]


def test_a_level_that_is_lost_closes_those_above() -> None:
    curriculum: Curriculum = {"a": Practice(4, 3, recent={0: (1.0,) * 40, 1: (1.0,) * 40, 2: (0.5,), 3: (0.0,)})}
    asked = 0
    while curriculum["a"].open == 3:
        curriculum = observed(PLAN, curriculum, "a", 1, 0.0)
        asked += 1
    assert curriculum["a"].open == 1
    assert 1 < asked < 40
    assert set(curriculum["a"].recent) == {0, 1}


def test_what_is_half_known_is_practised_most() -> None:
    known = {0: (1.0,) * 20}
    curriculum = {
        "half": Practice(1, recent={0: (0.5,) * 20}),
        "known": Practice(1, recent=known),
        "hopeless": Practice(1, recent={0: (0.0,) * 20}),
        "new": Practice(1),
    }
    lessons = shares(PLAN, curriculum)
    assert lessons["half", 0] == lessons["new", 0] > 4 * lessons["known", 0] > 0
    assert lessons["known", 0] == pytest.approx(lessons["hopeless", 0])


def test_gaps_that_were_measured_are_what_is_practised() -> None:
    mastered, half, poor = Standing(98, 100), Standing(50, 100), Standing(10, 100)
    found = {
        "mastered": {0: mastered, 1: mastered},
        "half": {0: mastered, 1: half, 2: poor},
        "poor": {0: poor},
        "a hole below": {0: half, 1: mastered},
    }
    tasks = {"mastered": 2, "half": 3, "poor": 2, "a hole below": 2, "unknown": 2}
    curriculum = begun(PLAN, tasks, found)
    assert {name: task.open for name, task in curriculum.items()} == {
        "half": 1, "poor": 0, "a hole below": 0, "unknown": 0,
    }  # fmt: skip
    weights = {name: round(task.weight, 9) for name, task in curriculum.items()}
    assert weights == {"half": 0.3, "poor": 0.7, "a hole below": 0.3, "unknown": 0.8}


def test_nothing_lacks() -> None:
    curriculum = begun(PLAN, {"a": 1}, {"a": {0: Standing(100, 100)}})
    assert curriculum == {}
    assert is_mastered(PLAN, curriculum)
    with pytest.raises(ValueError, match="nothing to practise"):
        shares(PLAN, curriculum)


def test_all_is_mastered_only_with_the_last_level_of_each() -> None:
    curriculum = begun(PLAN, {"a": 2}, {})
    for level in (0, 1):
        assert not is_mastered(PLAN, curriculum)
        for _ in range(30):
            curriculum = observed(PLAN, curriculum, "a", level, 1.0)
    assert is_mastered(PLAN, curriculum)


@pytest.mark.parametrize(("level", "right"), [(-1, 1.0), (2, 1.0), (0, 1.5), (0, -0.1), (0, math.nan)])
def test_what_cannot_be_is_refused(level: int, right: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        observed(PLAN, begun(PLAN, {"a": 2}, {}), "a", level, right)
