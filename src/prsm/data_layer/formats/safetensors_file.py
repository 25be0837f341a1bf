"""Safetensors: an 8-byte length, a JSON header, the weights. Only the header is read, whatever the file's size.

At least as strict as the safetensors library 0.8. Beyond it, repeated tensor names, unknown fields, empty or path-like
names, ranks above 16, and white space other than spaces after the header are refused. (Format: the library's README
and safetensors/src/tensor.rs.)
"""

import json
from typing import Any, NoReturn, cast

from prsm.data_layer.formats.flat_json import members, strings
from prsm.data_layer.formats.model_contents import (
    FileBytes,
    MetadataValue,
    ModelFile,
    ModelFormat,
    ModelLimits,
    Tensor,
    UnsafeModelFile,
    check_name,
    product,
    quote,
    shown_text,
)

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Size of an element of each type."""

_PREFIX_BYTES = 8
_MAX_ENTRY_BYTES = 1024
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}


def parse_safetensors(file: FileBytes, limits: ModelLimits) -> ModelFile:
    """Check the header and that it accounts for every byte of the file. Raises UnsafeModelFile."""
    header = _header(file, limits)
    data_start = _PREFIX_BYTES + len(header)
    tensors: list[Tensor] = []
    metadata: dict[str, MetadataValue] = {}
    for name, value in members(header, "safetensors header", limits.max_tensors + 1):
        if name == _METADATA:
            if not value.startswith(b"{"):
                raise UnsafeModelFile("__metadata__ is no object of strings.")
            for key, text in strings(value, _METADATA, limits.max_pairs):
                check_name(key, "metadata key", limits)
                metadata[key] = shown_text(text, len(text.encode()), limits)
        else:
            tensors.append(_tensor(name, value, data_start, limits))
    if len(tensors) > limits.max_tensors:
        raise UnsafeModelFile(f"The file has more than {limits.max_tensors} tensors.")
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    _check_cover(tensors, data_start, file.size_bytes)
    return ModelFile.of(ModelFormat.SAFETENSORS, 0, file.size_bytes, tensors, metadata)


def _header(file: FileBytes, limits: ModelLimits) -> bytes:
    length = int.from_bytes(file.read(0, _PREFIX_BYTES), "little")
    if length > limits.max_header_bytes:
        raise UnsafeModelFile(f"The safetensors header claims {length} bytes; {limits.max_header_bytes} are allowed.")
    if _PREFIX_BYTES + length > file.size_bytes:
        raise UnsafeModelFile(f"The safetensors header claims {length} bytes, but the file has {file.size_bytes}.")
    return file.read(_PREFIX_BYTES, length)


def _tensor(name: str, raw: bytes, data_start: int, limits: ModelLimits) -> Tensor:
    check_name(name, "tensor", limits)
    entry = _entry(name, raw)
    dtype, shape, offsets = entry["dtype"], _naturals(entry["shape"]), _naturals(entry["data_offsets"])
    if not isinstance(dtype, str) or dtype not in BITS:
        raise UnsafeModelFile(f"The tensor {quote(name)} has the unknown type {quote(str(dtype))}.")
    if shape is None or len(shape) > limits.max_rank:
        raise UnsafeModelFile(
            f"The shape of the tensor {quote(name)} is no list of at most {limits.max_rank} whole numbers."
        )
    if offsets is None or len(offsets) != 2:
        raise UnsafeModelFile(f"The data_offsets of the tensor {quote(name)} are not two whole numbers.")
    elements = product(shape, name)
    size_bytes, rest = divmod(elements * BITS[dtype], 8)
    start, end = offsets
    if rest or end - start != size_bytes:
        raise UnsafeModelFile(
            f"The tensor {quote(name)} has the bytes {start} to {end}, which its shape and type do not fill exactly."
        )
    return Tensor(name, dtype, shape, data_start + start, size_bytes, elements)


def _check_cover(tensors: list[Tensor], data_start: int, size_bytes: int) -> None:
    """Every byte belongs to exactly one tensor: nothing can be hidden between them or behind the last."""
    end = data_start
    for tensor in tensors:
        if tensor.offset != end:
            fault = "overlaps the one before it" if tensor.offset < end else "leaves a hole before it"
            raise UnsafeModelFile(f"The tensor {quote(tensor.name)} {fault}.")
        end += tensor.size_bytes
    if end != size_bytes:
        raise UnsafeModelFile(f"The tensors end at byte {end}, but the file has {size_bytes} bytes.")


def _entry(name: str, raw: bytes) -> dict[str, object]:
    if not raw.startswith(b"{") or len(raw) > _MAX_ENTRY_BYTES:
        raise UnsafeModelFile(f"The entry {quote(name)} is no object of at most {_MAX_ENTRY_BYTES} bytes.")
    try:
        entry = cast("dict[str, object]", _ENTRY.decode(raw.decode()))
    except (ValueError, RecursionError):
        entry = {}
    if entry.keys() != _FIELDS:
        raise UnsafeModelFile(f"The entry {quote(name)} does not hold dtype, shape and data_offsets, each once.")
    return entry


def _naturals(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    # ``_natural`` let no negative number through; ``true`` is an int to Python, but not here.
    return tuple(cast("list[int]", items)) if all(type(item) is int for item in items) else None


def _natural(digits: str) -> int:
    if len(digits) > 19 or (number := int(digits)) < 0 or digits == "-0":
        raise ValueError("it is negative or above 2^63")
    return number


def _no_number(_text: str) -> NoReturn:
    raise ValueError("only whole numbers stand in a header")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) != len(pairs):
        raise ValueError("a key comes twice")
    return entry


_ENTRY = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_natural, parse_float=_no_number, parse_constant=_no_number
)
