"""Which files of a repository are taken for the model: by their names only, and never what unpickles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.data_layer.formats.model_selection import select_model

SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE")


def test_a_usual_repository() -> None:
    weights = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = "model.safetensors.index.json"
    aside = (
        *(
            "pytorch_model.bin",
            "flax_model.msgpack",
            "tf_model.h5",
            "model.onnx",
            "training_args.bin",
            ".gitattributes",
        ),
        *("original/consolidated.00.pth", "onnx/model.onnx", "consolidated.safetensors", "modeling_x.py", "model.gguf"),
        *("consolidated.safetensors.index.json", "optimizer.pt", "logo.png", ".gitattributes"),
    )
    selection = select_model([*SMALL, *weights, index, *aside])
    assert set(selection.wanted) == {*SMALL, *weights, index}
    assert selection.weights == weights
    assert set(selection.left_out) == set(aside)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "consolidated.safetensors", "encoder.fp16.safetensors"])
def test_other_safetensors_are_taken_where_the_usual_ones_are_not(name: str) -> None:
    selection = select_model(["adapter_config.json", name, "sub/model.safetensors"])
    assert selection.weights == (name,)
    assert selection.left_out == ("sub/model.safetensors",)


@pytest.mark.parametrize("paths", [[], ["pytorch_model.bin", "config.json"], ["deep/model.safetensors"]])
def test_without_safetensors_there_are_no_weights(paths: list[str]) -> None:
    assert select_model(paths).weights == ()


@given(st.lists(st.text(max_size=40), max_size=20))
def test_whatever_the_names_what_is_taken_is_a_plain_name_and_nothing_is_lost(names: list[str]) -> None:
    hostile = [*names, "../model.safetensors", "/etc/model.safetensors", "..", "a\\model.safetensors", ".safetensors"]
    selection = select_model(hostile)
    assert set(selection.wanted) | set(selection.left_out) == set(hostile)
    for name in selection.wanted:
        assert "/" not in name
        assert "\\" not in name
        assert not name.startswith(".")
        assert not name.endswith((".bin", ".pkl", ".pt", ".pth", ".ckpt", ".py", ".h5", ".msgpack"))
