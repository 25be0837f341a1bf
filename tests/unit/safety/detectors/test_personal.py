"""Personal data with a form: real numbers are found, one wrong digit is not, and ordinary texts hold nothing."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.safety.detectors import checksums as c
from prsm.safety.detectors.personal import PersonalDetector
from prsm.safety.seams import Category

# Examples out of the rules' own documents and of encyclopedias; none is a person's.
REAL: dict[str, tuple[Callable[[str], bool], tuple[str, ...]]] = {
    "card": (c.card, ("4111 1111 1111 1111", "378282246310005", "5555-5555-5555-4444", "6011111111111117")),
    "iban": (c.iban, ("DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "FR1420041010050500013M02606")),
    "us-ssn": (c.us_ssn, ("536-90-4399",)),
    "uk-nhs": (c.uk_nhs, ("943 476 5919",)),
    "es-dni": (c.es_dni, ("12345678Z", "X1234567L")),
    "it-fiscal": (c.it_fiscal, ("RSSMRA85T10A562S",)),
    "fr-nir": (c.fr_nir, ("2 55 08 14 168 025 38",)),
    "de-tax": (c.de_tax, ("86095742719", "47036892816")),
    "nl-bsn": (c.nl_bsn, ("111222333",)),
    "pl-pesel": (c.pl_pesel, ("44051401359",)),
    "br-cpf": (c.br_cpf, ("529.982.247-25",)),
    "in-aadhaar": (c.in_aadhaar, ("2341 2341 2346",)),
    "crypto": (
        c.bitcoin,
        (
            "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
            "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr",
        ),
    ),
}
CASES = [(kind, check, number) for kind, (check, numbers) in REAL.items() for number in numbers]
WORDS = {"uk-nhs": "NHS number", "de-tax": "Steuer-IdNr", "nl-bsn": "BSN", "pl-pesel": "PESEL"}


@pytest.fixture(scope="module")
def detector() -> PersonalDetector:
    return PersonalDetector()


def _kinds(detector: PersonalDetector, text: str) -> list[tuple[str, str]]:
    (found,) = detector.assess([text])
    assert found.scores[Category.PERSONAL_DATA] == (0.99 if found.spans else 0.0)
    return [(span.kind, text[span.start : span.end]) for span in found.spans]


@pytest.mark.parametrize(("kind", "check", "number"), CASES)
def test_real_numbers_are_found_where_they_stand(
    detector: PersonalDetector, kind: str, check: Callable[[str], bool], number: str
) -> None:
    assert check(number)
    assert (kind, number) in _kinds(detector, f"é😂 my {WORDS.get(kind, 'data')}: {number}, thank you")


@pytest.mark.parametrize(("kind", "check", "number"), [case for case in CASES if case[0] != "us-ssn"])
def test_one_wrong_digit_is_not_real(kind: str, check: Callable[[str], bool], number: str) -> None:
    places = [i for i, char in enumerate(number) if char.isdigit()]
    changed = [number[:i] + str((int(number[i]) + 1) % 10) + number[i + 1 :] for i in places[2:]]
    caught = sum(not check(text) for text in changed)
    assert caught == len(changed), kind


@pytest.mark.parametrize("wrong", ["000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000"])
def test_numbers_never_given_out_are_no_ssn(wrong: str) -> None:
    assert not c.us_ssn(wrong)


@pytest.mark.parametrize(
    ("kind", "it"),
    [
        ("email", "jürgen.o'neil+x@mail.example.co.uk"),
        ("phone", "+44 20 7946 0958"),
        ("phone", "(415) 555-0132"),
        ("phone", "089 1234567"),
        ("ip", "203.0.113.7"),
        ("ip", "2001:db8::ff00:42:8329"),
        ("url", "https://example.org/a?b=c"),
        ("url", "www.example.com"),
        ("street-address", "221 Baker Street"),
        ("us-ssn", "536-90-4399"),
        ("uk-nino", "AB 12 34 56 C"),
        ("crypto", "0x52908400098527886E0F7030069857D2E4169EE7"),
    ],
)
def test_other_forms_are_found(detector: PersonalDetector, kind: str, it: str) -> None:
    assert (kind, it) in _kinds(detector, f"This is it: {it}, or so.")


def test_finds_side_by_side_are_all_told(detector: PersonalDetector) -> None:
    addresses = [f"203.0.113.{n}" for n in range(1, 40)]
    assert [it for _, it in _kinds(detector, " ".join(addresses))] == addresses


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4111 1111 1111 1111 123", ["4111 1111 1111 1111"]),
        ("4111 1111 1111 1111 12/27", ["4111 1111 1111 1111"]),
        ("12 4111111111111111", ["4111111111111111"]),
        ("card 4111 1111 1111 1111 123", ["4111 1111 1111 1111"]),
        ("1 2 3 3782 822463 10005 1234", ["3782 822463 10005"]),
        ("12-4111-1111-1111-1111-07-2027", ["4111-1111-1111-1111"]),
        ("4111 1111 1111 1111 5555 5555 5555 4444", ["4111 1111 1111 1111", "5555 5555 5555 4444"]),
        ("DE89370400440532013000 thanks", ["DE89370400440532013000"]),
        ("from no12 to de89 3704 0044 0532 0130 00 for rent", ["de89 3704 0044 0532 0130 00"]),
        ("AB12 CD34 EF56 GH78 IJ90 DE89 3704 0044 0532 0130 00", ["DE89 3704 0044 0532 0130 00"]),
        ("+44 20 7946 0958 2023 2024", ["+44 20 7946 0958"]),
        ("+49 89 1234567 (2023 edition)", ["+49 89 1234567"]),
        ("0089 12345 67890 12345 67890", ["0089 12345 67890"]),
        ("12 536-90-4399 900-12-3456 536-90-4399 12", ["536-90-4399", "536-90-4399"]),
    ],
)
def test_a_number_is_found_among_others(detector: PersonalDetector, text: str, found: list[str]) -> None:
    assert [it for _, it in _kinds(detector, text)] == found


def test_what_is_drawn_otherwise_is_read(detector: PersonalDetector) -> None:
    assert _kinds(detector, "pay ４１１１\u200b1111 1111 1111!") == [("card", "４１１１\u200b1111 1111 1111")]


def test_a_date_is_told_only_as_one_of_birth(detector: PersonalDetector) -> None:
    assert _kinds(detector, "She was born on 2/8/1935.") == [("birth-date", "2/8/1935")]
    assert _kinds(detector, "Released on 2/8/1935.") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Version 1.2.3 of 2021-03-04 12:30:55 has 1,234,567 users and costs $1,999.00.",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "550e8400-e29b-41d4-a716-446655440000",
        "localhost is 127.0.0.1 or ::1 and std::vector is a type, as is a::b; version 1.2.3.4.5",
        "The year 2020-2021 was strange; pages 100-200; pi is 3.14159265358979",
        "order 1234567890123456 was shipped",
        "f(x) = 12345 * 67890 + 11121314",
        "In 1990 1991 1992 1993 it rained.",
        "10 20 30 40 50 60 70 80 90 100 110 120 130 140 150 160 170 180 190 200",
        " ".join(map(str, range(1000))),
        "It is no de facto rule at me or se, as it is in be and fi, that es 12 is ch 34 of all at99 we have here now.",
    ],
)
def test_ordinary_texts_hold_nothing(detector: PersonalDetector, text: str) -> None:
    assert _kinds(detector, text) == []


@given(st.integers(0, 10**15 - 1))
def test_a_luhn_digit_catches_any_one_wrong_digit(number: int) -> None:
    body = f"{number:015d}"
    (check,) = [d for d in "0123456789" if c.luhn(body + d)]
    wrong = str((int(body[7]) + 3) % 10)
    assert not c.luhn(body[:7] + wrong + body[8:] + check)
