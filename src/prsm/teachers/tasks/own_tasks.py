"""A user's own tasks: a JSONL file of questions and answers, or a Python file that runs only in the sandbox.

A line of JSONL is ``{"prompt": "...", "answer": "...", "level": 0}``. A Python file names ``LEVELS``, a whole number,
and has ``generate(level, seed)``, which gives the prompt, the answer and, if it likes, facts as a mapping of JSON, and
``verify(prompt, answer, facts, said)``, which says whether ``said`` is right. Only the standard library is there.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from prsm.core.errors import ConfigError, PrsmError
from prsm.teachers.sandbox.run import PYTHON, run
from prsm.teachers.sandbox.seams import Limits, Outcome
from prsm.teachers.seams import Problem

MAX_LINES: Final = 1_000_000
_MAX_LEVEL: Final = 1_000
_AT_ONCE: Final = 64
"""Problems that one run of the sandbox makes."""
LIMITS: Final = Limits(cpu_s=10, wall_s=60.0)
"""What a task's code may use each time it is asked."""
_Kind = TypeVar("_Kind")


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    prompt: str
    answer: str
    level: int = 0


class WrittenTask(Struct, frozen=True):
    """Questions that stand in a file, by level. A seed picks one of its level: it is its number there, modulo them."""

    name: str
    problems: Sequence[Sequence[Problem]]

    @property
    def levels(self) -> int:
        """As many as the file has."""
        return len(self.problems)

    def generate(self, level: int, seed: int) -> Problem:
        """The question of this number at this level."""
        return self.problems[level][seed % len(self.problems[level])]

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether the answer is the reference, white space around both aside."""
        return answer.strip() == problem.answer.strip()


class CodeFailed(PrsmError):
    """A user's task did what it must not, or did not do what it must."""


class CodeTask(Struct, frozen=True):
    """A user's Python file, run in the sandbox each time it is asked something; so much that it is asked in batches."""

    name: str
    levels: int
    code: bytes
    limits: Limits = LIMITS

    def generate(self, level: int, seed: int) -> Problem:
        """The problem of this seed. Raises CodeFailed where the file gives none, SandboxRefused where it cannot run."""
        if not 0 <= level < self.levels:
            raise ValueError(f"{self.name} has levels 0 to {self.levels - 1}")
        prompt, answer, facts = _made(self.code, self.limits, level, seed // _AT_ONCE)[seed % _AT_ONCE]
        return Problem(self.name, level, prompt, answer, facts)

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether the file says that the answer is right; one on which it takes too long or too much is wrong."""
        return self.verify_all([problem], [answer])[0]

    def verify_all(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[bool]:
        """``verify`` of many, in one run of the sandbox and two more for each that exceeds a limit."""
        asked = [
            {"prompt": problem.prompt, "answer": problem.answer, "facts": problem.facts, "said": answer}
            for problem, answer in zip(problems, answers, strict=True)
        ]
        found: list[bool] = []
        while len(found) < len(asked):
            left = asked[len(found) :]
            outcome = _asked(self.code, self.limits, {"verify": left})
            found += _read(outcome, list[bool], len(left))
            if outcome.is_over_limit and len(found) < len(asked):  # on this one, or on all before it together
                alone = _asked(self.code, self.limits, {"verify": [asked[len(found)]]})
                found.append(alone.ended == "done" and _read(alone, list[bool], 1)[0])
        return found


def written_task(path: Path) -> WrittenTask:
    """The task of a JSONL file, named after it. Raises ConfigError with the number of a line that is none."""
    levels: dict[int, list[Problem]] = {}
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            if text.strip():
                try:
                    line = msgspec.json.decode(text, type=_Line)
                except msgspec.DecodeError as error:
                    raise ConfigError(f"{path.name}, line {number}: {error}.", param="task") from error
                if number > MAX_LINES or not 0 <= line.level < _MAX_LEVEL:
                    raise ConfigError(f"{path.name}, line {number}: too many lines, or a level too high.", param="task")
                levels.setdefault(line.level, []).append(Problem(path.stem, line.level, line.prompt, line.answer))
    if sorted(levels) != list(range(len(levels))) or not levels:
        raise ConfigError(f"{path.name} must have questions of each level from 0.", param="task")
    return WrittenTask(path.stem, [levels[level] for level in range(len(levels))])


def code_task(path: Path, limits: Limits = LIMITS) -> CodeTask:
    """The task of a Python file, named after it. Raises CodeFailed or SandboxRefused where it does not run."""
    code = path.read_bytes()
    levels = _read(_done(_asked(code, limits, {"levels": True})), list[int], 1)[0]
    if not 1 <= levels <= _MAX_LEVEL:
        raise ConfigError(f"{path.name} must name 1 to {_MAX_LEVEL} LEVELS.", param="task")
    return CodeTask(path.stem, levels, code, limits)


@lru_cache(maxsize=256)
def _made(code: bytes, limits: Limits, level: int, block: int) -> list[tuple[str, str, dict[str, Any]]]:
    seeds = [block * _AT_ONCE + place for place in range(_AT_ONCE)]
    outcome = _done(_asked(code, limits, {"generate": [{"level": level, "seed": seed} for seed in seeds]}))
    return _read(outcome, list[tuple[str, str, dict[str, Any]]], len(seeds))


def _asked(code: bytes, limits: Limits, request: Mapping[str, Any]) -> Outcome:
    """Run the file on a request. Raises CodeFailed where it broke rather than exceeded a limit."""
    files = {"task.py": code, "ask.py": _ASK.encode()}
    outcome = run([*PYTHON, "ask.py"], limits, stdin=json.dumps(request).encode(), files=files)
    if outcome.ended != "done" and not outcome.is_over_limit:
        last = outcome.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise CodeFailed(f"The task's code ended with `{outcome.ended}`: {last or 'it said nothing'}.")
    return outcome


def _done(outcome: Outcome) -> Outcome:
    if outcome.ended != "done":
        raise CodeFailed(f"The task's code exceeded its limit of {outcome.ended}.")
    return outcome


def _read(outcome: Outcome, kind: type[_Kind], asked: int) -> _Kind:
    """The lines that it answered, a whole one each: as many as asked, or fewer where it exceeded a limit."""
    whole = outcome.stdout.rpartition(b"\n")[0].splitlines()
    if len(whole) > asked or (len(whole) < asked and outcome.ended == "done"):
        raise CodeFailed(f"The task's code was asked {asked} times, gave {len(whole)} answers and ended.")
    try:
        return msgspec.convert([msgspec.json.decode(line) for line in whole], kind)
    except msgspec.DecodeError as error:
        raise CodeFailed(f"The task's code answered something else than it was asked: {error}.") from error


_ASK: Final = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the task prints is no answer
sys.path.insert(0, os.getcwd())
import task
def say(value):
    print(json.dumps(value), file=answers, flush=True)
request = json.load(sys.stdin)
if "levels" in request:
    say(task.LEVELS)
for asked in request.get("generate", ()):
    made = task.generate(asked["level"], asked["seed"])
    say([*made, {}][:3])
for asked in request.get("verify", ()):
    say(bool(task.verify(asked["prompt"], asked["answer"], asked["facts"], asked["said"])))
"""
