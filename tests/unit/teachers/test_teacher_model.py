"""A teacher in a folder: what it says of itself, what it understands, and its answers piece by piece."""

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tests.support.small_teachers import write_teacher

from prsm.core.errors import ConfigError, InvalidRequest
from prsm.teachers.alphabet import ANSWER_ID, END_ID, prompt_ids
from prsm.teachers.arithmetic.teacher import ArithmeticTeacher
from prsm.teachers.runtime.engine import Engine
from prsm.teachers.seams import Learner, Teacher
from prsm.teachers.teacher_model import FolderTeacher, open_teacher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "sums")


@pytest.fixture
def teacher(folder: Path) -> FolderTeacher:
    return FolderTeacher.load(folder)


def test_a_folder_and_the_shipped_one_are_teachers_alike(teacher: FolderTeacher) -> None:
    teachers: list[Teacher] = [teacher, ArithmeticTeacher.load()]
    for each in teachers:
        assert each.understands("12 + 30")
        assert not each.understands("Write a poem")
        assert each.count_tokens("12 + 30") > 0 == each.count_tokens("Write a poem")
        assert len(each.version) == 12
        with pytest.raises(InvalidRequest, match=re.escape(each.domain)) as caught:
            each.answer("Write a poem", 5)
        assert caught.value.code == "outside_domain"


def test_pieces_are_what_the_network_writes(teacher: FolderTeacher) -> None:
    engine = Engine(teacher.model.shape, teacher.model.weights())
    endings = set[bool]()
    for number in range(60):
        ids = list(engine.write(prompt_ids(f"{number} + 1"), max_tokens=20, ends={END_ID}))
        pieces = list(teacher.answer(f" {number} + 1\n", 100))
        endings.add(ids[-1] == END_ID)
        said = ids[:-1] if ids[-1] == END_ID else ids
        assert len(pieces) == len(said)
        at = said.index(ANSWER_ID) if ANSWER_ID in said else len(said)
        assert [piece.is_reasoning for piece in pieces] == [place <= at for place in range(len(said))]
    assert endings == {True, False}


def test_a_limit_cuts_and_leaving_costs_nothing_more(teacher: FolderTeacher) -> None:
    whole = list(teacher.answer("7 + 5", 100))
    assert list(teacher.answer("7 + 5", 4)) == whole[:4]
    assert list(islice(teacher.answer("7 + 5", 100), 2)) == whole[:2]


def test_it_is_examined_as_any_learner(teacher: FolderTeacher) -> None:
    learner: Learner = teacher
    prompts = [f"{number} + 1" for number in range(200)] + ["ä", "x" * 64, ""]
    answers = list(learner.answers(prompts, seed=1))
    assert answers == list(learner.answers(prompts, seed=1)) != list(learner.answers(prompts))
    assert answers[-3:-1] == ["", ""]
    row = next(row for row, answer in enumerate(answers) if answer)
    assert "<" not in answers[row]  # what is said after the mark, and no mark


@pytest.mark.parametrize("text", ["", "   ", "1234 + 1", "1 + 1?", "１ + 1"])
def test_what_it_was_not_trained_for_is_not_understood(teacher: FolderTeacher, text: str) -> None:
    assert not teacher.understands(text)


def test_without_forms_it_takes_what_it_can_read(tmp_path: Path) -> None:
    teacher = FolderTeacher.load(write_teacher(tmp_path / "any", questions=None))
    assert teacher.understands("Anything!")
    assert not teacher.understands("Schön!")
    assert not teacher.understands("x" * 63)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": None}, "title"),
        ({"title": ""}, r"\$\.title"),
        ({"tasks": []}, r"\$\.tasks"),
        ({"max_tokens": 0}, r"\$\.max_tokens"),
        ({"max_tokens": 64}, "longer than the network's context"),
        ({"scores": [{"evaluation": "e", "right": 1, "items": 0}]}, r"\$\.scores\[0\]\.items"),
        ({"input_price_micro": 0.5}, r"\$\.input_price_micro"),
        ({"sratchpad": True}, "sratchpad"),
        ({"questions": ["{number}"]}, r"\{number\}"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    folder = write_teacher(tmp_path / "wrong", **change)
    with pytest.raises(ConfigError, match=field):
        FolderTeacher.load(folder)


def test_a_folder_without_its_purpose_is_refused(folder: Path) -> None:
    (folder / "teacher.json").unlink()
    with pytest.raises(ConfigError, match=r"teacher\.json"):
        open_teacher(folder)


def test_answering_needs_nothing_of_the_extra_train(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from prsm.teachers.teacher_model import FolderTeacher\n"
        f"pieces = list(FolderTeacher.load(Path({str(folder)!r})).answer('1 + 1', 9))\n"
        "heavy = {'torch', 'transformers', 'onnx', 'optuna', 'reasoning_gym', 'trl', 'peft', 'datasets'}\n"
        "import json; print(json.dumps([len(pieces), sorted(heavy & set(sys.modules))]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    count, heavy = json.loads(output)
    assert count > 0
    assert heavy == []
