"""The small teachers' alphabet: what goes in comes out, and the tokenizer's file says the same as the code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from prsm.teachers.alphabet import (
    ANSWER_ID,
    CHARACTERS,
    END_ID,
    MARKS,
    VOCABULARY,
    alphabet,
    answer_ids,
    is_readable,
    prompt_ids,
    read,
    spelt,
)

texts = st.text(st.sampled_from(CHARACTERS), max_size=60)


def test_the_alphabet_is_printable_ascii_the_line_feed_and_four_marks() -> None:
    assert len(VOCABULARY) == 100
    assert {chr(code) for code in range(32, 127)} | {"\n"} == set(CHARACTERS)


@given(texts)
def test_the_tokenizers_file_spells_as_the_code_does(text: str) -> None:
    tokenizer = Tokenizer.from_str(alphabet().to_str())
    assert tokenizer.encode(text, add_special_tokens=False).ids == spelt(text)
    assert tokenizer.decode(spelt(text)) == text
    assert tokenizer.encode(text + "<ask>").ids == prompt_ids(text)


@given(texts, texts)
def test_what_a_teacher_should_write_is_read_as_it_was_meant(scratchpad: str, answer: str) -> None:
    written = read([*answer_ids(scratchpad, answer), *spelt("not read")])
    assert (written.scratchpad, written.answer, written.is_whole) == (scratchpad, answer, True)


@pytest.mark.parametrize(
    "ids",
    [
        [*spelt("1"), ANSWER_ID, *spelt("2")],
        [*spelt("1"), END_ID],
        [ANSWER_ID, *spelt("1"), ANSWER_ID, *spelt("2"), END_ID],
        [0, ANSWER_ID, *spelt("1"), END_ID],
        [],
    ],
    ids=["no end", "no answer", "two answers", "a stray mark", "nothing"],
)
def test_what_does_not_end_properly_is_not_whole(ids: list[int]) -> None:
    assert not read(ids).is_whole


def test_a_character_outside_has_no_token() -> None:
    assert not is_readable("é")
    with pytest.raises(KeyError):
        spelt("é")
    assert all(not is_readable(mark[0] + "\t") for mark in MARKS)
