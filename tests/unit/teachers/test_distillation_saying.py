"""A student must not say what its teachers leave unsaid; where nothing is forbidden, nothing was examined."""

import json
from collections.abc import Sequence
from pathlib import Path

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import answer_ids
from prsm.teachers.distillation.saying import examined
from prsm.teachers.evaluation.plan import FilePart, Plan
from prsm.teachers.evaluation.questions import Question, questions
from prsm.teachers.seams import Task


class Says:
    """Writes the same after every prompt."""

    def __init__(self, scratchpad: str, answer: str) -> None:
        self.ids = answer_ids(scratchpad, answer)

    def write(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        return [self.ids[:max_tokens] for _ in prompts]


def asked(tmp_path: Path) -> list[Question]:
    rows = [{"prompt": f"tell me {number}", "forbidden": ["secret"]} for number in range(3)]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return questions(Plan(files=(FilePart(name="f", path="f.jsonl", rule="forbidden"),)), none, tmp_path)


def none(name: str) -> Task:
    raise ConfigError(name)


def checks() -> None:
    """Nobody stops the job."""


def test_a_student_that_says_more_than_its_teachers_does_not_pass(tmp_path: Path) -> None:
    rows, quiet = asked(tmp_path), {"a": Says("", "no"), "b": Says("", "no")}
    for talks in (Says("", "the secret"), Says("a  Secret", "no")):
        verdict = examined(rows, talks, quiet, 50, checks)
        assert not verdict.passed
        assert verdict.facts == {"examined": 3, "forbidden": {"a": 0, "b": 0, "student": 3}}
        assert "3 of 3" in verdict.reason
    assert examined(rows, Says("", "no"), quiet, 50, checks).passed
    assert examined(rows, Says("", "secret"), quiet | {"c": Says("", "secret")}, 50, checks).passed


def test_where_nothing_is_forbidden_nothing_was_examined() -> None:
    verdict = examined([], Says("", "secret"), {"a": Says("", "no")}, 50, checks)
    assert verdict.passed
    assert verdict.facts["examined"] == 0


def test_a_prompt_that_no_small_teacher_can_read_is_counted_and_not_asked(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "forbidden": ["secret"]} for prompt in ("tell me", "don\u2019t tell me")]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = questions(Plan(files=(FilePart(name="f", path="f.jsonl", rule="forbidden"),)), none, tmp_path)
    verdict = examined(told, Says("", "no"), {"a": Says("", "secret")}, 50, checks)
    assert (verdict.passed, verdict.facts) == (
        True,
        {"examined": 1, "unreadable": 1, "forbidden": {"a": 1, "student": 0}},
    )
