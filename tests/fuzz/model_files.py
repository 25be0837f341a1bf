"""Mutation fuzzing of the model file parsers: ``python -m tests.fuzz.model_files --runs 1000000 --seed 1``.

Valid files are built, then bytes, numbers, tokens and whole pieces of them are changed. A run fails on any exception
that is not ``UnsafeModelFile``, on more than two seconds, and on what the safetensors or sentencepiece library refuses
but we accept; a character map that is accepted is followed by sentencepiece, which has no look at its bounds.
"""

import argparse
import json
import random
import resource
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import sentencepiece
from safetensors import SafetensorError, deserialize

from prsm.data_layer.formats.model_contents import DEFAULT_LIMITS, FileBytes, UnsafeModelFile
from prsm.data_layer.formats.model_files import inspect_model_file
from prsm.data_layer.formats.model_folder import inspect_model_folder
from prsm.data_layer.formats.sentencepiece_file import parse_sentencepiece

MAX_RUN_S = 2.0
EDGES = (
    *(0, 1, 2, 7, 8, 9, 31, 32, 63, 64, 255, 256, 65_535, 65_536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**60, 2**63 - 1, 2**63, 2**64 - 1),
)
TOKENS = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-1", b"1e9", b"true", b"null", b"\x00", b"\xff", b"\n"),
    *(b"../", b"/", b"GGUF", b"PK\x05\x06", b"cos\nsystem\n(S'x'\ntR.", b"\x80\x04", b'"F32"', b'"data_offsets"'),
    *(b"\x0a\x0a\x0a\x03new\x15\0\0\0\0", b"\x18\x02", b"\x18\x06", b"<0x41>", b"\xc2\x3e\x01x", b"\xff" * 9 + b"\x01"),
    *(b"__metadata__", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\\ud800", b"{" * 40, b"[" * 4000),
)


def safetensors_bytes(header: object, weights: bytes, *, raw: bytes | None = None) -> bytes:
    """A safetensors file of a header (or its very text) and weights, right or wrong."""
    text = json.dumps(header).encode() if raw is None else raw
    return struct.pack("<Q", len(text)) + text + weights


def entry(dtype: str, shape: Sequence[int], start: int, end: int) -> dict[str, object]:
    """A tensor's entry of a safetensors header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def gguf_string(text: str | bytes) -> bytes:
    """A GGUF string."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf_pair(key: str, kind: int, value: bytes) -> bytes:
    """A key-value pair of GGUF metadata, the value already encoded."""
    return gguf_string(key) + struct.pack("<I", kind) + value


def gguf_tensor(name: str | bytes, dims: Sequence[int], kind: int, offset: int) -> bytes:
    """A tensor's description in GGUF; ``dims`` has the fastest axis first."""
    return gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf_bytes(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    weights: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """A GGUF file of encoded parts; ``counts`` overrides the true number of tensors and pairs."""
    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + weights


def protobuf_field(number: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer: a whole number, or bytes with their length before them."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value % 2**64)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(number: int) -> bytes:
    """A number in 7 bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def protobuf_float(number: int, value: float) -> bytes:
    """A field of 32 bits."""
    return varint(number << 3 | 5) + struct.pack("<f", value)


def piece(text: str | bytes, score: float = 0.0, kind: int | None = None) -> bytes:
    """A piece of a SentencePiece model; kinds: 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""
    data = text.encode() if isinstance(text, str) else text
    body = protobuf_field(1, data) + protobuf_float(2, score) + (b"" if kind is None else protobuf_field(3, kind))
    return protobuf_field(1, body)


UNK = piece("<unk>", 0, 2)
BYTE_PIECES = b"".join(piece(f"<0x{byte:02X}>", 0, 6) for byte in range(256))


def charsmap(units: dict[int, int], replacements: bytes = b"b\0", count: int = 256) -> bytes:
    """A character map of a double array's units, those not given being values that no path leads to."""
    trie = struct.pack(f"<{count}I", *(units.get(place, 1 << 31) for place in range(count)))
    return struct.pack("<I", len(trie)) + trie + replacements


A_TO_B = {0: 1 << 10, 1 ^ 0x61: 0x61 | 1 << 8 | (0x60 ^ 2) << 10, 2: 1 << 31}
"""Units of a map from "a" to what is at the start of the replacements."""


def sentencepiece_bytes(pieces: bytes, trainer: bytes = b"", normalizer: bytes = b"", rest: bytes = b"") -> bytes:
    """A SentencePiece model of encoded parts."""
    return pieces + protobuf_field(2, trainer) + protobuf_field(3, normalizer) + rest


def sentencepiece_seeds() -> tuple[bytes, ...]:
    """Valid models, small, with every construct that the parser knows."""
    pieces = UNK + piece("<s>", 0, 3) + piece("▁", -1.5) + piece("a", -2) + piece("b", -3, 4) + piece("x" * 130, -9, 1)
    trainer = protobuf_field(1, b"in") + protobuf_field(2, b"m") + protobuf_field(3, 1) + protobuf_field(4, 6)
    trainer += protobuf_float(10, 0.9995) + protobuf_field(30, b"<a>") + protobuf_field(40, 0) + protobuf_field(43, -1)
    map_ = protobuf_field(1, b"n") + protobuf_field(2, charsmap(A_TO_B)) + protobuf_field(3, 1) + protobuf_field(5, 1)
    test = protobuf_field(4, protobuf_field(1, protobuf_field(1, b"a") + protobuf_field(2, "▁ b".encode())))
    bpe = protobuf_field(3, 2) + protobuf_field(35, 1) + protobuf_field(44, " ⁇ ".encode())
    return (
        sentencepiece_bytes(pieces, trainer, map_, test + protobuf_field(200, 1)),
        sentencepiece_bytes(UNK + BYTE_PIECES + piece("ab", -1) + piece("a", -2) + piece("b", -3), bpe),
        UNK + piece("a"),
    )


def seeds() -> tuple[bytes, ...]:
    """Valid files, small, with every construct that the parsers know."""
    header = {
        "__metadata__": {"format": "pt", "note": 'a "quoted" \\ text'},
        "model.layers.0.weight": entry("F32", (2, 2), 0, 16),
        "params/dense/kernel:0": entry("BF16", (3,), 16, 22),
        "empty": entry("I64", (0, 5), 22, 22),
        "half": entry("F4", (4,), 22, 24),
    }
    pairs = [
        gguf_pair("general.architecture", 8, gguf_string("llama")),
        gguf_pair("general.alignment", 4, struct.pack("<I", 32)),
        gguf_pair("a.bool", 7, b"\x01"),
        gguf_pair("a.float", 6, struct.pack("<f", 1.5)),
        gguf_pair("a.u64", 10, struct.pack("<Q", 2**40)),
        gguf_pair("tokens", 9, struct.pack("<IQ", 8, 3) + gguf_string("a") + gguf_string("é") + gguf_string("")),
        gguf_pair("scores", 9, struct.pack("<IQ3f", 6, 3, 1, 2, 3)),
    ]
    tensors = [gguf_tensor("blk.0.weight", (4, 2), 0, 0), gguf_tensor("blk.1.weight", (32,), 8, 32)]
    return (
        safetensors_bytes(header, bytes(range(24))),
        safetensors_bytes({}, b""),
        gguf_bytes(pairs, tensors, bytes(96)),
        gguf_bytes([], [], version=2),
    )


def mutate(data: bytes, random_: random.Random) -> bytes:
    """One to four changes of any kind."""
    changed = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        place = random_.randrange(len(changed) + 1)
        match random_.randrange(7):
            case 0 if place < len(changed):
                changed[place] ^= 1 << random_.randrange(8)
            case 1 if place < len(changed):
                changed[place] = random_.randrange(256)
            case 2:
                changed[place:place] = random_.choice(TOKENS)
            case 3:
                width, code = random_.choice(((4, "<I"), (8, "<Q")))
                changed[place : place + width] = struct.pack(code, random_.choice(EDGES) % 2 ** (8 * width))
            case 4:
                del changed[place : place + random_.choice((1, 8, 64))]
            case 5:
                start = random_.randrange(len(changed) + 1)
                changed[place:place] = changed[start : start + random_.choice((1, 8, 64))]
            case _:
                changed[place : place + 1] = str(random_.choice(EDGES)).encode()
    if random_.random() < 0.5 and changed[4:8] == bytes(4):  # most changes to a header would else end at its length
        end = changed.rfind(b"}") + 1
        changed[:8] = struct.pack("<Q", max(0, end - 8))
    return bytes(changed)


def inspect(data: bytes) -> str:
    """What became of one input: ``accepted``, ``refused``; anything else is an exception. Raises AssertionError."""
    try:
        inspect_model_file(data)
    except UnsafeModelFile:
        return "refused"
    if not data.startswith(b"GGUF"):
        try:
            deserialize(data)
        except SafetensorError as error:
            raise AssertionError(f"the safetensors library refuses what was accepted: {error}") from error
    return "accepted"


def inspect_sentencepiece(data: bytes) -> str:
    """The same of a SentencePiece model, which the library then must load and divide a text by."""
    try:
        parse_sentencepiece(FileBytes(data), DEFAULT_LIMITS)
    except UnsafeModelFile:
        return "refused"
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        processor.encode("a ab ﬁ été" + chr(0x1F600) + "a" * 50 + "\0")
    except RuntimeError as error:
        raise AssertionError(f"the sentencepiece library refuses what was accepted: {error}") from error
    return "accepted"


def inspect_text(data: bytes) -> str:
    """The same of a folder's configuration file."""
    try:
        inspect_model_folder([("model.safetensors", safetensors_bytes({}, b"")), ("config.json", data)])
    except UnsafeModelFile:
        return "refused"
    return "accepted"


def fuzz(runs: int, seed: int, report: Callable[[str], object] = print) -> Counter[str]:
    """Run ``runs`` inputs; how many of each kind were accepted and refused. Raises AssertionError."""
    random_ = random.Random(seed)
    corpus, models = seeds(), sentencepiece_seeds()
    texts: tuple[bytes, ...] = (b'{"a": [1, {"b": "\\u00e9\\\\"}], "auto_map": null, "c": NaN}', b"[]", b'"x"')
    outcomes: Counter[str] = Counter()
    for run in range(runs):
        kind, some, look = "weights", corpus, inspect
        if run % 10 == 9:
            kind, some, look = "configuration", texts, inspect_text
        elif run % 10 >= 5:
            kind, some, look = "tokenizer", models, inspect_sentencepiece
        data = mutate(random_.choice(some), random_)
        started = time.monotonic()
        try:
            outcomes[f"{kind} {look(data)}"] += 1
        except Exception as error:
            raise AssertionError(f"run {run} of seed {seed}: {error!r} from {data!r}") from error
        if time.monotonic() - started > MAX_RUN_S:
            raise AssertionError(f"run {run} of seed {seed} took more than {MAX_RUN_S} s: {data!r}")
        if run and run % 100_000 == 0:
            report(f"{run} runs: {dict(outcomes)}")
    return outcomes


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    outcomes = fuzz(options.runs, options.seed)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{options.runs} runs in {time.monotonic() - started:.0f} s, peak {peak_mib} MiB: {dict(outcomes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
