"""Content identifiers: which hash a block must have, and how to read its bytes. (multiformats CID specification.)

Only what UnixFS needs passes: sha2-256 over raw or dag-pb blocks, and short identity hashes that carry the data itself.
Everything is CIDv1 inside; a CIDv0 is read as the CIDv1 of the same block, so that one block has one name.
"""

import base64
import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from prsm.core.errors import InvalidRequest

MAX_IDENTITY_BYTES = 128
_SHA2_256 = 0x12
_IDENTITY = 0x00
_DIGEST_BYTES = 32
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_MAX_TEXT = 300


class BadCid(InvalidRequest):
    """A text or bytes that are no content identifier of a kind that is taken here."""

    code = "bad_cid"


class Codec(IntEnum):
    """How a block's bytes are read (multicodec table)."""

    RAW = 0x55
    DAG_PB = 0x70


_USUAL = {bytes((1, codec, _SHA2_256, _DIGEST_BYTES)): codec for codec in Codec}


@dataclass(frozen=True, slots=True)
class Cid:
    """A CIDv1. ``digest`` is the sha2-256 of the block, or with ``identity`` the block itself."""

    codec: Codec
    digest: bytes
    identity: bool = False

    @classmethod
    def of(cls, codec: Codec, block: bytes | bytearray | memoryview) -> Self:
        """The CID of a block."""
        return cls(codec, hashlib.sha256(block).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read CIDv1 in base32 (``b...``) or base58btc (``z...``), or CIDv0 (``Qm...``). Raises BadCid."""
        if len(text) > _MAX_TEXT:
            raise BadCid(f"A CID has at most {_MAX_TEXT} characters.", param="cid")
        if text.startswith("b"):
            data = _from_base32(text[1:])
        elif text.startswith("Qm") and len(text) == 46:
            data = _from_base58(text)
        elif text.startswith("z"):
            data = _from_base58(text[1:])
        else:
            raise BadCid(f"{text[:80]!r} is no CID in base32 or base58btc.", param="cid")
        if data[:1] == b"\x12" and not text.startswith("Qm"):
            raise BadCid(f"{text[:80]!r} is a CID of version 0 in a base that version does not have.", param="cid")
        cid, end = cls.decode(data)
        if end != len(data):
            raise BadCid(f"{text[:80]!r} has bytes after its CID.", param="cid")
        return cid

    @classmethod
    def decode(cls, data: bytes | memoryview, start: int = 0) -> tuple[Self, int]:
        """Read a binary CID; answers it and where it ends. Raises BadCid."""
        head = bytes(data[start : start + 4])
        usual = _USUAL.get(head)  # nearly every CID there is: worth a way of its own
        if usual is not None and len(digest := bytes(data[start + 4 : start + 36])) == _DIGEST_BYTES:
            return cls(usual, digest), start + 36
        if head[:2] == b"\x12\x20":  # CIDv0 is a bare sha2-256 multihash
            return cls._with_digest(Codec.DAG_PB, _SHA2_256, data, start + 2, _DIGEST_BYTES)
        version, place = read_varint(data, start)
        if version != 1:
            raise BadCid(f"CID version {version} is not known.", param="cid")
        codec, place = read_varint(data, place)
        if codec not in (Codec.RAW, Codec.DAG_PB):
            raise BadCid(f"The codec {codec:#x} is not taken; raw and dag-pb are.", param="cid")
        hash_code, place = read_varint(data, place)
        length, place = read_varint(data, place)
        return cls._with_digest(Codec(codec), hash_code, data, place, length)

    @classmethod
    def _with_digest(
        cls, codec: Codec, hash_code: int, data: bytes | memoryview, place: int, length: int
    ) -> tuple[Self, int]:
        allowed = (hash_code == _SHA2_256 and length == _DIGEST_BYTES) or (
            hash_code == _IDENTITY and length <= MAX_IDENTITY_BYTES
        )
        if not allowed:
            raise BadCid(
                f"The hash {hash_code:#x} of {length} bytes is not taken; sha2-256 is, and identity up to "
                f"{MAX_IDENTITY_BYTES} bytes.",
                param="cid",
            )
        digest = bytes(data[place : place + length])
        if len(digest) != length:
            raise BadCid("The CID is cut off.", param="cid")
        return cls(codec, digest, hash_code == _IDENTITY), place + length

    def encode(self) -> bytes:
        """The binary CIDv1."""
        return (
            bytes((1, self.codec, _IDENTITY if self.identity else _SHA2_256)) + varint(len(self.digest)) + self.digest
        )

    def names(self, block: bytes | bytearray | memoryview) -> bool:
        """Whether this is the CID of ``block``."""
        return (block if self.identity else hashlib.sha256(block).digest()) == self.digest

    def __str__(self) -> str:
        return "b" + base64.b32encode(self.encode()).decode().rstrip("=").lower()


def varint(value: int) -> bytes:
    """An unsigned varint in its shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes | memoryview, start: int) -> tuple[int, int]:
    """Read an unsigned varint below 2^63 in its shortest form; answers it and where it ends. Raises BadCid."""
    if start < len(data) and data[start] < 0x80:
        return data[start], start + 1
    value = shift = 0
    for place in range(start, min(start + 9, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if byte == 0 and place > start:
                raise BadCid("A varint is not in its shortest form.")
            return value, place + 1
    raise BadCid("A varint is cut off or longer than nine bytes.")


def _from_base32(text: str) -> bytes:
    try:
        data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError:
        raise BadCid(f"{text[:80]!r} is not base32.", param="cid") from None
    # One text for one CID: upper case or stray low bits would be another spelling of it.
    if base64.b32encode(data).decode().rstrip("=").lower() != text:
        raise BadCid(f"{text[:80]!r} is not lower-case base32 in its only form.", param="cid")
    return data


def _from_base58(text: str) -> bytes:
    number = 0
    for char in text:
        digit = _BASE58.find(char)
        if digit < 0:
            raise BadCid(f"{char!r} is no base58 digit.", param="cid")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
