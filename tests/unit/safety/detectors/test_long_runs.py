"""Long texts of one pattern: no detector takes the square of their length, which would stop a node by one request."""

import time
from collections.abc import Callable

import pytest

from prsm.safety.detectors.hidden import hidden
from prsm.safety.detectors.normalise import plain, skeleton
from prsm.safety.detectors.personal import PersonalDetector
from prsm.safety.detectors.secrets import SecretsDetector

UNITS = (
    "x", "1", "a@", "@", "%41", "%4", "ab ", "ab:", "1 ", "12-", "+", "a.b@", "A\n", "AAAA\n", "=", "a/b", "http://",
    "ey.", "_", "'", "key=", "a b c ", "1.", "..", "password=", "4111 ", "+49 ", "fe80:", "\\x41", "\u200b", "x\u0301",
    "\u0301\u0323", "\u0f73",
    "4 ", "4821 5533 ", "6000 1 1 1 ", "DE89 ", "de89 3704 0044 0532 0130 01 ", "+49 89 12345678 1234567 ",
)  # fmt: skip
READERS: dict[str, Callable[[str], object]] = {
    "plain": plain,
    "skeleton": lambda text: skeleton(plain(text)),
    "hidden": hidden,
    "personal": lambda text: PersonalDetector().assess([text]),
    "secrets": lambda text: SecretsDetector().assess([text]),
}
CHARS = 50_000
LIMIT_S = 1.5
"""All take a tenth of a second; the square of the length took four."""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("end", ["", "g"])
def test_no_text_takes_the_square_of_its_length(reader: str, end: str) -> None:
    for unit in UNITS:
        text = (unit * CHARS)[: CHARS - len(end)] + end
        begun_s = time.process_time()
        READERS[reader](text)
        assert time.process_time() - begun_s < LIMIT_S, unit


def test_percent_signs_are_read_wherever_a_run_of_them_begins() -> None:
    for around in ("{}", "aaa{}", "a%zzb{}", "see a+b {} now", "%4{}"):
        found = hidden(around.format("%68%65%6c%6c%6f%20%79%6f%75"))
        assert any("hello you" in each.text for each in found), around
