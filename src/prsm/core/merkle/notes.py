"""Signed checkpoints: what a log says of itself, signed by its key and by witnesses (C2SP signed-note,
tlog-checkpoint, tlog-cosignature).

A note is text and signature lines. A line of a key that is not asked for is passed over, as the format demands; a line
of a key that is asked for counts only if it verifies.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prsm.core.keys import verify
from prsm.core.merkle.tree import HASH_BYTES

MAX_NOTE_BYTES: Final = 64 * 1024
ED25519: Final = 1
COSIGNATURE: Final = 4
_DASH: Final = "\u2014 "
_ID_BYTES: Final = 4
_TIME_BYTES: Final = 8
_NAME: Final = re.compile(r"[^\s+]{1,200}")

Sign = Callable[[bytes], bytes]


class MalformedNote(ValueError):
    """The text is no signed note, or no checkpoint."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A key that signs notes: its name, what kind of signature it makes, and the Ed25519 public key in hex."""

    name: str
    public_key_hex: str
    algorithm: int = ED25519

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature line names the key."""
        material = f"{self.name}\n".encode() + self._tagged()
        return hashlib.sha256(material).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self._tagged()).decode()}"

    def _tagged(self) -> bytes:
        return bytes([self.algorithm]) + bytes.fromhex(self.public_key_hex)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line."""

    name: str
    key_id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """Text, which ends with a newline, and who signed it."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tree of a log at one time: which log, how many leaves, and the root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The body of the note that states it."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def parse_key(text: str) -> VerifierKey:
    """The key that ``str`` of a VerifierKey wrote. Raises MalformedNote."""
    name, _, rest = text.strip().partition("+")
    key_id, _, material = rest.partition("+")
    raw = _decoded(material)
    if not _NAME.fullmatch(name) or len(raw) != 1 + HASH_BYTES or raw[0] not in (ED25519, COSIGNATURE):
        raise MalformedNote("the key is not NAME+ID+KEY of an Ed25519 key")
    key = VerifierKey(name, raw[1:].hex(), raw[0])
    if key.id.hex() != key_id:
        raise MalformedNote("the key's id is not that of its name and material")
    return key


def parse_note(text: str) -> Note:
    """Read a signed note. Raises MalformedNote."""
    if len(text.encode()) > MAX_NOTE_BYTES:
        raise MalformedNote(f"a note has at most {MAX_NOTE_BYTES} bytes")
    body, separator, tail = text.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise MalformedNote("there is no line between text and signatures")
    return Note(body + "\n", tuple(map(_signature, tail.removesuffix("\n").split("\n"))))


def parse_checkpoint(note: Note) -> Checkpoint:
    """The checkpoint that a note states; what extensions say is not read. Raises MalformedNote."""
    lines = note.text.split("\n")
    if len(lines) < 4 or not lines[0] or not re.fullmatch(r"0|[1-9]\d{0,18}", lines[1], re.ASCII):
        raise MalformedNote("a checkpoint has a line of origin, one of size and one of root")
    root = _decoded(lines[2])
    if len(root) != HASH_BYTES:
        raise MalformedNote("the root of a checkpoint has 32 bytes")
    return Checkpoint(lines[0], int(lines[1]), root)


def sign_note(text: str, key: VerifierKey, sign: Sign) -> Note:
    """``text`` signed by one key."""
    return Note(text, (Signature(key.name, key.id, sign(text.encode())),))


def is_signed(note: Note, key: VerifierKey) -> bool:
    """Whether ``key`` (an ED25519 one) signed the text."""
    return any(verify(key.public_key_hex, line.value, note.text.encode()) for line in _lines_of(note, key))


def cosign(note: Note, key: VerifierKey, sign: Sign, at_s: int) -> Signature:
    """A witness's line: at ``at_s`` (POSIX seconds) this was the largest tree of the log that it had seen."""
    value = at_s.to_bytes(_TIME_BYTES, "big") + sign(_cosigned(note, at_s))
    return Signature(key.name, key.id, value)


def cosigned_at(note: Note, key: VerifierKey) -> int | None:
    """When ``key`` (a COSIGNATURE one) cosigned the note, POSIX seconds; None if it did not."""
    for line in _lines_of(note, key):
        at_s = int.from_bytes(line.value[:_TIME_BYTES], "big")
        if verify(key.public_key_hex, line.value[_TIME_BYTES:], _cosigned(note, at_s)):
            return at_s
    return None


def _lines_of(note: Note, key: VerifierKey) -> list[Signature]:
    return [line for line in note.signatures if (line.name, line.key_id) == (key.name, key.id)]


def _cosigned(note: Note, at_s: int) -> bytes:
    return f"cosignature/v1\ntime {at_s}\n{note.text}".encode()


def _signature(line: str) -> Signature:
    name, _, value = line.removeprefix(_DASH).partition(" ")
    raw = _decoded(value)
    if not line.startswith(_DASH) or not _NAME.fullmatch(name) or len(raw) <= _ID_BYTES:
        raise MalformedNote("a signature line is a dash, a name and a signature")
    return Signature(name, raw[:_ID_BYTES], raw[_ID_BYTES:])


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedNote("what should be base64 is not") from None
