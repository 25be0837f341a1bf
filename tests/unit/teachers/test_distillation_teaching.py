"""What teachers teach: routed, verified, mixed, cut, and in batches whose order a seed and a count decide."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.small_families import FAMILIES, Addition, Reversal, demonstrated

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import answer_ids, prompt_ids
from prsm.teachers.distillation.analysis import analyse, draw_problems, measured
from prsm.teachers.distillation.recipe import Logits, OnPolicy
from prsm.teachers.distillation.seams import NOTHING, Floats, Ints
from prsm.teachers.distillation.teaching import (
    Kept,
    Lesson,
    OnPolicyLessons,
    Panel,
    batch_of,
    cut,
    keep_lessons,
    kept_lessons,
    verified,
)
from prsm.teachers.seams import Problem
from prsm.teachers.tasks.held_out import is_held_out
from prsm.teachers.tasks.own_tasks import WrittenTask

ADDITION, REVERSAL = Addition(), Reversal()
PROBLEMS = [Problem("addition", 0, "1+2", "3"), Problem("reversal", 0, "reverse abc", "cba")]


class Always:
    """A teacher that writes one answer and thinks one distribution, whatever it is asked."""

    parameters = 10

    def __init__(self, answer: str, shares: Sequence[float]) -> None:
        self.answer, self.shares = answer, np.array(shares, np.float32)
        self.asked = 0

    def write(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        self.asked += len(prompts)
        return [answer_ids("", self.answer)[:max_tokens] for _ in prompts]

    def scores(self, ids: Ints, temperature: float) -> Floats:
        with np.errstate(divide="ignore"):
            return np.broadcast_to(np.log(self.shares), (*ids.shape, len(self.shares)))


def test_each_problem_goes_to_its_familys_teacher_and_only_right_answers_stay() -> None:
    panel = Panel(
        {"adder": Always("3", [1, 0]), "writer": Always("abc", [1, 0])},
        {"addition": {"adder": 1.0}, "reversal": {"writer": 1.0}},
    )
    lessons = panel.write(PROBLEMS, max_tokens=20, seed=0)
    assert [lesson.said for lesson in lessons] == [answer_ids("", "3"), answer_ids("", "abc")]
    kept = verified(lessons, PROBLEMS, {"addition": ADDITION, "reversal": REVERSAL})
    assert kept == lessons[:1]
    assert verified(lessons, PROBLEMS, {"addition": ADDITION}) == lessons
    cut_short = panel.write(PROBLEMS[:1], max_tokens=2, seed=0)
    assert verified(cut_short, PROBLEMS[:1], {"addition": ADDITION}) == []


def test_several_teachers_share_a_family() -> None:
    teachers = {"a": Always("3", [0.5, 0.5]), "b": Always("4", [0.1, 0.9])}
    panel = Panel(teachers, {"addition": {"a": 0.75, "b": 0.25}})
    panel.write(PROBLEMS[:1] * 400, max_tokens=9, seed=0)
    assert 260 < teachers["a"].asked < 340
    lessons = [Lesson("addition", [5, 6], [7, 3])]
    scored = panel.score(lessons, batch_of(lessons), 1.0, 0)
    assert scored.likely is not None
    assert scored.log_likely is not None
    assert np.exp(scored.log_likely[0, 0]) == pytest.approx([0.4, 0.6])
    assert scored.likely[0, 0].tolist() == [0, 1]


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=12), st.integers(0, 14))
def test_a_cut_keeps_the_likeliest_and_all_of_the_probability(weights: list[float], top_k: int) -> None:
    shares = np.array([weights], np.float32) / np.sum(weights, dtype=np.float32)
    likely, log_likely = cut(shares, top_k)
    assert np.exp(log_likely).sum() == pytest.approx(1, abs=1e-4)
    if not 0 < top_k < len(weights):
        assert likely[0].tolist() == list(range(len(weights)))
        return
    assert log_likely.shape == (1, top_k + 1)
    left_out = np.delete(shares[0], likely[0])
    assert shares[0][likely[0]].min() >= left_out.max()


def test_a_batch_teaches_what_was_said_and_nothing_else() -> None:
    batch = batch_of([Lesson("x", [5, 6, 1], [7, 8, 3]), Lesson("x", [9, 1], [3])])
    assert batch.ids.tolist() == [[5, 6, 1, 7, 8], [9, 1, 0, 0, 0]]
    no = NOTHING
    assert batch.targets.tolist() == [[no, no, 7, 8, 3], [no, 3, no, no, no]]


def test_a_pass_shows_each_lesson_once_and_goes_on_from_its_state() -> None:
    lessons = [Lesson("x", [number, 1], [3]) for number in range(10)]
    source = Kept(lessons, 2, seed=4)
    first = [tuple(source.draw().ids[:, 0].tolist()) for _ in range(5)]
    second = [tuple(source.draw().ids[:, 0].tolist()) for _ in range(5)]
    assert sorted(sum(first, ())) == sorted(sum(second, ())) == list(range(10))
    assert first != second
    again = Kept(lessons, 2, seed=4)
    again.restore({"drawn": 3})
    assert [tuple(again.draw().ids[:, 0].tolist()) for _ in range(2)] == first[3:]
    assert Kept(lessons, 64, seed=4).draw().ids.shape == (10, 2)


def test_on_policy_batches_are_the_students_by_share_and_scored_where_it_went() -> None:
    shares = [0.9, 0.1] + [0.0] * 98
    panel = Panel({"a": Always("3", shares)}, {"addition": {"a": 1.0}})
    lessons = [Lesson("addition", prompt_ids("1+2"), answer_ids("", "3"))] * 8
    student = Always("777", shares)

    def drawn(share: float, restored: int = 0) -> list[list[int]]:
        source = OnPolicyLessons(
            Kept(lessons, 2, 0), panel, student, OnPolicy(student_share=share, top_k=1), max_tokens=9, seed=3
        )
        source.restore({"drawn": restored})
        batches = [source.draw() for _ in range(40 - restored)]
        assert all(batch.log_likely is not None and batch.log_likely.shape[-1] == 2 for batch in batches)
        return [[target for target in batch.targets[0].tolist() if target != NOTHING] for batch in batches]

    assert drawn(0.0) == [answer_ids("", "3")] * 40
    assert drawn(1.0) == [answer_ids("", "777")] * 40
    half = drawn(0.5)
    assert 10 < half.count(answer_ids("", "777")) < 30
    assert drawn(0.5, restored=13) == half[13:]


def test_a_panel_softens_and_cuts_as_the_method_says() -> None:
    class Softened(Always):
        def scores(self, ids: Ints, temperature: float) -> Floats:
            logits = np.log(self.shares) / temperature
            return np.broadcast_to(logits - np.log(np.exp(logits).sum()), (*ids.shape, len(logits)))

    panel = Panel({"a": Softened("3", [0.8, 0.15, 0.05])}, {"addition": {"a": 1.0}})
    batch = Kept([Lesson("addition", [1], [2])], 1, 0, panel, Logits(temperature=2.0, top_k=1)).draw()
    assert batch.log_likely is not None
    soft = np.sqrt([0.8, 0.15, 0.05])
    assert np.exp(batch.log_likely[0, 0, 0]) == pytest.approx(soft[0] / soft.sum(), rel=1e-5)


def test_lessons_are_kept(tmp_path: Path) -> None:
    assert kept_lessons(tmp_path / "lessons.json") is None
    lessons = demonstrated(ADDITION, 5, 0)
    keep_lessons(tmp_path / "lessons.json", lessons)
    assert kept_lessons(tmp_path / "lessons.json") == lessons


def test_problems_are_different_and_on_their_side_of_the_split() -> None:
    for task in FAMILIES:
        held, trained = (draw_problems(task, 60, 0, held_out=side) for side in (True, False))
        assert len({problem.prompt for problem in held}) == len(held)
        assert all(is_held_out(problem.prompt) for problem in held)
        assert not any(is_held_out(problem.prompt) for problem in trained)
        assert {problem.level for problem in trained} == set(range(task.levels))
        assert all(task.verify(problem, problem.answer) for problem in trained)


def test_teachers_are_measured_on_what_is_held_out() -> None:
    teachers = {"threes": Always("3", [1, 0]), "others": Always("x", [1, 0])}
    looked: list[int] = []
    found = analyse(teachers, [ADDITION], prompts=20, max_tokens=9, seed=0, check=lambda: looked.append(1))
    right = sum(problem.answer == "3" for problem in draw_problems(ADDITION, 20, 0, held_out=True))
    assert found.scores["threes"]["addition"].right == right
    assert found.scores["others"]["addition"].score == 0
    assert found.parameters == {"threes": 10, "others": 10}
    assert len(looked) == 2
    problems = draw_problems(ADDITION, 4, 0, held_out=True)
    shown = [Lesson("addition", [1], answer_ids("", problem.answer)) for problem in problems]
    assert measured(ADDITION, problems, shown).right == 4


def test_every_problem_of_a_file_is_drawn_however_many_levels_it_has() -> None:
    levels = [[Problem("own", level, f"{level} {number}", "a") for number in range(100)] for level in range(2)]
    drawn = [draw_problems(WrittenTask("own", levels), 1000, 7, held_out=held) for held in (False, True)]
    assert sum(map(len, drawn)) == 200


@pytest.mark.parametrize(
    ("prompts", "held_out", "said"),
    [(["é"] * 40, False, "cannot read"), (["1+2"], True, "No prompt of own is"), (["96"], False, "All prompts of own")],
)
def test_a_task_that_cannot_be_asked_is_refused_in_a_sentence(prompts: list[str], held_out: bool, said: str) -> None:
    assert [is_held_out(prompt) for prompt in ("1+2", "96")] == [False, True]
    own = WrittenTask("own", [[Problem("own", 0, prompt, "a") for prompt in prompts]])
    with pytest.raises(ConfigError, match=said):
        draw_problems(own, 5, 0, held_out=held_out)
