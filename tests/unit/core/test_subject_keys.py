"""Sealing under a subject's key: opened only by it, at its place, unaltered; and what is not sealed is told apart."""

import base64
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.subject_keys import SubjectKey, Unreadable, are_sealed, is_sealed, subject_of

ADA, BOB = SubjectKey(b"s" * 32, b"a" * 32), SubjectKey(b"s" * 32, b"b" * 32)


@given(st.text(), st.text())
def test_what_was_sealed_is_opened(text: str, place: str) -> None:
    sealed = ADA.seal(text, place)
    assert ADA.open(sealed, place) == text
    assert is_sealed(sealed) == bool(text)
    assert ADA.seal(text, place) == sealed


@given(st.binary(), st.text(), st.integers(0, 10_000))
def test_any_change_shows(data: bytes, place: str, where: int) -> None:
    sealed = ADA.seal_bytes(data, place)
    assert are_sealed(sealed)
    assert ADA.open_bytes(sealed, place) == data
    altered = bytearray(sealed)
    altered[where % len(altered)] ^= 1
    with pytest.raises(Unreadable):
        ADA.open_bytes(bytes(altered), place)
    for key, spot in ((BOB, place), (ADA, place + "x"), (SubjectKey(b"t" * 32, b"a" * 32), place)):
        with pytest.raises(Unreadable):
            key.open_bytes(sealed, spot)


def test_equal_texts_look_equal_only_at_one_place_of_one_subject() -> None:
    sealed = {ADA.seal("x", "p"), ADA.seal("x", "q"), BOB.seal("x", "p"), ADA.seal("y", "p")}
    nonces = {base64.urlsafe_b64decode(each.rsplit(":", 1)[1])[:13] for each in sealed}
    assert len(nonces) == 4


def test_what_was_stored_before_texts_were_sealed_is_itself() -> None:
    assert ADA.open("plain", "p") == "plain"
    assert ADA.open("", "p") == ""
    assert not are_sealed(b'{"a": 1}')
    for broken in ("sealed:v1:", "sealed:v1:!", "sealed:v1:AQ==", "sealed:v1:" + "A" * 60):
        with pytest.raises(Unreadable):
            ADA.open(broken, "p")


def test_an_account_that_is_nobodys_is_a_subject_of_its_own() -> None:
    principal = uuid4()
    assert subject_of(f"principal:{principal}") == principal
    assert subject_of("node:prsm1abc") == subject_of("node:prsm1abc") != subject_of("node:prsm1abd")
    assert isinstance(subject_of("treasury"), UUID)
