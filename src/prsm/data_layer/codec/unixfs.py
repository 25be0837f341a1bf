"""UnixFS nodes: which block is a file, a part of one, a directory or a shard of one. (UnixFS specification, IPIP-499.)

A node is read only if everything it claims about itself holds: one size for each link, sizes that add up, entries that
can be names, a shard whose links stand where its bit field says. Times and permissions
are passed over, though a time must be one, and never written.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec import dag_pb
from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec, read_varint, varint
from prsm.data_layer.codec.dag_pb import BadBlock, Link, PbNode

MURMUR3_X64_64 = 0x22
MAX_FANOUT = 1024
MAX_FILE_BYTES = 1 << 53
"""What a JavaScript peer can still count; of a file's bytes, and of the blocks that are said to be under a node."""
_FIELDS = {0x08: 1, 0x12: 2, 0x18: 3, 0x20: 4, 0x28: 5, 0x30: 6, 0x38: 7, 0x42: 8}  # numbers by tag
_BLOCK_SIZES = 4
_TIME = re.compile(rb"\x08[\x80-\xff]{0,9}[\x00-\x7f](?:\x15.{4})?", re.DOTALL)
"""Seconds, then perhaps nanoseconds: nothing acts on them, but others refuse a block where they cannot be read."""


class Kind(IntEnum):
    """The type of a UnixFS node."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    METADATA = 3
    SYMLINK = 4
    HAMT_SHARD = 5


@dataclass(frozen=True, slots=True)
class FileLink:
    """A part of a file: the block it hangs on and how many bytes of the file are under it."""

    cid: Cid
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around the payload of a leaf that is a dag-pb block: ``prefix + payload + suffix`` is the block."""

    prefix: bytes
    suffix: bytes


@dataclass(frozen=True, slots=True)
class FileNode:
    """A file or a part of one: either ``links``, or ``inline`` bytes (a view of the block), wrapped or raw."""

    links: tuple[FileLink, ...]
    size_bytes: int
    inline: memoryview
    envelope: Envelope | None


@dataclass(frozen=True, slots=True)
class DirectoryNode:
    """A directory in one block; ``size`` of a link is what its writer says is under it."""

    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class HamtSlot:
    """A place in a shard: an entry by its name, or with ``name`` empty the next shard."""

    index: int
    name: str
    cid: Cid
    size: int


@dataclass(frozen=True, slots=True)
class HamtNode:
    """One shard of a directory, slots in the order of their index."""

    fanout: int
    slots: tuple[HamtSlot, ...]


@dataclass(frozen=True, slots=True)
class Child:
    """What a file node says about a part: bytes of the file and bytes of all blocks under ``cid``."""

    cid: Cid
    size_bytes: int
    dag_bytes: int


def decode_node(cid: Cid, block: bytes | bytearray | memoryview) -> FileNode | DirectoryNode | HamtNode:
    """Read the block of ``cid``, whose hash the caller has checked. Raises BadBlock with the CID and the reason."""
    if cid.codec is Codec.RAW:
        if len(block) > MAX_BLOCK_BYTES:
            raise BadBlock(f"Block {cid} has {len(block)} bytes; at most {MAX_BLOCK_BYTES} are taken.", param="cid")
        return FileNode((), len(block), memoryview(block), None)
    try:
        return _interpret(block, dag_pb.decode(block))
    except InvalidRequest as error:
        raise BadBlock(f"Block {cid} cannot be used: {error.message}", param="cid") from None


def entry_name_fault(name: str) -> str:
    """Why ``name`` cannot be an entry of a directory; empty if it can."""
    if name in ("", ".", ".."):
        return f"An entry of a directory cannot be named {name!r}."
    if "/" in name or "\x00" in name:
        return f"The name {name[:80]!r} of an entry holds a slash or a NUL."
    if any("\ud800" <= char <= "\udfff" for char in name):
        return f"The name {name[:80]!r} of an entry is not UTF-8."
    return ""


def encode_file(children: Sequence[Child]) -> bytes:
    """The block of a file node that has ``children`` as its parts."""
    data = [b"\x08\x02\x18", varint(sum(child.size_bytes for child in children))]
    parts: list[bytes] = []
    for child in children:
        data += (b"\x20", varint(child.size_bytes))
        parts += dag_pb.encode_link(child.cid, b"", child.dag_bytes)
    message = b"".join(data)
    return b"".join((*parts, b"\x0a", varint(len(message)), message))


def encode_directory(entries: Iterable[Link]) -> bytes:
    """The block of a directory that is not sharded."""
    return dag_pb.encode(entries, b"\x08\x01")


def encode_shard(slots: Sequence[HamtSlot], fanout: int) -> bytes:
    """The block of a shard."""
    digits = _digits(fanout)
    bits = sum(1 << slot.index for slot in slots)
    bit_field = bits.to_bytes((bits.bit_length() + 7) // 8, "big")  # as Go's big.Int: no leading zeros
    data = b"\x08\x05" + (b"\x12" + varint(len(bit_field)) + bit_field if bit_field else b"")
    data += b"\x28" + varint(MURMUR3_X64_64) + b"\x30" + varint(fanout)
    return dag_pb.encode([Link(slot.cid, f"{slot.index:0{digits}X}{slot.name}", slot.size) for slot in slots], data)


def leaf_envelope(size_bytes: int, kind: Kind = Kind.FILE) -> Envelope:
    """What Kubo and Helia put around a payload of ``size_bytes`` where leaves are not raw; ``kind`` is FILE or RAW."""
    if not size_bytes:
        return Envelope(bytes((0x0A, 4, 0x08, kind, 0x18, 0)), b"")
    head = bytes((0x08, kind, 0x12)) + varint(size_bytes)
    suffix = b"\x18" + varint(size_bytes)
    return Envelope(b"\x0a" + varint(len(head) + size_bytes + len(suffix)) + head, suffix)


@dataclass(slots=True)
class _Message:
    """The fields of a UnixFS Data message; ``data_end`` is where the bytes end in it, its own end if there are none."""

    data_end: int
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    kind: int = -1
    file_size: int | None = None
    block_sizes: list[int] = field(default_factory=list[int])
    hash_type: int | None = None
    fanout: int | None = None


def _interpret(block: bytes | bytearray | memoryview, node: PbNode) -> FileNode | DirectoryNode | HamtNode:
    if node.data is None:
        raise BadBlock("It is dag-pb without UnixFS data.")
    if sum(link.size for link in node.links) > MAX_FILE_BYTES:
        raise BadBlock(f"It claims more than {MAX_FILE_BYTES} bytes of blocks under its links.")
    message = _read_message(node.data)
    match message.kind:
        case Kind.FILE | Kind.RAW:
            return _file(block, node, message)
        case Kind.DIRECTORY:
            return _directory(node, message)
        case Kind.HAMT_SHARD:
            return _shard(node, message)
        case Kind.SYMLINK:
            raise BadBlock("It is a symbolic link; those are not followed and not stored here.")
        case _:
            raise BadBlock(f"The UnixFS type {message.kind} is not taken; files and directories are.")


def _read_message(view: memoryview) -> _Message:
    """Read the Data message: fields in ascending order, all but the block sizes at most once."""
    message = _Message(len(view))
    sizes = message.block_sizes
    place = last = 0
    while place < len(view):
        number = _FIELDS.get(view[place], 0)
        if number == 0 or number < last or (number == last and number != _BLOCK_SIZES):
            raise BadBlock(f"Field {view[place]:#04x} of the UnixFS data is unknown, doubled or out of order.")
        last = number
        if number in (2, 8):
            data, place = dag_pb.read_bytes(view, place + 1)
            if number == 2:
                message.data, message.data_end = data, place
            elif not _TIME.fullmatch(data):
                raise BadBlock("The time in the UnixFS data is not well formed.")
            continue
        value, place = read_varint(view, place + 1)
        match number:
            case 1:
                message.kind = value
            case 3:
                message.file_size = value
            case 4:
                sizes.append(value)
            case 5:
                message.hash_type = value
            case 6:
                message.fanout = value
            case _:
                pass  # permissions: nothing here acts on them
        if len(sizes) > dag_pb.MAX_LINKS:
            raise BadBlock(f"A file node has at most {dag_pb.MAX_LINKS} parts.")
    return message


def _file(block: bytes | bytearray | memoryview, node: PbNode, message: _Message) -> FileNode:
    sizes = message.block_sizes
    if message.hash_type is not None or message.fanout is not None:
        raise BadBlock("A file has no hash type and no fanout.")
    if len(sizes) != len(node.links):
        raise BadBlock(f"It has {len(node.links)} links and {len(sizes)} block sizes.")
    if node.links and message.data:
        raise BadBlock("It has bytes of its own beside links.")
    if 0 in sizes:
        raise BadBlock("One of its links leads to no bytes of the file.")
    if any(link.name for link in node.links):
        raise BadBlock("A link of a file has a name.")
    total = sum(sizes) + len(message.data)
    if message.file_size is None and node.links:
        raise BadBlock("It does not say the size of the file.")
    if message.file_size is not None and message.file_size != total:
        raise BadBlock(f"It claims {message.file_size} bytes and its parts have {total}.")
    if total > MAX_FILE_BYTES:
        raise BadBlock(f"A file has at most {MAX_FILE_BYTES} bytes.")
    links = tuple(FileLink(link.cid, size) for link, size in zip(node.links, sizes, strict=True))
    return FileNode(links, total, message.data, None if links else _envelope(block, node, message))


def _envelope(block: bytes | bytearray | memoryview, node: PbNode, message: _Message) -> Envelope:
    # The message is the last field of a block, so both end together. Without payload everything is prefix.
    end = len(block) - (len(node.data or b"") - message.data_end)
    return Envelope(bytes(block[: end - len(message.data)]), bytes(block[end:]))


def _directory(node: PbNode, message: _Message) -> DirectoryNode:
    if message.data or message.block_sizes or message.file_size or message.hash_type is not None or message.fanout:
        raise BadBlock("A directory has no bytes, sizes, hash type or fanout.")
    names: set[str] = set()
    for link in node.links:
        if fault := entry_name_fault(link.name):
            raise BadBlock(fault)
        names.add(link.name)
    if len(names) != len(node.links):
        raise BadBlock("Two entries of the directory have one name.")
    return DirectoryNode(node.links)


def _shard(node: PbNode, message: _Message) -> HamtNode:
    fanout = message.fanout or 0
    if message.hash_type != MURMUR3_X64_64:
        raise BadBlock("It is a shard by another hash than murmur3-x64-64.")
    if not 8 <= fanout <= MAX_FANOUT or fanout & (fanout - 1):
        raise BadBlock(f"The fanout of a shard is a power of two from 8 to {MAX_FANOUT}; this one has {fanout}.")
    if message.block_sizes or message.file_size:
        raise BadBlock("A shard has no sizes.")
    if len(message.data) > fanout // 8:
        raise BadBlock("The bit field of the shard is longer than its fanout.")
    bits = int.from_bytes(message.data, "big")
    if bits.bit_count() != len(node.links):
        raise BadBlock(f"The bit field of the shard announces {bits.bit_count()} links and it has {len(node.links)}.")
    return HamtNode(fanout, tuple(_slots(node.links, bits, _digits(fanout))))


def _slots(links: tuple[Link, ...], bits: int, digits: int) -> Iterable[HamtSlot]:
    for link in links:
        index = (bits & -bits).bit_length() - 1
        bits &= bits - 1
        if link.name[:digits] != f"{index:0{digits}X}":
            raise BadBlock(f"The link {link.name[:80]!r} of the shard does not stand at its place {index}.")
        name = link.name[digits:]
        if name and (fault := entry_name_fault(name)):
            raise BadBlock(fault)
        yield HamtSlot(index, name, link.cid, link.size)


def _digits(fanout: int) -> int:
    return len(f"{fanout - 1:X}")
