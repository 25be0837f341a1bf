"""The teacher's alphabet: one token per digit, digits least significant first, and a place for every token.

``encode`` writes a canonical problem as token ids, ``Locator`` gives each token the structural position the
transformer embeds (place value, term, step, lane: Abacus embeddings, McLeish et al. 2024, arXiv:2405.17399).
Nothing here computes a result; the arithmetic is the network's.
"""

import re
from collections.abc import Iterable

ANIMALS: tuple[str, ...] = (
    "snake", "sea slug", "jellyfish", "flatworm", "leech", "chicken", "bird", "human", "duck", "dog", "cat", "cow",
    "horse", "lion", "elephant", "giraffe", "tiger", "deer", "sheep", "starfish", "insect", "ant", "butterfly",
    "beetle", "bee", "wasp", "grasshopper", "cricket", "cockroach", "praying mantis", "firefly", "spider", "scorpion",
    "crab", "lobster", "shrimp", "woodlouse",
)  # fmt: skip
DECIMAL_MARKS: tuple[str, ...] = ("<0>", "<1>", "<2>")
"""First token of a sum: how many digits of each number stand behind the decimal point."""
GCD_MARK = "<gcd>"
GCD_STEPS: tuple[str, ...] = ("halve", "halve-u", "halve-v", "u-v", "v-u", "double")
TOKENS: tuple[str, ...] = (
    "<pad>", "<end>", *"0123456789", "+", "-", "*", "~", ",", "=", "&", "neg", ">", "_", ".",
    *DECIMAL_MARKS, GCD_MARK, *GCD_STEPS, *ANIMALS,
)  # fmt: skip
ID: dict[str, int] = {token: index for index, token in enumerate(TOKENS)}
PAD, END, ANSWER = ID["<pad>"], ID["<end>"], ID[">"]

SUM_WIDTH = 7
"""Digits of a running sum, ten's complement: -1,000,000 to 8,999,999."""
PARTIAL_WIDTH = 4
"""Digits of a partial product: three digits times one."""
GCD_WIDTH = 3
MAX_PARTIALS = 3

PLACES, TERMS, STEPS = SUM_WIDTH + 3, 8, 40
LANES = 12
FEATURE_SIZES: tuple[int, int, int, int] = (PLACES, TERMS, STEPS, LANES)
_MARK, _X, _Y, _PARTIAL, _SUM, _U, _V, _K, _OUT = 0, 1, 2, 3, 6, 7, 8, 9, 10

Position = tuple[int, int, int, int]

_WORD = re.compile(r"\d+(?:\.\d+)?|" + "|".join(sorted(map(re.escape, ANIMALS), key=len, reverse=True)) + r"|gcd|\S")


def encode(canonical: str) -> list[int]:
    """Token ids of a canonical problem, ending with ``=``: ``"12 + 345"`` -> ``<0> 2 1 + 5 4 3 =``.

    ``canonical`` comes from ``phrasing.read``; a symbol outside the alphabet raises KeyError.
    """
    words = _WORD.findall(canonical)
    if words and words[0] == "gcd":
        mark, words = GCD_MARK, words[1:]
    else:
        mark = DECIMAL_MARKS[len(words[0].partition(".")[2]) if words[0] != "~" else len(words[1].partition(".")[2])]
    ids = [ID[mark]]
    for word in words:
        if word[0].isdigit():
            ids.extend(ID[digit] for digit in reversed(word) if digit != ".")
        else:
            ids.append(ID[word])
    ids.append(ID["="])
    return ids


class Locator:
    """Walks a sequence and says where each token stands: (place value, term, step, lane).

    Lanes: prompt marks, first and second factor, three partial products, running sum, the two numbers and the
    counter of Euclid's algorithm, the answer. Places count from 1 at the least significant digit; the answer is
    written most significant first, so its places count down.
    """

    __slots__ = ("_count", "_lane", "_partial", "_phase", "_place", "_step", "_term")

    def __init__(self) -> None:
        self._phase = "prompt"
        self._place, self._term, self._step, self._lane = 0, 1, 0, _X
        self._partial = -1
        self._count = 0

    def step(self, token: int) -> Position:
        """The position of the next token."""
        name = TOKENS[token]
        if self._phase == "prompt":
            here = self._in_prompt(name)
        elif self._phase == "scratch":
            here = self._in_scratch(name)
        elif self._phase == "gcd":
            here = self._in_gcd(name)
        else:
            here = self._in_answer(name)
        place, term, step, lane = here
        return min(place, PLACES - 1), min(term, TERMS - 1), min(step, STEPS - 1), lane

    def walk(self, ids: Iterable[int]) -> list[Position]:
        """The positions of a whole sequence."""
        return [self.step(token) for token in ids]

    def _in_prompt(self, name: str) -> Position:
        if name == "=":
            self._phase = "gcd" if self._lane in (_U, _V) else "scratch"
            self._term = 0
            return 0, 0, 0, _MARK
        if name[0] == "<":
            self._lane = _U if name == GCD_MARK else _X
            return 0, 0, 0, _MARK
        if name in ("+", "-", "*", ","):
            self._place = 0
            if name in ("+", "-"):
                self._term += 1
            self._lane = {"*": _Y, ",": _V}.get(name, _X)
        elif name != "~":
            self._place += 1
        return self._place, self._term, 0, self._lane

    def _in_scratch(self, name: str) -> Position:
        if name.isdigit():
            self._place += 1
        elif name == ">":
            return self._open_answer()
        elif name == "*":
            self._open_partial(0)
            self._term += 1
        elif name == "&":
            self._open_partial(min(self._partial + 1, MAX_PARTIALS - 1))
        elif name in ("+", "-", "neg"):
            if not _PARTIAL <= self._lane < _SUM:
                self._term += name != "neg"
                self._step += 1
            self._lane, self._place = _SUM, 0
        return self._place, self._term, self._step, self._lane

    def _open_partial(self, partial: int) -> None:
        self._step += 1
        self._partial, self._lane, self._place = partial, _PARTIAL + partial, partial

    def _in_gcd(self, name: str) -> Position:
        if name == ">":
            return self._open_answer()
        if name in GCD_STEPS:
            self._step += 1
            self._count = 0
            return 0, 0, self._step, _K
        self._count += 1
        if self._count == 1:
            return 1, 0, self._step, _K
        lane, place = (_U, self._count - 1) if self._count - 1 <= GCD_WIDTH else (_V, self._count - 1 - GCD_WIDTH)
        return place, 0, self._step, lane

    def _open_answer(self) -> Position:
        self._phase = "answer"
        self._place = SUM_WIDTH + 2
        return self._place, 0, self._step, _OUT

    def _in_answer(self, name: str) -> Position:
        if name != ".":
            self._place = max(self._place - 1, 0)
        return self._place, 0, self._step, _OUT
