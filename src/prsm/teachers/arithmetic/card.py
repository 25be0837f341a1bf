"""What the model card beside a teacher says of its exam, for those who register it, if it is about these weights."""

import re
from dataclasses import dataclass
from pathlib import Path

_EXAM = re.compile(r"`python -m (prsm\.teachers\.arithmetic\.evaluate) [^`]*--seed (\d+)`")
_WEIGHTS = re.compile(r"Weights SHA-256 `([0-9a-f]{64})`")
_ROW = re.compile(r"^\| (?P<family>[a-z_]+) \| (?P<level>[a-z ]+) \| (?P<right>\d+)/(?P<items>\d+) \|", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Exam:
    """One level's result: ``right`` of ``items`` held-out prompts, by the evaluation of this id."""

    evaluation: str
    right: int
    items: int


def exams(card: Path, version: str) -> tuple[Exam, ...]:
    """The results in a card, if it is about the weights whose hash begins with ``version``; none without a card."""
    try:
        text = card.read_text(encoding="utf-8")
    except OSError:
        return ()
    weights, exam = _WEIGHTS.search(text), _EXAM.search(text)
    if not version or weights is None or exam is None or not weights[1].startswith(version):
        return ()
    run = f"{exam[1]}#seed={exam[2]}"
    return tuple(
        Exam(f"{run}/{row['family']}/{row['level'].replace(' ', '-')}", int(row["right"]), int(row["items"]))
        for row in _ROW.finditer(text)
    )
