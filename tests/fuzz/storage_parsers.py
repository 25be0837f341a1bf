"""Fuzzing of every parser that reads bytes from strangers: CIDs, dag-pb, UnixFS, file DAGs, directories, CAR.

``python -m tests.fuzz.storage_parsers --runs 1000000 --parser all`` mutates valid samples and makes up messages of
known fields. A parser must end with a result that keeps its law or with a PrsmError, in two seconds and bounded memory.
What fails is printed with its seed, run and input.
"""

import argparse
import faulthandler
import io
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from tests.support.memory_dag import MemoryDag

from prsm.core.errors import PrsmError
from prsm.data_layer.codec import dag_pb
from prsm.data_layer.codec.car import CarLimits, CarReader
from prsm.data_layer.codec.cid import Cid, Codec, read_varint, varint
from prsm.data_layer.codec.directories import DirectoryLimits, DirectoryReader, resolve
from prsm.data_layer.codec.unixfs import FileNode, Kind, decode_node, encode_file, leaf_envelope
from prsm.data_layer.codec.unixfs_dag import DEFAULT_PROFILE, PROFILES, DagLimits, FileDagReader

_SLOWEST_S = 2.0
_HANG_S = 60
_MEMORY_BYTES = 512 << 20
_TINY = replace(PROFILES[DEFAULT_PROFILE], chunk_bytes=16, max_links=3, shard_above_bytes=300, fanout=16)
_PATH = "folder/17"
_SOME = Cid.of(Codec.DAG_PB, b"some block")


class FuzzFailure(AssertionError):
    """A parser broke its law; the message says how to see it again."""


@dataclass(frozen=True, slots=True)
class Parser:
    """What is fuzzed: valid inputs to start from, and a run that raises anything but PrsmError only if it is broken."""

    samples: tuple[bytes, ...]
    run: Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many inputs a parser took and refused; both must happen for the fuzzing to mean anything."""

    taken: int
    refused: int


def fuzz(name: str, parser: Parser, runs: int, seed: int) -> Outcome:
    """Give ``runs`` inputs to a parser. Raises FuzzFailure."""
    rng = random.Random(f"{seed} {name}")
    taken = 0
    for number in range(runs):
        data = parser.samples[number] if number < len(parser.samples) else make_input(rng, parser.samples)
        began = time.perf_counter()
        try:
            parser.run(data)
            taken += 1
        except PrsmError:
            pass
        except Exception as error:
            raise FuzzFailure(f"{name}, seed {seed}, run {number}: {error!r} for {data.hex()}") from error
        if (took := time.perf_counter() - began) > _SLOWEST_S:
            raise FuzzFailure(f"{name}, seed {seed}, run {number}: {took:.1f} s for {data.hex()}")
    return Outcome(taken, runs - taken)


def make_input(rng: random.Random, samples: tuple[bytes, ...]) -> bytes:
    """An input near one of ``samples``, or made up."""
    way = rng.random()
    if way < 0.04:
        return rng.randbytes(rng.randrange(200))
    if way < 0.12:
        return _made_up(rng, 3)
    data = bytearray(rng.choice(samples))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_MUTATIONS)(rng, data)
        if rng.random() < 0.05:
            at = rng.randrange(len(data) + 1)
            data[at:] = rng.choice(samples)[at:]
    return bytes(data)


def _cid_text(data: bytes) -> None:
    text = data.decode("latin-1")
    cid = Cid.parse(text)
    assert Cid.parse(str(cid)) == cid
    assert text[0] in "zQ" or str(cid) == text


def _cid_bytes(data: bytes) -> None:
    cid, end = Cid.decode(data)
    assert data[:end] in (cid.encode(), cid.encode()[2:])


def _dag_pb(data: bytes) -> None:
    node = dag_pb.decode(data)
    assert len(dag_pb.encode(node.links, node.data)) >= len(data)


def _node(data: bytes) -> None:
    node = decode_node(_SOME, data)
    if isinstance(node, FileNode):
        assert node.size_bytes == len(node.inline) + sum(link.size_bytes for link in node.links)
        if node.envelope:
            assert node.envelope.prefix + bytes(node.inline) + node.envelope.suffix == data


def _file_dag(data: bytes) -> None:
    """Feed whatever blocks the input holds: their author can make any block have the hash that is asked for."""
    reader = FileDagReader(_SOME, DagLimits(nodes=20_000, size_bytes=1 << 30))
    for block in _unpacked(data):
        if not reader.wanted:
            break
        reader.feed(reader.wanted[-1], block)
    if reader.wanted:
        return
    end = 0
    for leaf in reader.leaves:
        assert leaf.offset == end
        end += leaf.size_bytes
    assert end == reader.size_bytes


def _directory(data: bytes) -> None:
    reader = DirectoryReader(_SOME, DirectoryLimits(shards=1000, entries=20_000))
    for block in _unpacked(data):
        if not reader.wanted:
            break
        reader.feed(reader.wanted[-1], block)
    assert len({entry.name for entry in reader.entries}) == len(reader.entries)


def _path(data: bytes) -> None:
    blocks = _unpacked(data)

    def next_block(_cid: Cid) -> bytes:
        block = next(blocks, None)
        if block is None:
            raise PrsmError("There are no more blocks.")
        return block

    resolve(_SOME, _PATH, next_block)


def _car(data: bytes) -> None:
    for block in CarReader(io.BytesIO(data).read, CarLimits(size_bytes=1 << 24)):
        assert block.cid.names(block.data)


def _packed(blocks: Mapping[Cid, bytes], root: Cid) -> bytes:
    """The blocks of a DAG in the order in which a reader that takes the last wanted one asks for them."""
    out = b""
    wanted = [root]
    while wanted:
        block = blocks[wanted.pop()]
        out += varint(len(block)) + block
        links = dag_pb.decode(block).links
        wanted += dict.fromkeys(link.cid for link in links if link.cid.codec is Codec.DAG_PB)
    return out


def _way(dag: MemoryDag, root: Cid) -> bytes:
    """The blocks that looking up asks for."""
    blocks: list[bytes] = []

    def get(cid: Cid) -> bytes:
        blocks.append(dag[cid])
        return dag[cid]

    resolve(root, _PATH, get)
    return b"".join(varint(len(block)) + block for block in blocks)


def _unpacked(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        try:
            size, place = read_varint(data, place)
        except PrsmError:
            return
        yield data[place : place + size]
        place += size


def _samples() -> dict[str, tuple[bytes, ...]]:
    rng = random.Random(0)
    dag = MemoryDag()
    file = dag.add_file(io.BytesIO(rng.randbytes(300)), _TINY).cid
    wrapped = dag.add_wrapped_file([rng.randbytes(16) for _ in range(4)]).cid
    old = dag.add_wrapped_file([rng.randbytes(16) for _ in range(4)], Kind.RAW).cid
    small = dag.add_folder({"a": b"1", "folder/17": b"2", "folder/b": b"3"}, _TINY).cid
    large = dag.add_folder({f"folder/{number}": b"x" for number in range(24)}, _TINY).cid
    folder = resolve(large, "folder", dag.__getitem__)
    around = leaf_envelope(5)
    whole = dag.add(Codec.DAG_PB, around.prefix + b"whole" + around.suffix)
    empty = dag.add(Codec.DAG_PB, encode_file([]))
    inline = Cid(Codec.RAW, b"inline", identity=True)
    files = tuple(_packed(dag.blocks, root) for root in (file, wrapped, old, whole, empty))
    packed = MemoryDag(blocks={cid: block for cid, block in dag.blocks.items() if len(block) < 80})
    shards = _packed(dag.blocks, folder)
    blocks = tuple(block for cid, block in dag.blocks.items() if cid.codec is Codec.DAG_PB)
    version_0 = b"\x12\x20" + file.digest
    return {
        "cid_text": (str(file).encode(), str(inline).encode(), b"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"),
        "cid_bytes": (file.encode(), inline.encode(), version_0),
        "dag_pb": blocks,
        "node": blocks,
        "file_dag": files,
        "directory": (shards, varint(len(dag[small])) + dag[small]),
        "path": (_way(dag, small), _way(dag, large)),
        "car": (packed.car(file), MemoryDag(blocks={file: dag[file]}).car(inline), MemoryDag().car(file)),
    }


_RUNS: dict[str, Callable[[bytes], None]] = {
    "cid_text": _cid_text,
    "cid_bytes": _cid_bytes,
    "dag_pb": _dag_pb,
    "node": _node,
    "file_dag": _file_dag,
    "directory": _directory,
    "path": _path,
    "car": _car,
}
PARSERS: Mapping[str, Parser] = {name: Parser(samples, _RUNS[name]) for name, samples in _samples().items()}


def _made_up(rng: random.Random, depth: int) -> bytes:
    """A message of known fields in likely order, lengths mostly right."""
    out = b""
    for tag in sorted(rng.choices((0x08, 0x0A, 0x12, 0x18, 0x20, 0x28, 0x30, 0x42), k=rng.randrange(1, 7))):
        out += bytes((tag,))
        if tag & 7 == 0:
            out += varint(rng.choice((0, 1, 2, 5, 0x22, 256, rng.getrandbits(63))))
            continue
        kind = rng.randrange(4)
        if kind == 0 or depth == 0:
            body = rng.choice((b"", b"a", b"01", b"FFx", rng.randbytes(8)))
        elif kind == 1:
            body = Cid(rng.choice(tuple(Codec)), rng.randbytes(32)).encode()
        else:
            body = _made_up(rng, depth - 1)
        out += varint(len(body) if rng.random() < 0.97 else rng.getrandbits(rng.randrange(1, 60))) + body
    return out


def _flip_bit(rng: random.Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_byte(rng: random.Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x0A, 0x12, 0x18, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _lie_about_a_length(rng: random.Random, data: bytearray) -> None:
    if data:
        at = rng.randrange(len(data))
        data[at] = (data[at] + rng.choice((-2, -1, 1, 2))) % 256


def _stretch_a_varint(rng: random.Random, data: bytearray) -> None:
    if data:
        at = rng.randrange(len(data))
        data[at : at + 1] = rng.choice(
            (bytes((data[at] | 0x80, 0)), varint(rng.getrandbits(rng.randrange(1, 63))), b"\xff" * 9 + b"\x01")
        )


def _truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _extend(rng: random.Random, data: bytearray) -> None:
    data += rng.randbytes(rng.randrange(1, 20))


def _delete(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.randrange(1, 40)]


def _double(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = data[start : start + rng.randrange(1, 80)]


def _swap(rng: random.Random, data: bytearray) -> None:
    size = rng.randrange(1, 40)
    if len(data) > 2 * size:
        one = rng.randrange(len(data) - 2 * size)
        two = rng.randrange(one + size, len(data) - size + 1)
        data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]


_MUTATIONS = (
    _flip_bit,
    _set_byte,
    _lie_about_a_length,
    _stretch_a_varint,
    _truncate,
    _extend,
    _delete,
    _double,
    _swap,
)


def main() -> int:
    """Fuzz from the command line, memory bounded by the system."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=100_000)
    arguments.add_argument("--parser", choices=["all", *PARSERS], default="all")
    arguments.add_argument("--seed", type=int, default=None)
    given = arguments.parse_args()
    seed = int.from_bytes(os.urandom(4)) if given.seed is None else given.seed
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    print(f"seed {seed}", flush=True)
    for name in PARSERS if given.parser == "all" else [given.parser]:
        began = time.perf_counter()
        taken = refused = 0
        for part in range(0, given.runs, 10_000):
            faulthandler.dump_traceback_later(_HANG_S, exit=True)
            outcome = fuzz(name, PARSERS[name], min(10_000, given.runs - part), seed + part)
            taken, refused = taken + outcome.taken, refused + outcome.refused
        faulthandler.cancel_dump_traceback_later()
        took = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{name}: {taken} taken, {refused} refused in {took:.0f} s, process peak {peak} MiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
