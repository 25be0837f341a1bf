"""Forms of questions: what has one is understood, and no text makes matching slow."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import ConfigError
from prsm.teachers.questions import MAX_FORM_CHARACTERS, MAX_FORMS, Questions, example


@pytest.mark.parametrize(
    ("form", "yes", "no"),
    [
        ("{integer:3} + {integer:3}", ["1 + 2", "-12 + 999"], ["1000 + 1", "1 + ", "1 + 2 ", "a + b", "1 + ٣"]),
        ("What is {integer:2}*{integer:2}?", ["What is 12*3?"], ["What is 12*3", "what is 12*3?", "What is 12x3?"]),
        ("{integer:2}{integer:2}", ["12-3", "123"], ["12", "-"]),
        ("Sort: {text}.", ["Sort: 3, 1.", "Sort: a\nb.", "Sort: ..", "Sort: a. b."], ["Sort: 3", "sort: 3."]),
        ("{text}", ["", "anything"], []),
        ("{text} = {text}?", ["a = b?", " = ?"], ["a b?"]),
        ("(a|b)*", ["(a|b)*"], ["a", ""]),
        ("{positive:3} in binary", ["7 in binary", "100 in binary"], ["0 in binary", "-7 in binary", "1000 in binary"]),
        ("1{digits:3}.", ["10.", "1007."], ["1.", "10000.", "2007."]),
        ("Spell {word:4}.", ["Spell cat.", "Spell a."], ["Spell horse.", "Spell Cat.", "Spell ."]),
        ("{roman}!", ["XIV!", "MMMCMXCIX!", "I!"], ["!", "IIII!", "VX!", "MMMM!", "xiv!"]),
    ],
)
def test_a_form_matches_whole_texts(form: str, yes: list[str], no: list[str]) -> None:
    questions = Questions([form])
    assert [text for text in yes + no if questions.include(text)] == yes


def test_any_of_several_forms_and_all_without_one() -> None:
    questions = Questions(["a", "b"])
    assert [questions.include(text) for text in "abc"] == [True, True, False]
    assert Questions([]).include("whatever")


@pytest.mark.parametrize(
    "form",
    ["{integer}", "{integer:0}", "{integer:101}", "{words}", "{", "a}", "{text", "{text:3}", "{word:0}", "{roman:3}"],
)
def test_what_is_no_form_is_refused(form: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Questions([form])
    assert caught.value.param == "questions"


@pytest.mark.parametrize(
    "form",
    ["{integer:4} + {positive:2}", "Spell {word:9} backwards.", "1{digits:3}", "What number is {roman}?", "{text}!"],
)
def test_an_example_of_a_form_has_it(form: str) -> None:
    chance = random.Random(form)
    assert all(Questions([form]).include(example(form, chance)) for _ in range(300))


def test_forms_are_bounded() -> None:
    with pytest.raises(ConfigError):
        Questions(["x"] * (MAX_FORMS + 1))
    with pytest.raises(ConfigError):
        Questions(["x" * (MAX_FORM_CHARACTERS + 1)])


def test_no_form_is_slow_whatever_the_text() -> None:
    questions = Questions(
        ["{text}1" * 100 + "2", "{integer:100}" * 50 + "x", "{text}" + "{integer:9} " * 50 + "{text}x"]
    )
    begun = time.process_time()
    for text in ("1" * 8_000, "1 " * 4_000, "x1" * 4_000):
        assert not questions.include(text)
    assert time.process_time() - begun < 2


@given(st.lists(st.integers(-99_999, 99_999), min_size=1, max_size=4))
def test_numbers_in_a_form_are_found(numbers: list[int]) -> None:
    form = " and ".join(["{integer:5}"] * len(numbers))
    assert Questions([form]).include(" and ".join(map(str, numbers)))
