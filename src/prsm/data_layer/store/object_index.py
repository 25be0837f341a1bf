"""Where each block of an object lies: in the payload file, in the outboard, or in the payload with a known envelope.

The outboard is a CARv1 in one order (root first, depth first, each block once), so that equal objects have equal files
wherever they came from. It is verified block by block when it is read, and each block again when it is given out.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from prsm.core.errors import InvalidRequest, Kind
from prsm.data_layer.codec import car, dag_pb, unixfs
from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs import DirectoryNode, FileNode, HamtNode
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.object_files import NotStored, ObjectFiles, ObjectKind, StoredFile

Node = FileNode | DirectoryNode | HamtNode


class Damaged(StorageFault):
    """Bytes on our own disk are not what they were when they were published."""

    kind = Kind.CONFLICT
    code = "object_damaged"

    def __init__(self, cid: Cid, what: str) -> None:
        self.cid = cid
        super().__init__(
            f"{what} of {cid} on this node's disk is damaged.",
            fault=Fault.LOCAL_DISK,
            remedy=f"Repair it with: prsm storage repair {cid}",
        )


class Home(IntEnum):
    """Which bytes make a block. The numbers are stored."""

    PAYLOAD = 0
    OUTBOARD = 1
    WRAPPED = 2
    """In the payload, with one of the two canonical envelopes around it (``unixfs.leaf_envelope``)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block of an object is. ``offset`` and ``size_bytes`` count in the file that ``home`` names."""

    cid: Cid
    home: Home
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ObjectIndex:
    """An object's outboard, read and verified. ``dag_bytes`` is what a link's Tsize says of it."""

    root: Cid
    kind: ObjectKind
    size_bytes: int
    dag_bytes: int
    blocks: Mapping[Cid, Place]
    _nodes: Mapping[Cid, Node] = field(repr=False)

    def leaves(self) -> Iterator[Place]:
        """The blocks that hold payload, in the order of the file; ``offset`` is where the payload is in the file.

        One that stands in the outboard as a whole has ``home`` OUTBOARD all the same.
        """
        stack = [(self.root, self.size_bytes)] if self.kind is ObjectKind.FILE else []
        offset = 0
        while stack:
            cid, size_bytes = stack.pop()
            node = self._nodes.get(cid) or _inlined(cid)
            if isinstance(node, FileNode) and node.links:
                stack.extend((link.cid, link.size_bytes) for link in reversed(node.links))
                continue
            home = Home.OUTBOARD if node else Home.PAYLOAD if cid.codec is Codec.RAW else Home.WRAPPED
            yield Place(cid, home, offset, size_bytes)
            offset += size_bytes

    def inline(self, cid: Cid) -> memoryview | None:
        """The payload of a leaf that stands in the outboard or in its CID as a whole."""
        node = self._nodes.get(cid) or _inlined(cid)
        return node.inline if isinstance(node, FileNode) else None

    def places(self) -> Iterator[Place]:
        """Every block that can be given out, each digest once; identity CIDs need no place."""
        seen: set[bytes] = set()
        for place in itertools.chain(self.blocks.values(), self.leaves()):
            in_payload = place.home is not Home.OUTBOARD or self.blocks.get(place.cid) is place
            if in_payload and not place.cid.identity and place.cid.digest not in seen:
                seen.add(place.cid.digest)
                yield place

    def children(self) -> Iterator[tuple[str, Cid]]:
        """A directory's entries, by name and CID, in the order of its blocks."""
        for node in self._nodes.values():
            if isinstance(node, DirectoryNode):
                yield from ((link.name, link.cid) for link in node.links)
            elif isinstance(node, HamtNode):
                yield from ((slot.name, slot.cid) for slot in node.slots if slot.name)


def read_index(files: ObjectFiles, root: Cid) -> ObjectIndex:
    """The index of a published object. Raises NotStored, Damaged, StorageFault (LOCAL_DISK)."""
    blocks, nodes, below_bytes = dict[Cid, Place](), dict[Cid, Node](), 0
    if root.codec is not Codec.RAW:
        with files.open_outboard(root) as outboard:
            blocks, nodes, below_bytes = _read_outboard(root, outboard)
    top = nodes.get(root) or _inlined(root)
    if isinstance(top, (DirectoryNode, HamtNode)):
        return ObjectIndex(root, ObjectKind.DIRECTORY, 0, below_bytes, blocks, nodes)
    with files.open(root) as payload:
        size_bytes = payload.size_bytes
    if size_bytes != (top.size_bytes if top else size_bytes):
        raise Damaged(root, "The payload's length")
    if any(_is_lost(cid, part_bytes, nodes) for cid, part_bytes in _parts(root, size_bytes, nodes)):
        raise Damaged(root, "The outboard")
    if top is None:  # the root is the only leaf
        around = unixfs.leaf_envelope(size_bytes) if root.codec is Codec.DAG_PB else unixfs.Envelope(b"", b"")
        below_bytes = len(around.prefix) + size_bytes + len(around.suffix)
    return ObjectIndex(root, ObjectKind.FILE, size_bytes, below_bytes, blocks, nodes)


def kind_on_disk(files: ObjectFiles, cid: Cid) -> ObjectKind | None:
    """What is published under this CID, if anything; an outboard without its payload is nothing."""
    if not files.has_outboard(cid):
        return None
    if files.has_file(cid):
        return ObjectKind.FILE
    if cid.codec is Codec.RAW:
        return None
    try:
        return read_index(files, cid).kind
    except NotStored:
        return None


def read_block(files: ObjectFiles, root: Cid, place: Place) -> bytes:
    """The block at a place of the object ``root``, verified. Raises NotStored, Damaged, StorageFault (LOCAL_DISK)."""
    opened = files.open_outboard(root) if place.home is Home.OUTBOARD else files.open(root)
    data = bytearray(place.size_bytes)
    with opened:
        count = opened.read_into(memoryview(data), place.offset)
    block = rebuild(place.cid, place.home, memoryview(data)[:count])
    if block is None:
        raise Damaged(root, f"Block {place.cid}")
    return bytes(block)


def rebuild(cid: Cid, home: Home, stored: memoryview) -> bytes | memoryview | None:
    """The block of ``cid`` from its stored bytes, hashed; None when they are not it."""
    if home is not Home.WRAPPED:
        return stored if cid.names(stored) else None
    for kind in (unixfs.Kind.FILE, unixfs.Kind.RAW):
        envelope = unixfs.leaf_envelope(len(stored), kind)
        block = b"".join((envelope.prefix, stored, envelope.suffix))
        if cid.names(block):
            return block
    return None


def write_outboard(root: Cid, block_of: Callable[[Cid], bytes | None]) -> Iterator[bytes]:
    """The outboard of ``root``, piece by piece, of those blocks under it that ``block_of`` has."""
    yield car.car_header([root])
    stack, seen = [root], set[Cid]()
    while stack:
        cid = stack.pop()
        block = cid.digest if cid.identity else block_of(cid)
        if cid in seen or block is None:
            continue
        seen.add(cid)
        if not cid.identity:
            yield car.car_section(cid, len(block))
            yield block
        if cid.codec is Codec.DAG_PB:
            stack.extend(reversed(below(unixfs.decode_node(cid, block))))


def below(node: Node) -> tuple[Cid, ...]:
    """The blocks of the same object right under a node: a file's parts, a shard's shards, never entries."""
    match node:
        case FileNode():
            return tuple(link.cid for link in node.links)
        case HamtNode():
            return tuple(slot.cid for slot in node.slots if not slot.name)
        case DirectoryNode():
            return ()


def _read_outboard(root: Cid, outboard: StoredFile) -> tuple[dict[Cid, Place], dict[Cid, Node], int]:
    """The places of all blocks in an outboard, what they say, and the bytes of all under the root if that is there.

    Raises Damaged unless it is in the one form.
    """
    places: dict[Cid, Place] = {}
    nodes: dict[Cid, Node] = {}
    dag_bytes = 0
    offset = len(car.car_header([root]))
    try:
        reader = car.CarReader(outboard.reader())
        if reader.roots != (root,):
            raise Damaged(root, "The outboard")
        for block in reader:
            offset += len(car.car_section(block.cid, len(block.data)))
            places[block.cid] = Place(block.cid, Home.OUTBOARD, offset, len(block.data))
            nodes[block.cid] = unixfs.decode_node(block.cid, block.data)
            offset += len(block.data)
            if block.cid == root:
                dag_bytes = len(block.data) + sum(link.size for link in dag_pb.decode(block.data).links)
    except InvalidRequest as error:
        raise Damaged(root, "The outboard") from error
    if offset != outboard.size_bytes:
        raise Damaged(root, "The outboard")
    return places, nodes, dag_bytes


def _parts(root: Cid, size_bytes: int, nodes: Mapping[Cid, Node]) -> Iterator[tuple[Cid, int]]:
    """The root and every part that a block of the outboard names, with its bytes of the file."""
    yield root, size_bytes
    for node in nodes.values():
        if isinstance(node, FileNode):
            yield from ((link.cid, link.size_bytes) for link in node.links)


def _is_lost(cid: Cid, size_bytes: int, nodes: Mapping[Cid, Node]) -> bool:
    """Whether a block that is not in the outboard is too large to be a leaf."""
    return cid not in nodes and not cid.identity and size_bytes > MAX_BLOCK_BYTES


def _inlined(cid: Cid) -> Node | None:
    """What a dag-pb block says that stands in its own CID."""
    return unixfs.decode_node(cid, cid.digest) if cid.identity and cid.codec is Codec.DAG_PB else None
