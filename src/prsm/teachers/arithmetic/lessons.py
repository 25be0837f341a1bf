"""Worked solutions the teacher learns from: the prompt, its scratchpad and its answer, as token ids.

This is teaching material for training only; the runtime never imports it. Sums run as ten's-complement running
totals, products as one partial product per digit, divisors by Stein's binary algorithm.
"""

import re
from collections.abc import Iterator

from prsm.teachers.arithmetic.tokens import GCD_WIDTH, ID, PARTIAL_WIDTH, SUM_WIDTH, encode

LEGS: dict[str, int] = {
    **dict.fromkeys(("snake", "sea slug", "jellyfish", "flatworm", "leech"), 0),
    **dict.fromkeys(("chicken", "bird", "human", "duck"), 2),
    **dict.fromkeys(("dog", "cat", "cow", "horse", "lion", "elephant", "giraffe", "tiger", "deer", "sheep"), 4),
    "starfish": 5,
    **dict.fromkeys(("insect", "ant", "butterfly", "beetle", "bee", "wasp", "grasshopper", "cricket"), 6),
    **dict.fromkeys(("cockroach", "praying mantis", "firefly"), 6),
    **dict.fromkeys(("spider", "scorpion"), 8),
    **dict.fromkeys(("crab", "lobster", "shrimp"), 10),
    "woodlouse": 14,
}


def worked(canonical: str) -> list[int]:
    """Token ids of the whole lesson: prompt, scratchpad, ``>``, answer, ``<end>``."""
    solve = _divisor if canonical.startswith("gcd") else _total
    return encode(canonical) + [ID[name] for name in solve(canonical)] + [ID["<end>"]]


_TERM = re.compile(r"(?:(?P<op>[-+]) )?(?P<x>(?:~ )?[\d.]+)(?: \* (?P<y>(?:~ )?[\d.]+|[a-z ]*[a-z]))?(?= |$)")


def _total(canonical: str) -> Iterator[str]:
    total, places = 0, 0
    for match in _TERM.finditer(canonical):
        places = len(match["x"].partition(".")[2])
        x, y = _integer(match["x"]), match["y"]
        sign = -1 if match["op"] == "-" else 1
        sign *= -1 if x < 0 else 1
        for step, (partial, shift) in enumerate(_partials(abs(x), y)):
            if y is not None:
                yield "&" if step else "*"
                yield from _reversed(partial, PARTIAL_WIDTH)
            effective = -sign if y is not None and y[0] == "~" else sign
            total += effective * partial * 10**shift
            yield "+" if effective > 0 else "-"
            yield from _reversed(total % 10**SUM_WIDTH, SUM_WIDTH)
    if total < 0:
        yield "neg"
        yield from _reversed(-total, SUM_WIDTH)
    yield from _answer(total, places)


def _integer(text: str) -> int:
    return int(text.replace("~ ", "-").replace(".", ""))


def _partials(x: int, y: str | None) -> Iterator[tuple[int, int]]:
    if y is None:
        yield x, 0
    elif y in LEGS:
        yield x * LEGS[y], 0
    else:
        for shift, digit in enumerate(reversed(y.removeprefix("~ "))):
            yield x * int(digit), shift


def _divisor(canonical: str) -> Iterator[str]:
    u, v = (int(number) for number in canonical.removeprefix("gcd ").split(" , "))
    twos = 0
    while u != v or twos:
        if u == v:
            step, twos, u, v = "double", twos - 1, u * 2, v * 2
        elif u % 2 == 0 and v % 2 == 0:
            step, twos, u, v = "halve", twos + 1, u // 2, v // 2
        elif u % 2 == 0:
            step, u = "halve-u", u // 2
        elif v % 2 == 0:
            step, v = "halve-v", v // 2
        elif u > v:
            step, u = "u-v", u - v
        else:
            step, v = "v-u", v - u
        yield step
        yield str(twos)
        yield from _reversed(u, GCD_WIDTH)
        yield from _reversed(v, GCD_WIDTH)
    yield from _answer(u, 0)


def _reversed(value: int, width: int) -> Iterator[str]:
    digits = str(value).zfill(width)
    if len(digits) > width:
        raise ValueError(f"{value} has more than {width} digits")
    return reversed(digits)


def _answer(value: int, places: int) -> Iterator[str]:
    yield ">"
    yield "-" if value < 0 else "_"
    digits = str(abs(value)).zfill(SUM_WIDTH)
    whole = SUM_WIDTH - places
    blanks = min(len(digits) - len(digits.lstrip("0")), whole - 1)
    yield from "_" * blanks
    yield from digits[blanks:whole]
    if places:
        yield "."
        yield from digits[whole:]
