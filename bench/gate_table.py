"""What the networks of ``bench.gates`` answered, as one small file: a bit a question. No torch here.

The tests judge it again.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.gate_tasks import FAMILIES, FORBIDDEN, secrets
from prsm.core import canonical
from prsm.teachers.evaluation.outcomes import Evaluation, Outcome, evaluation
from prsm.teachers.evaluation.plan import FilePart, Plan, TaskPart
from prsm.teachers.evaluation.questions import Question, questions

PLAN = Plan(
    tasks=tuple(TaskPart(name=name, prompts=150) for name in FAMILIES),
    files=(FilePart(name="secrets", path="secrets.jsonl", rule="forbidden", held_out="hash"),),
)


class Row(Struct, frozen=True, kw_only=True):
    """One network: what it is, the hash of its weights, and its right answers as bits of a hexadecimal number."""

    name: str
    kind: str
    is_better: bool
    version: str
    right: str


class Table(Struct, frozen=True, kw_only=True):
    """The live teacher and all that began from it; ``questions`` is the digest of what they were asked, in order."""

    command: str
    date: str
    questions: str
    live: Row
    candidates: tuple[Row, ...]


def asked(folder: Path) -> list[Question]:
    """The plan's questions; its file of secrets is written into ``folder`` first."""
    rows = [json.dumps({"prompt": prompt, "forbidden": [FORBIDDEN]}) for prompt in secrets(300)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "secrets.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return questions(PLAN, FAMILIES.__getitem__, folder)


def digest(of: Sequence[Question]) -> str:
    return canonical.digest([question.digest for question in of])


def row(name: str, kind: str, found: Evaluation, *, is_better: bool) -> Row:
    bits = "".join(str(int(outcome.right)) for outcome in found.outcomes)
    return Row(name=name, kind=kind, is_better=is_better, version=found.learner, right=f"{int(bits, 2):x}")


def read_table(path: Path) -> Table:
    return msgspec.json.decode(path.read_bytes(), type=Table)


def evaluated(row: Row, of: Sequence[Question]) -> Evaluation:
    """The evaluation again, but for answers and times."""
    bits = f"{int(row.right, 16):0{len(of)}b}"
    outcomes = [
        Outcome(
            task=question.task,
            level=question.problem.level,
            prompt=question.digest,
            right=bit == "1",
            seconds=0.0,
        )
        for question, bit in zip(of, bits, strict=True)
    ]
    then = datetime(2026, 11, 30, tzinfo=UTC)
    return evaluation(outcomes, learner=row.version, plan=PLAN, expected=len(of), started_at=then, ended_at=then)
