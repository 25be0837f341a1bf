"""The shipped teacher: its weights do what the card says, and a file that was touched is refused."""

import hashlib
import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from prsm.core.errors import ConfigError, InvalidRequest
from prsm.teachers.arithmetic.phrasing import read
from prsm.teachers.arithmetic.teacher import ASSETS, FILES, ArithmeticTeacher
from prsm.teachers.tasks.held_out import is_held_out

HELD_OUT = [
    json.loads(line) for line in (Path(__file__).parent / "fixtures" / "heldout.jsonl").read_text("utf-8").splitlines()
]
FAMILIES = sorted({row["family"] for row in HELD_OUT})


@pytest.fixture(scope="module")
def teacher() -> ArithmeticTeacher:
    return ArithmeticTeacher.load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ASSETS, tmp_path / "teacher"))


def _content(teacher: ArithmeticTeacher, question: str) -> str:
    return "".join(piece.text for piece in teacher.answer(question) if not piece.is_reasoning)


def _sign(folder: Path) -> None:
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    (folder / "manifest.json").write_text(json.dumps({"version": "1", "sha256": digests}))


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_questions_are_answered_as_the_card_says(teacher: ArithmeticTeacher, family: str) -> None:
    rows = [row for row in HELD_OUT if row["family"] == family]
    right: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        problem = read(row["question"])
        assert problem is not None
        assert is_held_out(problem.canonical)
        right[row["level"]].append(_content(teacher, row["question"]) == row["answer"])
    answers = [answer for level in right.values() for answer in level]
    assert sum(answers) / len(answers) >= MINIMUM[family], {level: sum(x) / len(x) for level, x in right.items()}


MINIMUM = dict.fromkeys(FAMILIES, 0.95)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 12 + 30?", "42"),
        ("12 - 30", "-18"),
        ("7*8", "56"),
        ("5 - 5", "0"),
        ("2.5 + 1.25", "3.75"),
        ("0.25 - 1", "-0.75"),
        ("What is the gcd of 12 and 18?", "6"),
        ("How many legs do 3 cats and 2 spiders have?", "28"),
    ],
)
def test_everyday_questions(teacher: ArithmeticTeacher, question: str, answer: str) -> None:
    assert _content(teacher, question) == answer


def test_the_scratchpad_is_reasoning_and_the_answer_is_not(teacher: ArithmeticTeacher) -> None:
    pieces = list(teacher.answer("12 + 345"))
    assert "".join(piece.text for piece in pieces if piece.is_reasoning).split() == ["+", "2100000", "+", "7530000"]
    assert "".join(piece.text for piece in pieces if not piece.is_reasoning) == "357"
    assert teacher.count_tokens("12 + 345") == 8


def test_a_limit_cuts_the_answer_and_nothing_else(teacher: ArithmeticTeacher) -> None:
    whole = list(teacher.answer("12 + 345"))
    assert list(teacher.answer("12 + 345", 5)) == whole[:5]


def test_what_is_not_understood_is_refused_before_anything_is_generated(teacher: ArithmeticTeacher) -> None:
    assert not teacher.understands("Write me a poem.")
    assert teacher.count_tokens("Write me a poem.") == 0
    with pytest.raises(InvalidRequest, match="answers only sums"):
        teacher.answer("Write me a poem.")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_differs_from_the_manifest_is_refused(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ConfigError, match=f"{name} is not the file its manifest names"):
        ArithmeticTeacher.load(folder)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} cannot be read"):
        ArithmeticTeacher.load(folder)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("vocab.json", '["a"]', "not this version's vocabulary"),
        ("vocab.json", "{", "vocab.json is not as expected"),
        ("config.json", "{}", "config.json is not as expected"),
        ("config.json", '{"shape": {"layers": "four"}}', "config.json is not as expected"),
        ("model.safetensors", "no weights", "not a valid safetensors file"),
    ],
)
def test_a_signed_file_that_does_not_fit_is_refused(folder: Path, name: str, text: str, complaint: str) -> None:
    (folder / name).write_text(text)
    _sign(folder)
    with pytest.raises(ConfigError, match=complaint):
        ArithmeticTeacher.load(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"version": "1"}', '{"version": "1", "sha256": {"x": "y"}}'])
def test_a_manifest_that_lists_something_else_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        ArithmeticTeacher.load(folder)
