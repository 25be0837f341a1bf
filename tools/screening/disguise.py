"""Training texts as people write them to be overlooked: letters swapped, dropped, spaced out or run together, leetspeak."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.screening.gather import Example

LEET = {"a": "4@", "e": "3", "i": "1!", "o": "0", "s": "5$", "t": "7", "l": "1"}
SHARE = 0.16


def disguised(found: "Sequence[Example]", chance: Random) -> "Iterator[Example]":
    """Some of the short texts once more, harmful and harmless alike."""
    for each in found:
        if len(each.text) < 160 and each.source in {"written", "toxigen", "hatemoji"} and chance.random() < SHARE:
            yield replace(each, text=disguise(each.text, chance), source="disguised")


def disguise(text: str, chance: Random) -> str:
    """``text`` with one or two of its longer words disguised."""
    words = text.split(" ")
    long = [index for index, word in enumerate(words) if len(word) > 3 and word.isascii()]
    kind = chance.choice(("leet", "space", "join", "swap", "drop", "case"))
    if kind == "join":
        at = chance.randrange(max(1, len(words) - 2))
        return (
            " ".join([*words[:at], "".join(words[at : at + 3]), *words[at + 3 :]])
            if chance.random() < 0.5
            else "".join(words)
        )
    for index in chance.sample(long, min(len(long), chance.choice((1, 1, 2)))):
        words[index] = _word(words[index], kind, chance)
    return " ".join(words)


def _word(word: str, kind: str, chance: Random) -> str:
    at = chance.randrange(1, len(word) - 1)
    if kind == "leet":
        return "".join(
            chance.choice(LEET[c.lower()]) if c.lower() in LEET and chance.random() < 0.6 else c for c in word
        )
    if kind == "space":
        return chance.choice((" ", ".", "-")).join(word) if chance.random() < 0.6 else f"{word[:at]} {word[at:]}"
    if kind == "swap":
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind == "drop" else word.swapcase()
