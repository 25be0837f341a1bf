"""What people write down to learn from: pairs and preferences, a line each; a wrong line is named. No torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from prsm.core.errors import ConfigError

T = TypeVar("T")


class Lesson(Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt, its answer, and how it is worked, where that is known."""

    prompt: str
    answer: str
    scratchpad: str = ""


class Judged(Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt and two answers, of which somebody preferred the first."""

    prompt: str
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        if self.chosen == self.rejected:
            raise ValueError("the two answers are the same")


def read_text(path: Path) -> str:
    """The text of a file. Raises ConfigError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The data {path} cannot be read: {error}", param="data.path") from error


def read_pairs(path: Path, separator: str | None = None) -> list[Lesson]:
    """Lines of JSON, or of text divided once by ``separator``. Raises ConfigError naming file and line."""
    if separator is None:
        return read_json_lines(path, Lesson)
    found: list[Lesson] = []
    for number, line in _lines(path):
        prompt, divided, answer = line.partition(separator)
        if not divided:
            raise ConfigError(f"{path}, line {number}: there is no {separator!r}.", param="data.separator")
        found.append(Lesson(prompt, answer))
    return found


def read_json_lines(path: Path, kind: type[T]) -> list[T]:
    """A value a line. Raises ConfigError naming file and line."""
    found: list[T] = []
    for number, line in _lines(path):
        try:
            found.append(msgspec.json.decode(line.encode(), type=kind))
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}, line {number}: {error}.", param="data.path") from error
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip())
