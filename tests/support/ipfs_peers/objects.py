"""What tests exchange with other implementations: trees of files, and this node's store as blocks and as CAR files."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from tests.support.memory_dag import MemoryDag
from tests.support.transfers import random_bytes

from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.codec.dag_walk import car_of
from prsm.data_layer.codec.directories import build_tree
from prsm.data_layer.codec.unixfs_dag import PROFILES, Profile
from prsm.data_layer.store.ingest import Intake
from prsm.data_layer.store.object_files import ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import read_block, read_index

KIB, MIB = 1 << 10, 1 << 20
SIZES = (0, 1, 256 * KIB + 1, 3 * MIB + 7, 12 * MIB)
DEEP = Profile("deep-for-tests", chunk_bytes=32 * KIB, max_links=8)
"""Four levels of blocks for 12 MiB."""
ALL_PROFILES = (*PROFILES.values(), DEEP)

# Over 256 KiB of names and links, so every profile shards it; few entries and contents, so that it is made quickly.
_MANY = {f"{'shard' * 46}-{number:04}": bytes([number % 7]) for number in range(1000)}
TREES: Mapping[str, Mapping[str, bytes]] = {
    "nested": {
        "readme.txt": b"weights and words",
        "empty": b"",
        "weights/a.bin": random_bytes(2 * MIB + 5, 1),
        "weights/more/b.bin": random_bytes(300 * KIB, 2),
        "weights/more/again.bin": random_bytes(300 * KIB, 2),
        "ü/日本語 name.txt": b"utf-8",
        "Z": b"capitals sort before small letters",
    },
    "sharded": _MANY | {"folder/in/a shard": b"below"},
}


def importer_options(profile: Profile) -> dict[str, object]:
    """What makes Helia's importer do as ``profile`` says."""
    return {
        "chunkBytes": profile.chunk_bytes,
        "maxLinks": profile.max_links,
        "shardSplitThresholdBytes": profile.shard_above_bytes,
        "shardSplitStrategy": str(profile.shard_by),
    }


def new_store(folder: Path) -> ObjectFiles:
    """An empty store of this node."""
    return ObjectFiles(folder, keep_free_bytes=0)


def take_in(files: ObjectFiles, path: Path, profile: Profile) -> Cid:
    """Add a file or folder as the node does."""
    with Intake(files, profile) as intake:
        return intake.path(path)[-1].cid


def tree_dag(tree: str, profile: Profile) -> tuple[Cid, MemoryDag]:
    """One of ``TREES`` as a directory: its CID and all its blocks."""
    dag = MemoryDag()
    files: list[tuple[str, Cid, int]] = []
    for path, data in TREES[tree].items():
        child = dag.add_file(BytesIO(data), profile)
        files.append((path, child.cid, child.dag_bytes))
    return build_tree(files, profile, dag.blocks.__setitem__).cid, dag


def stored_blocks(files: ObjectFiles) -> dict[Cid, bytes]:
    """Every block of every object in a store, read and verified as the node's gateway does."""
    blocks: dict[Cid, bytes] = {}
    for found in files.listing():
        for place in read_index(files, found.cid).places():
            blocks[place.cid] = read_block(files, found.cid, place)
    return blocks


def stored_content(files: ObjectFiles, root: Cid) -> dict[str, bytes] | bytes:
    """A published file's bytes, or a directory's files by path."""
    index = read_index(files, root)
    if index.kind is ObjectKind.FILE:
        return files.payload_path(root).read_bytes()
    content: dict[str, bytes] = {}
    for name, cid in index.children():
        below = stored_content(files, cid)
        content |= (
            {name: below} if isinstance(below, bytes) else {f"{name}/{path}": data for path, data in below.items()}
        )
    return content


def write_car_of(path: Path, root: Cid, blocks: Mapping[Cid, bytes]) -> None:
    """All blocks under ``root`` as the node's gateway sends them."""
    with path.open("wb") as file:
        file.writelines(car_of(root, "", "all", None, blocks.__getitem__))


def write_tree(folder: Path, tree: Mapping[str, bytes]) -> None:
    """The files of a tree on disk."""
    for path, data in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def content_on_disk(path: Path) -> dict[str, bytes] | bytes:
    """A file's bytes, or a folder's files by path."""
    if path.is_file():
        return path.read_bytes()
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
