"""A witness signs nothing but the log that it knows, grown; and a check names what is out of place."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from prsm.core.errors import InvalidRequest
from prsm.core.keys import NodeKey
from prsm.core.merkle import tiles
from prsm.core.merkle.notes import COSIGNATURE, Checkpoint, VerifierKey, sign_note
from prsm.core.merkle.tree import EMPTY_ROOT, consistency_proof, leaf_hash, root_of
from prsm.safety.audit.checking import MAX_FINDINGS, Findings, LogCheck
from prsm.safety.audit.witness import Inconsistent, check_growth, read_signed, witness_key

NODE, OTHER = (NodeKey(Ed25519PrivateKey.from_private_bytes(bytes([n] * 32))) for n in (8, 9))
KEY = VerifierKey("prsm.audit/node", NODE.public_key_hex)
LEAVES = [leaf_hash(str(n).encode()) for n in range(40)]


def at(size: int, leaves: list[bytes] = LEAVES) -> Checkpoint:
    return Checkpoint(KEY.name, size, root_of(leaves[:size]))


def proof(first: int, second: int, leaves: list[bytes] = LEAVES) -> list[bytes]:
    return consistency_proof(first, second, tiles.reader(tiles.append({}, 0, leaves)))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (7, 7), (7, 40), (32, 40)])
def test_a_log_that_grew_is_accepted(first: int, second: int) -> None:
    check_growth(at(first), at(second), proof(first, second))


def test_a_log_that_was_cut_or_rewritten_is_not() -> None:
    with pytest.raises(Inconsistent, match="was cut"):
        check_growth(at(9), at(8), [])
    another = [*LEAVES[:3], leaf_hash(b"another"), *LEAVES[4:]]
    with pytest.raises(Inconsistent, match="was rewritten"):
        check_growth(at(9), at(20, another), proof(9, 20, another))
    with pytest.raises(Inconsistent, match="was rewritten"):
        check_growth(at(9), at(9, another), [])


def test_only_what_the_logs_key_signed_is_read() -> None:
    note = sign_note(at(3).text, KEY, NODE.sign)
    assert read_signed(str(note), KEY) == (note, at(3))
    with pytest.raises(InvalidRequest):
        read_signed("nothing", KEY)
    with pytest.raises(Inconsistent):
        read_signed(str(note), VerifierKey(KEY.name, OTHER.public_key_hex))
    with pytest.raises(Inconsistent):
        read_signed(str(note), VerifierKey("prsm.audit/other", NODE.public_key_hex))
    key = witness_key(OTHER.node_id, OTHER.public_key_hex)
    assert (key.name, key.algorithm) == (f"prsm.witness/{OTHER.node_id}", COSIGNATURE)


def test_checkpoints_and_entries_out_of_order_are_named() -> None:
    findings = Findings()
    check = LogCheck(KEY, (), findings)
    check.add(1, b"0")
    assert findings.sentences == ["The entry at position 0 is missing or misplaced; 1 stands there."]
    check.own(0, str(sign_note(Checkpoint(KEY.name, 0, EMPTY_ROOT).text, KEY, NODE.sign)))
    assert "The checkpoint of 0 entries is out of order." in findings.sentences


def test_findings_are_counted_beyond_those_that_are_told() -> None:
    findings = Findings()
    for number in range(MAX_FINDINGS + 5):
        findings.add(str(number))
    assert len(findings.sentences) == MAX_FINDINGS
    assert findings.count == MAX_FINDINGS + 5
