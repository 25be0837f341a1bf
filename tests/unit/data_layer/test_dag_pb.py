import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import PrsmError
from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec, varint
from prsm.data_layer.codec.dag_pb import MAX_LINKS, BadBlock, Link, decode, encode

CID = Cid.of(Codec.RAW, b"x")
links = st.builds(
    Link,
    st.builds(Cid, st.sampled_from(Codec), st.binary(min_size=32, max_size=32)),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.integers(0, 2**63 - 1),
)


@given(st.lists(links, max_size=8), st.none() | st.binary(max_size=100))
def test_a_block_reads_back_sorted_by_the_bytes_of_names(given_links: list[Link], data: bytes | None) -> None:
    node = decode(encode(given_links, data))
    assert node.data == data
    assert list(node.links) == sorted(given_links, key=lambda link: link.name.encode())
    assert encode(node.links, node.data) == encode(given_links, data)


@given(st.binary(max_size=200))
def test_random_bytes_are_the_one_form_of_what_they_mean_or_an_error(block: bytes) -> None:
    try:
        node = decode(block)
    except PrsmError:
        return
    assert len(block) <= len(encode(node.links, node.data))


def _field(tag: int, body: bytes) -> bytes:
    return bytes((tag,)) + varint(len(body)) + body


HASH = _field(0x0A, CID.encode())
NAME = _field(0x12, b"name")
SIZE = b"\x18\x05"
LINK = _field(0x12, HASH + NAME + SIZE)
DATA = _field(0x0A, b"data")


def test_a_link_may_leave_out_its_name_and_size() -> None:
    assert decode(_field(0x12, HASH)).links == (Link(CID, "", 0),)


def test_a_link_of_version_0_is_the_version_1_of_its_block() -> None:
    folder = Cid.of(Codec.DAG_PB, b"")
    assert decode(_field(0x12, _field(0x0A, b"\x12\x20" + folder.digest))).links[0].cid == folder


def test_nothing_is_a_block_without_links_and_data() -> None:
    assert decode(b"") == decode(encode([], None))
    assert decode(b"").data is None
    assert decode(b"\x0a\x00").data == b""


@pytest.mark.parametrize(
    "block",
    [
        DATA + LINK,  # data first
        LINK + DATA + LINK,
        DATA + DATA,
        LINK + DATA + b"\x00",
        _field(0x1A, b"third field"),
        b"\x10\x05",  # links as a number
        b"\x0b",
        LINK[:-1],
        DATA[:-1],
        b"\x12",
        b"\x0a\x85\x00abcde",  # a length in two bytes
        b"\x0a" + b"\xff" * 8 + b"\x7f",
        b"\x0a" + b"\xff" * 9 + b"\x01",
        _field(0x12, b""),
        _field(0x12, NAME + HASH),
        _field(0x12, HASH + SIZE + NAME),
        _field(0x12, HASH + HASH),
        _field(0x12, HASH + NAME + NAME),
        _field(0x12, HASH + SIZE + SIZE),
        _field(0x12, NAME + SIZE),
        _field(0x12, HASH + b"\x22\x00"),
        _field(0x12, HASH + _field(0x12, b"\xff")),
        _field(0x12, HASH + _field(0x12, b"\xed\xa0\x80")),  # a surrogate
        _field(0x12, _field(0x0A, CID.encode() + b"\x00")),
        _field(0x12, _field(0x0A, CID.encode()[:-1])),
        _field(0x12, _field(0x0A, b"\x01\x71\x12\x20" + bytes(32))),
        _field(0x12, HASH + NAME + b"\x18\x85\x00"),
        _field(0x12, HASH + NAME + b"\x18"),
    ],
)
def test_what_is_refused(block: bytes) -> None:
    with pytest.raises(PrsmError):
        decode(block)


def test_a_block_has_a_greatest_size() -> None:
    assert decode(encode([], bytes(MAX_BLOCK_BYTES - 5))).data is not None
    with pytest.raises(BadBlock, match=str(MAX_BLOCK_BYTES)):
        decode(encode([], bytes(MAX_BLOCK_BYTES)))


def test_many_tiny_links_cost_bounded_memory() -> None:
    tiny = _field(0x12, _field(0x0A, b"\x01\x55\x00\x00"))
    block = tiny * (MAX_BLOCK_BYTES // len(tiny))
    tracemalloc.start()
    try:
        with pytest.raises(BadBlock, match=str(MAX_LINKS)):
            decode(block)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
