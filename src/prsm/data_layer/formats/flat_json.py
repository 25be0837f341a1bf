"""A strict reader of large flat JSON objects (RFC 8259), whose members are strings or objects with no object inside.

It goes through the bytes once and builds no tree, so that a hostile header costs no more memory than its own size;
a key that comes twice, which JSON readers in other languages resolve differently, is refused.
"""

import json
import re
from collections.abc import Iterator

from prsm.data_layer.formats.model_contents import UnsafeModelFile, quote

_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+"'
_FLAT_OBJECT = rb'\{(?:[^"{}]++|' + _STRING + rb")*+\}"
# Possessive quantifiers: no backtracking, so that the time is linear whatever the bytes are.
_MEMBER = re.compile(
    _SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE
    + rb"(" + _STRING + rb"|" + _FLAT_OBJECT + rb")" + _SPACE + rb"([,}])"
)  # fmt: skip
_EMPTY = re.compile(rb"\{" + _SPACE + rb"\}")


def members(raw: bytes, what: str, max_members: int) -> Iterator[tuple[str, bytes]]:
    """Each key and its value's JSON text, in order; ``raw`` is ``{...}``, then spaces. Raises UnsafeModelFile."""
    if not raw.startswith(b"{"):
        raise UnsafeModelFile(f"The {what} is no JSON object.")
    seen: set[str] = set()
    place, last = 1, b","
    if empty := _EMPTY.match(raw):
        place, last = empty.end(), b"}"
    while last == b",":
        match = _MEMBER.match(raw, place)
        if match is None:
            raise UnsafeModelFile(f"The {what} is not JSON of the form it must have, at its byte {place}.")
        key, value, last = match.groups()
        place = match.end()
        name = string(key, what)
        if name in seen:
            raise UnsafeModelFile(f"The {what} has the key {quote(name)} twice.")
        if len(seen) >= max_members:
            raise UnsafeModelFile(f"The {what} has more than {max_members} entries.")
        seen.add(name)
        yield name, value
    if raw[place:].strip(b" "):
        raise UnsafeModelFile(f"The {what} has something after its JSON object.")


def string(raw: bytes, what: str) -> str:
    """The text of a JSON string that ``members`` gave. Raises UnsafeModelFile."""
    try:
        if b"\\" not in raw:
            return raw[1:-1].decode()
        text: str = json.loads(raw.decode())
        text.encode()  # refuses a lone surrogate, which is no Unicode text
    except ValueError:
        raise UnsafeModelFile(f"The {what} has a string that is not UTF-8 or not JSON.") from None
    return text


def strings(raw: bytes, what: str, max_members: int) -> Iterator[tuple[str, str]]:
    """``members`` of one of those objects: what is flat holds nothing but strings, or ``members`` refuses it."""
    for key, value in members(raw, what, max_members):
        yield key, string(value, what)
