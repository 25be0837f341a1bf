"""CAR version 1: many blocks in one stream. (IPLD CARv1 specification.)

A block leaves the reader only after its bytes were hashed. One form of the header passes, every length has a bound, and
a stream that ends within a section is an error, never a short archive.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.block import MAX_BLOCK_BYTES, Block
from prsm.data_layer.codec.cid import Cid, read_varint, varint

_READ_BYTES = 64 * 1024
_MAX_CID_BYTES = 256
_MAX_VARINT_BYTES = 9
# The header is DAG-CBOR, which has one form: {"roots": [tag 42 (CID) ...], "version": 1}, shorter keys first.
_ROOTS_KEY = b"\xa2\x65roots"
_VERSION = b"\x67version\x01"
_TAG_42 = b"\xd8\x2a"


class BadCar(InvalidRequest):
    """Bytes that are no CAR of version 1, or hold a block that is not what its CID says."""

    code = "bad_car"


@dataclass(frozen=True, slots=True)
class CarLimits:
    """What one archive may hold; ``size_bytes`` is of the payloads of its blocks."""

    header_bytes: int = 64 * 1024
    blocks: int = 1 << 21
    size_bytes: int = 1 << 41


class CarReader:
    """Reads an archive from ``read(n)``, which gives at most ``n`` bytes and none at the end, as a file does.

    ``roots`` is there at once; iterating gives the blocks as they come, each verified. Raises BadCar and BadCid.
    """

    def __init__(self, read: Callable[[int], bytes], limits: CarLimits = CarLimits()) -> None:
        self._read = read
        self._limits = limits
        self._buffer = bytearray()
        self._start = 0
        size = self._section_size(limits.header_bytes, "header")
        if size is None:
            raise BadCar("The archive is empty.")
        self.roots = _decode_header(self._take(size))

    def __iter__(self) -> Iterator[Block]:
        blocks = total = 0
        while (size := self._section_size(MAX_BLOCK_BYTES + _MAX_CID_BYTES, "section")) is not None:
            section = memoryview(self._take(size))
            cid, start = Cid.decode(section)
            data = section[start:]
            blocks += 1
            total += len(data)
            if len(data) > MAX_BLOCK_BYTES:
                raise BadCar(f"Block {cid} has {len(data)} bytes; at most {MAX_BLOCK_BYTES} are taken.")
            if blocks > self._limits.blocks or total > self._limits.size_bytes:
                raise BadCar(f"The archive has over {self._limits.blocks} blocks or {self._limits.size_bytes} bytes.")
            if not cid.names(data):
                raise BadCar(f"The bytes in the archive under {cid} are not that block.")
            yield Block(cid, data)

    def _section_size(self, limit: int, what: str) -> int | None:
        """Read the length of what follows; None at the end of the stream."""
        self._fill(_MAX_VARINT_BYTES)
        if self._start == len(self._buffer):
            return None
        head = bytes(self._buffer[self._start : self._start + _MAX_VARINT_BYTES])
        size, end = read_varint(head, 0)
        if not 0 < size <= limit:
            raise BadCar(f"A {what} of the archive has {size} bytes; 1 to {limit} are taken.")
        self._start += end
        return size

    def _take(self, size: int) -> bytes:
        """The next ``size`` bytes; grows only by what really came, whatever a length claims."""
        if self._fill(size) < size:
            raise BadCar("The archive is cut off.")
        data = bytes(memoryview(self._buffer)[self._start : self._start + size])
        self._start += size
        return data

    def _fill(self, size: int) -> int:
        """Have ``size`` bytes in the buffer if the stream has them; answers how many there are."""
        have = len(self._buffer) - self._start
        if have >= size:
            return have
        del self._buffer[: self._start]
        self._start = 0
        while have < size:
            chunk = self._read(max(_READ_BYTES, size - have))
            if not chunk:
                break
            self._buffer += chunk
            have = len(self._buffer)
        return have


def car_header(roots: Sequence[Cid]) -> bytes:
    """What an archive begins with."""
    links = b"".join(_cbor_cid(root) for root in roots)
    header = _ROOTS_KEY + _cbor_head(0x80, len(roots)) + links + _VERSION
    return varint(len(header)) + header


def car_section(cid: Cid, size_bytes: int) -> bytes:
    """What stands before the ``size_bytes`` of a block."""
    name = cid.encode()
    return varint(len(name) + size_bytes) + name


def _cbor_cid(cid: Cid) -> bytes:
    name = b"\x00" + cid.encode()  # the multibase prefix "identity", which DAG-CBOR demands
    return _TAG_42 + _cbor_head(0x40, len(name)) + name


def _cbor_head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes((major | value,))
    if value < 1 << 8:
        return bytes((major | 24, value))
    if value < 1 << 16:
        return bytes((major | 25,)) + value.to_bytes(2, "big")
    raise BadCar(f"A header with {value} entries is too long.")


def _decode_header(data: bytes) -> tuple[Cid, ...]:
    if not data.startswith(_ROOTS_KEY):
        raise BadCar("The header is not that of a CAR of version 1.")
    count, place = _read_cbor_head(data, len(_ROOTS_KEY), 0x80)
    roots: list[Cid] = []
    for _ in range(count):
        if data[place : place + 2] != _TAG_42:
            raise BadCar("A root in the header is no CID.")
        size, start = _read_cbor_head(data, place + 2, 0x40)
        place = start + size
        if data[start : start + 1] != b"\x00" or place > len(data):
            raise BadCar("A root in the header is no CID.")
        cid, end = Cid.decode(data[start + 1 : place])
        if start + 1 + end != place:
            raise BadCar("A root in the header has bytes after its CID.")
        roots.append(cid)
    if data[place:] != _VERSION:
        raise BadCar("The header is not that of a CAR of version 1.")
    return tuple(roots)


def _read_cbor_head(data: bytes, place: int, major: int) -> tuple[int, int]:
    first = data[place] ^ major if place < len(data) else 0xFF
    width = {24: 1, 25: 2}.get(first, 0)
    if first >= 24 and not width:
        raise BadCar("The header is not in the one form of DAG-CBOR.")
    end = place + 1 + width
    value = int.from_bytes(data[place + 1 : end], "big") if width else first
    if end > len(data) or _cbor_head(major, value) != data[place:end]:
        raise BadCar("The header is not in the one form of DAG-CBOR.")
    return value, end
