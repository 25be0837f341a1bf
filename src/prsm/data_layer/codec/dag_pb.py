"""The dag-pb codec: a block is a list of links and some bytes. (IPLD dag-pb specification.)

Only the canonical form passes: links before data, fields in order, each at most once, lengths in their shortest form,
no unknown field. A CIDv0 link reads as the CIDv1 of the same block; blocks travel verbatim, never encoded again.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, read_varint, varint

MAX_LINKS = 1 << 16
"""More than a directory of short names in one block of 2 MiB; it bounds what a hostile block makes us hold."""
_LINKS = 0x12  # field number << 3 | wire type 2 (bytes)
_DATA = 0x0A
_HASH, _NAME, _TSIZE = 0x0A, 0x12, 0x18


class BadBlock(InvalidRequest):
    """A block whose content breaks a rule, although it may have the hash that its CID names."""

    code = "bad_block"


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another block. ``size`` is Tsize: the bytes of all blocks under it, as the writer claims."""

    cid: Cid
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class PbNode:
    """A dag-pb block. ``data`` is a view of the block; None where the block has no such field."""

    links: tuple[Link, ...]
    data: memoryview | None


def encode(links: Iterable[Link], data: bytes | memoryview | None) -> bytes:
    """The canonical block: links sorted by the bytes of their names, equal names in the order given."""
    parts: list[bytes | memoryview] = []
    for name, link in sorted(((link.name.encode(), link) for link in links), key=lambda pair: pair[0]):
        parts += encode_link(link.cid, name, link.size)
    if data is not None:
        parts += (b"\x0a", varint(len(data)), data)
    return b"".join(parts)


def encode_link(cid: Cid, name: bytes, size: int) -> tuple[bytes, bytes]:
    """One link as it stands in a block: its head and its body."""
    hash_ = cid.encode()
    body = b"".join((b"\x0a", varint(len(hash_)), hash_, b"\x12", varint(len(name)), name, b"\x18", varint(size)))
    return b"\x12" + varint(len(body)), body


def decode(block: bytes | bytearray | memoryview) -> PbNode:
    """Read a block. Raises BadBlock and BadCid."""
    if len(block) > MAX_BLOCK_BYTES:
        raise BadBlock(f"A block has at most {MAX_BLOCK_BYTES} bytes; this one has {len(block)}.")
    view = memoryview(block)
    links: list[Link] = []
    place, end = 0, len(view)
    while place < end and view[place] == _LINKS:
        body, place = read_bytes(view, place + 1)
        links.append(_decode_link(body))
        if len(links) > MAX_LINKS:
            raise BadBlock(f"A block has at most {MAX_LINKS} links.")
    data = None
    if place < end and view[place] == _DATA:
        data, place = read_bytes(view, place + 1)
    if place != end:
        raise BadBlock(f"The field {view[place]:#04x} at byte {place} is unknown, doubled or out of order in dag-pb.")
    return PbNode(tuple(links), data)


def read_bytes(view: memoryview, place: int) -> tuple[memoryview, int]:
    """Read a length and as many bytes; answers them and where they end. Raises BadBlock and BadCid."""
    size, start = read_varint(view, place)
    if size > len(view) - start:
        raise BadBlock(f"The length {size} at byte {place} leads beyond the end.")
    return view[start : start + size], start + size


def _decode_link(body: memoryview) -> Link:
    if not body or body[0] != _HASH:
        raise BadBlock("A link does not begin with its CID.")
    hash_, place = read_bytes(body, 1)
    cid, end = Cid.decode(hash_)
    if end != len(hash_):
        raise BadBlock("A link has bytes after its CID.")
    name = ""
    size = 0
    if place < len(body) and body[place] == _NAME:
        raw_name, place = read_bytes(body, place + 1)
        try:
            name = str(raw_name, "utf-8")
        except UnicodeDecodeError:
            raise BadBlock("The name of a link is not UTF-8.") from None
    if place < len(body) and body[place] == _TSIZE:
        size, place = read_varint(body, place + 1)
    if place != len(body):
        raise BadBlock(f"A link has an unknown, doubled or misplaced field {body[place]:#04x}.")
    return Link(cid, name, size)
