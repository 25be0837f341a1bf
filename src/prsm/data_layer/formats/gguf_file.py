"""GGUF 2 and 3, little-endian: metadata, tensor descriptions, padding, weights. Only what precedes the weights is read.

At least as strict as llama.cpp's gguf.cpp, which wants tensors one after another, each padded to the alignment, and as
the ``gguf`` package. Beyond both, bytes after the last tensor's padding, odd names, strings that are not UTF-8,
booleans other than 0 and 1, and alignments outside 8 to 64 KiB are refused. (Format: ggml's docs/gguf.md.)
"""

import struct
from typing import Any

from prsm.data_layer.formats.model_contents import (
    MAX_SIZE,
    FileBytes,
    MetadataValue,
    ModelFile,
    ModelFormat,
    ModelLimits,
    Omitted,
    Tensor,
    UnsafeModelFile,
    check_name,
    product,
    quote,
    shown_text,
)

MAGIC = b"GGUF"

GGML_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""Type number to name, elements of a block, bytes of a block (ggml's type traits)."""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
    39: "NVFP4", 40: "Q1_0",
}  # fmt: skip
"""general.file_type to the name of the mix of types (llama.cpp's llama_ftype)."""

_SCALARS = {
    0: ("uint8", "<B"), 1: ("int8", "<b"), 2: ("uint16", "<H"), 3: ("int16", "<h"), 4: ("uint32", "<I"),
    5: ("int32", "<i"), 6: ("float32", "<f"), 7: ("bool", "<B"), 10: ("uint64", "<Q"), 11: ("int64", "<q"),
    12: ("float64", "<d"),
}  # fmt: skip
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_FIRST_READ_BYTES = 2 * 1024 * 1024
_MAX_SHOWN_ITEMS = 64
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class _HeadEnds(Exception):
    """What was read of the file ends before its header does."""


def parse_gguf(file: FileBytes, limits: ModelLimits) -> ModelFile:
    """Check everything before the weights and that the weights fill the rest. Raises UnsafeModelFile."""
    length = _FIRST_READ_BYTES
    while True:  # the header does not say how long it is; each try reads eight times as much
        length = min(length, limits.max_header_bytes)
        head = file.read(0, length)
        try:
            return _Parser(head, file.size_bytes, limits).parse()
        except _HeadEnds:
            if len(head) >= file.size_bytes:
                raise UnsafeModelFile("The GGUF file ends within its header, or a length in it is false.") from None
            if length >= limits.max_header_bytes:
                raise UnsafeModelFile(f"The GGUF header is longer than {limits.max_header_bytes} bytes.") from None
        length *= 8


class _Parser:
    """One pass over the head of a file."""

    def __init__(self, head: bytes, size_bytes: int, limits: ModelLimits) -> None:
        self._head = head
        self._size_bytes = size_bytes
        self._limits = limits
        self._at = 0
        self._strings_left = limits.max_strings

    def parse(self) -> ModelFile:
        self._at = len(MAGIC)
        version = self._version()
        tensor_count = self._count("tensors", self._limits.max_tensors)
        pair_count = self._count("key-value pairs", self._limits.max_pairs)
        metadata, alignment = self._pairs(pair_count)
        described = self._descriptions(tensor_count)
        tensors = self._place(described, alignment)
        return ModelFile.of(ModelFormat.GGUF, version, self._size_bytes, tensors, metadata)

    def _version(self) -> int:
        version = self._number(_U32)
        if version in (2, 3):
            return version
        if version & 0xFFFF == 0 and version:
            reason = "The GGUF file is big-endian, or its version is false."
        else:
            reason = f"GGUF version {version} is not taken; 2 and 3 are."
        raise UnsafeModelFile(reason, remedy="Convert the model to little-endian GGUF 3 with a current llama.cpp.")

    def _count(self, what: str, limit: int) -> int:
        count = self._number(_U64)
        if count > limit:
            raise UnsafeModelFile(f"The GGUF file claims {count} {what}; {limit} are allowed.")
        return count

    def _pairs(self, count: int) -> tuple[dict[str, MetadataValue], int]:
        metadata: dict[str, MetadataValue] = {}
        alignment = _DEFAULT_ALIGNMENT
        for _ in range(count):
            key = self._string("key", self._limits.max_name_chars * 4)
            check_name(key, "metadata key", self._limits)
            if key in metadata:
                raise UnsafeModelFile(f"The GGUF key {quote(key)} comes twice.")
            kind = self._number(_U32)
            metadata[key] = value = self._value(key, kind)
            if key == _ALIGNMENT_KEY:
                alignment = self._alignment(kind, value)
        return metadata, alignment

    def _alignment(self, kind: int, value: MetadataValue) -> int:
        largest = self._limits.max_alignment_bytes
        # The specification wants a multiple of 8; llama.cpp a power of two.
        if kind != _UINT32 or not isinstance(value, int) or not 8 <= value <= largest or value & (value - 1):
            raise UnsafeModelFile(f"{_ALIGNMENT_KEY} must be a power of two from 8 to {largest}, as uint32.")
        return value

    def _value(self, key: str, kind: int) -> MetadataValue:
        if kind == _STRING:
            text = self._string(f"value of {quote(key)}", self._limits.max_header_bytes)
            return shown_text(text, len(text.encode()), self._limits)
        if kind == _ARRAY:
            return self._array(key)
        return self._scalars(key, kind, 1)[0]

    def _array(self, key: str) -> MetadataValue:
        kind = self._number(_U32)
        count = self._number(_U64)
        if kind in _SCALARS:
            if count > _MAX_SHOWN_ITEMS:
                self._skip_scalars(key, kind, count)
                return Omitted(f"array of {_SCALARS[kind][0]}", count)
            return self._scalars(key, kind, count)
        if kind != _STRING:  # nested arrays, which the specification knows and llama.cpp refuses, are among these
            raise UnsafeModelFile(f"The GGUF key {quote(key)} is an array of the type {kind}, which is not taken.")
        self._strings_left -= count
        if self._strings_left < 0:
            raise UnsafeModelFile(f"The arrays of the GGUF file claim more than {self._limits.max_strings} strings.")
        return self._strings(key, count)

    def _strings(self, key: str, count: int) -> MetadataValue:
        """Walk an array of strings; the one long loop, so it is kept bare."""
        head, at, size = self._head, self._at, len(self._head)
        read_length = _U64.unpack_from
        first = at
        try:
            for _ in range(count):
                start = at + 8
                at = start + read_length(head, at)[0]
                str(head[start:at], "utf-8")
        except (struct.error, OverflowError):
            raise self._out_of_head(at + 8) from None
        except UnicodeDecodeError:
            # A cut-off string may end within a character: only a whole one can be blamed for its bytes.
            if at > size:
                raise self._out_of_head(at) from None
            raise UnsafeModelFile(f"The GGUF key {quote(key)} has a string that is not UTF-8.") from None
        if at > size:
            raise self._out_of_head(at)
        if count > _MAX_SHOWN_ITEMS or at - first > self._limits.max_shown_bytes:
            self._at = at
            return Omitted("array of string", count)
        return tuple(self._string(key, self._limits.max_shown_bytes) for _ in range(count))

    def _scalars(self, key: str, kind: int, count: int) -> tuple[Any, ...]:
        if kind not in _SCALARS:
            raise UnsafeModelFile(f"The GGUF key {quote(key)} has the unknown type {kind}.")
        layout = _SCALARS[kind][1]
        start = self._at
        self._skip_scalars(key, kind, count)
        values = struct.unpack_from(f"<{count}{layout[1]}", self._head, start)
        return tuple(map(bool, values)) if kind == _BOOL else values

    def _skip_scalars(self, key: str, kind: int, count: int) -> None:
        raw = self._take(count * struct.calcsize(_SCALARS[kind][1]))
        if kind == _BOOL and raw.strip(b"\x00\x01"):
            raise UnsafeModelFile(f"The GGUF key {quote(key)} has a boolean that is neither 0 nor 1.")

    def _descriptions(self, count: int) -> list[tuple[str, str, tuple[int, ...], int, int, int]]:
        """Name, type, shape, elements, size and claimed offset of each tensor."""
        described: list[tuple[str, str, tuple[int, ...], int, int, int]] = []
        names: set[str] = set()
        for _ in range(count):
            name = self._string("tensor name", self._limits.max_name_chars * 4)
            check_name(name, "tensor", self._limits)
            if name in names:
                raise UnsafeModelFile(f"The tensor {quote(name)} is described twice.")
            names.add(name)
            rank = self._number(_U32)
            if rank > _MAX_DIMENSIONS:
                raise UnsafeModelFile(f"The tensor {quote(name)} has {rank} dimensions; GGUF has at most 4.")
            dimensions = struct.unpack(f"<{rank}Q", self._take(8 * rank))
            kind = self._number(_U32)
            if kind not in GGML_TYPES:
                raise UnsafeModelFile(f"The tensor {quote(name)} has the unknown type {kind}.")
            dtype, block_elements, block_bytes = GGML_TYPES[kind]
            elements = product(dimensions, name)
            if (dimensions[0] if rank else 1) % block_elements:
                raise UnsafeModelFile(f"A row of {quote(name)} is no multiple of the {block_elements} of {dtype}.")
            size_bytes = elements // block_elements * block_bytes
            if size_bytes > MAX_SIZE:
                raise UnsafeModelFile(f"The tensor {quote(name)} overflows a 64-bit size.")
            described.append((name, dtype, dimensions[::-1], elements, size_bytes, self._number(_U64)))
        return described

    def _place(self, described: list[tuple[str, str, tuple[int, ...], int, int, int]], alignment: int) -> list[Tensor]:
        data_start = _padded(self._at, alignment)
        tensors: list[Tensor] = []
        end = 0
        for name, dtype, shape, elements, size_bytes, offset in described:
            expected = _padded(end, alignment)
            if offset != expected:
                raise UnsafeModelFile(
                    f"The tensor {quote(name)} is at offset {offset}, not {expected}: it overlaps or leaves a hole."
                )
            tensors.append(Tensor(name, dtype, shape, data_start + offset, size_bytes, elements))
            end = offset + size_bytes
        least = data_start + end if described else self._at
        if not least <= self._size_bytes <= data_start + _padded(end, alignment):
            raise UnsafeModelFile(f"The weights end at byte {least}, but the file has {self._size_bytes} bytes.")
        return tensors

    def _string(self, what: str, limit: int) -> str:
        length = self._number(_U64)
        if length > limit:
            raise UnsafeModelFile(f"A {what} claims {length} bytes; {limit} are allowed.")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise UnsafeModelFile(f"A {what} of the GGUF file is not UTF-8.") from None

    def _number(self, layout: struct.Struct) -> int:
        start = self._at
        if start + layout.size > len(self._head):
            raise self._out_of_head(start + layout.size)
        self._at = start + layout.size
        return layout.unpack_from(self._head, start)[0]

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._head):
            raise self._out_of_head(end)
        start, self._at = self._at, end
        return self._head[start:end]

    def _out_of_head(self, end: int) -> Exception:
        """What to raise when the bytes up to ``end`` are needed: a false length is refused without reading on."""
        if end > self._size_bytes:
            return UnsafeModelFile(f"A length in the GGUF header leads to byte {end} of {self._size_bytes}.")
        return _HeadEnds()


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
