"""Questions about the letters of a word: spelt backwards, one letter counted, the letter at a place.

A scratchpad walks the word once: ``e1le2phant`` counts the letter that is asked, ``1e2l3e`` numbers letters up to the
place. Words are drawn letter by letter, half of them so that vowels and consonants take turns, as in words that one
can say; a teacher of them knows no dictionary.
"""

import random
import string
from typing import Final, Literal

from msgspec import Struct

from prsm.teachers.seams import Problem

Asked = Literal["reversal", "letter-count", "letter-place"]
NONE: Final = "none"
"""The letter at a place behind the word."""
_LENGTHS: Final = ((1, 4), (5, 7), (8, 10), (11, 14))
"""Letters of a word at each level, at least and at most."""
_VOWELS: Final = "aeiou"
_CONSONANTS: Final = "".join(sorted(set(string.ascii_lowercase) - set(_VOWELS)))


class Letters(Struct, frozen=True):
    """Problems of one kind; the words of the four levels have 1 to 4, 5 to 7, 8 to 10 and 11 to 14 letters."""

    name: Asked

    @property
    def levels(self) -> int:
        """Four."""
        return len(_LENGTHS)

    def generate(self, level: int, seed: int) -> Problem:
        """The problem of this seed, as ``Spell elephant backwards.``"""
        drawn = random.Random(f"{self.name}/{level}/{seed}")  # noqa: S311 - problems, not secrets
        word = _word(drawn, drawn.randint(*_LENGTHS[level]))
        if self.name == "reversal":
            return self._problem(level, f"Spell {word} backwards.", word[::-1], word=word)
        if self.name == "letter-place":
            # One in ten is beyond the word.
            place = drawn.randint(1, len(word)) if drawn.random() < 9 / 10 else len(word) + drawn.randint(1, 5)
            prompt = f"Which letter of {word} is number {place}?"
            answer = word[place - 1] if place <= len(word) else NONE
            return self._problem(level, prompt, answer, word=word, place=place)
        # Two in three times a letter that is there, else most answers would be 0.
        letter = drawn.choice(word) if drawn.random() < 2 / 3 else drawn.choice(string.ascii_lowercase)
        prompt = f"How many times is {letter} in {word}?"
        return self._problem(level, prompt, str(word.count(letter)), word=word, letter=letter)

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether it is the answer, but for white space around it."""
        return answer.strip() == problem.answer

    def demonstrate(self, problem: Problem) -> str:
        """The walk along the word; empty for a reversal."""
        word: str = problem.facts["word"]
        if self.name == "reversal":
            return ""
        if self.name == "letter-place":
            return "".join(f"{place}{letter}" for place, letter in enumerate(word[: problem.facts["place"]], 1))
        pad, seen = "", 0
        for letter in word:
            found = letter == problem.facts["letter"]
            seen += found
            pad += f"{letter}{seen}" if found else letter
        return pad

    def _problem(self, level: int, prompt: str, answer: str, **facts: str | int) -> Problem:
        return Problem(self.name, level, prompt, answer, facts)


def _word(drawn: random.Random, length: int) -> str:
    if drawn.random() < 1 / 2:
        return "".join(drawn.choices(string.ascii_lowercase, k=length))
    first = drawn.randrange(2)
    return "".join(drawn.choice(_VOWELS if (first + at) % 2 else _CONSONANTS) for at in range(length))
