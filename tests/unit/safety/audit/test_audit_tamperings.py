"""Whatever is done to a copy of a log, even with the node's own key, shows against a checkpoint kept elsewhere.

``PRSM_TEST_AUDIT_TAMPERINGS`` is how many random tamperings are tried; the seed of one that is not found is told.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from prsm.core.keys import NodeKey
from prsm.core.merkle import tiles
from prsm.core.merkle.notes import COSIGNATURE, Checkpoint, Note, VerifierKey, cosign, parse_note, sign_note
from prsm.core.merkle.tiles import Tile
from prsm.core.merkle.tree import leaf_hash, root_of
from prsm.safety.audit.checking import Witnessed, check_copy
from prsm.safety.audit.entries import write_entry

TAMPERINGS = int(os.environ.get("PRSM_TEST_AUDIT_TAMPERINGS", "300"))
NODE, WITNESS = (NodeKey(Ed25519PrivateKey.from_private_bytes(bytes([n] * 32))) for n in (3, 4))
LOG_KEY = VerifierKey("prsm.audit/node", NODE.public_key_hex)
WITNESS_KEY = VerifierKey("prsm.witness/w", WITNESS.public_key_hex, COSIGNATURE)
SIZE, STEP = 300, 23
"""Entries of the log, and how many there are between two checkpoints: a full tile and a partial one."""


@dataclass
class Copy:
    """A log somebody has in hand."""

    entries: list[bytes]
    checkpoints: dict[int, str] = field(default_factory=dict)
    kept: dict[Tile, bytes] = field(default_factory=dict)

    def again(self) -> "Copy":
        return Copy(list(self.entries), dict(self.checkpoints), dict(self.kept))

    def rebuild(self) -> None:
        """Make tiles and checkpoints anew, signed with the node's key: what its holder can do."""
        leaves = list(map(leaf_hash, self.entries))
        self.kept = tiles.append({}, 0, leaves)
        sizes = sorted({*range(STEP, len(leaves), STEP), len(leaves)})
        self.checkpoints = {size: signed(size, root_of(leaves[:size])) for size in sizes}


def signed(size: int, root: bytes) -> str:
    return str(sign_note(Checkpoint(LOG_KEY.name, size, root).text, LOG_KEY, NODE.sign))


def entry(place: int, who: str = "system") -> bytes:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return write_entry(at, who, "", "api_keys", "insert", [{"now": {"id": str(place), "scopes": '["read"]'}}])


def witnessed(copy: Copy, size: int) -> Witnessed:
    note = parse_note(copy.checkpoints[size])
    line = cosign(note, WITNESS_KEY, WITNESS.sign, 1_800_000_000)
    return Witnessed(str(Note(note.text, (*note.signatures, line))), WITNESS_KEY)


Tamper = Callable[[Copy, random.Random, int], None]
"""Change a copy somewhere below the witnessed size."""


def edit(copy: Copy, draw: random.Random, below: int) -> None:
    place = draw.randrange(below)
    body = bytearray(copy.entries[place])
    body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
    copy.entries[place] = bytes(body)


def replace(copy: Copy, draw: random.Random, below: int) -> None:
    copy.entries[draw.randrange(below)] = entry(draw.randrange(10**9), "somebody else")


def delete(copy: Copy, draw: random.Random, below: int) -> None:
    first = draw.randrange(below)
    del copy.entries[first : first + draw.randint(1, 40)]


def insert(copy: Copy, draw: random.Random, below: int) -> None:
    copy.entries.insert(draw.randrange(below), entry(draw.randrange(10**9)))


def reorder(copy: Copy, draw: random.Random, below: int) -> None:
    first, second = draw.sample(range(below), 2)
    copy.entries[first], copy.entries[second] = copy.entries[second], copy.entries[first]


def cut(copy: Copy, draw: random.Random, below: int) -> None:
    del copy.entries[draw.randrange(below) :]


def write_anew(copy: Copy, draw: random.Random, below: int) -> None:
    copy.entries = [entry(place, f"another past {draw.random()}") for place in range(below + draw.randrange(50))]


TAMPERS: tuple[Tamper, ...] = (edit, replace, delete, insert, reorder, cut, write_anew)


@pytest.fixture(scope="module")
def log() -> Copy:
    copy = Copy([entry(place) for place in range(SIZE)])
    copy.rebuild()
    return copy


def check(copy: Copy, *seen: Witnessed) -> list[str]:
    return check_copy(LOG_KEY, copy.entries, copy.checkpoints, copy.kept, seen).sentences


def test_an_untouched_copy_is_whole(log: Copy) -> None:
    for size in log.checkpoints:
        assert check(log, witnessed(log, size)) == []


def test_every_tampering_is_found(log: Copy) -> None:
    """Half of them with tiles and checkpoints made anew and signed by the node's key."""
    sizes = sorted(log.checkpoints)[1:]
    found = {tamper.__name__: 0 for tamper in TAMPERS}
    resigned = 0
    for seed in range(TAMPERINGS):
        draw = random.Random(seed)
        copy, size = log.again(), draw.choice(sizes)
        tamper = TAMPERS[seed % len(TAMPERS)]
        tamper(copy, draw, size)
        if resign := bool(draw.getrandbits(1)) and bool(copy.entries):
            copy.rebuild()
        told = check(copy, witnessed(log, size))
        by_the_witness = any("witnessed checkpoint" in sentence for sentence in told)
        assert by_the_witness, f"seed {seed}: {tamper.__name__} below {size}, resigned {resign}"
        found[tamper.__name__] += 1
        resigned += resign
    print(f"{TAMPERINGS} tamperings found, {resigned} of them resigned: {found}")


def test_a_rewrite_with_the_nodes_key_is_found_by_nothing_but_a_witness(log: Copy) -> None:
    copy = log.again()
    write_anew(copy, random.Random(1), SIZE)
    copy.rebuild()
    assert check(copy) == []
    assert check(copy, witnessed(log, SIZE))


def test_tiles_and_checkpoints_alone_are_held_to_the_entries(log: Copy) -> None:
    for tile in log.kept:
        copy = log.again()
        copy.kept[tile] = bytes([copy.kept[tile][0] ^ 1]) + copy.kept[tile][1:]
        assert any("does not hold the hashes" in each for each in check(copy))
        del copy.kept[tile]
        assert any("does not hold the hashes" in each for each in check(copy))
    copy = log.again()
    copy.kept[Tile(5, 0)] = bytes(32)
    assert any("is of no entries" in each for each in check(copy))
    for size in log.checkpoints:
        copy = log.again()
        copy.checkpoints[size] = signed(size, bytes(32))
        assert any("has another root" in each for each in check(copy))
        copy.checkpoints[size] = log.checkpoints[size].replace("\u2014 prsm.audit/node ", "\u2014 prsm.audit/other ")
        assert any("is not signed" in each for each in check(copy))
        copy.checkpoints[size] = "no note"
        assert any("cannot be read" in each for each in check(copy))
        copy.checkpoints[size] = log.checkpoints[SIZE if size != SIZE else STEP]
        assert any("says that it is of" in each for each in check(copy))
    copy = log.again()
    copy.checkpoints[SIZE + 9] = signed(SIZE + 9, bytes(32))
    assert any(f"is over {SIZE + 9} entries" in each for each in check(copy))
    copy = log.again()
    del copy.checkpoints[SIZE]
    assert any("The last checkpoint is over" in each for each in check(copy))


def test_a_witnessed_checkpoint_must_be_this_logs_and_the_witness(log: Copy) -> None:
    foreign = sign_note(Checkpoint("prsm.audit/other", 1, bytes(32)).text, LOG_KEY, NODE.sign)
    assert any("is of the log prsm.audit/other" in each for each in check(log, Witnessed(str(foreign))))
    mine = Witnessed(log.checkpoints[SIZE], WITNESS_KEY)
    assert any("is not cosigned by the witness" in each for each in check(log, mine))
    empty = sign_note(Checkpoint(LOG_KEY.name, 0, bytes(32)).text, LOG_KEY, NODE.sign)
    assert any("has another root" in each for each in check(log, Witnessed(str(empty))))
    with_nothing = Copy([])
    assert check(with_nothing) == []
