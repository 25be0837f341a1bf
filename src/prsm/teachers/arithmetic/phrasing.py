"""Reads a person's arithmetic question into the one form the teacher was trained on, or says that it is not one.

Only wording is treated here: fillers, operator words, number formats, ranges by counting digits. No value is ever
computed from the numbers; a question outside the trained ranges is refused rather than guessed.
"""

import re
from dataclasses import dataclass
from math import prod

from prsm.teachers.arithmetic.tokens import ANIMALS

MAX_TEXT_CHARS = 600
MAX_TERMS, MAX_MIXED_TERMS = 6, 4
"""Terms of a sum, and of a sum with products in it."""
MAX_DIGITS = 5
MAX_FACTOR_DIGITS = 3
MAX_DECIMAL_DIGITS, MAX_PLACES = 3, 2
"""Digits before and behind the decimal point, where there is one."""
MAX_ANIMAL_COUNT = 15
MAX_GCD_DIGITS = 3

DOMAIN = (
    f"sums and differences of up to {MAX_TERMS} numbers of up to {MAX_DIGITS} digits "
    f"(with decimals: {MAX_DECIMAL_DIGITS} digits and {MAX_PLACES} decimals), "
    f"products of two numbers of up to {MAX_FACTOR_DIGITS} digits (also inside sums of up to {MAX_MIXED_TERMS} terms), "
    f"the greatest common divisor of two numbers of up to {MAX_GCD_DIGITS} digits, and counting the legs of animals"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question in canonical form. ``family``: ``sum``, ``decimal``, ``product``, ``mixed``, ``gcd`` or ``legs``."""

    family: str
    canonical: str


def read(text: str) -> Problem | None:
    """The problem ``text`` asks, or None when it is not one the teacher was trained for."""
    if len(text) > MAX_TEXT_CHARS:
        return None
    plain = text.translate(_SYMBOLS).lower()
    if not plain.isascii():
        return None
    plain = " ".join(plain.split())
    return _read_legs(plain) or _read_gcd(plain) or _read_expression(plain)


_SYMBOLS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "−": "-", "–": "-", "’": "'", "\u00a0": " "})
_NUMBER_WORDS = {
    "a": "1", "an": "1", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15",
}  # fmt: skip
_PLURALS = {"butterflies": "butterfly", "fireflies": "firefly", "leeches": "leech", "woodlice": "woodlouse"}

_LEGS = re.compile(
    r"(?:your task is to count how many legs there are in total when given a list of animals\. )?(?:now, )?"
    r"how many legs (?:are there(?: in total)? (?:if you have|on)|do|have) (?P<list>.+?)"
    r"(?: have)?(?: in total)? ?[?.!]*"
)
_ANIMAL = re.compile(r"(?P<count>\d{1,3}|[a-z]+) (?P<animal>[a-z ]+)")
_GCD_NAME = r"(?:(?:the )?(?:greatest common (?:divisor|factor)|highest common factor)(?: \(gcd\))?|gcd|gcf|hcf)"
_GCD = re.compile(
    r"(?:find |what is |what's |compute |calculate )?(?:the )?" + _GCD_NAME + r"(?: of(?: these numbers:?)?|:)? ?\(? ?"
    r"(?P<u>\d{1,9})(?:, ?| and | )(?P<v>\d{1,9}) ?\)?[?.=!]?(?: give only the gcd as your final answer\.)?"
)
_OPENERS = re.compile(
    r"(?:(?:state the final answer to the following arithmetic problem:?|solve the following multiplication:?"
    r"|what is|what's|whats|how much (?:is|are|does)|calculate|compute|evaluate|solve|work out|find|tell me|give me"
    r"|please|hi|hello|hey|can you|could you|the result of|the value of|the answer to|answer|result|what)[,:!]? ?)*"
)
_CLOSERS = re.compile(r"(?:[ =?.!,]|give only the result as your final answer|equals?(?: to)?|please|is)*$")
_OPERATOR_WORDS = (
    (re.compile(r"\b(?:the )?sum of (\S+) and (\S+)"), r"\1 + \2"),
    (re.compile(r"\b(?:the )?product of (\S+) and (\S+)"), r"\1 * \2"),
    (re.compile(r"\b(?:the )?difference (?:of|between) (\S+) and (\S+)"), r"\1 - \2"),
    (re.compile(r"\badd (\S+) (?:and|to) (\S+)"), r"\1 + \2"),
    (re.compile(r"\bmultiply (\S+) (?:by|and) (\S+)"), r"\1 * \2"),
    (re.compile(r"\bsubtract (\S+) from (\S+)"), r"\2 - \1"),
    (re.compile(r"\bplus\b|\badded to\b"), "+"),
    (re.compile(r"\bminus\b|\bless\b"), "-"),
    (re.compile(r"\btimes\b|\bmultiplied by\b|(?<=[\d ])x(?=[\d ])"), "*"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
)
_SIGNED = r"-?(?:\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})"
_EXPRESSION = re.compile(rf"{_SIGNED}(?:[-+*]{_SIGNED})+")
_TERM = re.compile(rf"(?P<op>[-+]?)(?P<x>{_SIGNED})(?:\*(?P<y>{_SIGNED}))?")


def _read_legs(text: str) -> Problem | None:
    match = _LEGS.fullmatch(text)
    if not match:
        return None
    items: list[str] = []
    for part in re.split(r", and |, | and ", match["list"]):
        found = _ANIMAL.fullmatch(part)
        count = _NUMBER_WORDS.get(found["count"], found["count"]) if found else ""
        animal = _singular(found["animal"]) if found else None
        if animal is None or not count.isdigit() or not 1 <= int(count) <= MAX_ANIMAL_COUNT:
            return None
        items.append(f"{int(count)} * {animal}")
    return Problem("legs", " + ".join(items)) if len(items) <= MAX_TERMS else None


def _singular(word: str) -> str | None:
    for name in (word, _PLURALS.get(word), word.removesuffix("s"), word.removesuffix("es")):
        if name in ANIMALS:
            return name
    return None


def _read_gcd(text: str) -> Problem | None:
    match = _GCD.fullmatch(text)
    if not match:
        return None
    numbers = [match[name].lstrip("0") for name in ("u", "v")]
    if not all(1 <= len(number) <= MAX_GCD_DIGITS for number in numbers):
        return None
    return Problem("gcd", "gcd " + " , ".join(numbers))


def _read_expression(text: str) -> Problem | None:
    body = _CLOSERS.sub("", text[_OPENERS.match(text).end() :])  # pyright: ignore[reportOptionalMemberAccess] - matches ""
    for pattern, symbol in _OPERATOR_WORDS:
        body = pattern.sub(symbol, body)
    if re.search(r"[\d.] +[\d.]", body):
        return None
    body = body.replace(" ", "")
    if not _EXPRESSION.fullmatch(body):
        return None
    terms = [match.groupdict() for match in _TERM.finditer(body)]
    if "".join(match.group() for match in _TERM.finditer(body)) != body:
        return None
    return _problem(terms)


def _problem(terms: list[dict[str, str | None]]) -> Problem | None:
    numbers = [number for term in terms for number in (term["x"], term["y"]) if number]
    places = max(len(number.partition(".")[2]) for number in numbers)
    products = sum(term["y"] is not None for term in terms)
    if len(terms) > (MAX_MIXED_TERMS if products else MAX_TERMS) or places > MAX_PLACES or (places and products):
        return None
    parts: list[str] = []
    reach = 0
    for term in terms:
        op, x = term["op"] or "", _number(term["x"] or "", places)
        y = _number(term["y"], places) if term["y"] else None
        limit = MAX_FACTOR_DIGITS if y else MAX_DECIMAL_DIGITS + places if places else MAX_DIGITS
        sizes = [len(number.lstrip("~ ").replace(".", "")) for number in (x, y) if number]
        if max(sizes) > limit:
            return None
        reach += prod(10**size - 1 for size in sizes)
        parts += ([op] if parts else ["~"] * (op == "-")) + [x] + (["*", y] if y else [])
    # Running sums hold six digits and a sign; counting digits bounds them without computing anything.
    if reach >= 10**6:
        return None
    family = "decimal" if places else "sum" if not products else "product" if len(terms) == 1 else "mixed"
    return Problem(family, " ".join(parts))


def _number(text: str, places: int) -> str:
    whole, _, part = text.removeprefix("-").partition(".")
    digits = whole.lstrip("0") or "0"
    if places:
        digits += "." + part.ljust(places, "0")
    return f"~ {digits}" if text[0] == "-" else digits
