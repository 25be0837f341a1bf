"""Safetensors: real files are read as the library reads them; what the library refuses is refused."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save, save_file
from tests.fuzz.model_files import entry, safetensors_bytes

import prsm
from prsm.data_layer.formats.model_contents import ModelFile, ModelFormat, ModelLimits, Omitted, UnsafeModelFile
from prsm.data_layer.formats.model_files import inspect_model_file
from prsm.data_layer.formats.safetensors_file import BITS

DTYPES = (
    "bool",
    "uint8",
    "int8",
    "int16",
    "uint16",
    "float16",
    "int32",
    "uint32",
    "float32",
    "float64",
    "int64",
    "uint64",
)
NAMES = (
    "model.layers.0.self_attn.q_proj.weight",  # transformers
    "params/encoder/layers_0/attention/kernel",  # Flax
    "tf_bert/bert/encoder/layer_._0/attention/self/query/kernel:0",  # TensorFlow
    "transformer/~/linear_1",  # Haiku
    "<cat-toy>",  # textual inversion
    "lora_unet_down_blocks_0.lora_up.weight",  # kohya
    "text_model.encoder.layers.11 (copy)",
    "a..b",
    "模型.weight",
)


def assert_equal_to_library(data: bytes, model: ModelFile) -> None:
    """Names, types, shapes and the very bytes of each tensor."""
    theirs: dict[str, Any] = dict(deserialize(data))
    assert {tensor.name for tensor in model.tensors} == theirs.keys()
    for tensor in model.tensors:
        assert tensor.dtype == theirs[tensor.name]["dtype"]
        assert list(tensor.shape) == theirs[tensor.name]["shape"]
        assert data[tensor.offset : tensor.offset + tensor.size_bytes] == bytes(theirs[tensor.name]["data"])


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)),
        max_size=len(NAMES),
    ),
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), st.text(max_size=40), max_size=3
    ),
)
def test_real_files_are_read_as_the_library_does(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    random = np.random.default_rng(1)
    arrays = {name: random.integers(0, 2, shape).astype(dtype) for name, (dtype, shape) in tensors.items()}
    data = save(arrays, metadata or None)  # of {} the library writes a header that it cannot read itself
    model = inspect_model_file(data)
    assert_equal_to_library(data, model)
    assert model.format is ModelFormat.SAFETENSORS
    assert model.metadata == metadata
    assert model.parameters == sum(array.size for array in arrays.values())
    assert sum(model.bytes_by_dtype.values()) == sum(array.nbytes for array in arrays.values())
    assert model.size_bytes == len(data)


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_type_has_the_size_it_has_in_the_library(dtype: str) -> None:
    size_bytes = 24 * BITS[dtype] // 8
    for wrong in (-1, 0, 1):
        data = safetensors_bytes({"w": entry(dtype, (4, 6), 0, size_bytes + wrong)}, bytes(size_bytes + wrong))
        if wrong:
            with pytest.raises(SafetensorError):
                deserialize(data)
            with pytest.raises(UnsafeModelFile, match="do not fill exactly"):
                inspect_model_file(data)
        else:
            assert_equal_to_library(data, inspect_model_file(data))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_what_the_library_refuses_is_refused(data: st.DataObject) -> None:
    """Headers near to valid, with any numbers, names and types in their fields."""
    number = st.one_of(st.integers(0, 9), st.sampled_from([-1, 2**31, 2**32, 2**63, 2**64, 1.0, True, None, "1"]))
    fields = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["U8", "F16", "F4", "u8", "", None, 1]),
            "shape": st.lists(number, max_size=3),
            "data_offsets": st.lists(number, min_size=1, max_size=3),
        }
    )
    header = data.draw(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), fields, max_size=2))
    built = safetensors_bytes(header, bytes(data.draw(st.integers(0, 12))))
    try:
        model = inspect_model_file(built)
    except UnsafeModelFile:
        return
    assert_equal_to_library(built, model)


def test_files_of_older_writers_pass() -> None:
    """Unaligned headers, any order of entries, white space between tokens and spaces at the end."""
    raw = b'{ "b" :\n\t{"data_offsets":[4,5],"shape":[],"dtype":"U8"},\r\n'
    raw += b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]} }  '
    data = safetensors_bytes(None, b"12345", raw=raw)
    model = inspect_model_file(data)
    assert_equal_to_library(data, model)
    assert [tensor.name for tensor in model.tensors] == ["a", "b"]


def test_our_own_models_pass() -> None:
    shipped = list(Path(prsm.__file__).parent.rglob("*.safetensors"))
    assert shipped
    for path in shipped:
        assert inspect_model_file(path).parameters > 0


def test_a_file_of_10_gib_is_checked_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    size = 10 * 2**30
    path.write_bytes(safetensors_bytes({"w": entry("BF16", (size // 2,), 0, size)}, b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)  # a hole: nothing of it is stored, and nothing of it is read
    model = inspect_model_file(path)
    assert model.parameters == size // 2
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(UnsafeModelFile, match="but the file has"):
        inspect_model_file(path)


def test_paths_descriptors_and_buffers_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_file({"w": np.ones(4, np.float32)}, path, {"format": "np"})
    expected = inspect_model_file(path)
    with path.open("rb") as file:
        file.seek(3)
        assert inspect_model_file(file.fileno()) == expected
        assert file.tell() == 3
    data = path.read_bytes()
    for source in (str(path), data, bytearray(data), memoryview(data)):
        assert inspect_model_file(source) == expected
    with safe_open(path, "np") as opened:
        assert opened.metadata() == expected.metadata


def test_long_metadata_is_measured_and_not_kept() -> None:
    model = inspect_model_file(save({}, {"short": "é", "long": "é" * 5000}))
    assert model.metadata == {"short": "é", "long": Omitted("string", 10_000)}


def test_limits_are_settings() -> None:
    data = save({"a": np.ones(4), "b": np.ones(4)})
    for limits, reason in (
        (ModelLimits(max_tensors=1), "more than 1 tensors"),
        (ModelLimits(max_header_bytes=16), "16 are allowed"),
        (ModelLimits(max_name_chars=0), "0 are allowed"),
        (ModelLimits(max_rank=0), "at most 0"),
    ):
        with pytest.raises(UnsafeModelFile, match=reason):
            inspect_model_file(data, limits)


def test_every_prefix_of_a_file_is_refused() -> None:
    data = save({"a": np.ones(4), "b": np.ones((2, 2))}, {"format": "np"})
    for length in range(len(data)):
        with pytest.raises(UnsafeModelFile):
            inspect_model_file(data[:length])


def test_a_refusal_names_the_tensor_and_what_to_do() -> None:
    data = safetensors_bytes({"model.w": entry("F32", (2,), 0, 4)}, bytes(4))
    with pytest.raises(UnsafeModelFile) as caught:
        inspect_model_file(data)
    assert "'model.w'" in caught.value.message
    assert caught.value.remedy
    assert caught.value.code == "unsafe_model_file"
    assert caught.value.param == "file"


def test_the_index_of_the_names_is_not_read_as_code() -> None:
    """Odd names that are still plain names come out as they are."""
    header = {name: entry("U8", (0,), 0, 0) for name in NAMES}
    data = safetensors_bytes(None, b"", raw=json.dumps(header, ensure_ascii=False).encode())
    assert {tensor.name for tensor in inspect_model_file(data).tensors} == set(NAMES)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UnsafeModelFile, match="no regular file"):
            inspect_model_file(path)
