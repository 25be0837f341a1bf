"""GGUF: real files are read as the ``gguf`` package reads them; what it or llama.cpp refuses is refused."""

import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.fuzz.model_files import gguf_bytes, gguf_pair, gguf_string, gguf_tensor, mutate, seeds

from prsm.data_layer.formats.gguf_file import GGML_TYPES
from prsm.data_layer.formats.model_contents import ModelFile, ModelFormat, ModelLimits, Omitted, UnsafeModelFile
from prsm.data_layer.formats.model_files import inspect_model_file


def write(path: Path, tensors: dict[str, tuple[np.ndarray[Any, Any], Any]], **values: Any) -> bytes:
    """A file by the ``gguf`` package; a tensor is an array and, if it is quantised, its type."""
    writer = gguf.GGUFWriter(path, "llama")
    if "alignment" in values:
        writer.add_custom_alignment(values.pop("alignment"))
    for key, value in values.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint64(key, value)
            case float():
                writer.add_float64(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, (array, dtype) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def assert_equal_to_package(path: Path, model: ModelFile) -> None:
    """Names, types, shapes, places and bytes of each tensor, and every metadata value that is kept."""
    reader = gguf.GGUFReader(path)
    data = path.read_bytes()
    assert [tensor.name for tensor in model.tensors] == [theirs.name for theirs in reader.tensors]
    for ours, theirs in zip(model.tensors, reader.tensors, strict=True):
        assert ours.dtype == theirs.tensor_type.name
        assert list(ours.shape) == theirs.shape.tolist()[::-1]
        assert (ours.offset, ours.size_bytes) == (theirs.data_offset, theirs.n_bytes)
        assert ours.elements == theirs.n_elements
        assert data[ours.offset : ours.offset + ours.size_bytes] == theirs.data.tobytes()
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert model.metadata.keys() == fields.keys()
    for name, value in model.metadata.items():
        theirs = fields[name].contents()
        if isinstance(value, Omitted):
            assert value.length == len(theirs)
        else:
            assert (list(value) if isinstance(value, tuple) else value) == theirs


def test_types_are_those_of_the_package() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert theirs == GGML_TYPES


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_real_files_are_read_as_the_package_does(tmp_path: Path, alignment: int | None) -> None:
    values: dict[str, Any] = {
        "llama.context_length": 4096,
        "a.bool": True,
        "a.float": 1.5,
        "a.text": "é\n",
        "a.long": "x" * 5000,
        "a.ints": [1, 2, 3],
        "a.many": list(range(1000)),
        "tokenizer.ggml.tokens": [f"token é{number}" for number in range(300)],
        "general.tags": ["a", "b"],
        "a.bools": [True, False],
    }
    if alignment:
        values["alignment"] = alignment
    tensors = {
        "token_embd.weight": (np.arange(12, dtype=np.float32).reshape(3, 4), None),
        "blk.0.half": (np.ones((5,), np.float16), None),
        "blk.0.attn_q.weight": (np.zeros((2, 34), np.uint8), gguf.GGMLQuantizationType.Q8_0),
        "blk.0.ids": (np.ones((1, 2, 3), np.int32), None),
    }
    path = tmp_path / "model.gguf"
    write(path, tensors, **values)
    model = inspect_model_file(path)
    assert_equal_to_package(path, model)
    assert model.format is ModelFormat.GGUF
    assert model.version == 3
    assert model.metadata["a.many"] == Omitted("array of int32", 1000)
    assert model.parameters == 12 + 5 + 64 + 6
    assert model.bytes_by_dtype == {"F32": 48, "F16": 10, "Q8_0": 68, "I32": 24}


@pytest.mark.parametrize("kind", sorted(GGML_TYPES))
def test_every_type_is_measured_as_the_package_does(tmp_path: Path, kind: int) -> None:
    _, block, size = GGML_TYPES[kind]
    path = tmp_path / "one.gguf"
    path.write_bytes(gguf_bytes([], [gguf_tensor("w", (block * 2, 3), kind, 0)], bytes(6 * size)))
    assert_equal_to_package(path, inspect_model_file(path))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnsafeModelFile, match="but the file has"):
        inspect_model_file(path)


def test_vocabulary_without_tensors_and_version_2_pass() -> None:
    pair = gguf_pair("a", 8, gguf_string("b"))
    assert inspect_model_file(gguf_bytes([pair], version=2)).metadata == {"a": "b"}
    assert inspect_model_file(gguf_bytes([pair], version=2)).version == 2


def test_scalars_and_empty_tensors_pass() -> None:
    data = gguf_bytes([], [gguf_tensor("scalar", (), 0, 0), gguf_tensor("none", (0, 4), 0, 32)], bytes(32))
    scalar, none = inspect_model_file(data).tensors
    assert (scalar.shape, scalar.elements, scalar.size_bytes) == ((), 1, 4)
    assert (none.shape, none.elements, none.size_bytes) == ((4, 0), 0, 0)


def test_padding_after_the_last_tensor_is_optional() -> None:
    data = gguf_bytes([], [gguf_tensor("w", (5,), 24, 0)], bytes(5))
    assert inspect_model_file(data).parameters == inspect_model_file(data + bytes(27)).parameters == 5


def test_every_prefix_of_a_file_is_refused() -> None:
    data = seeds()[2]
    inspect_model_file(data)
    for length in range(len(data) - 30):  # the last tensor needs 34 bytes of the 64 that its padding makes it
        with pytest.raises(UnsafeModelFile):
            inspect_model_file(data[:length])


@pytest.mark.parametrize("cut_bytes", [1, 7, 100])
def test_a_header_longer_than_the_first_read_is_followed_and_bounded(cut_bytes: int) -> None:
    """The strings lie across the end of what is read first, wherever in a string that end falls."""
    strings = gguf_string("é" * 50) * 40_000
    data = gguf_bytes([gguf_pair("x" * cut_bytes, 9, struct.pack("<IQ", 8, 40_000) + strings)])
    assert list(inspect_model_file(data).metadata.values()) == [Omitted("array of string", 40_000)]
    with pytest.raises(UnsafeModelFile, match="longer than 3000000"):
        inspect_model_file(data, ModelLimits(max_header_bytes=3_000_000))


def test_limits_are_settings() -> None:
    data = seeds()[2]
    for limits, reason in (
        (ModelLimits(max_tensors=1), "claims 2 tensors"),
        (ModelLimits(max_pairs=1), "key-value pairs"),
        (ModelLimits(max_strings=1), "more than 1 strings"),
        (ModelLimits(max_alignment_bytes=16), "from 8 to 16"),
        (ModelLimits(max_name_chars=4), "are allowed"),
    ):
        with pytest.raises(UnsafeModelFile, match=reason):
            inspect_model_file(data, limits)


def test_no_mutation_is_accepted_that_the_package_refuses(tmp_path: Path) -> None:
    random_ = random.Random(3)
    path = tmp_path / "mutated.gguf"
    accepted = 0
    for _ in range(3000):
        data = mutate(random_.choice(seeds()[2:]), random_)
        try:
            model = inspect_model_file(data)
        except UnsafeModelFile:
            continue
        if model.format is ModelFormat.GGUF:
            accepted += 1
            path.write_bytes(data)
            assert [tensor.name for tensor in gguf.GGUFReader(path).tensors] == [
                tensor.name for tensor in model.tensors
            ]
    assert accepted > 20
