import io
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import PrsmError
from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.car import BadCar, CarLimits, CarReader, car_header, car_section
from prsm.data_layer.codec.cid import Cid, Codec, varint

GENEROUS = CarLimits()
RAW = Cid.of(Codec.RAW, b"block")
blocks = st.lists(st.tuples(st.sampled_from(Codec), st.binary(max_size=400)), max_size=6)


def _section(cid: Cid, data: bytes) -> bytes:
    return car_section(cid, len(data)) + data


def _archive(given_blocks: list[tuple[Codec, bytes]]) -> bytes:
    return car_header([RAW]) + b"".join(_section(Cid.of(codec, data), data) for codec, data in given_blocks)


def _read(archive: bytes, limits: CarLimits = GENEROUS) -> list[tuple[Cid, bytes]]:
    return [(block.cid, bytes(block.data)) for block in CarReader(io.BytesIO(archive).read, limits)]


def _dripping(archive: bytes, most: int) -> Callable[[int], bytes]:
    """A stream that gives at most ``most`` bytes at a time, as sockets do."""
    stream = io.BytesIO(archive)
    return lambda size: stream.read(min(size, most))


@given(blocks, st.integers(1, 50))
def test_blocks_come_out_as_they_went_in(given_blocks: list[tuple[Codec, bytes]], most: int) -> None:
    archive = _archive(given_blocks)
    wanted = [(Cid.of(codec, data), data) for codec, data in given_blocks]
    assert _read(archive) == wanted
    reader = CarReader(_dripping(archive, most))
    assert reader.roots == (RAW,)
    assert [(block.cid, bytes(block.data)) for block in reader] == wanted


@given(blocks.filter(bool), st.data())
def test_an_archive_cut_anywhere_but_between_blocks_is_an_error(
    given_blocks: list[tuple[Codec, bytes]], draw: st.DataObject
) -> None:
    archive = _archive(given_blocks)
    ends = [len(_archive(given_blocks[:count])) for count in range(len(given_blocks) + 1)]
    cut = draw.draw(st.integers(0, len(archive) - 1).filter(lambda at: at not in ends))
    with pytest.raises(PrsmError):
        _read(archive[:cut])


@given(blocks.filter(bool), st.data())
def test_a_changed_byte_never_gives_other_bytes_under_a_cid(
    given_blocks: list[tuple[Codec, bytes]], draw: st.DataObject
) -> None:
    archive = bytearray(_archive(given_blocks))
    place = draw.draw(st.integers(0, len(archive) - 1))
    archive[place] ^= draw.draw(st.integers(1, 255))
    read: list[tuple[Cid, bytes]] = []
    try:
        for block in CarReader(io.BytesIO(archive).read):
            read.append((block.cid, bytes(block.data)))
    except PrsmError:
        pass
    assert all(cid.names(data) for cid, data in read)


@pytest.mark.parametrize("count", [0, 1, 2, 23, 24, 255, 256, 1000])
def test_headers_of_many_roots_read_back(count: int) -> None:
    roots = tuple(Cid.of(Codec.RAW, str(number).encode()) for number in range(count))
    assert CarReader(io.BytesIO(car_header(roots)).read).roots == roots


def test_identity_and_version_0_blocks() -> None:
    inline = Cid(Codec.RAW, b"inline", identity=True)
    folder = Cid.of(Codec.DAG_PB, b"\x0a\x02\x08\x01")
    old = b"\x12\x20" + folder.digest
    archive = car_header([inline]) + _section(inline, b"inline") + varint(34 + 4) + old + b"\x0a\x02\x08\x01"
    assert _read(archive) == [(inline, b"inline"), (folder, b"\x0a\x02\x08\x01")]


def _header(body: bytes) -> bytes:
    return varint(len(body)) + body


ROOT = b"\xd8\x2a\x58\x25\x00" + RAW.encode()


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"\x00",
        b"\x80",
        _header(b"\xa1\x67version\x01"),
        _header(b"\xa2\x67version\x01\x65roots\x80"),  # keys in the other order
        _header(b"\xa2\x65roots\x80\x67version\x02"),
        _header(b"\xa1\x67version\x02"),  # version 2
        _header(b"\xa2\x65roots\x80\x67version\x18\x01"),  # a number in two bytes
        _header(b"\xa2\x65roots\x98\x01" + ROOT + b"\x67version\x01"),
        _header(b"\xa2\x65roots\x9f" + ROOT + b"\xff\x67version\x01"),  # indefinite length
        _header(b"\xa2\x65roots\x81" + ROOT + b"\x67version\x01\x00"),
        _header(b"\xa2\x65roots\x82" + ROOT + b"\x67version\x01"),
        _header(b"\xa2\x65roots\x81\x58\x25\x00" + RAW.encode() + b"\x67version\x01"),  # no tag
        _header(b"\xa2\x65roots\x81\xd8\x2a\x58\x24" + RAW.encode() + b"\x67version\x01"),  # no prefix
        _header(b"\xa2\x65roots\x81\xd8\x2a\x59\x00\x25\x00" + RAW.encode() + b"\x67version\x01"),
        _header(b"\xa2\x65roots\x81\xd8\x2a\x58\x26\x00" + RAW.encode() + b"\x00\x67version\x01"),
        _header(b"\xa2\x65roots\x81\xd8\x2a\x58\xff\x00" + RAW.encode()),
        _header(b"\xa2\x65roots"),
        _header(b"\xa2\x65roots\x99"),
        car_header([RAW]) + b"\x00",  # padding
        car_header([RAW]) + b"\x80\x00",
        car_header([RAW]) + b"\xa9\x00" + _section(RAW, b"block")[1:],  # a length in two bytes
        car_header([RAW]) + _section(RAW, b"other"),
        car_header([RAW]) + _section(RAW, b""),
        car_header([RAW]) + varint(3) + b"\x01\x55\x12",
        car_header([RAW]) + varint(1 << 40),
        car_header([RAW]) + _section(RAW, b"block")[:-1],
        _header(b"\xa2\x65roots\x80\x67version\x01" + bytes(70000)),
    ],
)
def test_what_is_refused(archive: bytes) -> None:
    with pytest.raises(PrsmError):
        _read(archive)


def test_a_block_above_the_greatest_size_is_refused() -> None:
    largest = bytes(MAX_BLOCK_BYTES)
    assert len(_read(_archive([(Codec.RAW, largest)]))) == 1
    with pytest.raises(BadCar, match=str(MAX_BLOCK_BYTES)):
        _read(_archive([(Codec.RAW, largest + b"x")]))


def test_limits() -> None:
    archive = _archive([(Codec.RAW, b"abc"), (Codec.RAW, b"defg")])
    assert len(_read(archive, CarLimits(blocks=2, size_bytes=7))) == 2
    for limits in (CarLimits(blocks=1), CarLimits(size_bytes=6), CarLimits(header_bytes=10)):
        with pytest.raises(BadCar):
            _read(archive, limits)


def test_a_length_that_lies_costs_no_memory() -> None:
    archive = car_header([RAW]) + varint(MAX_BLOCK_BYTES) + b"few"
    tracemalloc.start()
    try:
        with pytest.raises(BadCar, match="cut off"):
            _read(archive)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_long_archive_is_read_in_bounded_memory() -> None:
    data = bytes(1 << 20)
    section = _section(Cid.of(Codec.RAW, data), data)
    parts = iter([car_header([RAW]), *[section] * 40])
    pending = bytearray()

    def read(size: int) -> bytes:
        if not pending:
            pending.extend(next(parts, b""))
        out = bytes(pending[:size])
        del pending[:size]
        return out

    tracemalloc.start()
    try:
        assert sum(1 for _ in CarReader(read)) == 40
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
