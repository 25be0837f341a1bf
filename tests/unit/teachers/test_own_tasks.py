"""A user's own tasks: what a file of questions says, and code that only ever runs in the sandbox."""

import json
from pathlib import Path

import pytest

from prsm.core.errors import ConfigError
from prsm.teachers.sandbox.seams import Limits
from prsm.teachers.seams import Problem
from prsm.teachers.tasks.own_tasks import CodeFailed, CodeTask, code_task
from prsm.teachers.tasks.registry import OWN, task

QUICK = Limits(cpu_s=1, wall_s=60.0)

DOUBLES = """
LEVELS = 3
def generate(level, seed):
    print("noise")
    return f"double {seed + level}", str(2 * (seed + level)), {"n": seed + level}
def verify(prompt, answer, facts, said):
    if said == "loop":
        while True: pass
    if said == "net":
        import socket; socket.socket()
    if said == "bug":
        raise KeyError("said")
    return said.strip() == str(2 * facts["n"])
"""


@pytest.fixture
def doubles(tmp_path: Path) -> CodeTask:
    (tmp_path / "doubles.py").write_text(DOUBLES)
    return code_task(tmp_path / "doubles.py", QUICK)


def test_code_makes_problems_and_judges_answers(doubles: CodeTask) -> None:
    assert (doubles.name, doubles.levels) == ("doubles", 3)
    problem = doubles.generate(2, 70)
    assert problem == Problem("doubles", 2, "double 72", "144", {"n": 72}) == doubles.generate(2, 70)
    assert doubles.verify_all([problem] * 3, ["144", " 144\n", "145"]) == [True, True, False]
    with pytest.raises(ValueError, match="levels 0 to 2"):
        doubles.generate(3, 0)


def test_an_answer_on_which_the_verifier_never_ends_is_wrong_and_the_others_are_judged(doubles: CodeTask) -> None:
    problem = doubles.generate(0, 3)
    assert doubles.verify_all([problem] * 3, ["6", "loop", "6"]) == [True, False, True]


@pytest.mark.parametrize(("said", "named"), [("net", "network"), ("bug", "KeyError: 'said'")])
def test_a_verifier_that_breaks_is_told_of(doubles: CodeTask, said: str, named: str) -> None:
    with pytest.raises(CodeFailed, match=named):
        doubles.verify(doubles.generate(0, 3), said)


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import socket; socket.socket()", "network"),
        ("LEVELS = 'x'", "something else"),
        ("x = 1", "no attribute 'LEVELS'"),
        ("while True: pass", "cpu"),
        ("LEVELS = 0", "1 to 1000 LEVELS"),
    ],
)
def test_code_that_is_no_task_is_refused(tmp_path: Path, code: str, named: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises((CodeFailed, ConfigError), match=named):
        code_task(tmp_path / "bad.py", QUICK)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ends", ["raise SystemExit", "import os; os._exit(0)"])
def test_code_that_ends_before_it_has_answered_is_told_of(tmp_path: Path, ends: str) -> None:
    with pytest.raises(CodeFailed, match="asked 1 times, gave 0 answers"):
        CodeTask("t", 1, f"def verify(*asked):\n    {ends}\n".encode()).verify(Problem("t", 0, "p", "a", {}), "a")
    with pytest.raises(CodeFailed, match="asked 64 times, gave 0 answers"):
        CodeTask("t", 1, f"def generate(*asked):\n    {ends}\n".encode()).generate(0, 3)
    (tmp_path / "bad.py").write_text(f"LEVELS = 1\n{ends}\n")
    with pytest.raises(CodeFailed, match="asked 1 times, gave 0 answers"):
        code_task(tmp_path / "bad.py", QUICK)


def test_code_that_answers_more_than_it_was_asked_is_told_of() -> None:
    code = b"import os\ndef verify(*asked):\n    [os.write(fd, b'true\\n') for fd in range(3, 9) if is_open(fd)]\n"
    code += b"def is_open(fd):\n    try: return os.fstat(fd).st_mode & 0o010000\n    except OSError: return False\n"
    with pytest.raises(CodeFailed, match="asked 1 times, gave 2 answers"):
        CodeTask("t", 1, code).verify(Problem("t", 0, "p", "a", {}), "a")


def _lines(path: Path, *lines: object) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_questions_of_a_file_stand_by_level(tmp_path: Path) -> None:
    _lines(
        tmp_path / "mine.jsonl",
        {"prompt": "a", "answer": "1"},
        {"prompt": "b", "answer": "2 ", "level": 1},
        {"prompt": "c", "answer": "3"},
    )
    mine = task("file:mine.jsonl", tmp_path)
    assert (mine.name, mine.levels) == ("mine", 2)
    assert [mine.generate(0, seed).prompt for seed in range(3)] == ["a", "c", "a"]
    second = mine.generate(1, 5)
    assert (second.prompt, mine.verify(second, "\n2"), mine.verify(second, "2.")) == ("b", True, False)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([{"prompt": "a", "answer": "1"}, {"prompt": "b"}], "line 2.*answer"),
        ([{"prompt": "a", "answer": 1}], "line 1"),
        ([{"prompt": "a", "answer": "1", "lvl": 2}], "lvl"),
        ([{"prompt": "a", "answer": "1", "level": -1}], "level"),
        ([{"prompt": "a", "answer": "1", "level": 2}], "each level from 0"),
        ([], "each level from 0"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, lines: list[object], named: str) -> None:
    _lines(tmp_path / "bad.jsonl", *lines)
    with pytest.raises(ConfigError, match=named):
        task("file:bad.jsonl", tmp_path)


def test_tasks_that_come_with_the_project_bear_their_names() -> None:
    assert [task(name).name for name in OWN] == list(OWN)


def test_a_file_of_code_is_a_task_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "doubles.py").write_text(DOUBLES)
    assert task("file:doubles.py", tmp_path).levels == 3


@pytest.mark.parametrize("name", ["nothing", "gym:", "file:", "file:absent.jsonl", "file:notes.txt"])
def test_an_unknown_task_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError) as refused:
        task(name, tmp_path)
    assert refused.value.param == "task"
