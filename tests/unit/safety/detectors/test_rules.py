"""What is banned is found in any disguise, always; a rule that cannot be kept is refused when it is read."""

import base64
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.core.errors import ConfigError
from prsm.safety.detectors.lookalikes import LETTERS, SCRIPTS
from prsm.safety.detectors.rules import (
    MAX_PATTERN_CHARS,
    Pattern,
    Phrase,
    RuleDetector,
    RuleFile,
    banned_digest,
    read_rules,
)
from prsm.safety.seams import Category

PHRASE = "the purple falcon order"


def _named(phrase: str) -> Phrase:
    made = banned_digest(phrase)
    return Phrase("falcon", made.sha256, made.words)


BY_HASH = RuleDetector(RuleFile(phrase=(_named(PHRASE),)))
BY_PATTERN = RuleDetector(RuleFile(pattern=(Pattern("falcon", "purplefalcon", "skeleton"),)))
ALIKE = {LETTERS[c]: c for c in SCRIPTS if c.islower()}


def _disguise(text: str, chance: random.Random) -> str:
    def one(char: str) -> str:
        kind = chance.randrange(7)
        if kind == 0:
            return char.upper()
        if kind == 1:
            return char + "\u200b"
        if kind == 2 and char in ALIKE:
            return ALIKE[char]
        if kind == 3 and char.isalpha():
            return chr(0x1D400 + ord(char) - 97 + 26)
        if kind == 4 and char.isalpha():
            return char * 3
        return char

    return "".join(one(char) for char in text)


@given(
    st.integers(0, 10**9),
    st.text(st.sampled_from("abc .,\n"), max_size=40),
    st.text(st.sampled_from("abc .,\n"), max_size=40),
)
@settings(max_examples=300, deadline=None)
def test_what_is_banned_is_found_in_any_disguise(seed: int, before: str, after: str) -> None:
    hidden_one = _disguise(PHRASE, random.Random(seed))
    text = f"{before} {hidden_one} {after}"
    for detector in (BY_HASH, BY_PATTERN):
        (found,) = detector.assess([text])
        assert found.scores[Category.BANNED] == 1.0, text
        assert found.rules == ("falcon",)
        (span,) = found.spans
        assert len(before) <= span.start < span.end <= len(text) - len(after)


@pytest.mark.parametrize(
    "text", ["p u r p l e  f a l c o n", "pürple fàlcon", "purple-falcon", "PurpleFalcon", "purple f4lc0n"]
)
def test_letters_alone_decide_for_a_skeleton(text: str) -> None:
    assert BY_PATTERN.assess([text])[0].rules == ("falcon",)


def test_one_stroke_is_any_letter_of_one_stroke_in_a_hashed_phrase() -> None:
    assert BY_HASH.assess(["the purp1e fa1c0n 0rder"])[0].rules == ("falcon",)


def test_what_is_banned_is_found_within_an_encoding() -> None:
    packed = base64.b64encode(f"please obey {PHRASE} at once".encode()).decode()
    assert BY_HASH.assess([f"decode {packed} now"])[0].rules == ("falcon",)


def test_a_whole_text_may_be_banned() -> None:
    whole = " ".join(f"word{n}" for n in range(40))
    detector = RuleDetector(RuleFile(phrase=(_named(whole),)))
    assert detector.assess([whole.upper()])[0].rules == ("falcon",)
    assert detector.assess([f"{whole} more"])[0].rules == ()


@pytest.mark.parametrize("detector", [BY_HASH, BY_PATTERN, RuleDetector(RuleFile())])
def test_other_texts_are_not_touched(detector: RuleDetector) -> None:
    for found in detector.assess(["", "a purple bird", "the falcon order", "purple, then a falcon", "x" * 5000]):
        assert found.scores == {Category.BANNED: 0.0}
        assert found.spans == ()


def test_no_pattern_can_blow_up() -> None:
    detector = RuleDetector(RuleFile(pattern=(Pattern("evil", "(a+)+$"), Pattern("worse", "(x|xx)*y"))))
    started = time.monotonic()
    detector.assess(["ab" * 50_000 + "c", "x" * 100_000])
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (RuleFile(pattern=(Pattern("a", "("),)), "not one of RE2"),
        (RuleFile(pattern=(Pattern("a", r"(a)\1"),)), "not one of RE2"),
        (RuleFile(pattern=(Pattern("a", "x" * (MAX_PATTERN_CHARS + 1)),)), "characters"),
        (RuleFile(pattern=(Pattern("a", "x*"),)), "every text"),
        (RuleFile(pattern=(Pattern("a", "x", "upside-down"),)), "view"),
        (RuleFile(phrase=(Phrase("a", "12ab"),)), "SHA-256"),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused(rules: RuleFile, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RuleDetector(rules)


def test_the_operators_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "banned.toml"
    digest = banned_digest(PHRASE)
    phrase = f'[[phrase]]\nname = "f"\nsha256 = "{digest.sha256}"\nwords = {digest.words}\n'
    path.write_text(f'[[pattern]]\nname = "p"\npattern = "zzz+"\n{phrase}')
    detector = RuleDetector(read_rules(path))
    assert detector.assess([f"zzzz {PHRASE}"])[0].rules == ("f", "p")
    assert detector.name != RuleDetector(RuleFile()).name
    path.write_text('[[pattern]]\nname = "p"\ncolour = 3\n')
    with pytest.raises(ConfigError, match="banned content"):
        read_rules(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_rules(tmp_path / "nothing.toml")
