"""Whether bytes are plain text, and JSON within bounds: looked at in pieces, never built.

Text is UTF-8 without control characters, which a terminal would obey. (RFC 3629, RFC 8259.)
"""

import codecs
import re

import msgspec
import numpy as np

from prsm.data_layer.formats.model_contents import ModelLimits, UnsafeModelFile

_NOT_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_PIECE_BYTES = 1024 * 1024
_OPEN, _CLOSE, _QUOTE = b"[{", b"]}", 34


def check_text(content: bytes) -> None:
    """Raises UnsafeModelFile for what is no plain text."""
    if _NOT_TEXT.search(content):
        raise UnsafeModelFile("It has control characters, which text has not.")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), _PIECE_BYTES):  # in pieces: a str takes up to four times as much memory
            decoder.decode(content[start : start + _PIECE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise UnsafeModelFile("It is not UTF-8 text.") from None


def begins_as_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text as far as they go, a character cut off at their end allowed."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not _NOT_TEXT.search(head)


def check_json(content: bytes, limits: ModelLimits) -> None:
    """Raises UnsafeModelFile for a text that is no JSON, or nested too deep."""
    try:
        msgspec.json.decode(finite(content), type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        raise UnsafeModelFile("It is named as JSON, but is none, or is nested far too deep.") from None
    depth = _json_depth(content)
    if depth > limits.max_text_depth:
        raise UnsafeModelFile(f"Its JSON is nested {depth} deep; {limits.max_text_depth} are allowed.")


def finite(content: bytes) -> bytes:
    """The JSON without NaN and Infinity, which Python writes and configurations of published models hold (Mamba).

    Within strings they are replaced too, so this is for looking at, not for reading names from.
    """
    return content.replace(b"NaN", b"0  ").replace(b"Infinity", b"0       ")


def _json_depth(content: bytes) -> int:
    """How deep valid JSON is nested, counted without building it."""
    step = np.zeros(256, np.int8)
    step[list(_OPEN)], step[list(_CLOSE)] = 1, -1
    # Without escapes, every quotation mark begins or ends a string.
    bare = np.frombuffer(content.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    quotes, depth, deepest = np.uint8(0), np.int32(0), 0
    for start in range(0, len(bare), _PIECE_BYTES):
        piece = bare[start : start + _PIECE_BYTES]
        within = np.cumsum(piece == _QUOTE, dtype=np.uint8) + quotes  # only whether it is odd matters
        level = np.cumsum(step[piece] * (within & 1 ^ 1), dtype=np.int32) + depth
        deepest = max(deepest, int(level.max()))
        quotes, depth = within[-1] & 1, level[-1]
    return deepest
