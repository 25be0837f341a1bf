"""What an operator bans, by hash or by pattern: found in whatever disguise, always, or the text is not let through.

Nothing is learnt or weighed here. Patterns are RE2's: time linear in the text, memory bounded, whatever is written. A
hash is of a phrase without its disguises (``banned_digest``), so that a list may be kept without showing what is on it.
"""

import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import re2

from prsm.core.errors import ConfigError
from prsm.safety.detectors.hidden import hidden
from prsm.safety.detectors.normalise import Mapped, identity, plain, skeleton
from prsm.safety.detectors.windows import refuse_too_long
from prsm.safety.seams import Assessment, Category, Span

MAX_PATTERNS: Final = 2_000
MAX_PHRASES: Final = 1_000_000
MAX_PATTERN_CHARS: Final = 1_000
MAX_WORDS: Final = 16
"""Words of a hashed phrase; a phrase of more is matched only as a whole text."""

_re2: Any = re2  # it ships no types
_WORD: Final = _re2.compile(r"[\pL\pN\pM]+")
_MEMORY: Final = 16 << 20
_VIEWS: Final = ("given", "plain", "skeleton")


class Pattern(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``view`` is what is looked at: the text as ``given``, also as it is read (``plain``), or its ``skeleton``."""

    name: str
    pattern: str
    view: str = "plain"


class Phrase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A banned phrase of ``words`` words, or a whole text (0), by ``banned_digest``."""

    name: str
    sha256: str
    words: int = 0


class RuleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The operator's TOML file: ``[[pattern]]`` and ``[[phrase]]``."""

    pattern: tuple[Pattern, ...] = ()
    phrase: tuple[Phrase, ...] = ()


def banned_digest(phrase: str) -> Phrase:
    """The entry, yet without a name, that bans ``phrase`` in every disguise of its letters."""
    words = _words(plain(phrase))
    digest = hashlib.sha256("".join(word for word, _, _ in words).encode()).hexdigest()
    return Phrase("", digest, len(words) if len(words) <= MAX_WORDS else 0)


def read_rules(path: Path) -> RuleFile:
    """The operator's file; raises ConfigError that names what is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), RuleFile)
    except OSError as error:
        raise ConfigError(f"The file of banned content cannot be read: {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path} is not a file of banned content: {error}.") from error


class RuleDetector:
    """Scores BANNED 1.0 where a rule matches, else 0.0; ``name`` carries a hash of the rules."""

    def __init__(self, rules: RuleFile) -> None:
        if len(rules.pattern) > MAX_PATTERNS or len(rules.phrase) > MAX_PHRASES:
            raise ConfigError(f"Banned are at most {MAX_PATTERNS:,} patterns and {MAX_PHRASES:,} phrases.")
        compiled = [(rule.view, _compiled(rule)) for rule in rules.pattern]
        self._patterns = {view: [each for of, each in compiled if of == view] for view in _VIEWS}
        self._phrases: dict[int, dict[str, str]] = {}
        for rule in rules.phrase:
            self._phrases.setdefault(rule.words, {})[_digest(rule)] = rule.name
        version = hashlib.sha256(msgspec.json.encode(rules)).hexdigest()[:12]
        self.name = f"rules-{version}"
        self.categories = frozenset[Category]({Category.BANNED})

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        """Raises TextTooLong for a text beyond the limit of ``windows``."""
        return [self._assess(text) for text in texts]

    def _assess(self, text: str) -> Assessment:
        refuse_too_long(text)
        found = set(self._matches(text))
        for each in hidden(text):
            found.update((name, each.start, each.end) for name, _, _ in self._matches(each.text))
        spans = tuple(Span(Category.BANNED, name, start, end) for name, start, end in sorted(found))
        return Assessment({Category.BANNED: float(bool(found))}, spans, tuple(sorted({name for name, _, _ in found})))

    def _matches(self, text: str) -> Iterator[tuple[str, int, int]]:
        told = plain(text)
        yield from _pattern_matches([*self._patterns["given"], *self._patterns["plain"]], identity(text))
        yield from _pattern_matches(self._patterns["plain"], told)
        if self._patterns["skeleton"]:
            yield from _pattern_matches(self._patterns["skeleton"], skeleton(told))
        if self._phrases:
            yield from self._phrase_matches(_words(told))

    def _phrase_matches(self, words: Sequence[tuple[str, int, int]]) -> Iterator[tuple[str, int, int]]:
        for count, digests in self._phrases.items():
            length = count or len(words)
            for start in range(len(words) - length + 1 if length else 0):
                part = words[start : start + length]
                name = digests.get(hashlib.sha256("".join(word for word, _, _ in part).encode()).hexdigest())
                if name is not None:
                    yield name, part[0][1], part[-1][2]


def _words(told: Mapped) -> list[tuple[str, int, int]]:
    """The words of a plain view as skeletons, with their stretches of the original."""
    found: list[tuple[str, int, int]] = []
    for match in _WORD.finditer(told.text):
        start, end = match.span()
        letters = skeleton(Mapped(told.text[start:end], told.starts[start:end], told.ends[start:end])).text
        if letters:
            # One stroke may be any of these in leetspeak.
            found.append((letters.replace("l", "i"), *told.original(start, end)))
    return found


def _pattern_matches(patterns: Iterable[tuple[str, Any]], told: Mapped) -> Iterator[tuple[str, int, int]]:
    # One after the other, not as a set: a set that runs out of memory matches nothing and does not say so.
    for name, pattern in patterns:
        for match in pattern.finditer(told.text):
            if match.end() > match.start():
                yield (name, *told.original(match.start(), match.end()))


def _compiled(rule: Pattern) -> tuple[str, Any]:
    options = _re2.Options()
    options.case_sensitive, options.log_errors, options.max_mem = False, False, _MEMORY
    if rule.view not in _VIEWS:
        raise ConfigError(f"The view of the pattern {rule.name!r} must be one of {', '.join(_VIEWS)}.")
    if not 0 < len(rule.pattern) <= MAX_PATTERN_CHARS:
        raise ConfigError(f"The pattern {rule.name!r} must have 1 to {MAX_PATTERN_CHARS} characters.")
    try:
        pattern = _re2.compile(rule.pattern, options)
    except _re2.error as error:
        raise ConfigError(f"The pattern {rule.name!r} is not one of RE2: {error}.") from error
    if pattern.search(""):
        raise ConfigError(f"The pattern {rule.name!r} matches no character at all, and so every text.")
    return rule.name, pattern


def _digest(rule: Phrase) -> str:
    digest = rule.sha256.lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef") or not 0 <= rule.words <= MAX_WORDS:
        raise ConfigError(f"The phrase {rule.name!r} needs a SHA-256 in hex and 0 to {MAX_WORDS} words.")
    return digest
