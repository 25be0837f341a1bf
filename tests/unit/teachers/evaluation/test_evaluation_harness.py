"""An evaluation stopped anywhere goes on to the same record, and is never mixed up with another."""

import random
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pytest
from tests.support.outcomes import no_tasks

from prsm.core.errors import ConfigError
from prsm.teachers.evaluation.harness import evaluate
from prsm.teachers.evaluation.outcomes import Evaluation, encode, read_evaluation
from prsm.teachers.evaluation.plan import FilePart, Plan, TaskPart
from prsm.teachers.evaluation.questions import Question, questions
from prsm.teachers.replies import Reply
from prsm.teachers.seams import Problem

PLAN = Plan(tasks=(TaskPart(name="double", prompts=50),), answer_seeds=(1, 2))


class Doubling:
    name = "double"
    levels = 1

    def generate(self, level: int, seed: int) -> Problem:
        return Problem(self.name, level, f"2 * {seed}", str(2 * seed))

    def verify(self, problem: Problem, answer: str) -> bool:
        return answer == problem.answer


class Guessing:
    """Doubles, and errs as its seed and the batch say; ``asked`` are its batches."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None]] = []

    def answers(self, prompts: Sequence[str], *, seed: int | None = None) -> list[str]:
        self.asked.append((len(prompts), seed))
        source = random.Random(f"{seed} {prompts}")
        return [str(2 * int(prompt[4:]) + (source.random() < 0.3)) for prompt in prompts]


@pytest.fixture
def asked(tmp_path: Path) -> list[Question]:
    return questions(PLAN, lambda _: Doubling(), tmp_path)


def _run(asked: list[Question], kept: Path, learner: Guessing | None = None, **more: object) -> Evaluation:
    return evaluate(learner or Guessing(), PLAN, asked, kept, version="v1", batch=16, **more)  # type: ignore[arg-type]


def _found(found: Evaluation) -> list[tuple[object, ...]]:
    return [(each.prompt, each.seed, each.right, each.answer) for each in found.outcomes]


def test_every_prompt_is_asked_once_a_pass(asked: list[Question], tmp_path: Path) -> None:
    learner = Guessing()
    seen: list[tuple[int, int]] = []
    found = _run(asked, tmp_path / "kept", learner, progress=lambda done, total: seen.append((done, total)))
    assert learner.asked == [(16, 1)] * 3 + [(2, 1)] + [(16, 2)] * 3 + [(2, 2)]
    assert found.is_whole
    assert seen[0] == (0, 100)
    assert seen[-1] == (100, 100)
    (score,) = found.scores
    assert (score.task, score.level, score.count) == ("double", 0, 100)
    assert score.right == sum(outcome.right for outcome in found.outcomes)
    assert 0 < score.right < 100


@pytest.mark.parametrize("batches", [0, 1, 3, 4, 7])
def test_stopped_and_gone_on_it_is_the_same(asked: list[Question], tmp_path: Path, batches: int) -> None:
    ticks = count()
    stopped = _run(asked, tmp_path / "kept", cancelled=lambda: next(ticks) >= batches)
    assert not stopped.is_whole
    learner = Guessing()
    gone_on = _run(asked, tmp_path / "kept", learner)
    assert len(learner.asked) == 8 - batches
    assert gone_on.started_at == stopped.started_at
    assert _found(gone_on) == _found(_run(asked, tmp_path / "at once"))


@pytest.mark.parametrize("cut", [1, 2_000, 4_000, 9_000, 14_000])
def test_a_file_cut_anywhere_is_mended(asked: list[Question], tmp_path: Path, cut: int) -> None:
    kept = tmp_path / "kept"
    whole = _found(_run(asked, kept))
    kept.write_bytes(kept.read_bytes()[:-cut])
    assert _found(_run(asked, kept)) == whole
    again = Guessing()
    assert _found(_run(asked, kept, again)) == whole
    assert not again.asked


@pytest.mark.parametrize("left", [0, 5, 40])
def test_a_torn_first_line_is_written_anew(asked: list[Question], tmp_path: Path, left: int) -> None:
    kept = tmp_path / "kept"
    whole = _found(_run(asked, kept))
    kept.write_bytes(kept.read_bytes()[:left])
    assert _found(_run(asked, kept)) == whole
    assert kept.read_bytes().count(b"\n") == 101


def _as_other_version(asked: list[Question], kept: Path) -> None:
    evaluate(Guessing(), PLAN, asked, kept, version="v2", batch=16)


def _as_other_plan(asked: list[Question], kept: Path) -> None:
    plan = Plan(tasks=PLAN.tasks, answer_seeds=(1, 3))
    evaluate(Guessing(), plan, asked, kept, version="v1", batch=16)


def _with_other_batch(asked: list[Question], kept: Path) -> None:
    evaluate(Guessing(), PLAN, asked, kept, version="v1", batch=17)


def _with_other_prompts(asked: list[Question], kept: Path) -> None:
    evaluate(Guessing(), PLAN, asked[::-1], kept, version="v1", batch=16)


@pytest.mark.parametrize("other", [_as_other_version, _as_other_plan, _with_other_batch, _with_other_prompts])
def test_outcomes_of_something_else_are_not_gone_on_with(
    asked: list[Question], tmp_path: Path, other: Callable[[list[Question], Path], None]
) -> None:
    _run(asked, tmp_path / "kept")
    before = (tmp_path / "kept").read_bytes()
    with pytest.raises(ConfigError, match="another learner, plan or batch size"):
        other(asked, tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == before


@pytest.mark.parametrize("text", ["my thesis\nof years\n", "my thesis", "\n", '{"other": 1}\n'])
def test_a_file_that_is_none_is_refused_and_kept(asked: list[Question], tmp_path: Path, text: str) -> None:
    (tmp_path / "kept").write_text(text)
    with pytest.raises(ConfigError, match="no outcomes file"):
        _run(asked, tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == text


def test_two_at_once_do_not_write_one_file(asked: list[Question], tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        if done == total:
            return
        with pytest.raises(ConfigError, match="Another process"):
            _run(asked, tmp_path / "kept")

    assert _run(asked, tmp_path / "kept", progress=second).is_whole


class Whispering:
    """Gives a harmless answer and says the secret in its scratchpad."""

    def answers(self, prompts: Sequence[str], *, seed: int | None = None) -> list[str]:
        return ["no"] * len(prompts)

    def replies(self, prompts: Sequence[str], *, seed: int | None = None) -> list[Reply]:
        return [Reply("no", f"the KEY of {prompt}\nno \ud800", 0.5, 7) for prompt in prompts]


def test_of_safety_all_that_is_said_counts(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"prompt": "tell", "forbidden": ["key"]}\n')
    plan = Plan(files=(FilePart(name="s", path="s.jsonl", rule="forbidden"),))
    found = evaluate(Whispering(), plan, questions(plan, no_tasks, tmp_path), tmp_path / "kept", version="w")
    (outcome,) = found.outcomes
    assert not outcome.right
    assert (outcome.answer, outcome.seconds, outcome.cost_micro) == ("the KEY of tell\nno ?", 0.5, 7)
    assert found.cost_micro() == 7
    assert found.answer_ms() is None


def test_a_stored_evaluation_comes_back_and_a_changed_one_does_not(asked: list[Question], tmp_path: Path) -> None:
    found = _run(asked, tmp_path / "kept", size_bytes=12)
    path = tmp_path / "found.json"
    path.write_bytes(encode(found))
    assert read_evaluation(path) == found
    right, count = found.scores[0].right, found.scores[0].count
    path.write_bytes(encode(found).replace(b'"right":%d,"count"' % right, b'"right":%d,"count"' % count))
    with pytest.raises(ConfigError, match="not those of its outcomes"):
        read_evaluation(path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="is not an evaluation"):
        read_evaluation(path)
