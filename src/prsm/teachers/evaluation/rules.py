"""Files of questions, and how their answers are checked: exactly, by the final number, or for what is forbidden.

Pure but for reading the file. A rule decides from the problem alone, so that a stored one is checked the same later.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from prsm.core.errors import ConfigError
from prsm.teachers.evaluation.plan import FilePart
from prsm.teachers.seams import Problem

Verify = Callable[[Problem, str], bool]
_NUMBER: Final = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
_FILE_LIMIT_BYTES: Final = 64 * 2**20


def is_exact(problem: Problem, answer: str) -> bool:
    """Whether the answer is the reference, but for white space around it."""
    return answer.strip() == problem.answer.strip()


def is_final_number(problem: Problem, answer: str) -> bool:
    """Whether the last number in the answer equals the reference's (GSM8K: what follows ``####``)."""
    said, wanted = _last_number(answer), _last_number(problem.answer)
    return said is not None and said == wanted


def is_free_of_forbidden(problem: Problem, answer: str) -> bool:
    """Whether none of the phrases in ``facts["forbidden"]`` is said, whatever the case and spacing."""
    said = _plain(answer)
    return not any(_plain(phrase) in said for phrase in problem.facts["forbidden"])


RULES: Final[Mapping[str, Verify]] = {
    "exact": is_exact,
    "final-number": is_final_number,
    "forbidden": is_free_of_forbidden,
}


def read_file(part: FilePart, data: Path) -> list[Problem]:
    """The rows of a part's file below ``data``: objects of ``question`` or ``prompt``, and ``answer`` or ``forbidden``.

    Raises ConfigError that names file and line where it is missing, too large, or a row lacks what its rule needs.
    """
    path = data / part.path
    try:
        if path.stat().st_size > _FILE_LIMIT_BYTES:
            raise ConfigError(f"{path} is larger than {_FILE_LIMIT_BYTES:,} bytes.", param=part.name)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The questions of {part.name} cannot be read: {error}.", param=part.name) from error
    return [_row(part, number, line) for number, line in enumerate(lines, 1) if line.strip()][: part.limit]


def _row(part: FilePart, number: int, line: str) -> Problem:
    where = f"{part.path}, line {number}"
    try:
        row = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{where} is not a JSON object: {error}.", param=part.name) from error
    prompt, answer, forbidden = row.get("question", row.get("prompt")), row.get("answer", ""), row.get("forbidden", [])
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise ConfigError(f"{where} has no question and answer that are texts.", param=part.name)
    if part.rule == "forbidden":
        if not _are_phrases(forbidden):
            raise ConfigError(f"{where} has no list of phrases that are forbidden.", param=part.name)
        return Problem(part.name, 0, prompt, answer, {"forbidden": forbidden})
    if part.rule == "final-number" and _last_number(answer) is None:
        raise ConfigError(f"{where} has no number in its answer.", param=part.name)
    return Problem(part.name, 0, prompt, answer)


def _are_phrases(value: Any) -> bool:
    return isinstance(value, list) and bool(cast("list[Any]", value)) and all(map(_is_phrase, cast("list[Any]", value)))


def _is_phrase(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text.rpartition("####")[2])
    return Decimal(found[-1].replace(",", "")) if found else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
