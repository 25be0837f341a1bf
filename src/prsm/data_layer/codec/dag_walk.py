"""The blocks that answer a request for a CAR: those on a path, then what stands at its end, depth first, each once.

Pure but for ``get_block``; holds one block, the links still to follow, and the names of those that were given. However
a DAG repeats its blocks, each is visited once, or where a range cuts it: that is at most two blocks a level. (IPFS HTTP
gateway and Trustless Gateway specifications.)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from prsm.data_layer.codec.block import Block
from prsm.data_layer.codec.car import car_header, car_section
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.directories import resolve
from prsm.data_layer.codec.unixfs import DirectoryNode, FileNode, HamtNode, decode_node

GetBlock = Callable[[Cid], bytes | memoryview]
Scope = Literal["block", "entity", "all"]


@dataclass(frozen=True, slots=True)
class EntityBytes:
    """A range of a file: its first byte and the last one included (None: to the end); negative counts from the end."""

    first: int
    last: int | None

    def within(self, size_bytes: int) -> tuple[int, int]:
        """First byte and end (not included) in a file of so many bytes; equal where nothing is asked for."""
        start = max(0, size_bytes + self.first) if self.first < 0 else min(self.first, size_bytes)
        last = size_bytes - 1 if self.last is None else self.last
        stop = (size_bytes + last if last < 0 else last) + 1
        return start, max(start, min(stop, size_bytes))


def car_of(root: Cid, path: str, scope: Scope, entity: EntityBytes | None, get_block: GetBlock) -> Iterator[bytes]:
    """The CAR piece by piece. Raises NoSuchEntry before its first piece, and what ``get_block`` raises."""
    way: dict[Cid, None] = {}

    def noted(cid: Cid) -> bytes | memoryview:
        way[cid] = None
        return get_block(cid)

    end = resolve(root, path, noted)
    yield car_header([root])
    for cid in way:  # read again: the blocks of a long path together may be large
        if not cid.identity:
            yield from _section(Block(cid, get_block(cid)))
    for block in blocks_below(end, scope, entity, get_block):
        if block.cid not in way:
            yield from _section(block)


def blocks_below(root: Cid, scope: Scope, entity: EntityBytes | None, get_block: GetBlock) -> Iterator[Block]:
    """The blocks of ``root``: itself alone; with what makes it a whole file or directory; or with all under it.

    ``entity`` leaves out the leaves of a file that hold none of its range. Identity CIDs carry their block themselves.
    """
    given: set[bytes] = set()
    followed: set[bytes] = set()
    # With the part of it that is asked for, in bytes of the file under it; None is all of it.
    stack: list[tuple[Cid, tuple[int, int] | None]] = [(root, None)]
    while stack:
        cid, span = stack.pop()
        name = cid.encode()
        if name in followed:
            continue
        if span is None:
            followed.add(name)
        block = cid.digest if cid.identity else get_block(cid)
        if name not in given and not cid.identity:
            given.add(name)
            yield Block(cid, block)
        if scope == "block" or cid.codec is Codec.RAW:
            continue
        node = decode_node(cid, block)
        if isinstance(node, FileNode):
            if cid == root and entity is not None:
                span = entity.within(node.size_bytes)
            stack.extend(reversed(list(_parts(node, span))))
        elif scope == "all" or isinstance(node, HamtNode):
            stack.extend((below, None) for below in reversed(_entries(node, scope)))


def _section(block: Block) -> Iterator[bytes]:
    yield car_section(block.cid, len(block.data))
    yield bytes(block.data)


def _parts(node: FileNode, span: tuple[int, int] | None) -> Iterator[tuple[Cid, tuple[int, int] | None]]:
    """The parts of a file that hold something of the span, each with what is asked for of it."""
    offset = 0
    for link in node.links:
        if span is None:
            yield link.cid, None
        elif offset < span[1] and offset + link.size_bytes > span[0]:
            start, stop = max(0, span[0] - offset), min(link.size_bytes, span[1] - offset)
            yield link.cid, None if stop - start == link.size_bytes else (start, stop)
        offset += link.size_bytes


def _entries(node: DirectoryNode | HamtNode, scope: Scope) -> list[Cid]:
    """What to go on with: the shards of a directory make it whole, its entries are under it."""
    if isinstance(node, DirectoryNode):
        return [link.cid for link in node.links]
    return [slot.cid for slot in node.slots if scope == "all" or not slot.name]
