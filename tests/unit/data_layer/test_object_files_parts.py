"""A part of an object: only verified blocks, nothing published before it is whole, nothing fetched twice."""

import io
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec, varint
from prsm.data_layer.codec.dag_pb import BadBlock, Link
from prsm.data_layer.codec.unixfs import Child, Kind, encode_directory, encode_file, leaf_envelope
from prsm.data_layer.codec.unixfs_dag import PROFILES, DagLimits
from prsm.data_layer.store.ingest import Intake, ingest
from prsm.data_layer.store.object_files import ObjectFiles, Verified
from prsm.data_layer.store.object_index import Home, kind_on_disk, read_block, read_index
from prsm.data_layer.store.parts import Part, begin, salvaged

Get = Callable[[Cid], Verified]
SMALL = PROFILES["kubo-v1"]


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "here", keep_free_bytes=0)


@pytest.fixture
def there(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "there", keep_free_bytes=0)


def blocks_of(files: ObjectFiles, cid: Cid) -> dict[Cid, bytes]:
    return {place.cid: read_block(files, cid, place) for place in read_index(files, cid).places()}


def stored(there: ObjectFiles, data: bytes) -> tuple[Cid, dict[Cid, bytes]]:
    cid = ingest(io.BytesIO(data).readinto, there, SMALL).cid
    return cid, blocks_of(there, cid)


def expand(part: Part, blocks: dict[Cid, bytes]) -> None:
    while part.wanted:
        for cid in part.wanted:
            part.feed(Verified(cid, blocks[cid]))


def fill(part: Part, blocks: dict[Cid, bytes]) -> None:
    expand(part, blocks)
    for leaf in part.missing():
        part.put(leaf, Verified(leaf.cid, blocks[leaf.cid]))


def wrapped_file(payloads: list[bytes], kind: Kind) -> tuple[Cid, dict[Cid, bytes], bytes]:
    """A file as Kubo makes it without raw leaves."""
    blocks: dict[Cid, bytes] = {}
    children = list[Child]()
    for payload in payloads:
        around = leaf_envelope(len(payload), kind)
        block = around.prefix + payload + around.suffix
        cid = Cid.of(Codec.DAG_PB, block)
        blocks[cid] = block
        children.append(Child(cid, len(payload), len(block)))
    root = encode_file(children)
    cid = Cid.of(Codec.DAG_PB, root)
    return cid, blocks | {cid: root}, b"".join(payloads)


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 174 * 262_144 + 1])
def test_a_fetched_object_equals_the_ingested_one(files: ObjectFiles, there: ObjectFiles, size: int) -> None:
    cid, blocks = stored(there, random.Random(size).randbytes(size))
    with begin(files, cid) as part:
        fill(part, blocks)
        assert part.whole
        assert part.publish()
    assert files.payload_path(cid).read_bytes() == there.payload_path(cid).read_bytes()
    if cid.codec is Codec.DAG_PB:
        assert files.outboard_path(cid).read_bytes() == there.outboard_path(cid).read_bytes()
    assert list((files.folder / "parts").iterdir()) == []


def test_nothing_is_published_while_a_leaf_is_missing(files: ObjectFiles, there: ObjectFiles) -> None:
    cid, blocks = stored(there, os.urandom(5 * 262_144))
    with begin(files, cid) as part:
        with pytest.raises(InvalidRequest):
            part.publish()
        expand(part, blocks)
        for leaf in part.missing():
            with pytest.raises(InvalidRequest):
                part.publish()
            part.put(leaf, Verified(leaf.cid, blocks[leaf.cid]))
        assert kind_on_disk(files, cid) is None
        assert part.publish()


def test_a_leaf_goes_to_its_own_place_only(files: ObjectFiles, there: ObjectFiles) -> None:
    cid, blocks = stored(there, os.urandom(3 * 262_144))
    with begin(files, cid) as part:
        expand(part, blocks)
        first, second, _ = part.leaves
        with pytest.raises(InvalidRequest):
            part.put(first, Verified(second.cid, blocks[second.cid]))
        foreign = Verified(Cid.of(Codec.RAW, b"foreign"), b"foreign")
        with pytest.raises(InvalidRequest):
            part.put(first, foreign)
        with pytest.raises(BadBlock):
            part.feed(foreign)
        assert not part.holds(first)


def test_a_leaf_of_another_size_than_claimed_is_refused(files: ObjectFiles) -> None:
    leaf = Cid.of(Codec.RAW, b"four")
    root = encode_file([Child(leaf, 5, 5)])
    cid = Cid.of(Codec.DAG_PB, root)
    with begin(files, cid) as part:
        part.feed(Verified(cid, root))
        with pytest.raises(BadBlock):
            part.put(part.leaves[0], Verified(leaf, b"four"))
        with pytest.raises(InvalidRequest):
            part.publish()


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.RAW])
def test_wrapped_leaves_are_stored_once_and_given_out_as_they_were(files: ObjectFiles, kind: Kind) -> None:
    cid, blocks, data = wrapped_file([os.urandom(1000), os.urandom(1000), b"end"], kind)
    with begin(files, cid) as part:
        fill(part, blocks)
        part.publish()
    assert files.payload_path(cid).read_bytes() == data
    index = read_index(files, cid)
    assert [leaf.home for leaf in index.leaves()] == [Home.WRAPPED] * 3
    assert blocks_of(files, cid) == blocks
    assert files.outboard_path(cid).stat().st_size < 400
    assert index.dag_bytes == sum(map(len, blocks.values()))


def test_a_leaf_in_an_odd_envelope_is_kept_whole_in_the_outboard(files: ObjectFiles) -> None:
    odd = b"\x0a\x0b\x08\x02\x12\x04data\x38\xa4\x03"  # with permissions, and no size
    leaf, raw = Cid.of(Codec.DAG_PB, odd), Cid.of(Codec.RAW, b"tail")
    root = encode_file([Child(leaf, 4, len(odd)), Child(raw, 4, 4)])
    cid = Cid.of(Codec.DAG_PB, root)
    blocks = {cid: root, leaf: odd, raw: b"tail"}
    with begin(files, cid) as part:
        fill(part, blocks)
        part.publish()
    assert files.payload_path(cid).read_bytes() == b"datatail"
    assert blocks_of(files, cid) == blocks
    assert read_index(files, cid).inline(leaf) == b"data"


@pytest.mark.parametrize("make", ["raw", "wrapped"])
def test_an_attempt_goes_on_where_the_last_one_ended(files: ObjectFiles, there: ObjectFiles, make: str) -> None:
    data = os.urandom(6 * 262_144 + 7)
    if make == "raw":
        cid, blocks = stored(there, data)
    else:
        chunks = [data[start : start + 262_144] for start in range(0, len(data), 262_144)]
        cid, blocks, _ = wrapped_file(chunks, Kind.FILE)
    with begin(files, cid) as part:
        for wanted in (cid, *part.wanted):
            if wanted in part.wanted:
                part.feed(Verified(wanted, blocks[wanted]))
        for wanted in part.wanted[:3]:
            part.feed(Verified(wanted, blocks[wanted]))
        for leaf in part.missing()[2:4]:
            part.put(leaf, Verified(leaf.cid, blocks[leaf.cid]))
        had = {leaf.offset for leaf in part.leaves if part.holds(leaf)}
    assert had
    with begin(files, cid) as part:
        part.recheck()
        assert {leaf.offset for leaf in part.leaves if part.holds(leaf)} == had
        assert part.have_bytes == sum(leaf.size_bytes for leaf in part.leaves if leaf.offset in had)
        fill(part, blocks)
        part.publish()
    assert files.payload_path(cid).read_bytes() == data


def test_what_lies_in_a_part_is_not_believed(files: ObjectFiles, there: ObjectFiles) -> None:
    data = os.urandom(4 * 262_144)
    cid, blocks = stored(there, data)
    with begin(files, cid) as part:
        fill(part, blocks)
    with files.part_path(cid).open("r+b") as file:
        file.seek(262_144 + 5)
        file.write(b"?")
    log = files.part_path(cid).with_name(f"{cid}.car")
    log.write_bytes(log.read_bytes() + b"\x99torn")
    with begin(files, cid) as part:
        part.recheck()
        assert [leaf.offset for leaf in part.missing()] == [262_144]
        fill(part, blocks)
        part.publish()
    assert files.payload_path(cid).read_bytes() == data
    assert files.outboard_path(cid).read_bytes() == there.outboard_path(cid).read_bytes()


def test_a_part_that_was_being_published_when_it_was_killed_goes_on(files: ObjectFiles, there: ObjectFiles) -> None:
    data = os.urandom(3 * 262_144)
    cid, blocks = stored(there, data)
    with begin(files, cid) as part:
        fill(part, blocks)
    # As after the first of the two renames: the outboard has its name, the payload is read-only and has not.
    final = files.outboard_path(cid)
    final.parent.mkdir()
    files.part_path(cid).with_name(f"{cid}.car").rename(final)
    files.part_path(cid).chmod(0o444)
    assert kind_on_disk(files, cid) is None
    with begin(files, cid) as part:
        assert part.wanted == []
        part.recheck()
        assert part.whole
        assert part.publish(replace=True)
    assert files.payload_path(cid).read_bytes() == data


def test_leaves_come_from_many_threads(files: ObjectFiles, there: ObjectFiles) -> None:
    data = os.urandom(40 * 262_144)
    cid, blocks = stored(there, data)
    with begin(files, cid) as part:
        expand(part, blocks)
        leaves = part.missing() * 2
        random.shuffle(leaves)

        def work(mine: list[int]) -> None:
            for number in mine:
                part.put(leaves[number], Verified(leaves[number].cid, blocks[leaves[number].cid]))

        threads = [threading.Thread(target=work, args=(list(range(start, len(leaves), 4)),)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert part.have_bytes == len(data)
        part.publish()
    assert files.payload_path(cid).read_bytes() == data


def test_a_sharded_directory_is_fetched_shard_by_shard(files: ObjectFiles, there: ObjectFiles) -> None:
    with Intake(there, SMALL) as intake:
        entries = [(f"{'n' * 240}{number}", io.BytesIO(b"same").readinto) for number in range(1000)]
        root = intake.tree(entries)[-1].cid
    blocks = blocks_of(there, root)
    assert len(blocks) > 2
    with begin(files, root) as part:
        part.feed(Verified(root, blocks[root]))
        with pytest.raises(InvalidRequest):
            part.publish()
    with begin(files, root) as part:
        assert root not in part.wanted
        expand(part, blocks)
        assert len(part.entries) == 1000
        assert part.publish()
    assert files.outboard_path(root).read_bytes() == there.outboard_path(root).read_bytes()
    assert sorted(read_index(files, root).children()) == sorted(read_index(there, root).children())


def test_an_outboard_that_cannot_be_read_has_no_blocks(tmp_path: Path) -> None:
    (tmp_path / "folder.car").mkdir()  # as a bad sector, it can be opened by name and not read
    assert list(salvaged(tmp_path / "folder.car")) == []


def test_blocks_that_have_to_stay_in_memory_are_bounded(files: ObjectFiles) -> None:
    mode = b"\x38\xa4\x03"
    blocks: dict[Cid, bytes] = {}
    children = list[Child]()
    for number in range(8):
        payload = bytes([number]) * 1000
        message = b"\x08\x02\x12" + varint(1000) + payload + b"\x18" + varint(1000) + mode  # no canonical envelope
        block = b"\x0a" + varint(len(message)) + message
        blocks[cid := Cid.of(Codec.DAG_PB, block)] = block
        children.append(Child(cid, 1000, len(block)))
    blocks[root := Cid.of(Codec.DAG_PB, encode_file(children))] = encode_file(children)
    with begin(files, root, DagLimits(outboard_bytes=9000)) as part:
        fill(part, blocks)
        part.discard()
    with (
        begin(files, root, DagLimits(outboard_bytes=8000)) as part,
        pytest.raises(BadBlock, match="besides its payload"),
    ):
        expand(part, blocks)
    assert DagLimits().outboard_bytes <= 1 << 28
    folder = encode_directory([Link(root, "x" * 100, 8)])
    cid, limits = Cid.of(Codec.DAG_PB, folder), DagLimits(outboard_bytes=100)
    with begin(files, cid, limits) as part, pytest.raises(BadBlock, match="besides its payload"):
        part.feed(Verified(cid, folder))


def test_what_did_not_come_takes_no_room_between_two_attempts(files: ObjectFiles, there: ObjectFiles) -> None:
    cid, blocks = stored(there, random.Random(1).randbytes(20 * SMALL.chunk_bytes))
    with begin(files, cid) as part:
        expand(part, blocks)
        for leaf in (part.leaves[3], part.leaves[-1]):
            part.put(leaf, Verified(leaf.cid, blocks[leaf.cid]))
        taken = files.part_path(cid).stat().st_blocks * 512
        assert taken >= 20 * SMALL.chunk_bytes, "while it is fetched the room is its own"
    assert files.part_path(cid).stat().st_blocks * 512 < 3 * SMALL.chunk_bytes
    with begin(files, cid) as part:
        assert part.recheck() == 2 * SMALL.chunk_bytes
        fill(part, blocks)
        assert files.part_path(cid).stat().st_blocks * 512 >= 20 * SMALL.chunk_bytes
        part.publish()
    assert blocks_of(files, cid) == blocks
