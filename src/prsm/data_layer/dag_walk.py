"""The blocks that answer a request for a CAR: those on a path, then what stands at its end, depth first, each once.

Pure but for ``get_block``; holds one block and one path of the DAG at a time. (IPFS HTTP gateway and Trustless Gateway
specifications.)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from prsm.data_layer.car import car_header, car_section
from prsm.data_layer.cid import Cid, Codec
from prsm.data_layer.directories import resolve
from prsm.data_layer.seams import Block
from prsm.data_layer.unixfs import DirectoryNode, FileNode, HamtNode, decode_node

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
    way: dict[Cid, bytes | memoryview] = {}

    def noted(cid: Cid) -> bytes | memoryview:
        way[cid] = block = get_block(cid)
        return block

    end = resolve(root, path, noted)
    yield car_header([root])
    for cid, block in way.items():
        yield car_section(cid, len(block))
        yield bytes(block)
    for block in blocks_below(end, scope, entity, get_block):
        if block.cid not in way:
            yield car_section(block.cid, len(block.data))
            yield bytes(block.data)


def blocks_below(root: Cid, scope: Scope, entity: EntityBytes | None, get_block: GetBlock) -> Iterator[Block]:
    """The blocks of ``root``: itself alone; with what makes it a whole file or directory; or with all under it.

    ``entity`` leaves out the leaves of a file that hold none of its range. Identity CIDs carry their block themselves.
    """
    seen: set[Cid] = set()
    span: tuple[int, int] | None = None
    stack = [(root, 0)]
    while stack:
        cid, offset = stack.pop()
        if cid in seen and span is None:
            continue
        block = cid.digest if cid.identity else get_block(cid)
        if cid not in seen and not cid.identity:
            yield Block(cid, block)
        seen.add(cid)
        if scope == "block" or cid.codec is Codec.RAW:
            continue
        node = decode_node(cid, block)
        if isinstance(node, FileNode):
            if cid == root and entity is not None:
                span = entity.within(node.size_bytes)
            stack.extend(reversed(list(_parts(node, offset, span))))
        elif scope == "all" or isinstance(node, HamtNode):
            stack.extend((below, 0) for below in reversed(_entries(node, scope)))


def _parts(node: FileNode, offset: int, span: tuple[int, int] | None) -> Iterator[tuple[Cid, int]]:
    for link in node.links:
        if span is None or (offset < span[1] and offset + link.size_bytes > span[0]):
            yield link.cid, offset
        offset += link.size_bytes


def _entries(node: DirectoryNode | HamtNode, scope: Scope) -> list[Cid]:
    """What to go on with: the shards of a directory make it whole, its entries are under it."""
    if isinstance(node, DirectoryNode):
        return [link.cid for link in node.links]
    return [slot.cid for slot in node.slots if scope == "all" or not slot.name]
