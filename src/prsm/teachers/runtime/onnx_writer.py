"""Writes an ONNX model byte by byte: the few messages of its protobuf that a decoder needs, so that no ``onnx`` is.

Field numbers are those of onnx.proto (github.com/onnx/onnx, IR version 9); the wire format is protobuf's.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

FUSED: Final = "com.microsoft"
"""The domain of onnxruntime's own operators."""
_OPSETS: Final = {"": 17, FUSED: 1}
_IR_VERSION: Final = 9
_TYPES: Final = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7}
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE = 1, 2

Dimension: TypeAlias = int | str
"""A size, or the name of one that is known only when the model runs."""


class Graph:
    """Collects nodes and constants in the order of computation, and writes the model."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        """A tensor that belongs to the model; gives its name back."""
        dimensions = b"".join(_number(1, size) for size in array.shape)
        data = np.ascontiguousarray(array).tobytes()
        self._constants.append(
            dimensions + _number(2, _TYPES[array.dtype.name]) + _bytes(8, name.encode()) + _bytes(9, data)
        )
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = "",
        **attributes: float,
    ) -> str:
        """One operation; gives its first output. An empty name is an input left out or an output that nobody reads."""
        parts = [*(_bytes(1, name.encode()) for name in inputs), *(_bytes(2, name.encode()) for name in outputs)]
        parts += [_bytes(4, operator.encode()), _bytes(7, domain.encode())]
        parts += [_bytes(5, _attribute(name, value)) for name, value in attributes.items()]
        self._nodes.append(b"".join(parts))
        return outputs[0]

    def input(self, name: str, kind: str, dimensions: Sequence[Dimension]) -> str:
        """What is given to each run: ``kind`` is a numpy name of float32, int32 or int64."""
        self._inputs.append(_value(name, kind, dimensions))
        return name

    def output(self, name: str, kind: str, dimensions: Sequence[Dimension]) -> None:
        """What each run gives."""
        self._outputs.append(_value(name, kind, dimensions))

    def model(self) -> bytes:
        """The whole model as a file."""
        fields: Mapping[int, list[bytes]] = {
            1: self._nodes, 2: [b"decoder"], 5: self._constants, 11: self._inputs, 12: self._outputs
        }  # fmt: skip
        graph = b"".join(_bytes(field, entry) for field, entries in fields.items() for entry in entries)
        opsets = (_bytes(1, domain.encode()) + _number(2, version) for domain, version in _OPSETS.items())
        return _number(1, _IR_VERSION) + _bytes(7, graph) + b"".join(_bytes(8, opset) for opset in opsets)


def _attribute(name: str, value: float) -> bytes:
    if isinstance(value, int):
        return _bytes(1, name.encode()) + _number(3, value) + _number(20, _INT_ATTRIBUTE)
    return _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", value) + _number(20, _FLOAT_ATTRIBUTE)


def _value(name: str, kind: str, dimensions: Sequence[Dimension]) -> bytes:
    sizes = (_number(1, size) if isinstance(size, int) else _bytes(2, size.encode()) for size in dimensions)
    shape = b"".join(_bytes(1, size) for size in sizes)
    tensor = _number(1, _TYPES[kind]) + _bytes(2, shape)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & (1 << 64) - 1)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
