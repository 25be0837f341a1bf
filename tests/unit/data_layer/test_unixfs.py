import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec, varint
from prsm.data_layer.codec.dag_pb import BadBlock, Link, encode
from prsm.data_layer.codec.unixfs import (
    Child,
    DirectoryNode,
    FileLink,
    FileNode,
    HamtNode,
    HamtSlot,
    Kind,
    decode_node,
    encode_directory,
    encode_file,
    encode_shard,
    leaf_envelope,
)

CID = Cid.of(Codec.RAW, b"x")
cids = st.builds(Cid, st.sampled_from(Codec), st.binary(min_size=32, max_size=32))
names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\x00"), min_size=1, max_size=12)


def _read(block: bytes) -> FileNode | DirectoryNode | HamtNode:
    return decode_node(Cid.of(Codec.DAG_PB, block), block)


def test_a_raw_block_is_its_file() -> None:
    assert decode_node(CID, b"x") == FileNode((), 1, memoryview(b"x"), None)


@given(st.lists(st.builds(Child, cids, st.integers(1, 2**40), st.integers(0, 2**41)), min_size=1, max_size=6))
def test_a_file_node_reads_back(children: list[Child]) -> None:
    node = _read(encode_file(children))
    assert isinstance(node, FileNode)
    assert node.links == tuple(FileLink(child.cid, child.size_bytes) for child in children)
    assert node.size_bytes == sum(child.size_bytes for child in children)
    assert node.envelope is None


@given(st.binary(max_size=300), st.sampled_from([Kind.FILE, Kind.RAW]))
def test_a_wrapped_leaf_is_its_envelope_and_payload(payload: bytes, kind: Kind) -> None:
    around = leaf_envelope(len(payload), kind)
    node = _read(around.prefix + payload + around.suffix)
    assert isinstance(node, FileNode)
    assert (node.inline, node.size_bytes, node.envelope) == (payload, len(payload), around)


def test_the_envelope_of_an_uncommon_leaf_still_makes_its_block() -> None:
    mtime = b"\x42\x02\x08\x05"
    for data in (
        b"\x08\x02\x12\x03abc",  # without a file size
        b"\x08\x02\x12\x00\x18\x00",  # an empty payload, written
        b"\x08\x02\x12\x03abc\x18\x03\x38\xa4\x03" + mtime,  # permissions and a time
    ):
        block = encode([], data)
        node = _read(block)
        assert isinstance(node, FileNode)
        assert node.envelope is not None
        assert node.envelope.prefix + bytes(node.inline) + node.envelope.suffix == block


@given(st.dictionaries(names.filter(lambda name: name not in (".", "..")), cids, max_size=6))
def test_a_directory_reads_back(entries: dict[str, Cid]) -> None:
    links = [Link(cid, name, 7) for name, cid in entries.items()]
    node = _read(encode_directory(links))
    assert isinstance(node, DirectoryNode)
    assert set(node.links) == set(links)


@given(st.dictionaries(st.integers(0, 255), st.sampled_from(["", "a", "name"]), max_size=9))
def test_a_shard_reads_back(slots: dict[int, str]) -> None:
    given_slots = tuple(HamtSlot(index, slots[index], CID, 3) for index in sorted(slots))
    assert _read(encode_shard(given_slots, 256)) == HamtNode(256, given_slots)


def _file(data: bytes, links: int = 0, name: str = "") -> bytes:
    return encode([Link(CID, name, 1)] * links, data)


def _directory(*entries: str) -> bytes:
    return encode([Link(CID, entry, 1) for entry in entries], b"\x08\x01")


def _shard(field: bytes, *entries: str, fanout: int = 256, hash_type: int = 0x22) -> bytes:
    data = b"\x08\x05\x12" + varint(len(field)) + field + b"\x28" + varint(hash_type) + b"\x30" + varint(fanout)
    return encode([Link(CID, entry, 1) for entry in entries], data)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (encode([], None), "without UnixFS data"),
        (_file(b""), "type -1"),
        (_file(b"\x08\x03"), "type 3"),
        (_file(b"\x08\x04\x12\x01x"), "symbolic link"),
        (_file(b"\x08\x06"), "type 6"),
        (_file(b"\x08\x02\x18\x05\x20\x05"), "0 links and 1 block sizes"),
        (_file(b"\x08\x02\x18\x05\x20\x05", links=2), "2 links and 1 block sizes"),
        (_file(b"\x08\x02\x18\x06\x20\x05", links=1), "claims 6 bytes and its parts have 5"),
        (_file(b"\x08\x02\x12\x01x\x18\x02"), "claims 2 bytes and its parts have 1"),
        (_file(b"\x08\x02\x12\x01x\x18\x06\x20\x05", links=1), "bytes of its own beside links"),
        (_file(b"\x08\x02\x20\x05", links=1), "does not say the size"),
        (_file(b"\x08\x02\x18\x00\x20\x00", links=1), "no bytes of the file"),
        (_file(b"\x08\x02\x18\x05\x20\x05", links=1, name="part"), "has a name"),
        (_file(b"\x08\x02\x18" + varint(1 << 60) + b"\x20" + varint(1 << 60), links=1), "at most"),
        (_file(b"\x08\x02\x18\x05\x22\x01\x05", links=1), "0x22"),  # packed block sizes
        (_file(b"\x08\x02\x18\x05\x18\x05"), "doubled"),
        (_file(b"\x18\x00\x08\x02"), "out of order"),
        (_file(b"\x08\x82\x00\x18\x00"), "shortest form"),
        (_file(b"\x08\x02\x18\x00\x4a\x00"), "unknown"),
        (_file(b"\x08\x02\x12\x05abc"), "beyond the end"),
        (_file(b"\x08\x02\x18\x00\x28\x22"), "no hash type"),
        (_file(b"\x08\x02\x18\x00\x42\x05\x00"), "beyond the end"),
        (_directory("a", "a"), "two entries|Two entries"),
        (_directory("."), "cannot be named"),
        (_directory(".."), "cannot be named"),
        (_directory(""), "cannot be named"),
        (_directory("a/b"), "slash"),
        (_directory("a\x00"), "NUL"),
        (encode([], b"\x08\x01\x12\x01x"), "A directory has no bytes"),
        (encode([], b"\x08\x01\x18\x05"), "A directory has no bytes"),
        (_shard(b"\x02", "01a", hash_type=0x12), "another hash"),
        (_shard(b"\x02", "01a", fanout=100), "power of two"),
        (_shard(b"\x02", "01a", fanout=4), "power of two"),
        (_shard(b"\x02", "01a", fanout=2048), "power of two"),
        (_shard(b"\x06", "01a"), "announces 2 links"),
        (_shard(b"\x02", "02a"), "does not stand"),
        (_shard(b"\x02", "01"[:1]), "does not stand"),
        (_shard(b"\x00\x04", "02..", fanout=256), "cannot be named"),
        (_shard(bytes(33)), "longer than its fanout"),
        (_shard(b"\x04\x00", "0ax"), "does not stand"),  # lower-case hexadecimal
        (encode([Link(CID, "0Aa", 1)], b"\x08\x05\x12\x02\x04\x00\x28\x22"), "power of two"),
    ],
)
def test_what_is_refused(block: bytes, reason: str) -> None:
    with pytest.raises(BadBlock, match=reason) as caught:
        _read(block)
    assert str(Cid.of(Codec.DAG_PB, block)) in str(caught.value)


def test_a_raw_block_has_a_greatest_size() -> None:
    block = bytes(MAX_BLOCK_BYTES + 1)
    with pytest.raises(BadBlock):
        decode_node(Cid.of(Codec.RAW, block), block)
