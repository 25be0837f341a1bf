"""Folders of models: what is used, what is set aside, and what refuses them: disguises, false indexes, odd paths."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from tests.fuzz.model_files import gguf_bytes, gguf_tensor

from prsm.core.errors import InvalidRequest
from prsm.data_layer.formats.folder_files import AsideKind
from prsm.data_layer.formats.model_contents import ModelLimits, ModelSource, UnsafeModelFile
from prsm.data_layer.formats.model_folder import inspect_model_folder

WEIGHTS = save({"w": np.ones(4, np.float32)})
SHARDS: dict[str, ModelSource] = {
    "model-00001-of-00002.safetensors": save({"a": np.ones(4, np.float32), "b": np.ones(2, np.float32)}),
    "model-00002-of-00002.safetensors": save({"c": np.ones(3, np.float32)}),
}
MAP = {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}
MAP |= {"c": "model-00002-of-00002.safetensors"}


def index(weight_map: Any) -> bytes:
    return json.dumps({"metadata": {"total_size": 36}, "weight_map": weight_map}, indent=2).encode() + b"\n"


def refusal(name: str, data: ModelSource, limits: ModelLimits | None = None) -> str:
    entries: list[tuple[str, ModelSource]] = [("model.safetensors", WEIGHTS), (name, data)]
    with pytest.raises(UnsafeModelFile) as caught:
        inspect_model_folder(entries, limits or ModelLimits())
    return str(caught.value)


def test_a_usual_folder_passes(tmp_path: Path) -> None:
    texts = {
        "config.json": b'{"hidden_size": 4, "time_step_limit": [0.0, Infinity], "pad": [NaN,-Infinity ]}',
        "tokenizer_config.json": b'{"model_max_length": 1000000000000000019884624838656}',
        "tokenizer.json": json.dumps(
            {"model": {"vocab": {'a"\\': 0, "[[[{{{": 1}, "merges": [["a", "b"]] * 9}}
        ).encode(),
        "merges.txt": "#version: 0.2\nĠ t\n".encode(),
        "vocab.txt": b"cat\ndog\nRabbit\n",
        "chat_template.jinja": b"{{ bos_token }}",
        "README.md": "# Modèle\r\n\tétendu\n".encode(),
        "LICENSE": b"MIT",
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "1_Pooling/config.json": b"{}",
        "empty.txt": b"",
    }
    for name, data in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    gguf = gguf_bytes([], [gguf_tensor("w", (8,), 24, 0)], bytes(8))
    entries: list[tuple[str, ModelSource]] = [(name, tmp_path / name) for name in (*texts, "model.safetensors")]
    folder = inspect_model_folder([*entries, ("gguf/model.Q8_0.gguf", gguf)])
    assert folder.models.keys() == {"model.safetensors", "gguf/model.Q8_0.gguf"}
    assert folder.texts.keys() == texts.keys()
    assert [(found.files, found.parameters) for found in folder.weight_sets] == [
        (("gguf/model.Q8_0.gguf",), 8),
        (("model.safetensors",), 4),
    ]
    assert folder.set_aside == {}
    assert folder.size_bytes == sum(map(len, texts.values())) + len(WEIGHTS) + len(gguf)
    assert folder.asks_for_code == ()


def test_weights_are_known_by_their_bytes_where_their_name_promises_nothing() -> None:
    folder = inspect_model_folder([("pytorch_model.bin", WEIGHTS), ("model", gguf_bytes()), ("0ab1", WEIGHTS)])
    assert folder.models.keys() == {"pytorch_model.bin", "model", "0ab1"}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("notes.txt", b"#!/bin/sh\nrm\n", "a script"),
        ("notes.txt", b"cos\nsystem\n(S'touch canary'\ntR.", "Python pickle that runs code"),
        ("README.md", WEIGHTS, "a safetensors file"),
        ("vocab.txt", gguf_bytes(), "a GGUF file"),
        ("model.safetensors.txt", b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        ("merges.txt", pickle.dumps({}, 2), "a Python pickle"),
        ("logo.png", pickle.dumps({}, 4), "a Python pickle"),
        ("logo.png", b"\x7fELF" + bytes(30), "ELF"),
        ("tokenizer.model", pickle.dumps({}, 4), "a Python pickle"),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("tokenizer.model", b"some words\n", "neither a SentencePiece model nor"),
        ("tokenizer.model", b"", "neither a SentencePiece model nor"),
        ("tokenizer.model", b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02", "no piece"),
        ("other.safetensors", b"Entry not found", "named as weights"),
        ("other.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("other.gguf", b"\x80\x04.", "named as weights"),
        ("config.json", b"{'a': 1}", "named as JSON"),
        ("config.json", b'{"a": 1} x', "named as JSON"),
        ("config.json", b"", "named as JSON"),
        ("config.json", b"<html>", "error page"),
        ("config.json", b"[" * 65 + b"]" * 65, "nested 65 deep"),
        ("config.json", b'{"a":' * 500 + b"1" + b"}" * 500, "nested 500 deep"),
        ("config.json", b"[" * 4_000_000, "nested far too deep"),
        ("config.json", b'{"a": ' + b"1" * 5000 + b"}", "too long to read"),
        ("config.json", b" " * 4_194_305, "4194304 are allowed"),
    ],
)
def test_what_is_not_what_its_name_promises_refuses_the_folder(name: str, data: bytes, reason: str) -> None:
    text = refusal(name, data)
    assert reason in text
    assert text.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "data", "kind", "reason"),
    [
        ("modeling_x.py", b"import os\n", AsideKind.CODE, "a program runs"),
        ("modeling_x.py", pickle.dumps({}, 4), AsideKind.CODE, "a program runs"),
        ("run.IPYNB", b"{}", AsideKind.CODE, "a program runs"),
        ("page.html", b"<script>", AsideKind.CODE, "a program runs"),
        ("model.py.", b"import os\n", AsideKind.OTHER, "no format that is known"),
        ("install", b"#!/bin/sh\n", AsideKind.CODE, "script"),
        ("lib.so", b"\x7fELF" + bytes(30), AsideKind.CODE, "a program runs"),
        ("lib.so.1", b"\x7fELF" + bytes(30), AsideKind.OTHER, "ELF"),
        ("pytorch_model.bin", pickle.dumps({}, 2), AsideKind.PICKLE, "a Python pickle"),
        ("pytorch_model.bin", b"PK\x03\x04" + bytes(30), AsideKind.PICKLE, "ZIP"),
        ("pytorch_model.bin", WEIGHTS[:-1], AsideKind.OTHER, "begins as weights, but"),
        ("model.gguf-split-a", gguf_bytes()[:20], AsideKind.OTHER, "begins as weights, but"),
        ("data", pickle.dumps({}, 4), AsideKind.PICKLE, "a Python pickle"),
        ("state", b"cos\nsystem\n(S'touch canary'\ntR.", AsideKind.PICKLE, "runs code"),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n", AsideKind.OTHER, "HDF5"),
        ("flax_model.msgpack", b"\x82\xa6params", AsideKind.OTHER, "no format that is known"),
        ("onnx/model.onnx", b"\x08\x08\x12\x07pytorch", AsideKind.OTHER, "ONNX"),
        ("logo.png", b"\x89PNG\r\n\x1a\n" + bytes(20), AsideKind.MEDIA, "image"),
        ("logo.png", b"version https://git-lfs.github.com/spec/v1\n", AsideKind.OTHER, "Git LFS pointer"),
        ("figure.SVG", b"<svg><script/></svg>", AsideKind.MEDIA, "scripts may stand"),
        ("paper.pdf", b"%PDF-1.7\n\0", AsideKind.MEDIA, "document"),
        ("README.md", b"version https://git-lfs.github.com/spec/v1\n", AsideKind.OTHER, "Git LFS pointer"),
        ("late.txt", b"a" * 1000 + b"\x00", AsideKind.OTHER, "control characters"),
        ("escape.md", b"a" * 1000 + b"\x1b]0;", AsideKind.OTHER, "control characters"),
        ("latin.txt", b"\xe9t\xe9", AsideKind.OTHER, "not UTF-8"),
        ("cut.txt", "é".encode()[:1], AsideKind.OTHER, "not UTF-8"),
        ("utf16.txt", "text".encode("utf-16"), AsideKind.OTHER, "control characters"),
    ],
)
def test_what_promises_nothing_is_set_aside_with_a_reason(name: str, data: bytes, kind: AsideKind, reason: str) -> None:
    folder = inspect_model_folder([("model.safetensors", WEIGHTS), (name, data)])
    assert list(folder.models) == ["model.safetensors"]
    assert folder.texts == folder.tokenizers == {}
    aside = folder.set_aside[name]
    assert (aside.kind, aside.size_bytes) == (kind, len(data))
    assert reason in aside.reason
    assert folder.size_bytes == len(WEIGHTS) + len(data)


@pytest.mark.parametrize("text", ["GGUF files of a model", "BZh", "MZ and PAR1", "ggml", "<p align='center'>", "Rar!"])
def test_a_text_may_begin_with_the_letters_of_a_signature(text: str) -> None:
    """A README that begins with GGUF was taken for weights, and refused."""
    folder = inspect_model_folder([("model.safetensors", WEIGHTS), ("README.md", text.encode())])
    assert folder.texts == {"README.md": len(text)}


def test_sizes_and_counts_are_bounded() -> None:
    index_name = "model.safetensors.index.json"
    assert "1001 bytes; 1000 are allowed" in refusal(index_name, b" " * 1001, ModelLimits(max_text_bytes=1000))
    for name in ("a.txt", "eval.json"):
        folder = inspect_model_folder(
            [("w", b""), ("b", WEIGHTS), (name, b"1" * 1001)], ModelLimits(max_text_bytes=1000)
        )
        assert "at most 1000" in folder.set_aside[name].reason
    assert "more than 1 files" in refusal("a.txt", b"a", ModelLimits(max_files=1))
    assert "1 tensors together" in refusal("b.bin", WEIGHTS, ModelLimits(max_folder_tensors=1))
    assert "1 key-value pairs" in refusal("b.bin", save({}, {"a": "1", "b": "2"}), ModelLimits(max_folder_pairs=1))
    assert "2000 bytes together in headers" in refusal("a.txt", b"a" * 1990, ModelLimits(max_folder_read_bytes=2000))


def test_depth_is_counted_outside_of_strings_only() -> None:
    deep = json.dumps({"a": ["[" * 100, '"' + "{" * 100, "\\"]}).encode()
    folder = inspect_model_folder([("w.safetensors", WEIGHTS), ("config.json", deep)], ModelLimits(max_text_depth=2))
    assert folder.texts == {"config.json": len(deep)}
    assert "nested 2 deep" in refusal("config.json", deep, ModelLimits(max_text_depth=1))


def test_depth_is_followed_over_the_pieces_in_which_it_is_counted() -> None:
    data = b"[" * 40 + b'"' + b"[" * 3_000_000 + b'",' + b"[" * 30 + b"]" * 70
    assert "nested 70 deep" in refusal("config.json", data)


def test_a_configuration_that_asks_for_code_is_named() -> None:
    texts = {
        "config.json": b'{"auto_map": {"AutoModel": "modeling.Model"}}',
        "a/config.json": b'{"x": NaN, "\\u0061uto_map": {"AutoModel": "modeling.Model"}}',
        "modules.json": b'[{"type": "sentence_transformers.models.Transformer"}, {"type": "custom.Pooling"}]',
        "b/modules.json": b'[{"type": "sentence_transformers.models.Transformer"}]',
        "train.yaml": b"a: !!python/object/apply:os.system [ls]\n",
        "tokenizer_config.json": b"[]",
        "plain.yaml": b"a: 1\n",
    }
    folder = inspect_model_folder([("w.safetensors", WEIGHTS), *texts.items()])
    assert folder.asks_for_code == ("config.json", "a/config.json", "modules.json", "train.yaml")


@pytest.mark.parametrize(
    "path", ["../a.txt", "/a.txt", "a/../b.txt", "a//b.txt", "a/", "a\\b.txt", "a\nb.txt", "", "./a.txt", "C:/a.txt"]
)
def test_paths_stay_within_the_folder(path: str) -> None:
    with pytest.raises(UnsafeModelFile):
        inspect_model_folder([("model.safetensors", WEIGHTS), (path, b"text")])


@pytest.mark.parametrize("path", ["MODEL.safetensors", "model.safetensors.", "model.safetensors "])
def test_paths_that_meet_on_other_systems_are_refused(path: str) -> None:
    assert "only in case" in refusal(path, WEIGHTS)


def test_paths_that_differ_in_composition_only_are_refused() -> None:
    with pytest.raises(UnsafeModelFile, match="only in case or marks"):
        inspect_model_folder([("é.txt", b"a"), ("e\u0301.txt", b"b")])


def test_a_folder_without_weights_is_no_model() -> None:
    with pytest.raises(UnsafeModelFile, match="holds no safetensors or GGUF"):
        inspect_model_folder([("README.md", b"soon")])
    with pytest.raises(UnsafeModelFile, match=r"Not used: pytorch_model\.bin: It is a Python pickle"):
        inspect_model_folder([("pytorch_model.bin", pickle.dumps({}, 2))])


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        inspect_model_folder([("a.txt", tmp_path / "missing")])


@pytest.mark.parametrize("folder", ["", "transformer/"])
def test_a_sharded_model_passes(folder: str) -> None:
    entries: list[tuple[str, ModelSource]] = [(folder + "model.safetensors.index.json", index(MAP))]
    entries += [(folder + name, data) for name, data in SHARDS.items()]
    (found,) = inspect_model_folder(entries).weight_sets
    assert found.files == tuple(folder + name for name in SHARDS)
    assert found.parameters == 9


def test_an_index_may_leave_tensors_out() -> None:
    """Published indexes do (a projector that was added later); what they name must be right."""
    entries = [("model.safetensors.index.json", index({"a": MAP["a"], "c": MAP["c"]})), *SHARDS.items()]
    (found,) = inspect_model_folder(entries).weight_sets
    assert found.parameters == 9


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (index(MAP | {"d": MAP["c"]}), "which does not hold it"),
        (index(MAP | {"c": MAP["a"]}), "which does not hold it"),
        (index(MAP | {"d": "model-00003-of-00002.safetensors"}), "no safetensors file of its folder"),
        (index(MAP | {"d": "../other/model.safetensors"}), "no plain file name"),
        (index(MAP | {"d": "/etc/passwd"}), "no plain file name"),
        (index(MAP | {"d": "a\\b"}), "no plain file name"),
        (index(MAP | {"d": ""}), "no plain file name"),
        (index(MAP | {"d": "config.json"}), "no safetensors file of its folder"),
        (index(["a"]), "not JSON of the form"),
        (index(MAP | {"d": 1}), "not JSON of the form"),
        (b'{"metadata":{}}', "no weight_map"),
        (b'{"weight_map":"a"}', "no weight_map"),
        (b'{"weight_map":{"a":"x","a":"y"}}', "twice"),
        (b'{"weight_map":{},"weight_map":{}}', "twice"),
        (b'{"weight_map":{}}', "names no tensor"),
    ],
)
def test_a_false_index_is_refused(content: bytes, reason: str) -> None:
    entries = [*SHARDS.items(), ("config.json", b"{}"), ("model.safetensors.index.json", content)]
    with pytest.raises(UnsafeModelFile, match=r"model\.safetensors\.index\.json: ") as caught:
        inspect_model_folder(entries)
    assert reason in caught.value.message


def test_a_tensor_in_two_shards_is_ambiguous() -> None:
    twice = save({"c": np.zeros(3, np.float32), "a": np.ones(4, np.float32)})
    shards = SHARDS | {"model-00002-of-00002.safetensors": twice}
    with pytest.raises(UnsafeModelFile, match=r"is in 'model-00002-of-00002\.safetensors' too"):
        inspect_model_folder([*shards.items(), ("model.safetensors.index.json", index(MAP))])


def test_indexes_are_bounded_together() -> None:
    entries = [*SHARDS.items(), ("model.safetensors.index.json", index(MAP))]
    with pytest.raises(UnsafeModelFile, match="more than 200 bytes together"):
        inspect_model_folder(entries, ModelLimits(max_header_bytes=200))
