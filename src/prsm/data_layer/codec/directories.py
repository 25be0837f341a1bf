"""Directories: built from their entries, read, and walked along a path; sharded where the profile says. (UnixFS.)

Blocks come from and go to functions that are passed in, and whoever gives a block has checked its hash. A sharded
directory is believed only if every name stands where its hash puts it, so that reading and looking up agree.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import BadBlock, Link
from prsm.data_layer.codec.hamt import Shard, build_shards, hash_name, slot_of
from prsm.data_layer.codec.unixfs import (
    MAX_FILE_BYTES,
    DirectoryNode,
    FileNode,
    HamtNode,
    HamtSlot,
    decode_node,
    encode_directory,
    encode_shard,
    entry_name_fault,
)
from prsm.data_layer.codec.unixfs_dag import Profile, ShardBy

MAX_PATH_PARTS = 128
MAX_PATH_CHARS = 8192

Emit = Callable[[Cid, bytes], None]
GetBlock = Callable[[Cid], bytes | memoryview]


class NoSuchEntry(PrsmError):
    """A path that leads nowhere: no entry of that name, or a file where a directory must be."""

    kind = Kind.NOT_FOUND
    code = "no_such_entry"


@dataclass(frozen=True, slots=True)
class Built:
    """A directory and the bytes of all blocks under it, its own included."""

    cid: Cid
    dag_bytes: int


@dataclass(frozen=True, slots=True)
class DirectoryLimits:
    """What one directory may cost to read."""

    shards: int = 1 << 16
    entries: int = 1 << 20


def build_directory(entries: Iterable[Link], profile: Profile, emit: Emit) -> Built:
    """Build a directory of finished entries (``size`` is the bytes of all blocks under each).

    ``emit`` gets its blocks, shards before what holds them. Raises InvalidRequest for names that are wrong or doubled.
    """
    links = list(entries)
    names: set[str] = set()
    for link in links:
        if fault := entry_name_fault(link.name):
            raise InvalidRequest(fault, param="path")
        if link.name in names:
            raise InvalidRequest(f"The entry {link.name[:80]!r} is given twice.", param="path")
        names.add(link.name)
    if _links_bytes(links) <= profile.shard_above_bytes:
        block = encode_directory(links)
        if profile.shard_by is ShardBy.LINKS_BYTES or len(block) <= profile.shard_above_bytes:
            return _emitted(block, links, emit)
    return _emit_shard(build_shards(links, profile.fanout), profile.fanout, emit)


def build_tree(
    files: Iterable[tuple[str, Cid, int]], profile: Profile, emit: Emit, folders: Iterable[str] = ()
) -> Built:
    """Build nested directories from ``(path, cid, bytes of all its blocks)``; ``folders`` may be empty ones.

    Paths are relative, parts divided by ``/``. Raises InvalidRequest for a path that cannot be or stands twice.
    """
    root: Folder = {}
    for path in folders:
        folder_at(root, split_path(path))
    for path, cid, dag_bytes in files:
        *above, name = split_path(path) or [""]
        folder, _ = folder_at(root, above)
        if fault := entry_name_fault(name):
            raise InvalidRequest(fault, param="path")
        if name in folder:
            raise InvalidRequest(f"The path {path[:80]!r} is given twice.", param="path")
        folder[name] = Link(cid, name, dag_bytes)
    return _build_folder(root, profile, emit)


def split_path(path: str) -> list[str]:
    """The names of a path; slashes at its ends are passed over. Raises InvalidRequest for parts that are no names."""
    if len(path) > MAX_PATH_CHARS:
        raise InvalidRequest(f"A path has at most {MAX_PATH_CHARS} characters.", param="path")
    trimmed = path.strip("/")
    parts = trimmed.split("/") if trimmed else []
    if len(parts) > MAX_PATH_PARTS:
        raise InvalidRequest(f"A path has at most {MAX_PATH_PARTS} parts.", param="path")
    for part in parts:
        if fault := entry_name_fault(part):
            raise InvalidRequest(fault, param="path")
    return parts


class DirectoryReader:
    """Reads one directory from its root: give every block of ``wanted`` to ``feed`` after checking its hash.

    When nothing is wanted, ``entries`` is complete: the order of its block, or by slot within each shard.
    """

    def __init__(self, root: Cid, limits: DirectoryLimits = DirectoryLimits()) -> None:
        self._limits = limits
        self._fanout = 0
        self._shards = 0
        self._waiting: dict[Cid, tuple[int, ...]] = {root: ()}
        self.entries: list[Link] = []

    @property
    def wanted(self) -> list[Cid]:
        """Blocks that are needed and not yet fed."""
        return list(self._waiting)

    def feed(self, cid: Cid, block: bytes | bytearray | memoryview) -> list[Cid]:
        """Take a wanted block; answers what it makes wanted. Raises BadBlock; the reader is void after that."""
        way = self._waiting.pop(cid, None)
        if way is None:
            raise BadBlock(f"Block {cid} was not asked for.", param="cid")
        node = decode_node(cid, block)
        if isinstance(node, HamtNode):
            wanted = self._shard(cid, node, way)
        elif isinstance(node, DirectoryNode) and not way:
            self.entries.extend(node.links)
            wanted = []
        else:
            raise BadBlock(f"Block {cid} is no {'part of a sharded ' if way else ''}directory.", param="cid")
        if len(self.entries) > self._limits.entries:
            raise BadBlock(f"The directory has more than {self._limits.entries} entries.", param="cid")
        return wanted

    def _shard(self, cid: Cid, node: HamtNode, way: tuple[int, ...]) -> list[Cid]:
        self._fanout = self._fanout or node.fanout
        _check_shard(cid, node, self._fanout, way)
        wanted = [slot for slot in node.slots if not slot.name]
        self._shards += len(wanted)
        if self._shards > self._limits.shards:
            raise BadBlock(f"The directory has more than {self._limits.shards} shards.", param="cid")
        for slot in wanted:
            if slot.cid in self._waiting:
                raise BadBlock(f"The shard {slot.cid} stands at two places of its directory.", param="cid")
            self._waiting[slot.cid] = (*way, slot.index)
        self.entries.extend(Link(slot.cid, slot.name, slot.size) for slot in node.slots if slot.name)
        return [slot.cid for slot in wanted]


def read_directory(root: Cid, get_block: GetBlock, limits: DirectoryLimits = DirectoryLimits()) -> list[Link]:
    """All entries of a directory. ``get_block`` gives verified blocks. Raises BadBlock and what it raises."""
    reader = DirectoryReader(root, limits)
    wanted = reader.wanted
    while wanted:
        cid = wanted.pop()
        wanted += reader.feed(cid, _block(cid, get_block))
    return reader.entries


Folder = dict[str, "Link | Folder"]
"""Folders and what stands in them by name, while a tree is put together."""


def folder_at(root: Folder, parts: Sequence[str]) -> tuple[Folder, int]:
    """The folder at a path below ``root``, and how many on the way were missing and are made.

    Raises InvalidRequest where a file is.
    """
    folder, made = root, 0
    for part in parts:
        made += part not in folder
        inner = folder.setdefault(part, {})
        if isinstance(inner, Link):
            raise InvalidRequest(f"{part[:80]!r} is given as a file and as a folder.", param="path")
        folder = inner
    return folder, made


def resolve(root: Cid, path: str, get_block: GetBlock) -> Cid:
    """What ``path`` under ``root`` leads to, asking only for the blocks on the way, which ``get_block`` gives verified.

    Raises NoSuchEntry, InvalidRequest for a path that cannot be, BadBlock, and what ``get_block`` raises.
    """
    cid = root
    for name in split_path(path):
        found = _lookup(cid, name, get_block)
        if found is None:
            raise NoSuchEntry(f"There is no entry {name[:80]!r} in {cid}.", param="path")
        cid = found
    return cid


def _build_folder(folder: Folder, profile: Profile, emit: Emit) -> Built:
    links: list[Link] = []
    for name, inner in folder.items():
        if isinstance(inner, Link):
            links.append(inner)
        else:
            built = _build_folder(inner, profile, emit)
            links.append(Link(built.cid, name, built.dag_bytes))
    return build_directory(links, profile, emit)


def _links_bytes(links: Iterable[Link]) -> int:
    return sum(len(link.name.encode()) + len(link.cid.encode()) for link in links)


def _emit_shard(shard: Shard, fanout: int, emit: Emit) -> Built:
    slots: list[HamtSlot] = []
    for index, inner in shard.slots.items():
        if isinstance(inner, Shard):
            built = _emit_shard(inner, fanout, emit)
            slots.append(HamtSlot(index, "", built.cid, built.dag_bytes))
        else:
            slots.append(HamtSlot(index, inner.name, inner.cid, inner.size))
    return _emitted(encode_shard(slots, fanout), slots, emit)


def _emitted(block: bytes, below: Sequence[Link | HamtSlot], emit: Emit) -> Built:
    if sum(link.size for link in below) > MAX_FILE_BYTES:
        raise InvalidRequest(f"What stands in a directory has at most {MAX_FILE_BYTES} bytes.", param="path")
    cid = Cid.of(Codec.DAG_PB, block)
    emit(cid, block)
    return Built(cid, len(block) + sum(link.size for link in below))


def _check_shard(cid: Cid, node: HamtNode, fanout: int, way: tuple[int, ...]) -> None:
    """Refuse a shard whose names do not belong where it stands: ``way`` is the slots that lead to it."""
    if node.fanout != fanout:
        raise BadBlock(f"The shard {cid} has fanout {node.fanout} in a directory of {fanout}.", param="cid")
    if way and not node.slots:
        raise BadBlock(f"The shard {cid} is empty.", param="cid")
    for slot in node.slots:
        if slot.name:
            hashed = hash_name(slot.name)
            if any(slot_of(hashed, depth, fanout) != at for depth, at in enumerate((*way, slot.index))):
                raise BadBlock(f"The entry {slot.name[:80]!r} stands in the wrong shard {cid}.", param="cid")
        elif slot_of(0, len(way) + 1, fanout) is None:
            raise BadBlock(f"The shard {cid} has shards below it, deeper than the hash of a name is long.", param="cid")


def _lookup(directory: Cid, name: str, get_block: GetBlock) -> Cid | None:
    cid = directory
    way: tuple[int, ...] = ()
    fanout = 0
    while True:
        node = decode_node(cid, _block(cid, get_block))
        if isinstance(node, FileNode):
            raise NoSuchEntry(f"{cid} is a file; it has no entry {name[:80]!r}.", param="path")
        if isinstance(node, DirectoryNode):
            if way:
                raise BadBlock(f"Block {cid} is no part of a sharded directory.", param="cid")
            return next((link.cid for link in node.links if link.name == name), None)
        fanout = fanout or node.fanout
        _check_shard(cid, node, fanout, way)
        at = slot_of(hash_name(name), len(way), fanout)
        slot = next((slot for slot in node.slots if slot.index == at), None)
        if slot is None or slot.name:
            return slot.cid if slot and slot.name == name else None
        cid, way = slot.cid, (*way, slot.index)


def _block(cid: Cid, get_block: GetBlock) -> bytes | memoryview:
    return cid.digest if cid.identity else get_block(cid)
