"""SentencePiece models (``tokenizer.model``): one protocol buffer, read field by field within bounds, nothing built.

At least as strict as the sentencepiece library, which is never asked. Beyond it, numbers in more bytes than they need,
fields that come twice, groups, values of a wrong type, scores that are not finite, pieces that are not text or longer
than 1 KiB, and all but a few unknown fields are refused. (Format: sentencepiece's src/sentencepiece_model.proto;
protobuf's encoding specification.)
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from prsm.data_layer.formats.charsmap import check_charsmap
from prsm.data_layer.formats.model_contents import FileBytes, ModelLimits, UnsafeModelFile, quote

FIRST_BYTE = b"\x0a"
"""The tag of a piece, with which every model begins."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NORMAL, _UNKNOWN, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 4, 5, 6
_PLAIN = frozenset({_NORMAL, _USER_DEFINED, _UNUSED})
_BYTE_PIECE = re.compile(rb"<0x[0-9A-F]{2}>")
_MAX_PIECE_BYTES = 1_024  # readers recurse into a piece byte by byte
_MAX_FIELDS = 200_000  # of pieces that are not in the usual form, and of all the rest
_MAX_UNKNOWN_FIELDS = 64
_MAX_UNKNOWN_BYTES = 4_096
_MAX_VARINT_BYTES = 10


class TokenizerType(IntEnum):
    """How a text is divided into pieces."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A SentencePiece model that passed."""

    type: TokenizerType
    pieces: int
    byte_fallback: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Message:
    """The fields of a message by number: their type, or the message they hold; and which of them may come again."""

    name: str
    fields: "dict[int, str | _Message]"
    repeated: frozenset[int] = frozenset()


_Fields: TypeAlias = dict[int, int | bytes]


def _of(kind: str, *numbers: int) -> dict[int, str | _Message]:
    return dict.fromkeys(numbers, kind)


_PIECE = _Message("piece", _of("string", 1) | _of("float", 2) | _of("piece type", 3))
_NORMALIZER = _Message("normalizer", _of("string", 1, 6) | _of("charsmap", 2) | _of("bool", 3, 4, 5))
_SAMPLE = _Message("self-test sample", _of("string", 1, 2))
_SELF_TEST = _Message("self-test", {1: _SAMPLE}, frozenset({1}))
_TRAINER = _Message(
    "trainer",
    _of("string", 1, 2, 5, 7, 30, 31, 36, 44, 45, 46, 47, 48, 53, 54)
    | _of("int32", 4, 6, 12, 13, 14, 16, 17, 18, 20, 40, 41, 42, 43)
    | _of("bool", 19, 21, 22, 23, 24, 25, 26, 32, 33, 34, 35, 49, 50)
    | _of("float", 10, 15, 51)
    | _of("uint64", 11, 52)
    | _of("model type", 3),
    frozenset({1, 5, 30, 31}),
)
_MODEL = _Message("model", {1: _PIECE, 2: _TRAINER, 3: _NORMALIZER, 4: _SELF_TEST, 5: _NORMALIZER})
_PIECES_FIELD, _TRAINER_FIELD, _TYPE_FIELD, _BYTE_FALLBACK_FIELD = 1, 2, 3, 35
_WIRES = {"string": _BYTES, "charsmap": _BYTES, "float": _FIXED32}
_VARINTS = {
    "bool": range(2), "piece type": range(1, 7), "model type": range(1, 5), "uint64": range(2**64),
}  # fmt: skip


def parse_sentencepiece(file: FileBytes, limits: ModelLimits) -> SentencePieceModel:
    """Check every byte of a model. Raises UnsafeModelFile."""
    if file.size_bytes > limits.max_tokenizer_bytes:
        raise UnsafeModelFile(
            f"The SentencePiece model has {file.size_bytes} bytes; {limits.max_tokenizer_bytes} are allowed."
        )
    return _Parser(file.read(0, file.size_bytes), limits).parse()


class _Pieces:
    """The vocabulary as far as it was read."""

    def __init__(self) -> None:
        self.plain: set[bytes] = set()
        self.reserved: set[bytes] = set()
        self.unknowns = 0
        self.bytes: set[bytes] = set()

    def __len__(self) -> int:
        return len(self.plain) + len(self.reserved)

    def add_reserved(self, text: bytes, kind: int) -> None:
        """One that no text is divided into: unknown, control or byte. Whether it came before is asked elsewhere."""
        self.reserved.add(text)
        if kind == _UNKNOWN:
            self.unknowns += 1
        elif kind == _BYTE:
            if not _BYTE_PIECE.fullmatch(text):
                raise UnsafeModelFile(f"The byte piece {quote(repr(text))} of the SentencePiece model names no byte.")
            self.bytes.add(text)

    def check(self, byte_fallback: bool) -> None:
        """What sentencepiece wants of a vocabulary, and that it is text."""
        if not self.plain:
            raise UnsafeModelFile("The SentencePiece model has no piece that a text could be divided into.")
        if self.unknowns != 1:
            raise UnsafeModelFile(f"The SentencePiece model has {self.unknowns} pieces for what is unknown, not one.")
        if len(self.bytes) != (256 if byte_fallback else 0):
            raise UnsafeModelFile(
                f"The SentencePiece model has {len(self.bytes)} byte pieces, and byte_fallback is {byte_fallback}."
            )
        for some in (self.plain, self.reserved):
            text = b"\n".join(some)  # is UTF-8 if, and only if, every one is
            if b"\0" in text:
                raise UnsafeModelFile("A piece of the SentencePiece model has a NUL in it.")
            _check_utf8(text, "piece")


class _Parser:
    """One pass over a model."""

    def __init__(self, data: bytes, limits: ModelLimits) -> None:
        self._data = data
        self._max_pieces = limits.max_pieces
        self._fields_left = _MAX_FIELDS
        self._unknown_fields_left = _MAX_UNKNOWN_FIELDS
        self._unknown_bytes_left = _MAX_UNKNOWN_BYTES
        self._trainer: _Fields = {}

    def parse(self) -> SentencePieceModel:
        pieces, end = self._pieces()
        self._message(_MODEL, self._data, end, {_PIECES_FIELD: 0})
        byte_fallback = bool(self._trainer.get(_BYTE_FALLBACK_FIELD))
        pieces.check(byte_fallback)
        kind = TokenizerType(int(self._trainer.get(_TYPE_FIELD, TokenizerType.UNIGRAM)))
        return SentencePieceModel(kind, len(pieces), byte_fallback, len(self._data))

    def _pieces(self) -> tuple[_Pieces, int]:
        """The pieces, which come first, and where they end; the one long loop."""
        data, at, pieces, left = self._data, 0, _Pieces(), self._max_pieces
        plain, reserved = pieces.plain, pieces.reserved
        while data[at : at + 1] == FIRST_BYTE:
            text, kind, at = _usual_piece(data, at) or self._unusual_piece(at)
            if text in (plain if kind in _PLAIN else reserved):
                raise UnsafeModelFile(f"The piece {quote(repr(text))} of the SentencePiece model comes twice.")
            if not left:
                raise UnsafeModelFile(f"The SentencePiece model has more than {self._max_pieces} pieces.")
            left -= 1
            if kind in _PLAIN:
                plain.add(text)
            else:
                pieces.add_reserved(text, kind)
        return pieces, at

    def _unusual_piece(self, at: int) -> tuple[bytes, int, int]:
        """A piece whose fields are in another order, left out or long; its text, its type and where it ends."""
        body, at = _bytes(self._data, at + 1)
        found = self._message(_PIECE, body)
        text, kind = found.get(1, b""), found.get(3, _NORMAL)
        if not isinstance(text, bytes) or not 0 < len(text) <= _MAX_PIECE_BYTES:
            raise UnsafeModelFile(f"A piece of the SentencePiece model has no text, or over {_MAX_PIECE_BYTES} bytes.")
        return text, int(kind), at

    def _message(self, message: _Message, data: bytes, at: int = 0, found: _Fields | None = None) -> _Fields:
        """The fields from ``at`` on; only the last one of those that may come again is kept."""
        found = {} if found is None else found
        while at < len(data):
            start = at
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            value, at = _value(data, wire, at)
            self._fields_left -= 1
            if self._fields_left < 0:
                raise UnsafeModelFile(f"The SentencePiece model has more than {_MAX_FIELDS} fields.")
            kind = message.fields.get(number)
            if kind is None:
                self._pass_unknown(number, at - start)
                continue
            if number in found and number not in message.repeated:
                raise UnsafeModelFile(f"The field {number} of the SentencePiece {message.name} comes twice, or late.")
            found[number] = self._checked(kind, wire, value, f"field {number} of the SentencePiece {message.name}")
        return found

    def _checked(self, kind: str | _Message, wire: int, value: int | bytes, what: str) -> int | bytes:
        wanted = _BYTES if isinstance(kind, _Message) else _WIRES.get(kind, _VARINT)
        if wire != wanted:
            raise UnsafeModelFile(f"The {what} is not of its type.")
        if isinstance(value, int):
            # A negative int32 is written as if it had 64 bits.
            if kind == "int32":
                value = value - 2**64 if value >= 2**63 else value
                is_right = -(2**31) <= value < 2**31
            else:
                is_right = value in _VARINTS[str(kind)]
            if not is_right:
                raise UnsafeModelFile(f"The {what} has the value {value}, which it cannot have.")
        elif isinstance(kind, _Message):
            inner = self._message(kind, value)
            if kind is _TRAINER:
                self._trainer = inner
        elif kind == "float":
            if not _is_finite(value):
                raise UnsafeModelFile(f"The {what} is not finite.")
        elif kind == "charsmap":
            if value:
                check_charsmap(value)
        else:
            _check_utf8(value, what)
        return value

    def _pass_unknown(self, number: int, size_bytes: int) -> None:
        """Fields of later versions and extensions are passed over, as protobuf readers do, but only a few."""
        self._unknown_fields_left -= 1
        self._unknown_bytes_left -= size_bytes
        if not number or min(self._unknown_fields_left, self._unknown_bytes_left) < 0:
            raise UnsafeModelFile(
                f"The SentencePiece model has the unknown field {number}, of which at most {_MAX_UNKNOWN_FIELDS} pass, "
                f"with {_MAX_UNKNOWN_BYTES} bytes together."
            )


def _usual_piece(data: bytes, at: int) -> tuple[bytes, int, int] | None:
    """A piece as sentencepiece writes most: text below 128 bytes, score, and a type or none; None for any other."""
    if at + 12 > len(data) or (body := data[at + 1]) > 127 or data[at + 2] != 0x0A:
        return None
    end, length = at + 2 + body, data[at + 3]
    score = at + 4 + length
    kind = _NORMAL
    if end - score == 7 and end <= len(data) and data[score + 5] == 0x18:
        kind = data[score + 6]
    elif end - score != 5 or end > len(data):
        return None
    if not length or data[score] != 0x15 or not _is_finite(data[score + 1 : score + 5]) or not 0 < kind <= _BYTE:
        return None
    return data[at + 4 : score], kind, end


def _value(data: bytes, wire: int, at: int) -> tuple[int | bytes, int]:
    if wire == _VARINT:
        return _varint(data, at)
    if wire == _BYTES:
        return _bytes(data, at)
    if wire not in (_FIXED64, _FIXED32):
        raise UnsafeModelFile(f"The SentencePiece model has a field of the wire type {wire} before its byte {at}.")
    end = at + (8 if wire == _FIXED64 else 4)
    if end > len(data):
        raise _cut(at)
    return data[at:end], end


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    length, start = _varint(data, at)
    if length > len(data) - start:
        raise _cut(at)
    return data[start : start + length], start + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in 7 bits a byte, in as few bytes as it needs, and where it ends."""
    number = 0
    for place, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if (place and not byte) or number >= 2**64:
                raise UnsafeModelFile("The SentencePiece model has a number that is too long.")
            return number, at + place + 1
    raise _cut(at)


def _is_finite(raw: bytes) -> bool:
    """Whether a little-endian float32 is: the exponent of what is not has all bits set."""
    return raw[3] & 0x7F != 0x7F or raw[2] < 0x80


def _check_utf8(raw: bytes, what: str) -> None:
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise UnsafeModelFile(f"The SentencePiece model is not UTF-8 in a {what}.") from None


def _cut(at: int) -> UnsafeModelFile:
    return UnsafeModelFile(f"The SentencePiece model ends within a field, or a length near its byte {at} is false.")
