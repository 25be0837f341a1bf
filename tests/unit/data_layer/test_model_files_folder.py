"""Folders of models: weights and plain text pass; code, binaries, false indexes and odd paths do not."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from tests.fuzz.model_files import gguf_bytes, gguf_tensor

from prsm.core.errors import InvalidRequest
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
    assert folder.parameters == 4 + 8
    assert folder.size_bytes == sum(map(len, texts.values())) + len(WEIGHTS) + len(gguf)
    assert folder.asks_for_code == ()


def test_weights_are_known_by_their_bytes_whatever_their_name() -> None:
    folder = inspect_model_folder([("pytorch_model.bin", WEIGHTS), ("README.md", gguf_bytes())])
    assert folder.models.keys() == {"pytorch_model.bin", "README.md"}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("modeling.py", b"import os\n", "'.py' may be run"),
        ("setup.sh", b"rm -rf\n", "'.sh' may be run"),
        ("run.IPYNB", b"{}", "'.ipynb' may be run"),
        ("page.html", b"<script>", "'.html' may be run"),
        ("model.py.", b"import os\n", "'.' may be run"),
        ("notes.txt", b"#!/bin/sh\nrm\n", "a script"),
        ("notes.txt", b"cos\nsystem\n(S'touch canary'\ntR.", "Python pickle that runs code"),
        ("pytorch_model.bin", pickle.dumps({}, 2), "a Python pickle"),
        ("tokenizer.model", b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02", "neither weights nor text"),
        ("model.safetensors.txt", b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        ("lib.so", b"\x7fELF" + bytes(30), "ELF"),
        ("other.safetensors", b"Entry not found", "named as weights"),
        ("other.gguf", b"\x80\x04.", "named as weights"),
        ("late.txt", b"a" * 1000 + b"\x00", "control characters"),
        ("escape.md", b"a" * 1000 + b"\x1b]0;", "control characters"),
        ("latin.txt", b"\xe9t\xe9", "not UTF-8"),
        ("cut.txt", "é".encode()[:1], "not UTF-8"),
        ("utf16.txt", "text".encode("utf-16"), "neither weights nor text"),
        ("config.json", b"{'a': 1}", "named as JSON"),
        ("config.json", b'{"a": 1} x', "named as JSON"),
        ("config.json", b"", "named as JSON"),
        ("config.json", b"[" * 65 + b"]" * 65, "nested 65 deep"),
        ("config.json", b'{"a":' * 500 + b"1" + b"}" * 500, "nested 500 deep"),
        ("config.json", b"[" * 5_000_000, "nested far too deep"),
    ],
)
def test_what_is_not_harmless_text_is_refused_and_named(name: str, data: bytes, reason: str) -> None:
    text = refusal(name, data)
    assert reason in text
    assert text.startswith(f"{name}: ")


def test_sizes_and_counts_are_bounded() -> None:
    assert "1001 bytes; 1000 are allowed" in refusal("a.txt", b"a" * 1001, ModelLimits(max_text_bytes=1000))
    assert "more than 1 files" in refusal("a.txt", b"a", ModelLimits(max_files=1))
    assert "1 tensors together" in refusal("b", WEIGHTS, ModelLimits(max_folder_tensors=1))


def test_depth_is_counted_outside_of_strings_only() -> None:
    deep = json.dumps({"a": ["[" * 100, '"' + "{" * 100, "\\"]}).encode()
    folder = inspect_model_folder([("w", WEIGHTS), ("config.json", deep)], ModelLimits(max_text_depth=2))
    assert folder.texts == {"config.json": len(deep)}
    assert "nested 2 deep" in refusal("config.json", deep, ModelLimits(max_text_depth=1))


def test_depth_is_followed_over_the_pieces_in_which_it_is_counted() -> None:
    data = b"[" * 40 + b'"' + b"[" * 3_000_000 + b'",' + b"[" * 30 + b"]" * 70
    assert "nested 70 deep" in refusal("config.json", data)


def test_a_configuration_that_asks_for_code_is_named() -> None:
    auto_map = b'{"auto_map": {"AutoModel": "modeling.Model"}}'
    folder = inspect_model_folder([("w", WEIGHTS), ("config.json", auto_map), ("tokenizer_config.json", b"[]")])
    assert folder.asks_for_code == ("config.json",)


@pytest.mark.parametrize(
    "path", ["../a.txt", "/a.txt", "a/../b.txt", "a//b.txt", "a/", "a\\b.txt", "a\nb.txt", "", "./a.txt", "C:/a.txt"]
)
def test_paths_stay_within_the_folder(path: str) -> None:
    with pytest.raises(UnsafeModelFile):
        inspect_model_folder([("model.safetensors", WEIGHTS), (path, b"text")])


def test_paths_that_meet_on_other_systems_are_refused() -> None:
    assert "only in case" in refusal("MODEL.safetensors", WEIGHTS)


def test_a_folder_without_weights_is_no_model() -> None:
    with pytest.raises(UnsafeModelFile, match="holds no safetensors or GGUF"):
        inspect_model_folder([("README.md", b"soon")])


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        inspect_model_folder([("a.txt", tmp_path / "missing")])


@pytest.mark.parametrize("folder", ["", "transformer/"])
def test_a_sharded_model_passes(folder: str) -> None:
    entries: list[tuple[str, ModelSource]] = [(folder + "model.safetensors.index.json", index(MAP))]
    entries += [(folder + name, data) for name, data in SHARDS.items()]
    assert inspect_model_folder(entries).parameters == 9


def test_an_index_may_leave_tensors_out() -> None:
    """Published indexes do (a projector that was added later); what they name must be right."""
    entries = [("model.safetensors.index.json", index({"a": MAP["a"], "c": MAP["c"]})), *SHARDS.items()]
    assert inspect_model_folder(entries).parameters == 9


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (index(MAP | {"d": MAP["c"]}), "which does not hold it"),
        (index(MAP | {"c": MAP["a"]}), "which does not hold it"),
        (index(MAP | {"d": "model-00003-of-00002.safetensors"}), "no weight file of its folder"),
        (index(MAP | {"d": "../other/model.safetensors"}), "no plain file name"),
        (index(MAP | {"d": "/etc/passwd"}), "no plain file name"),
        (index(MAP | {"d": "a\\b"}), "no plain file name"),
        (index(MAP | {"d": ""}), "no plain file name"),
        (index(MAP | {"d": "config.json"}), "no weight file of its folder"),
        (index(["a"]), "not JSON of the form"),
        (index(MAP | {"d": 1}), "not JSON of the form"),
        (b'{"metadata":{}}', "no weight_map"),
        (b'{"weight_map":"a"}', "no weight_map"),
        (b'{"weight_map":{"a":"x","a":"y"}}', "twice"),
        (b'{"weight_map":{},"weight_map":{}}', "twice"),
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
