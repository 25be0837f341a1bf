"""The rate over a run: it rises, stays, and falls to what the plan says, by whichever bound is nearer."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.training.schedule import progress, rate_share


def _plan(**changes: Any) -> TrainingPlan:
    return TrainingPlan(**{"steps": 100, "warmup_steps": 10, "decay_from": 0.5, "final_rate_share": 0.1} | changes)


@pytest.mark.parametrize(
    ("decay", "step", "expected"),
    [
        ("linear", 0, 0.1),
        ("linear", 4, 0.5),
        ("linear", 9, 1.0),
        ("linear", 50, 1.0),
        ("linear", 75, 0.55),
        ("linear", 100, 0.1),
        ("cosine", 75, 0.55),
        ("cosine", 60, 0.1 + 0.9 * (1 + math.cos(0.2 * math.pi)) / 2),
        ("none", 99, 1.0),
    ],
)
def test_the_rate_at_a_step(decay: str, step: int, expected: float) -> None:
    plan = _plan(decay=decay)
    assert rate_share(plan, step, progress(plan, step, 0.0)) == pytest.approx(expected)


def test_the_nearer_bound_counts() -> None:
    plan = _plan(cpu_minutes=1.0)
    assert progress(plan, 10, 30.0) == 0.5
    assert progress(plan, 80, 30.0) == 0.8
    assert progress(plan, 10, 90.0) == 1.0


@given(st.integers(0, 100), st.floats(0, 1), st.sampled_from(["none", "linear", "cosine"]))
def test_the_rate_stays_within_its_bounds(step: int, done: float, decay: str) -> None:
    assert 0 <= rate_share(_plan(decay=decay), step, done) <= 1
