"""A model's folder: every kind of weights is read, and a file that is not as it must be is refused before use."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from tests.support.small_teachers import random_weights, small_shape, write_teacher

from prsm.core.errors import ConfigError
from prsm.teachers.runtime.folder import CONFIG, MANIFEST, TOKENIZER, WEIGHTS, ModelFolder, write_manifest
from prsm.teachers.runtime.int8 import RUN, Int8Matrix, quantised, runs_of
from prsm.teachers.runtime.weights import INT8_CONFIG, read_weights, written

SHAPE = small_shape(hidden=150)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "teacher", SHAPE)


def _change(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_a_folder_is_read(folder: Path) -> None:
    opened = ModelFolder.open(folder)
    assert (opened.shape, opened.int8, len(opened.version)) == (SHAPE, False, 12)
    read, expected = opened.weights(), random_weights(SHAPE)
    assert all(np.array_equal(read[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("kind", "within"), [("F16", 1e-3), ("BF16", 8e-3)])
def test_halves_are_read(kind: str, within: float) -> None:
    expected = {name: np.asarray(matrix) for name, matrix in random_weights(SHAPE).items()}
    if kind == "F16":
        data = save({name: matrix.astype(np.float16) for name, matrix in expected.items()})
    else:  # numpy has no such numbers: their bits, under their name
        bits = {name: (matrix.view(np.uint32) >> 16).astype(np.uint16) for name, matrix in expected.items()}
        data = save(bits).replace(b'"dtype":"U16"', b'"dtype":"BF16"')
        size = int.from_bytes(data[:8], "little") + data.count(b'"BF16"')
        data = size.to_bytes(8, "little") + data[8:]
    read = read_weights(data, SHAPE, int8=False)
    for name, matrix in expected.items():
        np.testing.assert_allclose(np.asarray(read[name]), matrix, rtol=within, atol=1e-6)


def test_eight_bits_are_read_back_and_take_a_third(folder: Path) -> None:
    eight = {
        n: quantised(m) if isinstance(m, np.ndarray) and m.ndim > 1 else m for n, m in random_weights(SHAPE).items()
    }
    before = (folder / WEIGHTS).stat().st_size
    (folder / WEIGHTS).write_bytes(written(eight))
    _change(folder / CONFIG, {"quantization_config": INT8_CONFIG})
    opened = ModelFolder.open(folder)
    assert opened.int8
    assert opened.weights_bytes < before / 3
    for name, matrix in opened.weights().items():
        expected = eight[name]
        if isinstance(matrix, Int8Matrix):
            assert isinstance(expected, Int8Matrix)
            assert np.array_equal(matrix.restored(), expected.restored())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 300), st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_no_weight_moves_by_more_than_half_a_step(rows: int, columns: int, seed: int, scale: float) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns), scale=scale).astype(np.float32)
    eight = quantised(matrix)
    assert eight.scales.shape == (rows, runs_of(columns))
    steps = np.repeat(eight.scales, RUN, axis=1)[:, :columns]
    assert (np.abs(eight.restored() - matrix) <= 0.5001 * steps).all()


def test_zeros_stay_zeros() -> None:
    assert not quantised(np.zeros((2, 130), np.float32)).restored().any()


def test_an_eight_bit_folder_is_no_float_folder(folder: Path) -> None:
    _change(folder / CONFIG, {"quantization_config": INT8_CONFIG})
    with pytest.raises(ConfigError, match="disagree"):
        ModelFolder.open(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, TOKENIZER])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=name):
        ModelFolder.open(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, TOKENIZER])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff" * 100])
def test_rubbish_is_refused(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(ConfigError):
        ModelFolder.open(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 64, "head_dim": 32}, "not F32"),
        ({"num_hidden_layers": 3}, "disagree about the tensor model.layers.2"),
        ({"tie_word_embeddings": False}, "lm_head"),
        ({"quantization_config": {"quant_method": "gptq"}}, "another kind"),
        ({"vocab_size": 90}, "alphabet"),
    ],
)
def test_weights_that_are_not_the_configs_are_refused(folder: Path, config: dict[str, Any], message: str) -> None:
    _change(folder / CONFIG, config)
    with pytest.raises(ConfigError, match=message):
        ModelFolder.open(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    weights = random_weights(SHAPE)
    matrix = weights["model.norm.weight"]
    assert isinstance(matrix, np.ndarray)
    matrix[3] = value
    (folder / WEIGHTS).write_bytes(written(weights))
    with pytest.raises(ConfigError, match=r"model\.norm\.weight .* not finite"):
        ModelFolder.open(folder)


def test_another_alphabet_is_refused(folder: Path) -> None:
    text = (folder / TOKENIZER).read_text().replace('"~"', '"ä"')
    (folder / TOKENIZER).write_text(text)
    with pytest.raises(ConfigError, match="alphabet"):
        ModelFolder.open(folder)


def test_what_a_manifest_names_must_be_so(folder: Path) -> None:
    write_manifest(folder)
    assert ModelFolder.open(folder).version
    _change(folder / "teacher.json", {"title": "Another"})
    with pytest.raises(ConfigError, match=r"teacher\.json is not the file"):
        ModelFolder.open(folder)


@pytest.mark.parametrize("change", [{"model.safetensors": "0" * 64}, {"../model": "0"}, {"config.json": None}])
def test_a_manifest_must_name_the_model(folder: Path, change: dict[str, Any]) -> None:
    write_manifest(folder)
    digests = json.loads((folder / MANIFEST).read_text())["sha256"] | change
    digests = {name: digest for name, digest in digests.items() if digest}
    (folder / MANIFEST).write_text(json.dumps({"sha256": digests}))
    with pytest.raises(ConfigError, match="manifest"):
        ModelFolder.open(folder)


def test_weights_that_change_after_the_check_are_refused(folder: Path, tmp_path: Path) -> None:
    opened = ModelFolder.open(folder)
    other = write_teacher(tmp_path / "other", SHAPE, seed=1)
    shutil.copy(other / WEIGHTS, folder / WEIGHTS)
    with pytest.raises(ConfigError, match="changed"):
        opened.weights()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 255), st.booleans())
def test_no_damage_to_weights_is_more_than_refused(at: int, byte: int, cut: bool) -> None:
    data = bytearray(_WHOLE)
    place = at % (len(data) if cut else 2_000)  # mostly the header, where damage does something
    if cut:
        del data[place:]
    else:
        data[place] = byte
    try:
        read = read_weights(bytes(data), SHAPE, int8=False)
    except ConfigError:
        return
    assert {name: np.asarray(matrix).shape for name, matrix in read.items()} == SHAPE.tensors()


_WHOLE = written(random_weights(SHAPE))
