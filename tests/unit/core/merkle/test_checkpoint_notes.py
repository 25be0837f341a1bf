"""Signed notes: a vector of the specification, checkpoints there and back, and what must not be believed."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from prsm.core.keys import NodeKey
from prsm.core.merkle.notes import (
    COSIGNATURE,
    MAX_NOTE_BYTES,
    Checkpoint,
    MalformedNote,
    Note,
    VerifierKey,
    cosign,
    cosigned_at,
    is_signed,
    parse_checkpoint,
    parse_key,
    parse_note,
    sign_note,
)

# C2SP signed-note: the example, and the key that it is of.
EXAMPLE = (
    "This is an example message.\n\n\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Zt"
    "g1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
# C2SP tlog-cosignature: a checkpoint with its log's line and a witness's.
COSIGNED = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+"
    "zyWE+xeMcTOAYQ8=\n"
    "\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5"
    "nNo0xUe+mbIUBkBIfZ+qnA==\n"
)

LOG, WITNESS = (NodeKey(Ed25519PrivateKey.from_private_bytes(bytes([n] * 32))) for n in (1, 2))
LOG_KEY = VerifierKey("prsm.test/log", LOG.public_key_hex)
WITNESS_KEY = VerifierKey("witness.test/w", WITNESS.public_key_hex, COSIGNATURE)
TREE = Checkpoint(LOG_KEY.name, 7, bytes(range(32)))


def test_the_example_of_the_specification() -> None:
    note, key = parse_note(EXAMPLE), parse_key(EXAMPLE_KEY)
    assert is_signed(note, key)
    assert str(note) == EXAMPLE
    assert str(key) == EXAMPLE_KEY
    assert not is_signed(Note("This is another message.\n", note.signatures), key)


def test_a_cosigned_checkpoint_of_the_specification_is_read() -> None:
    note = parse_note(COSIGNED)
    assert parse_checkpoint(note).size == 20852163
    assert str(note) == COSIGNED
    assert [line.name for line in note.signatures] == ["example.com/behind-the-sofa", "witness.example.com/w1"]
    assert int.from_bytes(note.signatures[1].value[:8], "big") == 1679315147


def test_a_checkpoint_is_signed_cosigned_and_read_again() -> None:
    note = sign_note(TREE.text, LOG_KEY, LOG.sign)
    witnessed = Note(note.text, (*note.signatures, cosign(note, WITNESS_KEY, WITNESS.sign, 1_900_000_000)))
    again = parse_note(str(witnessed))
    assert again == witnessed
    assert parse_checkpoint(again) == TREE
    assert is_signed(again, LOG_KEY)
    assert cosigned_at(again, WITNESS_KEY) == 1_900_000_000
    assert cosigned_at(note, WITNESS_KEY) is None


def test_a_signature_counts_only_for_its_text_key_and_time() -> None:
    note = sign_note(TREE.text, LOG_KEY, LOG.sign)
    line = cosign(note, WITNESS_KEY, WITNESS.sign, 5)
    other = Checkpoint(TREE.origin, 8, TREE.root)
    assert not is_signed(Note(other.text, note.signatures), LOG_KEY)
    assert not is_signed(note, VerifierKey(LOG_KEY.name, WITNESS.public_key_hex))
    assert not is_signed(note, VerifierKey("prsm.test/other", LOG.public_key_hex))
    assert cosigned_at(Note(other.text, (line,)), WITNESS_KEY) is None
    later = type(line)(line.name, line.key_id, (6).to_bytes(8, "big") + line.value[8:])
    assert cosigned_at(Note(note.text, (later,)), WITNESS_KEY) is None
    assert cosigned_at(Note(note.text, (line,)), VerifierKey(WITNESS_KEY.name, LOG.public_key_hex, COSIGNATURE)) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "text\n", "text\n\n", "text\n\nno dash AAAAAAAA\n", "text\n\n\u2014 name !!!!\n",
        "text\n\n\u2014 name AAAA\n", "text\n\n\u2014 name AAAAAAAA", "text\n\n\u2014 na+me AAAAAAAA\n",
        "text\n\n\u2014  AAAAAAAA\n", "x" * (MAX_NOTE_BYTES + 1),
    ],
)  # fmt: skip
def test_what_is_no_note(text: str) -> None:
    with pytest.raises(MalformedNote):
        parse_note(text)


@pytest.mark.parametrize(
    "text",
    ["o\n1\n", "\n1\nAA==\n", "o\n01\nAA==\n", "o\n-1\nAA==\n", "o\n1\nAA==\n", "o\n1\n*\n", f"o\n{10**20}\nAA==\n"],
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(MalformedNote):
        parse_checkpoint(Note(text, ()))


@pytest.mark.parametrize(
    "text",
    ["", "name", "name+00000000", "name+00000000+AQ==", "name+00000000+" + EXAMPLE_KEY.rsplit("+", 1)[1],
     EXAMPLE_KEY.replace("+Ae", "+Be")],
)  # fmt: skip
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(MalformedNote):
        parse_key(text)
