"""Which questions a teacher was trained for, as forms such as "What is {integer:3} + {integer:3}?".

``{integer:N}`` is a whole number of at most N digits, ``{positive:N}`` one above 0 that no 0 leads, ``{digits:N}`` and
``{word:N}`` at most N digits or small letters, ``{roman}`` a Roman number up to 3,999, ``{text}`` whatever stands
before the rest of the form first matches; all else is literal. A form costs at most its length times the text's,
whoever wrote either.
"""

import re
import string
from collections.abc import Sequence
from functools import cached_property
from random import Random
from typing import Final

from prsm.core.errors import ConfigError
from prsm.teachers.tasks.numerals import roman

MAX_FORMS: Final = 200
MAX_FORM_CHARACTERS: Final = 1_000
MAX_LENGTH: Final = 100
"""Digits of a number, letters of a word."""
_PLACE: Final = re.compile(r"\{(?:(integer|positive|digits|word):(\d{1,3})|(text|roman))\}")
_ROMAN: Final = "(?>(?=[MDCLXVI])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))"


class Questions:
    """The forms of a teacher; with none it understands whatever it can read."""

    def __init__(self, forms: Sequence[str]) -> None:
        """Raises ConfigError where a form is no such form."""
        if len(forms) > MAX_FORMS or any(len(form) > MAX_FORM_CHARACTERS for form in forms):
            raise ConfigError(
                f"A teacher has at most {MAX_FORMS} questions of at most {MAX_FORM_CHARACTERS} characters.",
                param="questions",
            )
        self._patterns = [_pattern(form) for form in forms]

    def include(self, text: str) -> bool:
        """Whether ``text`` has one of the forms."""
        return not self._patterns or any(pattern.fullmatch(text) for pattern in self._compiled)

    @cached_property
    def _compiled(self) -> list[re.Pattern[str]]:
        return [re.compile(pattern) for pattern in self._patterns]


def example(form: str, chance: Random) -> str:
    """A question of this form, its numbers and texts drawn by ``chance``."""

    def filled(place: re.Match[str]) -> str:
        if place[3] == "roman":
            return roman(chance.randint(1, 3_999))
        if place[3]:
            return "".join(chance.choices(string.ascii_lowercase + " ", k=chance.randint(1, 20)))
        length = chance.randint(1, int(place[2]))
        if place[1] == "word":
            return "".join(chance.choices(string.ascii_lowercase, k=length))
        return str(chance.randrange(10 ** (length - 1) if place[1] == "positive" else 0, 10**length))

    return _PLACE.sub(filled, form)


def _pattern(form: str) -> str:
    """A regular expression that never tries twice: each part up to the next ``{text}`` is an atomic group."""
    parts: list[str] = [""]
    at = 0
    for place in _PLACE.finditer(form):
        parts[-1] += _literal(form, at, place.start())
        at = place.end()
        if place[3] == "text":
            parts.append("")
        else:
            parts[-1] += _ROMAN if place[3] else _characters(form, place[1], int(place[2]))
    parts[-1] += _literal(form, at, len(form)) + r"\Z"
    first, *others = parts
    return first + "".join(rf"(?>[\s\S]*?{part})" for part in others)


def _characters(form: str, kind: str, length: int) -> str:
    if not 1 <= length <= MAX_LENGTH:
        raise ConfigError(f"The question {form!r} has a place of {length} characters.", param="questions")
    return {
        "integer": rf"-?[0-9]{{1,{length}}}+",
        "positive": rf"[1-9][0-9]{{0,{length - 1}}}+",
        "digits": rf"[0-9]{{1,{length}}}+",
        "word": rf"[a-z]{{1,{length}}}+",
    }[kind]


def _literal(form: str, start: int, end: int) -> str:
    text = form[start:end]
    if "{" in text or "}" in text:
        raise ConfigError(
            f"The question {form!r} has a brace that is none of {{integer:N}}, {{positive:N}}, {{digits:N}}, "
            "{word:N}, {roman} and {text}.",
            param="questions",
        )
    return re.escape(text)
