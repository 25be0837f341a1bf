"""File DAGs: how a file becomes blocks, and how blocks become a file again. (UnixFS balanced layout, IPIP-499.)

Nothing here reads or writes: the builder is told of leaves and hands out the blocks above them, the reader says which
blocks it needs and checks what it is given. Hashes of blocks are checked by the caller, everything they claim is here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import BadBlock
from prsm.data_layer.codec.unixfs import MAX_FILE_BYTES, Child, Envelope, FileNode, decode_node, encode_file

_KIB = 1024
_MIB = 1024 * _KIB


class ShardBy(StrEnum):
    """What of a directory is weighed to decide whether it is sharded."""

    BLOCK_BYTES = "block-bytes"
    """The bytes of its block."""
    LINKS_BYTES = "links-bytes"
    """The bytes of its names and CIDs, as Kubo's defaults did before IPIP-499."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything that decides which CID a file or directory gets. Leaves are raw and CIDs are v1 with sha2-256.

    A directory is sharded when its weight is above ``shard_above_bytes``.
    """

    name: str
    chunk_bytes: int
    max_links: int
    shard_above_bytes: int = 256 * _KIB
    shard_by: ShardBy = ShardBy.BLOCK_BYTES
    fanout: int = 256


DEFAULT_PROFILE = "unixfs-v1-2025"
PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(DEFAULT_PROFILE, chunk_bytes=_MIB, max_links=1024),
            Profile("kubo-v1", chunk_bytes=256 * _KIB, max_links=174, shard_by=ShardBy.LINKS_BYTES),
        )
    }
)


class FileDagBuilder:
    """Builds the balanced DAG above the leaves of one file; holds at most ``max_links`` parts a level.

    ``emit`` gets each block above the leaves when it is complete, children before parents, the root last.
    """

    def __init__(self, profile: Profile, emit: Callable[[Cid, bytes], None]) -> None:
        self._max_links = profile.max_links
        self._chunk_bytes = profile.chunk_bytes
        self._emit = emit
        self._levels: list[list[Child]] = [[]]
        self._root: Child | None = None
        self._ended = False

    def leaf(self, cid: Cid, size_bytes: int) -> None:
        """The next raw leaf of the file; all but the last have the profile's chunk size."""
        if self._ended or not 0 < size_bytes <= self._chunk_bytes:
            raise ValueError(f"A leaf of {size_bytes} bytes does not follow here.")
        self._ended = size_bytes < self._chunk_bytes
        self._add(0, Child(cid, size_bytes, size_bytes))

    def finish(self) -> Cid:
        """The root. A file without bytes is the empty raw block, one of a single leaf is it; neither is emitted."""
        level = 0
        while level < len(self._levels) - 1:
            if self._levels[level]:
                self._close(level)
            level += 1
        top = self._levels[level]
        if len(top) > 1:
            self._close(level)
            return self.finish()
        self._root = top[0] if top else Child(Cid.of(Codec.RAW, b""), 0, 0)
        self._ended = True
        return self._root.cid

    @property
    def root(self) -> Child:
        """After ``finish``: the root with the bytes of the file and of all its blocks."""
        if self._root is None:
            raise ValueError("The file is not finished.")
        return self._root

    def _add(self, level: int, child: Child) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(child)
        if len(self._levels[level]) == self._max_links:
            self._close(level)

    def _close(self, level: int) -> None:
        children = self._levels[level]
        self._levels[level] = []
        block = encode_file(children)
        cid = Cid.of(Codec.DAG_PB, block)
        self._emit(cid, block)
        size_bytes = sum(child.size_bytes for child in children)
        self._add(level + 1, Child(cid, size_bytes, len(block) + sum(child.dag_bytes for child in children)))


@dataclass(frozen=True, slots=True)
class DagLimits:
    """What one file may cost: levels of blocks, blocks counted at every place they stand, bytes of the file.

    ``outboard_bytes`` is of the blocks that cannot be made again from the payload, which are held in memory.
    """

    depth: int = 16
    nodes: int = 1 << 20
    size_bytes: int = 1 << 40
    outboard_bytes: int = 1 << 28


@dataclass(frozen=True, slots=True)
class Leaf:
    """Bytes of the file that are one block: raw, or with an ``envelope`` around them a dag-pb block."""

    cid: Cid
    offset: int
    size_bytes: int
    envelope: Envelope | None = None

    @property
    def block_bytes(self) -> int:
        """How long the block is."""
        around = self.envelope
        return self.size_bytes + (len(around.prefix) + len(around.suffix) if around else 0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block stands in the file; ``size_bytes`` is None only for a root of which nothing is claimed."""

    offset: int
    size_bytes: int | None
    depth: int


@dataclass(frozen=True, slots=True)
class Fed:
    """What a block brought: blocks that are needed next, leaves to fetch, and leaves whose bytes are known now.

    An interior block brings ``wanted`` and ``to_fetch``; a block that turned out to be a leaf brings ``known``, once
    for each place where it stands. Blocks inside their CID (identity hash) are never asked for and come as ``known``.
    """

    wanted: list[Cid] = field(default_factory=list[Cid])
    to_fetch: list[Leaf] = field(default_factory=list[Leaf])
    known: list[tuple[Leaf, memoryview]] = field(default_factory=list[tuple[Leaf, memoryview]])


class FileDagReader:
    """Expands the DAG of one file from its root, checking each claim.

    Give every block of ``wanted`` to ``feed``, after checking that it has the hash its CID names. When nothing is
    wanted, ``leaves`` is complete and in order. A raw block below the root is a leaf without being fetched; its size is
    its parent's claim, which whoever fetches it checks. ``opening`` is what the root alone brought.
    """

    def __init__(self, root: Cid, limits: DagLimits = DagLimits(), size_claim: int | None = None) -> None:
        self._limits = limits
        self._waiting: dict[Cid, list[Place]] = {}
        self._leaves: list[Leaf] = []
        self._sorted = True
        self._nodes = 0
        self._last_envelope: Envelope | None = None
        self.size_bytes: int | None = size_claim
        self.opening = Fed()
        self._check_size(size_claim or 0)
        # The root is asked for even if it is raw: only its block says how long it is.
        self._want(root, Place(0, size_claim, 1), self.opening)

    @property
    def wanted(self) -> list[Cid]:
        """Blocks that are needed and not yet fed, in the order in which they became known."""
        return list(self._waiting)

    @property
    def waiting(self) -> Mapping[Cid, list[Place]]:
        """Where each wanted block stands in the file. For reading only."""
        return self._waiting

    @property
    def leaves(self) -> list[Leaf]:
        """The leaves known so far, by offset; complete when nothing is wanted."""
        if not self._sorted:
            self._leaves.sort(key=lambda leaf: leaf.offset)
            self._sorted = True
        return self._leaves

    def feed(self, cid: Cid, block: bytes | bytearray | memoryview) -> Fed:
        """Take a wanted block, whose hash the caller has checked. Raises BadBlock; the reader is void after that."""
        places = self._waiting.pop(cid, None)
        if places is None:
            raise BadBlock(f"Block {cid} was not asked for.", param="cid")
        fed = Fed()
        self._take(cid, block, places, fed)
        return fed

    def _take(self, cid: Cid, block: bytes | bytearray | memoryview, places: list[Place], fed: Fed) -> None:
        node = decode_node(cid, block)
        if not isinstance(node, FileNode):
            raise BadBlock(f"Block {cid} is a directory, not a file or a part of one.", param="cid")
        for place in places:
            if place.size_bytes is not None and place.size_bytes != node.size_bytes:
                raise BadBlock(f"Block {cid} has {node.size_bytes} bytes of the file; {place.size_bytes} were claimed.")
        if self.size_bytes is None:
            self._check_size(node.size_bytes)
            self.size_bytes = node.size_bytes
        if node.links:
            self._count(len(node.links) * len(places))
            for place in places:
                self._expand(cid, node, place, fed)
        else:
            self._settle(cid, node, places, fed)

    def _expand(self, cid: Cid, node: FileNode, place: Place, fed: Fed) -> None:
        if place.depth >= self._limits.depth:
            raise BadBlock(f"The file is more than {self._limits.depth} blocks deep at {cid}.")
        offset = place.offset
        for link in node.links:
            if link.cid.codec is Codec.RAW:
                self._raw_leaf(Leaf(link.cid, offset, link.size_bytes), fed)
            else:
                self._want(link.cid, Place(offset, link.size_bytes, place.depth + 1), fed)
            offset += link.size_bytes

    def _raw_leaf(self, leaf: Leaf, fed: Fed) -> None:
        if leaf.size_bytes > MAX_BLOCK_BYTES:
            raise BadBlock(
                f"Block {leaf.cid} is said to have {leaf.size_bytes} bytes; at most {MAX_BLOCK_BYTES} are taken."
            )
        if not leaf.cid.identity:
            fed.to_fetch.append(leaf)
        elif len(leaf.cid.digest) == leaf.size_bytes:
            fed.known.append((leaf, memoryview(leaf.cid.digest)))
        else:
            raise BadBlock(f"Block {leaf.cid} has {len(leaf.cid.digest)} bytes; {leaf.size_bytes} were claimed.")
        self._keep(leaf)

    def _want(self, cid: Cid, place: Place, fed: Fed) -> None:
        if cid.identity:
            self._take(cid, cid.digest, [place], fed)
        elif (places := self._waiting.get(cid)) is not None:
            places.append(place)
        else:
            self._waiting[cid] = [place]
            fed.wanted.append(cid)

    def _settle(self, cid: Cid, node: FileNode, places: list[Place], fed: Fed) -> None:
        envelope = node.envelope
        if envelope == self._last_envelope:
            envelope = self._last_envelope  # all leaves but the last have the same one: keep it once
        self._last_envelope = envelope
        for place in places:
            leaf = Leaf(cid, place.offset, node.size_bytes, envelope)
            fed.known.append((leaf, node.inline))
            self._keep(leaf)

    def _keep(self, leaf: Leaf) -> None:
        if self._leaves and leaf.offset < self._leaves[-1].offset:
            self._sorted = False
        self._leaves.append(leaf)

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > self._limits.nodes:
            raise BadBlock(f"The file has more than {self._limits.nodes} blocks.")

    def _check_size(self, size_bytes: int) -> None:
        limit = min(self._limits.size_bytes, MAX_FILE_BYTES)
        if size_bytes > limit:
            raise BadBlock(f"The file has {size_bytes} bytes; at most {limit} are taken.")
