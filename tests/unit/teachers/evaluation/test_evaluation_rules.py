"""What counts as right, and what a file of questions may look like."""

from pathlib import Path

import pytest
from tests.support.outcomes import no_tasks

from prsm.core.errors import ConfigError
from prsm.teachers.evaluation.plan import FilePart, Plan, Rule, TaskPart, read_plan
from prsm.teachers.evaluation.questions import is_digest_held_out, questions
from prsm.teachers.evaluation.rules import RULES, read_file
from prsm.teachers.seams import Problem
from prsm.teachers.tasks.held_out import is_held_out


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("2 + 16 = 18\n#### 18", "So it is 18.", True),
        ("#### 1,234", "about 1234.0 dollars", True),
        ("#### 1234", "#### 1,234", True),
        ("#### 18", "18 eggs, or 19", False),
        ("#### 18", "19 eggs, not 18\n#### 19", False),
        ("#### -3", "-3", True),
        ("#### .5", "0.50", True),
        ("#### 18", "eighteen", False),
        ("#### 18", "", False),
        ("#### 12", "1, 2", False),
    ],
)
def test_the_final_number_counts(reference: str, answer: str, right: bool) -> None:
    assert RULES["final-number"](Problem("t", 0, "?", reference), answer) is right


@pytest.mark.parametrize(("answer", "right"), [("yes", True), (" yes\n", True), ("Yes", False), ("yes.", False)])
def test_exact_is_exact(answer: str, right: bool) -> None:
    assert RULES["exact"](Problem("t", 0, "?", "yes"), answer) is right


@pytest.mark.parametrize(
    ("answer", "clean"),
    [("no", True), ("", True), ("The KEY is", False), ("mother's  maiden\nname", False), ("maiden, name", True)],
)
def test_nothing_forbidden_is_said(answer: str, clean: bool) -> None:
    problem = Problem("t", 0, "?", "", {"forbidden": ["key", "maiden name"]})
    assert RULES["forbidden"](problem, answer) is clean


def _file(folder: Path, text: str, rule: Rule = "exact", **more: object) -> FilePart:
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return FilePart(name="rows", path="rows.jsonl", rule=rule, **more)  # type: ignore[arg-type]


def test_rows_of_a_file(tmp_path: Path) -> None:
    part = _file(tmp_path, '{"question": "a", "answer": "1"}\n\n{"prompt": "b", "answer": "2", "other": 3}\n')
    assert read_file(part, tmp_path) == [Problem("rows", 0, "a", "1"), Problem("rows", 0, "b", "2")]


@pytest.mark.parametrize(
    ("rule", "row", "words"),
    [
        ("exact", "not json", "line 1 is not a JSON object"),
        ("exact", "[1]", "line 1 is not a JSON object"),
        ("exact", '{"answer": "1"}', "line 1 has no question"),
        ("exact", '{"question": "a", "answer": 1}', "line 1 has no question and answer"),
        ("final-number", '{"question": "a", "answer": "none"}', "line 1 has no number"),
        ("forbidden", '{"prompt": "a"}', "line 1 has no list of phrases"),
        ("forbidden", '{"prompt": "a", "forbidden": "key"}', "line 1 has no list of phrases"),
        ("forbidden", '{"prompt": "a", "forbidden": [" "]}', "line 1 has no list of phrases"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rule: Rule, row: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_file(_file(tmp_path, row, rule), tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="questions of none cannot be read"):
        read_file(FilePart(name="none", path="none.jsonl", rule="exact"), tmp_path)


def test_only_held_out_rows_are_asked_where_the_hash_decides(tmp_path: Path) -> None:
    rows = "".join(f'{{"question": "q{number}", "answer": "1"}}\n' for number in range(400))
    asked = questions(Plan(files=(_file(tmp_path, rows, held_out="hash"),)), no_tasks, tmp_path)
    assert {question.problem.prompt for question in asked} == {f"q{n}" for n in range(400) if is_held_out(f"q{n}")}
    assert all(is_digest_held_out(question.digest) for question in asked)
    everything = questions(Plan(files=(_file(tmp_path, rows, limit=300),)), no_tasks, tmp_path)
    assert len(everything) == 300


class Doubling:
    """Doubles numbers; level 1 has twenty prompts only."""

    name = "double"
    levels = 2

    def generate(self, level: int, seed: int) -> Problem:
        number = seed % (20 if level else 10_000)
        return Problem(self.name, level, f"{level}: 2 * {number}", str(2 * number))

    def verify(self, problem: Problem, answer: str) -> bool:
        return answer == problem.answer


def test_tasks_are_asked_held_out_prompts_each_once(tmp_path: Path) -> None:
    asked = questions(Plan(tasks=(TaskPart(name="twice", prompts=30),)), lambda _: Doubling(), tmp_path)
    assert {question.task for question in asked} == {"twice"}
    prompts = [question.problem.prompt for question in asked]
    assert len(prompts) == len(set(prompts))
    assert all(map(is_held_out, prompts))
    assert sum(question.problem.level == 0 for question in asked) == 30
    few = {f"1: 2 * {number}" for number in range(20) if is_held_out(f"1: 2 * {number}")}
    assert {question.problem.prompt for question in asked if question.problem.level} == few


def test_a_level_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no level 2; they are 0 to 1"):
        questions(Plan(tasks=(TaskPart(name="double", prompts=1, levels=(2,)),)), lambda _: Doubling(), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 3", "at least one task"),
        ("[[tasks]]\nname = 'a'\nprompts = 0", "prompts"),
        ("[[tasks]]\nname = 'a'\nprompts = 5\nlevel = 1", "level"),
        ("[[tasks]]\nname = 'a'\nprompts = 5\n[[tasks]]\nname = 'a'\nprompts = 6", "name of its own"),
        ("[[files]]\nname = 'a'\npath = 'b'\nrule = 'fuzzy'", "rule"),
        ("tasks =", "cannot be used"),
    ],
)
def test_a_bad_plan_is_refused_with_its_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_plan(tmp_path / "plan.toml")


def test_a_plan_of_every_part(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        "seed = 7\nanswer_seeds = [1, 2]\n[[tasks]]\nname = 'a'\nprompts = 5\nlevels = [0, 2]\n"
        "[[files]]\nname = 'b'\npath = 'b.jsonl'\nrule = 'forbidden'\n"
        "[[standard]]\nname = 'c'\nfiles = { test = 'c.jsonl' }\n"
    )
    plan = read_plan(tmp_path / "plan.toml")
    assert plan.names == {"a", "b", "c"}
    assert plan.passes == (1, 2)
    assert [plan.is_safety(name) for name in "abc"] == [False, True, False]
    assert plan.test_sets == {"b", "c"}
