"""What the teacher takes for an arithmetic question, what it refuses, and how it writes it as tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.teachers.arithmetic.lessons import LEGS, worked
from prsm.teachers.arithmetic.phrasing import MAX_TEXT_CHARS, read
from prsm.teachers.arithmetic.tokens import ANIMALS, FEATURE_SIZES, ID, TOKENS, Locator, encode
from prsm.teachers.tasks.held_out import HELD_OUT_MODULUS, is_held_out

UNDERSTOOD = [
    ("What is 12 + 30?", "12 + 30"),
    ("calculate 7*8", "7 * 8"),
    ("12+30=", "12 + 30"),
    ("State the final answer to the following arithmetic problem: 12 + 30 =", "12 + 30"),
    ("Solve the following multiplication: 12 * 30. Give only the result as your final answer.", "12 * 30"),
    ("Hello, can you please tell me what is 5 plus 6 minus 2?", "5 + 6 - 2"),
    ("How much is 3 times 14?", "3 * 14"),
    ("3 x 14", "3 * 14"),
    ("7 × 8", "7 * 8"),
    ("12 − 30 = ?", "12 - 30"),
    ("1,234 + 5", "1234 + 5"),
    ("007 + 0", "7 + 0"),
    ("-5 - -3", "~ 5 - ~ 3"),
    ("-5 * -3 + 2", "~ 5 * ~ 3 + 2"),
    ("2.5 + 1.25", "2.50 + 1.25"),
    (".5 - 1", "0.5 - 1.0"),
    ("the sum of 4 and 5", "4 + 5"),
    ("What is the product of 12 and 34?", "12 * 34"),
    ("999 * 999", "999 * 999"),
    ("Add 3 and 4.", "3 + 4"),
    ("multiply 12 by 3", "12 * 3"),
    ("Please subtract 5 from 20", "20 - 5"),
    ("Can you tell me what 2+2 is?", "2 + 2"),
    ("What is the GCD of 12 and 18?", "gcd 12 , 18"),
    ("gcd(12, 18)", "gcd 12 , 18"),
    (
        "Find the Greatest Common Divisor (GCD) of these numbers: 102, 18. Give only the GCD as your final answer.",
        "gcd 102 , 18",
    ),
    ("How many legs do 3 cats and two spiders have?", "3 * cat + 2 * spider"),
    (
        "Your task is to count how many legs there are in total when given a list of animals.\n\nNow, how many legs "
        "are there in total if you have 3 sea slugs, 1 sheep, 15 leechs, 2 praying mantiss?\n",
        "3 * sea slug + 1 * sheep + 15 * leech + 2 * praying mantis",
    ),
]

REFUSED = [
    "",
    "Write me a poem about the sea.",
    "What is love?",
    "42",
    "What is 12?",
    "12 + ",
    "12 / 4",
    "2 ** 8",
    "2 ^ 8",
    "(2 + 3) * 4",
    "1 2 + 3",
    "1 + 2 3",
    "1e5 + 1",
    "5! + 3",
    "3 + x",
    "123456 + 1",
    "1000 * 2",
    "2 * 3 * 4",
    "1 + 2 + 3 + 4 + 5 + 6 + 7",
    "1 * 2 + 3 + 4 + 5 + 6",
    "1.234 + 1",
    "1234.5 + 1",
    "1000 + 0.5",
    "1.5 * 2",
    "999 * 999 + 9999",
    "12 + 30 and then write a poem",
    "Is 12 + 30 = 42 true?",
    "١٢ + ٣٠",
    "１２ + ３０",
    "12 + 30 \u2067",
    "12\x00 + 30",
    "\ud800 1 + 1",
    "gcd of 12",
    "gcd of 12, 18, 24",
    "gcd of 0 and 5",
    "gcd of 1000 and 5",
    "How many legs do 3 unicorns have?",
    "How many legs do 16 cats have?",
    "How many legs do 0 cats have?",
    "How many legs does a table have?",
    "9" * 500 + " + 1",
    "1 + 1" + " " * MAX_TEXT_CHARS,
    "1+" * 500_000 + "1",
    "= " * 290,
    "what is " * 70,
    "- " * 290,
    "a" * 1_000_000,
]


@pytest.mark.parametrize(("text", "canonical"), UNDERSTOOD)
def test_a_question_is_read_in_any_of_its_wordings(text: str, canonical: str) -> None:
    problem = read(text)
    assert problem is not None
    assert problem.canonical == canonical


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:40]))
def test_what_is_no_trained_question_is_refused(text: str) -> None:
    assert read(text) is None


@given(st.text(max_size=700))
def test_no_text_breaks_the_reader(text: str) -> None:
    problem = read(text)
    assert problem is None or encode(problem.canonical)


@given(st.text(alphabet="0123456789+-*.,=? xgcdof", max_size=60))
def test_whatever_is_understood_can_be_encoded_and_located(text: str) -> None:
    problem = read(text)
    if problem is not None:
        positions = Locator().walk(encode(problem.canonical))
        assert all(0 <= p < size for position in positions for p, size in zip(position, FEATURE_SIZES, strict=True))


@given(st.lists(st.integers(0, len(TOKENS) - 1), max_size=400))
def test_no_token_sequence_leaves_the_position_tables(ids: list[int]) -> None:
    for position in Locator().walk(ids):
        assert all(0 <= p < size for p, size in zip(position, FEATURE_SIZES, strict=True))


def test_digits_are_written_least_significant_first_and_sums_tell_their_decimals() -> None:
    assert [TOKENS[i] for i in encode("12 + ~ 345")] == ["<0>", "2", "1", "+", "~", "5", "4", "3", "="]
    assert [TOKENS[i] for i in encode("1.50 - 0.25")] == ["<2>", "0", "5", "1", "-", "5", "2", "0", "="]
    assert [TOKENS[i] for i in encode("gcd 12 , 8")] == ["<gcd>", "2", "1", ",", "8", "="]
    assert [TOKENS[i] for i in encode("2 * sea slug")] == ["<0>", "2", "*", "sea slug", "="]


def _answer(canonical: str) -> str:
    tail = [TOKENS[i] for i in worked(canonical)]
    return "".join(name for name in tail[tail.index(">") + 1 : -1] if name != "_")


_NUMBERS = st.integers(-99_999, 99_999)


def _term(value: int) -> str:
    return f"~ {-value}" if value < 0 else str(value)


@given(_NUMBERS, st.lists(st.tuples(st.sampled_from("+-"), _NUMBERS), min_size=1, max_size=5))
def test_a_worked_sum_ends_in_the_true_result(first: int, rest: list[tuple[str, int]]) -> None:
    canonical = " ".join([_term(first), *(f"{op} {_term(value)}" for op, value in rest)])
    total = first + sum(value if op == "+" else -value for op, value in rest)
    assert _answer(canonical) == str(total)


@given(st.integers(-999, 999), st.integers(-999, 999))
def test_a_worked_product_ends_in_the_true_result(x: int, y: int) -> None:
    assert _answer(f"{_term(x)} * {_term(y)}") == str(x * y)


@given(st.integers(1, 999), st.integers(1, 999))
def test_a_worked_divisor_divides_both_and_nothing_larger_does(u: int, v: int) -> None:
    divisor = int(_answer(f"gcd {u} , {v}"))
    assert max(d for d in range(1, min(u, v) + 1) if u % d == v % d == 0) == divisor


def test_every_animal_has_its_legs_in_the_lessons() -> None:
    assert LEGS.keys() == set(ANIMALS)
    assert _answer("2 * woodlouse + 1 * snake") == "28"


@given(_NUMBERS, _NUMBERS)
def test_the_split_depends_on_the_problem_and_not_on_its_wording(a: int, b: int) -> None:
    wordings = (f"{a} + {b}", f"What is {a} plus {b}?", f"{a}+{b}=")
    problems = {read(wording) for wording in wordings}
    assert len(problems) == 1
    (problem,) = problems
    assert problem is not None
    assert is_held_out(problem.canonical) in (True, False)


def test_about_one_prompt_in_twenty_is_held_out() -> None:
    share = sum(is_held_out(f"{a} + {b}") for a in range(100) for b in range(100)) / 10_000
    assert abs(share - 1 / HELD_OUT_MODULUS) < 0.01
    assert is_held_out("5 + 7") == is_held_out("5 + 7")


def test_token_ids_are_stable() -> None:
    assert (ID["<pad>"], ID["<end>"], ID["0"], ID["9"]) == (0, 1, 2, 11)
    assert len(set(TOKENS)) == len(TOKENS) == 70
