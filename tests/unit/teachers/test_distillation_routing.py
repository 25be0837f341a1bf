"""Who teaches what, what a student may be and how much it is taught: pure rules over measured figures."""

from typing import Any

import pytest

from prsm.core.errors import ConfigError
from prsm.teachers.distillation.analysis import Analysis, TeacherPace
from prsm.teachers.distillation.design import StudentPace, amounts, fitting, ladder, lesson_us
from prsm.teachers.distillation.recipe import Amounts, Distillation, Hard, Limits, Logits, OnPolicy, read_recipe
from prsm.teachers.distillation.routing import Measured, route
from prsm.teachers.training.plan import TrainingPlan

SCORES = {
    "adder": {"sums": Measured(990, 1000, 5000), "words": Measured(10, 1000, 9000)},
    "other": {"sums": Measured(985, 1000, 5000), "words": Measured(700, 1000, 5000)},
    "third": {"sums": Measured(900, 1000, 5000)},
}


def test_the_best_speaks() -> None:
    assert route(SCORES, "best") == {"sums": {"adder": 1.0}, "words": {"other": 1.0}}


def test_who_cannot_be_told_from_the_best_speaks_too() -> None:
    routing = route(SCORES, "mixture")
    assert routing["words"] == {"other": 1.0}
    assert set(routing["sums"]) == {"adder", "other"}
    assert routing["sums"]["adder"] > routing["sums"]["other"] > 0
    assert sum(routing["sums"].values()) == pytest.approx(1)


def test_a_declared_speaker_comes_first() -> None:
    assert route(SCORES, "best", speakers={"sums": "third"})["sums"] == {"third": 1.0}
    with pytest.raises(ConfigError, match="no teacher of this job"):
        route(SCORES, "best", speakers={"words": "third"})


def test_nobody_teaches_what_nobody_knows() -> None:
    with pytest.raises(ConfigError, match=r"No teacher reaches 80% in words; the best, other, has 70.0%"):
        route(SCORES, "best", least=0.8)


def test_intervals_are_wilsons() -> None:
    low, high = Measured(15, 20, 1).interval()
    assert (low, high) == (pytest.approx(0.5313, abs=1e-4), pytest.approx(0.8881, abs=1e-4))
    assert Measured(0, 10, 1).interval()[0] == pytest.approx(0, abs=1e-12)


def test_the_largest_student_within_every_limit_is_chosen() -> None:
    shapes = ladder(100, 64)
    sizes = [shape.parameters() for shape in shapes]
    assert sizes == sorted(sizes)
    together = 4 * sizes[6]
    assert fitting(shapes, Limits(), together, lambda _shape: 1.0) == shapes[6]
    assert fitting(shapes, Limits(weight_bytes=4 * sizes[3]), together, lambda _shape: 1.0) == shapes[3]

    def by_size(shape: Any) -> float:
        return float(shape.parameters())

    assert fitting(shapes, Limits(cpu_us_per_token=sizes[2]), together, by_size) == shapes[2]
    with pytest.raises(ConfigError, match="No student fits") as refused:
        fitting(shapes, Limits(cpu_us_per_token=1), together, by_size)
    assert refused.value.param == "limits.cpu_us_per_token"
    with pytest.raises(ConfigError) as refused:
        fitting(shapes, Limits(), 100, by_size)
    assert refused.value.param == "limits.parameter_share"


def test_lessons_and_steps_are_what_budget_recipe_and_plan_allow() -> None:
    asked = Amounts(lessons_per_family=1000, passes=2, batch=50, training_share=0.5)
    assert amounts(asked, TrainingPlan(steps=10**6), 2, 1.0, 10**9) == (1000, 80)
    assert amounts(asked, TrainingPlan(steps=10), 2, 1.0, 10**9) == (125, 10)
    assert amounts(asked, TrainingPlan(steps=10**6), 2, 1000.0, 1000) == (250, 20)
    assert amounts(asked, TrainingPlan(steps=10**6, accumulate=4), 2, 1.0, 10**9) == (1000, 20)
    assert amounts(asked, TrainingPlan(steps=10, accumulate=4), 2, 1.0, 10**9) == (500, 10)
    with pytest.raises(ConfigError, match="budget pays for 10 lessons; one step takes 50"):
        amounts(asked, TrainingPlan(steps=10**6), 2, 1000.0, 20)


def test_a_lesson_costs_what_its_method_does_with_it() -> None:
    analysis = Analysis(
        scores=SCORES,
        parameters={"adder": 1, "other": 1},
        paces={"adder": TeacherPace(100, 10), "other": TeacherPace(200, 20)},
        lesson_tokens=20,
    )
    pace = StudentPace(learn_us=30, write_us=40, token_us=4)
    routing = {"sums": {"adder": 0.75, "other": 0.25}, "words": {"other": 1.0}}

    def cost(method: Hard | Logits | OnPolicy) -> float:
        recipe = Distillation(plan=TrainingPlan(steps=1), method=method, amounts=Amounts(passes=3))
        return lesson_us(recipe, analysis, routing, pace)

    assert cost(Hard()) == pytest.approx(162.5 + 3 * 30)
    assert cost(Logits()) == pytest.approx(162.5 + 3 * (30 + 25))
    assert cost(OnPolicy(student_share=0.5)) == pytest.approx(162.5 + 3 * (30 + 25 + 20))


RECIPE = """
backend = "tensorflow"
speakers = {sums = "adder"}

[method]
kind = "on-policy"
beta = 0.9

[plan]
steps = 100

[limits]
parameter_share = 0.2
"""


def test_a_recipe_is_read() -> None:
    recipe = read_recipe(RECIPE)
    assert recipe.method == OnPolicy(beta=0.9)
    assert (recipe.backend, recipe.speakers, recipe.limits.parameter_share) == ("tensorflow", {"sums": "adder"}, 0.2)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [('kind = "soft"', "method"), ("beta = 2", "beta"), ("betta = 1", "betta"), ("[plan", "wrong")],
)
def test_a_wrong_recipe_names_the_field(wrong: str, named: str) -> None:
    text = RECIPE.replace("beta = 0.9", wrong) if "kind" not in wrong else RECIPE.replace('kind = "on-policy"', wrong)
    with pytest.raises(ConfigError, match=named):
        read_recipe(text)
