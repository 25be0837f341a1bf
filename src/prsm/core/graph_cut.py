"""Cuts a part out of an ONNX model: what leads from given values to wanted ones, and nothing else.

Works on the bytes of the file (protocol buffers, https://protobuf.dev/programming-guides/encoding/), so that a node
needs no package for it. Nodes and weights are carried over unread: a part computes what it computed within the whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

# Field numbers of onnx.proto.
_MODEL_GRAPH: Final = 7
_GRAPH_NODE: Final = 1
_GRAPH_INITIALIZER: Final = 5
_GRAPH_INPUT: Final = 11
_GRAPH_OUTPUT: Final = 12
_GRAPH_VALUE: Final = 13
_NODE_INPUT: Final = 1
_NODE_OUTPUT: Final = 2
_TENSOR_NAME: Final = 8
_VALUE_NAME: Final = 1
_VALUE_TYPE: Final = 2
_FLOAT: Final = 1
_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5

Field = tuple[int, bytes, bytes]
"""Its number, its content (of those that have a length), and all its bytes."""


def cut(model: bytes, given: Mapping[str, Sequence[str]], wanted: Mapping[str, Sequence[str]]) -> bytes:
    """The part of ``model`` that computes ``wanted`` when ``given`` are known: names of float values -> of their axes.

    Inputs of the whole that are still needed stay inputs. Raises ValueError for names that the model does not have.
    """
    fields = list(_fields(model))
    # Of a message that stands in a file twice, as after appending to it, the parts count together.
    graph = b"".join(content for number, content, _ in fields if number == _MODEL_GRAPH)
    parts = list(_fields(graph))
    nodes = [(names, whole) for number, content, whole in parts if number == _GRAPH_NODE for names in [_ends(content)]]
    needed, kept = set(wanted), list[bytes]()
    for (inputs, outputs), whole in reversed(nodes):
        if needed.intersection(outputs) and not set(outputs) <= given.keys():
            needed.update(inputs)
            kept.append(whole)
    known = {output for (_, outputs), _ in nodes for output in outputs}
    if unknown := (given.keys() | wanted.keys()) - known:
        raise ValueError(f"the model has no value called {', '.join(sorted(unknown))}")
    rest = [whole for number, content, whole in parts if _stays(number, content, needed)]
    ends = [_value(_GRAPH_INPUT, *item) for item in given.items() if item[0] in needed]
    ends += [_value(_GRAPH_OUTPUT, *item) for item in wanted.items()]
    cut_graph = _field(_MODEL_GRAPH, b"".join([*reversed(kept), *rest, *ends]))
    return b"".join(whole for number, _, whole in fields if number != _MODEL_GRAPH) + cut_graph


def _stays(number: int, content: bytes, needed: set[str]) -> bool:
    """Whether a field of the graph other than a node belongs to the part."""
    if number == _GRAPH_INITIALIZER:
        return _name(content, _TENSOR_NAME) in needed
    if number == _GRAPH_INPUT:
        return _name(content, _VALUE_NAME) in needed
    return number not in {_GRAPH_NODE, _GRAPH_OUTPUT, _GRAPH_VALUE}


def _ends(node: bytes) -> tuple[list[str], list[str]]:
    read = list(_fields(node))
    return (
        [content.decode() for number, content, _ in read if number == _NODE_INPUT],
        [content.decode() for number, content, _ in read if number == _NODE_OUTPUT],
    )


def _name(message: bytes, number: int) -> str:
    return next((content.decode() for each, content, _ in _fields(message) if each == number), "")


def _value(number: int, name: str, axes: Sequence[str]) -> bytes:
    """A ValueInfoProto: a float tensor with named axes; an axis written as a number has that size."""
    dims = [_field(1, _varint(1 << 3) + _varint(int(a)) if a.isdigit() else _field(2, a.encode())) for a in axes]
    tensor = _varint(1 << 3) + _varint(_FLOAT) + _field(2, b"".join(dims))
    return _field(number, _field(_VALUE_NAME, name.encode()) + _field(_VALUE_TYPE, _field(1, tensor)))


def _fields(message: bytes) -> Iterator[Field]:
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        number, wire = key >> 3, key & 7
        content = b""
        if wire == _VARINT:
            _, at = _read_varint(message, at)
        elif wire == _BYTES:
            length, at = _read_varint(message, at)
            content = message[at : at + length]
            at += length
        elif wire in {_FIXED64, _FIXED32}:
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        yield number, content, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
