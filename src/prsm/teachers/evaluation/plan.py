"""What an evaluation asks: which tasks and files, how many prompts, which seeds. The same plan asks the same prompts.

A plan is compared as a whole: two evaluations of different plans say nothing about each other.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from prsm.core.errors import ConfigError

Positive = Annotated[int, Meta(ge=1)]
Whole = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1, max_length=100)]
Rule = Literal["exact", "final-number", "forbidden"]
"""How an answer to a row of a file is checked; see ``rules.py``."""
Read = TypeVar("Read", bound=Struct)


class TaskPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``prompts`` held-out prompts of each of ``levels`` (all levels where none is named) of a task."""

    name: Name
    prompts: Positive
    levels: tuple[Whole, ...] = ()


class FilePart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first ``limit`` rows of a JSONL file below the data folder, as one task of one level.

    ``held_out`` says why they are: "file" for a test set that nothing is trained on, "hash" to ask only rows that the
    hash of their prompt keeps from training. Rows of the rule ``forbidden`` are the safety part.
    """

    name: Name
    path: Name
    rule: Rule
    held_out: Literal["file", "hash"] = "file"
    limit: Positive = 100_000


class StandardPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task of lm-eval on JSON files below the data folder, by split; right where ``metric`` after ``filter`` is 1.

    Its test set is held out by being one: nothing is trained on it.
    """

    name: Name
    files: dict[str, str]
    metric: Name = "acc"
    filter: Name = "none"
    shots: Whole = 0
    limit: Positive | None = None


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prompts are drawn from ``seed`` on. Answers are greedy, or sampled once for each of ``answer_seeds``."""

    tasks: tuple[TaskPart, ...] = ()
    files: tuple[FilePart, ...] = ()
    standard: tuple[StandardPart, ...] = ()
    seed: Whole = 20_000_000
    answer_seeds: tuple[Whole, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("A plan asks at least one task, file or standard task.", param="tasks")
        if len(self.names) < len(self.tasks) + len(self.files) + len(self.standard):
            raise ConfigError("Each task and file of a plan has a name of its own.", param="name")

    @property
    def names(self) -> frozenset[str]:
        """The names of all its parts."""
        return frozenset(part.name for part in (*self.tasks, *self.files, *self.standard))

    @property
    def passes(self) -> tuple[int | None, ...]:
        """The seeds of the answers; None alone where they are greedy."""
        return self.answer_seeds or (None,)

    @property
    def test_sets(self) -> frozenset[str]:
        """The parts that are held out by being test sets, not by the hash of their prompts."""
        return frozenset(part.name for part in self.files if part.held_out == "file") | {
            part.name for part in self.standard
        }

    def is_safety(self, task: str) -> bool:
        """Whether this part asks what must not be said."""
        return any(part.name == task and part.rule == "forbidden" for part in self.files)


def read_plan(path: Path) -> Plan:
    """The plan of a TOML file. Raises ConfigError that names the field, or says why the file cannot be read."""
    return read_toml(path, Plan)


def read_toml(path: Path, shape: type[Read]) -> Read:
    """A TOML file as ``shape``. Raises ConfigError that names the field, or says why the file cannot be read."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), shape)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path} cannot be used: {error}.") from error
