"""The trie of a sharded directory: which shard and slot a name belongs to. (UnixFS specification, HAMTDirectory.)

A name's place follows from its murmur3 hash alone, most significant bits first, so the same entries always make the
same shards in whatever order they came. Nothing here knows blocks or reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.dag_pb import Link

_MASK = (1 << 64) - 1
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F


@dataclass(frozen=True, slots=True)
class Shard:
    """One node of the trie: by slot either an entry or the next shard."""

    slots: dict[int, "Link | Shard"]


def build_shards(entries: Sequence[Link], fanout: int) -> Shard:
    """The trie of ``entries``, whose names differ. Raises InvalidRequest if two names have one hash."""
    hashed = [(hash_name(entry.name), entry) for entry in entries]
    return _shard(hashed, 0, fanout)


def slot_of(hashed: int, depth: int, fanout: int) -> int | None:
    """The slot of a hashed name in a shard ``depth`` levels below the root; None where its 64 bits are used up."""
    width = fanout.bit_length() - 1
    shift = 64 - width * (depth + 1)
    return None if shift < 0 else hashed >> shift & (fanout - 1)


def hash_name(name: str) -> int:
    """murmur3-x64-64: the first half of MurmurHash3_x64_128 with seed 0."""
    data = name.encode()
    h1 = h2 = 0
    whole = len(data) - len(data) % 16
    for at in range(0, whole, 16):
        h1 ^= _scramble_1(int.from_bytes(data[at : at + 8], "little"))
        h1 = ((_rotate(h1, 27) + h2) * 5 + 0x52DCE729) & _MASK
        h2 ^= _scramble_2(int.from_bytes(data[at + 8 : at + 16], "little"))
        h2 = ((_rotate(h2, 31) + h1) * 5 + 0x38495AB5) & _MASK
    # A missing byte counts as zero, and zero scrambles to zero.
    h1 ^= _scramble_1(int.from_bytes(data[whole : whole + 8], "little")) ^ len(data)
    h2 ^= _scramble_2(int.from_bytes(data[whole + 8 :], "little")) ^ len(data)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    return (_finish(h1) + _finish(h2)) & _MASK


def _shard(hashed: Sequence[tuple[int, Link]], depth: int, fanout: int) -> Shard:
    by_slot: dict[int, list[tuple[int, Link]]] = {}
    for pair in hashed:
        slot = slot_of(pair[0], depth, fanout)
        if slot is None:
            names = f"{pair[1].name[:80]!r} and {hashed[0][1].name[:80]!r}"
            raise InvalidRequest(
                f"The directory cannot be sharded: {names} have one hash.", remedy="Rename one of them.", param="path"
            )
        by_slot.setdefault(slot, []).append(pair)
    return Shard(
        {
            slot: here[0][1] if len(here) == 1 else _shard(here, depth + 1, fanout)
            for slot, here in sorted(by_slot.items())
        }
    )


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def _scramble_1(word: int) -> int:
    return _rotate(word * _C1 & _MASK, 31) * _C2 & _MASK


def _scramble_2(word: int) -> int:
    return _rotate(word * _C2 & _MASK, 33) * _C1 & _MASK


def _finish(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33
