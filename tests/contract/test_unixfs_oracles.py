"""CIDs equal to those of npm's ipfs-unixfs-importer and ipfs-car, and each reads what the other wrote.

The large sizes run with PRSM_TEST_LARGE_FILES=1.
"""

import io
import os
import random
from pathlib import Path

import pytest
from tests.fuzz.storage_parsers import PARSERS, make_input
from tests.support.memory_dag import MemoryDag
from tests.support.npm_oracles import Given, decode_blocks, export_car, import_files, ipfs_car

from prsm.core.errors import PrsmError
from prsm.data_layer.codec.car import CarReader
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import Link, decode, encode_link
from prsm.data_layer.codec.directories import build_directory, read_directory, resolve
from prsm.data_layer.codec.unixfs import FileNode, HamtNode, decode_node
from prsm.data_layer.codec.unixfs_dag import DEFAULT_PROFILE, PROFILES

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZES = [0, 1, 256 * KIB, 256 * KIB + 1, MIB, MIB + 1, 174 * 256 * KIB, 174 * 256 * KIB + 1]
LARGE_SIZES = [200 * MIB, GIB, GIB + 1]
large = pytest.mark.skipif("PRSM_TEST_LARGE_FILES" not in os.environ, reason="PRSM_TEST_LARGE_FILES=1 runs it")

TREE = {
    "readme.txt": "weights and words",
    "empty": "",
    "weights/a.bin": "a" * 1000,
    "weights/b.bin": "b" * 1000,
    "weights/shards/0/x": "x",
    "weights/shards/1/x": "x",
    "ü/日本語 name.txt": "utf-8",
    "Z": "capitals sort before small letters",
}


def _random_file(folder: Path, size: int) -> Path:
    path = folder / "content"
    source = random.Random(size)
    with path.open("wb") as out:
        for at in range(0, size, MIB):
            out.write(source.randbytes(min(MIB, size - at)))
    return path


def _own_cid(path: Path, profile: str) -> tuple[str, int]:
    with path.open("rb") as stream:
        root = MemoryDag(keep_leaves=False).add_file(stream, PROFILES[profile])
    return str(root.cid), root.dag_bytes


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", [*SIZES, *(pytest.param(size, marks=large) for size in LARGE_SIZES)])
def test_a_file_has_the_importers_cid(tmp_path: Path, profile: str, size: int) -> None:
    path = _random_file(tmp_path, size)
    assert _own_cid(path, profile) == import_files(profile, [Given("content", path)])


@pytest.mark.parametrize("size", [*SIZES, *(pytest.param(size, marks=large) for size in LARGE_SIZES)])
def test_a_file_has_ipfs_cars_cid(tmp_path: Path, size: int) -> None:
    path = _random_file(tmp_path, size)
    packed = ipfs_car("pack", "--no-wrap", path, "--output", tmp_path / "out.car")
    assert _own_cid(path, DEFAULT_PROFILE)[0] == packed


@pytest.mark.parametrize("profile", PROFILES)
def test_nested_directories_have_the_importers_cid(profile: str) -> None:
    dag = MemoryDag()
    built = dag.add_folder({path: text.encode() for path, text in TREE.items()}, PROFILES[profile])
    theirs = import_files(profile, [Given(path, text=text) for path, text in TREE.items()], wrap=True)
    assert (str(built.cid), built.dag_bytes) == theirs


def test_nested_directories_have_ipfs_cars_cid(tmp_path: Path) -> None:
    dag = MemoryDag()
    built = dag.add_folder({path: text.encode() for path, text in TREE.items()}, PROFILES[DEFAULT_PROFILE])
    folder = tmp_path / "tree"
    for path, text in TREE.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    assert ipfs_car("pack", folder, "--output", tmp_path / "tree.car") == str(built.cid)
    reader = CarReader((tmp_path / "tree.car").open("rb").read)
    assert reader.roots == (built.cid,)
    assert {block.cid for block in reader} == set(dag.blocks)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("count", [3000, 7000])
def test_a_large_directory_has_the_importers_cid(tmp_path: Path, profile: str, count: int) -> None:
    files = {f"shards/model-{number:05}-of-{count:05}.safetensors": f"{number}" for number in range(count)}
    dag = MemoryDag()
    built = dag.add_folder({path: text.encode() for path, text in files.items()}, PROFILES[profile])
    theirs = import_files(profile, [Given(path, text=text) for path, text in files.items()], wrap=True)
    assert (str(built.cid), built.dag_bytes) == theirs
    shards = resolve(built.cid, "shards", dag.blocks.__getitem__)
    assert isinstance(decode_node(shards, dag[shards]), HamtNode) is (count == 7000)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("excess", [0, 1])
def test_the_edge_of_sharding_is_the_importers(profile: str, excess: int) -> None:
    """A directory of exactly 256 KiB is one block, one byte more makes it a trie."""
    limit = PROFILES[profile].shard_above_bytes
    cid = Cid.of(Codec.RAW, b"x")
    names = [f"{number:04}" + "n" * 40 for number in range(5000)]
    dag = MemoryDag()

    def weight(name: str) -> int:
        if profile == "kubo-v1":
            return len(name) + len(cid.encode())
        return sum(map(len, encode_link(cid, name.encode(), 1)))

    around = 0 if profile == "kubo-v1" else 4  # the UnixFS data of a directory
    room = limit + excess - around - sum(map(weight, names))
    while room < 60:
        room += weight(names.pop())
    names.append("z" * (room - weight("")))
    assert around + sum(map(weight, names)) == limit + excess
    built = build_directory([Link(cid, name, 1) for name in names], PROFILES[profile], dag.blocks.__setitem__)
    assert (len(dag.blocks) > 1) is bool(excess)
    theirs = import_files(profile, [Given(name, text="x") for name in names], wrap=True)
    assert (str(built.cid), built.dag_bytes) == theirs


@pytest.mark.parametrize("profile", PROFILES)
def test_they_read_our_file(tmp_path: Path, profile: str) -> None:
    data = random.Random(1).randbytes(3 * MIB + 7)
    dag = MemoryDag()
    root = dag.add_file(io.BytesIO(data), PROFILES[profile])
    archive = tmp_path / "ours.car"
    archive.write_bytes(dag.car(root.cid))
    read_root, entries = export_car(archive, tmp_path)
    assert read_root == str(root.cid)
    assert [entry.data for entry in entries] == [data]
    ipfs_car("unpack", archive, "--output", tmp_path / "unpacked")
    assert (tmp_path / "unpacked").read_bytes() == data


@pytest.mark.parametrize("count", [10, 7000])
def test_they_read_our_directory(tmp_path: Path, count: int) -> None:
    files = {f"data/part {number}": f"text {number}".encode() for number in range(count)}
    dag = MemoryDag()
    built = dag.add_folder(files | {"top": b"top"}, PROFILES[DEFAULT_PROFILE], folders=["nothing/here"])
    archive = tmp_path / "ours.car"
    archive.write_bytes(dag.car(built.cid))
    _, entries = export_car(archive, tmp_path)
    read = {entry.path.partition("/")[2]: entry.data for entry in entries if entry.data is not None}
    assert read == files | {"top": b"top"}
    assert "nothing/here" in {entry.path.partition("/")[2] for entry in entries}


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "kubo-v1", "wrapped-leaves", "unixfs-v0-2015"])
def test_we_read_their_file(tmp_path: Path, profile: str) -> None:
    path = _random_file(tmp_path, 45 * MIB + 3)
    archive = tmp_path / "theirs.car"
    root, _ = import_files(profile, [Given("content", path)], car=archive)
    dag = _read_archive(archive, root)
    assert dag.read_file(Cid.parse(root)) == path.read_bytes()


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
@pytest.mark.parametrize("count", [10, 7000])
def test_we_read_their_directory(tmp_path: Path, profile: str, count: int) -> None:
    archive = tmp_path / "theirs.car"
    files = [Given(f"data/part {number}", text=f"text {number}") for number in range(count)]
    root, _ = import_files(profile, files, wrap=True, car=archive)
    dag = _read_archive(archive, root)
    data = resolve(Cid.parse(root), "data", dag.__getitem__)
    entries = read_directory(data, dag.__getitem__)
    assert {entry.name for entry in entries} == {f"part {number}" for number in range(count)}
    for number in (0, count // 2, count - 1):
        cid = resolve(Cid.parse(root), f"data/part {number}", dag.__getitem__)
        node = decode_node(cid, dag[cid])
        assert isinstance(node, FileNode)
        assert node.inline == f"text {number}".encode()


def test_what_we_read_in_a_block_they_read_too() -> None:
    """Strange blocks: whatever is taken here is taken there and means the same."""
    seed = int.from_bytes(os.urandom(4))
    rng = random.Random(seed)
    blocks = [make_input(rng, PARSERS["dag_pb"].samples) for _ in range(4000)]
    taken = 0
    for block, theirs in zip(blocks, decode_blocks(blocks), strict=True):
        try:
            node = decode(block)
        except PrsmError:
            continue
        taken += 1
        assert theirs is not None, f"seed {seed}, block {block.hex()}"
        assert theirs["data"] == (None if node.data is None else node.data.hex())
        for link, (cid, name, size) in zip(node.links, theirs["links"], strict=True):
            assert Cid.parse(cid) == link.cid
            assert name in (link.name, link.name.removeprefix("\ufeff"))
            assert size == link.size or link.size >= 1 << 53  # beyond what a JavaScript number holds
        try:
            file = decode_node(Cid.of(Codec.DAG_PB, block), block)
        except PrsmError:
            continue
        if isinstance(file, FileNode):
            assert theirs["type"] in ("file", "raw"), f"seed {seed}, block {block.hex()}"
            assert int(theirs["size"]) == file.size_bytes
    assert taken > 100


def test_a_time_that_they_cannot_read_is_refused_here_too() -> None:
    whole, torn = (
        bytes.fromhex(text) for text in ("0a0b080212016118014202" + "0801", "0a0b080212016118014202" + "0170")
    )
    assert [theirs["type"] for theirs in decode_blocks([whole, torn])] == ["file", None]
    assert isinstance(decode_node(Cid.of(Codec.DAG_PB, whole), whole), FileNode)
    with pytest.raises(PrsmError, match="time"):
        decode_node(Cid.of(Codec.DAG_PB, torn), torn)


def _read_archive(archive: Path, root: str) -> MemoryDag:
    dag = MemoryDag()
    with archive.open("rb") as stream:
        reader = CarReader(stream.read)
        assert reader.roots == (Cid.parse(root),)
        dag.blocks.update((block.cid, bytes(block.data)) for block in reader)
    return dag
