"""What is read of a teacher's card: its exam, and only for the weights it is about."""

from pathlib import Path

import pytest

from prsm.teachers.arithmetic.card import Exam, exams
from prsm.teachers.arithmetic.teacher import ASSETS, ArithmeticTeacher

CARD = ASSETS / "CARD.md"


def test_the_shipped_card_says_how_the_shipped_teacher_did() -> None:
    found = exams(CARD, ArithmeticTeacher.load().version)
    run = "prsm.teachers.arithmetic.evaluate#seed=20000000"
    assert len(found) == 20
    assert Exam(f"{run}/products/hard", 297, 300) in found
    assert Exam(f"{run}/flat/unlike-lengths", 299, 300) in found


@pytest.mark.parametrize("version", ["", "0123456789ab"])
def test_a_card_about_other_weights_says_nothing_of_these(version: str) -> None:
    assert exams(CARD, version) == ()


def test_a_folder_without_a_card_says_nothing(tmp_path: Path) -> None:
    assert exams(tmp_path / "CARD.md", "3a06eada7e2f") == ()
