"""Tags come out well formed, spans follow words, and each token knows the forms of its word."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.safety.detectors.tagger import FORMS, KINDS, TAGS, Tagged, Tagger, forms, spans, tags

FREE = np.zeros((TAGS, TAGS), np.float32)


def _offsets(text: str) -> list[tuple[int, int]]:
    """Tokens of two characters at most, none over a space."""
    found: list[tuple[int, int]] = []
    for index, char in enumerate(text):
        if char == " ":
            continue
        if found and found[-1][1] == index and index - found[-1][0] < 2:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
@settings(deadline=None)
def test_what_goes_on_follows_what_began(seed: int, count: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (count, TAGS)).astype(np.float32)
    found = tags(logits, FREE)
    assert len(found) == count
    for before, tag in zip([0, *found], found, strict=False):
        assert tag % 2 == 1 or tag == 0 or before in {tag, tag - 1}


def test_the_likeliest_way_is_taken_as_a_whole() -> None:
    logits = np.zeros((3, TAGS), np.float32)
    logits[0, 0], logits[0, 1], logits[1, 2], logits[2, 2] = 1.0, 0.5, 2.0, 2.0
    assert tags(logits, FREE) == [1, 2, 2]


def test_spans_join_parts_of_a_name_and_keep_addresses_apart() -> None:
    text = "Ann B. Lee, 5 Elm 7 Oak"
    name, address = 1 + 2 * KINDS.index("name"), 1 + 2 * KINDS.index("street-address")
    offsets = [(0, 3), (4, 5), (5, 6), (7, 10), (10, 11), (12, 13), (14, 17), (18, 19), (20, 23)]
    found = spans([name, name, 0, name, 0, address, address + 1, address, address + 1], offsets, text)
    assert [(each.kind, text[each.start : each.end]) for each in found] == [
        ("name", "Ann B. Lee"),
        ("street-address", "5 Elm"),
        ("street-address", "7 Oak"),
    ]


@given(st.text(st.sampled_from("aB1 .é'"), max_size=40))
def test_every_token_has_the_forms_of_its_word(text: str) -> None:
    offsets = _offsets(text)
    found = forms(text, offsets)
    assert len(found) == len(offsets)
    assert all(0 <= number < FORMS for each in found for number in each)
    assert all(found), "each token here is of a word or a sign"


def test_a_tagger_weighs_forms_beside_the_branch() -> None:
    table = np.zeros((FORMS, TAGS), np.float16)
    text, offsets = "call Bob now", [(0, 4), (5, 8), (9, 12)]
    for number in forms(text, offsets)[1]:
        table[number, 1] = 1
    tagger = Tagger(table, FREE)
    quiet = np.zeros((3, TAGS), np.float32)
    quiet[:, 0] = 5
    assert tagger.tag(quiet, text, offsets) == [Tagged("name", 5, 8)]
    assert tagger.tag(quiet[:0], "", []) == []
