"""The teachers that come with the node: they do what their cards say, and a run becomes one of them."""

from pathlib import Path

import pytest

from prsm.teachers import family
from prsm.teachers.seams import Problem
from prsm.teachers.tasks.held_out import problems
from prsm.teachers.tasks.registry import task
from prsm.teachers.teacher_model import FAMILY, FolderTeacher
from prsm.teachers.training.main import main as train

MEMBERS = sorted(path.name for path in FAMILY.iterdir())
RECIPES = Path(family.__file__).parent / "recipes"
FRESH_SEED = 77_000_000


def asked(name: str, count: int) -> list[Problem]:
    """Held-out problems of every task and level, from seeds that no exam has used."""
    found: list[Problem] = []
    for part, levels in family.KIN[name].levels.items():
        for level in levels:
            drawn = problems(task(part), level, FRESH_SEED, held_out=True)
            found += [next(drawn) for _ in range(count)]
    return found


def test_all_that_are_described_are_there_and_small() -> None:
    assert sorted(family.KIN) == MEMBERS
    assert sum(path.stat().st_size for path in FAMILY.rglob("*") if path.is_file()) <= 40_000_000


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_answers_what_it_says_it_does(name: str) -> None:
    teacher = FolderTeacher.load(FAMILY / name)
    given = asked(name, 12)
    answers = teacher.answers([problem.prompt for problem in given])
    right = [task(p.task).verify(p, answer) for p, answer in zip(given, answers, strict=True)]
    examined = sum(score.right for score in teacher.about.scores) / sum(score.items for score in teacher.about.scores)
    assert examined > 0.9
    assert sum(right) / len(right) > examined - 0.05
    assert all(teacher.understands(problem.prompt) for problem in given)
    card = (FAMILY / name / "README.md").read_text()
    assert teacher.version in card
    assert "--out RUN`" in card


def test_the_distilled_member_is_level_with_its_teachers_at_a_quarter_of_their_weights() -> None:
    student, *taught = (FolderTeacher.load(FAMILY / name) for name in ("letters-numerals", "letters", "numerals"))
    scores = [score for teacher in taught for score in teacher.about.scores]
    assert [score.evaluation for score in student.about.scores] == sorted(score.evaluation for score in scores)
    assert sum(score.right for score in student.about.scores) >= 0.97 * sum(score.right for score in scores)
    weights = sum(teacher.model.shape.parameters() for teacher in taught)
    assert student.model.shape.parameters() <= 0.25 * weights
    card = (FAMILY / "letters-numerals" / "README.md").read_text()
    assert all(f"@{teacher.version}`" in card for teacher in taught)


@pytest.mark.parametrize(
    "text",
    [
        "Write a poem", "Spell Elephant backwards.", "Spell backwards.", "How many times is ee in elephant?",
        "Write 0 in binary.", "Write -5 in binary.", "Write 10000 in binary.", "Write 4000 in Roman numerals.",
        "What number is IIII?", "What number is it?", "Sort 1.", "Sort 1, 2, 3, 4, 5, 6.", "What is 12 / 13?",
        "What is 12 + 30?", "",
    ],
)  # fmt: skip
def test_what_no_member_was_trained_for_is_refused(text: str) -> None:
    assert not [name for name in MEMBERS if FolderTeacher.load(FAMILY / name).understands(text)]


def test_a_run_becomes_a_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(family, "_PROMPTS", 3)
    run = tmp_path / "run"
    assert family.main(["letters", str(run)]) == 1
    recipe = str(RECIPES / "letters.toml")
    assert train([recipe, "--out", str(run), "--set", "plan.steps=2", "--set", "model.width=16"]) == 0
    found = family.ship("letters", run, tmp_path / "family")
    made = FolderTeacher.load(tmp_path / "family" / "letters")
    assert [path.name for path in (tmp_path / "family").iterdir()] == ["letters"]
    assert made.model.int8
    assert found.learner == made.version
    assert {score.evaluation: score.items for score in made.about.scores} == dict.fromkeys(made.about.tasks, 12)
    family.ship("letters", run, tmp_path / "family")  # in place of what is there
    assert (tmp_path / "family" / "letters" / "README.md").is_file()
