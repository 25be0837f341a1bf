"""What a teacher lacks, measured before it is improved: of what cannot be practised it is said why."""

from collections.abc import Sequence

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

from prsm.core.errors import ConfigError
from prsm.teachers.curriculum import Standing
from prsm.teachers.rlvr_job import measured
from prsm.teachers.rlvr_plan import RlvrPlan, RlvrRecipe
from prsm.teachers.seams import Problem
from prsm.teachers.tasks.held_out import is_held_out
from prsm.teachers.tasks.own_tasks import WrittenTask
from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.training.small_teacher import fresh_teacher

HELD_OUT = [prompt for prompt in (f"q{number}" for number in range(200)) if is_held_out(prompt)]


def found(prompts: Sequence[str]) -> Standing:
    network = fresh_teacher(0, layers=1, width=32, heads=2, kv_heads=2, hidden=32, context_tokens=64)
    recipe = RlvrRecipe(name="own", tasks={"own": 1}, rlvr=RlvrPlan(max_tokens=2), plan=TrainingPlan(steps=1))
    asked = WrittenTask("own", [[Problem("own", 0, prompt, "a") for prompt in prompts]])
    return measured(network, {"own": asked}, recipe)["own"][0]


def test_a_level_is_measured_on_what_is_not_held_out() -> None:
    assert found([*HELD_OUT, "practised"]).right == 0


@pytest.mark.parametrize(("prompts", "said"), [(HELD_OUT, "All prompts of level 0 of own"), (["é"], "cannot read")])
def test_a_level_that_cannot_be_practised_is_refused(prompts: Sequence[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        found(prompts)
