"""Folders in the shape of published repositories, built by the libraries that build them: what of each is used.

The layouts are those of model hubs: transformers, its older files, GGUF collections, adapters, sentence-transformers,
diffusers and the original releases beside converted ones.
"""

import io
import json
import pickle
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import save

from prsm.data_layer.formats.folder_files import AsideKind
from prsm.data_layer.formats.gguf_file import FILE_TYPES
from prsm.data_layer.formats.model_contents import ModelFormat, UnsafeModelFile
from prsm.data_layer.formats.model_folder import ModelFolder, inspect_model_folder

Folder = dict[str, bytes]

LICENCE = b"Apache License\nVersion 2.0\n"
CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40)
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 131072,
    "rope_scaling": {"original_max_position_embeddings": 8192},
    "torch_dtype": "bfloat16",
}


def torch_file() -> bytes:
    """A checkpoint as ``torch.save`` lays it out: a ZIP archive with a pickle in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": [1.0]}, 2))
        archive.writestr("archive/version", b"3\n")
    return out.getvalue()


@cache
def sentencepiece_model() -> bytes:
    out = io.BytesIO()
    text = iter(["the quick brown fox jumps over the lazy dog"] * 20)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=text, model_writer=out, vocab_size=300, model_type="bpe", byte_fallback=True, minloglevel=2
    )
    return out.getvalue()


def weights(*names: str, dtype: type = np.float32) -> bytes:
    return save({name: np.ones((4, 8), dtype) for name in names}, {"format": "pt"})


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def gguf_parts(folder: Path, name: str, tensors: int = 3, split: int = 0, **options: Any) -> Folder:
    """The files that the ``gguf`` package writes for one model; with ``split``, as many tensors go into each part."""
    path = folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, options.get("architecture", "llama"), split_max_tensors=split)
    if kind := options.get("kind"):
        writer.add_type(kind)
    else:
        writer.add_context_length(8192)
        writer.add_file_type(options.get("file_type", 15))
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<unk>", "a", "b"])
    for number in range(tensors):
        writer.add_tensor(f"blk.{number}.weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {part.name: part.read_bytes() for part in sorted(folder.glob(f"{name}*.gguf"))}


def common() -> Folder:
    return {
        ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "README.md": CARD,
        "LICENSE": LICENCE,
        "config.json": as_json(LLAMA),
        "generation_config.json": as_json({"do_sample": True}),
    }


def tokenizer() -> Folder:
    return {
        "tokenizer.json": as_json({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}),
        "tokenizer_config.json": as_json({"model_max_length": 10**30}),
        "special_tokens_map.json": as_json({"bos_token": "<s>"}),
    }


def sharded(ending: str = "safetensors") -> Folder:
    first, second = f"model-00001-of-00002.{ending}", f"model-00002-of-00002.{ending}"
    index = {"metadata": {"total_size": 384}, "weight_map": {"a": first, "b": first, "c": second}}
    files = {f"model.{ending}.index.json": as_json(index)}
    return files | ({first: weights("a", "b"), second: weights("c")} if ending == "safetensors" else {})


def look(folder: Folder) -> ModelFolder:
    found = inspect_model_folder(list(folder.items()))
    assert {*found.models, *found.tokenizers, *found.texts, *found.set_aside} == set(folder)
    assert found.size_bytes == sum(map(len, folder.values()))
    return found


def asides(found: ModelFolder) -> dict[str, AsideKind]:
    return {path: aside.kind for path, aside in found.set_aside.items()}


def test_a_sharded_llama_with_its_original_beside_it() -> None:
    tiktoken = b"IQ== 0\nIg== 1\nIw== 2\n"
    original = {"original/consolidated.00.pth": torch_file(), "original/params.json": as_json({"dim": 4096})}
    rest = {"original/tokenizer.model": tiktoken, "USE_POLICY.md": b"# Use\n", "NOTICE": b"Llama is licensed\n"}
    found = look(common() | tokenizer() | sharded() | original | rest)
    (model,) = found.weight_sets
    assert model.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert (model.kind, model.format, model.parameters, model.elements) == ("model", ModelFormat.SAFETENSORS, 96, 96)
    assert model.bytes_by_dtype == {"F32": 384}
    assert (model.architectures, model.model_type, model.context_length) == (("LlamaForCausalLM",), "llama", 131072)
    assert model.quantisation is None
    assert set(found.tokenizer_files) == {*tokenizer(), "original/tokenizer.model"}
    assert set(found.licence_files) == {"LICENSE", "USE_POLICY.md", "NOTICE"}
    assert asides(found) == {"original/consolidated.00.pth": AsideKind.PICKLE}


def test_one_file_with_sentencepiece_images_and_the_pickles_of_its_training() -> None:
    training = {
        "pytorch_model.bin": torch_file(),
        "training_args.bin": torch_file(),
        "optimizer.pt": pickle.dumps({"state": {}}, 2),
        "scheduler.pt": torch_file(),
        "rng_state_0.pth": pickle.dumps([1, 2], 4),
    }
    images = {
        "assets/logo.png": PNG,
        "curve.jpg": b"\xff\xd8\xff\xe0" + bytes(30),
        "a.gif": b"GIF89a",
        "b.svg": b"<svg/>",
    }
    folder = common() | {"tokenizer.model": sentencepiece_model(), "model.safetensors": weights("w")}
    found = look(folder | training | images | {"trainer_state.json": b'{"loss": NaN}'})
    assert found.tokenizers["tokenizer.model"].pieces == 300
    assert found.tokenizer_files == ("tokenizer.model",)
    assert asides(found) == dict.fromkeys(training, AsideKind.PICKLE) | dict.fromkeys(images, AsideKind.MEDIA)
    assert [model.parameters for model in found.weight_sets] == [32]


def test_a_model_with_code_of_its_own() -> None:
    config = LLAMA | {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}, "architectures": ["X"]}
    code = {"modeling_x.py": b"import torch\n", "configuration_x.py": b"import os\nos.system('id')\n"}
    found = look(common() | {"config.json": as_json(config), "model.safetensors": weights("w")} | code)
    assert found.asks_for_code == ("config.json",)
    assert asides(found) == dict.fromkeys(code, AsideKind.CODE)


def test_an_old_model_in_every_framework() -> None:
    others = {
        "pytorch_model.bin": torch_file(),
        "tf_model.h5": b"\x89HDF\r\n\x1a\n" + bytes(600),
        "flax_model.msgpack": b"\x81\xa6params\x80",
        "rust_model.ot": torch_file(),
        "model.onnx": b"\x08\x08\x12\x07pytorch",
        "onnx/model.onnx_data": bytes(64),
        "openvino/openvino_model.xml": b"<?xml version='1.0'?>",
        "openvino/openvino_model.bin": bytes(64),
        "coreml/weights/weight.bin": bytes(range(64)),
        "saved_model/saved_model.pb": b"\x08\x01\x12\x02",
    }
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_ctx": 1024, "n_positions": 1024}
    texts = {"vocab.json": b'{"a": 0}', "merges.txt": "#version: 0.2\nĠ t\n".encode(), "vocab.txt": b"[PAD]\n<s>\n"}
    found = look({"config.json": as_json(config), "model.safetensors": weights("wte.weight")} | texts | others)
    assert asides(found) == {
        path: AsideKind.PICKLE if path in ("pytorch_model.bin", "rust_model.ot") else AsideKind.OTHER for path in others
    }
    assert found.weight_sets[0].context_length == 1024
    assert set(found.tokenizer_files) == set(texts)


def test_t5_and_xlmr_name_their_tokenizers_otherwise() -> None:
    model = sentencepiece_model()
    names = ("spiece.model", "sentencepiece.bpe.model", "source.spm", "tokenizer.model.v3")
    found = look(
        dict.fromkeys(names, model) | {"model.safetensors": weights("shared"), "tekken.json": b'{"vocab": []}'}
    )
    assert found.tokenizer_files == (*names, "tekken.json")


def test_mistral_ships_one_model_twice_and_both_are_counted_once() -> None:
    consolidated = {"consolidated.safetensors": weights("a", "b", "c"), "params.json": b"{}"}
    found = look(common() | sharded() | consolidated)
    assert [model.parameters for model in found.weight_sets] == [96, 96]
    assert found.weight_sets[0].files == ("consolidated.safetensors",)


def test_a_collection_of_gguf_quantisations(tmp_path: Path) -> None:
    folder: Folder = {"README.md": b"GGUF quantisations of a model\n"}
    for number, name in ((15, "model-Q4_K_M"), (7, "model-Q8_0"), (1, "model-F16"), (0, "model-F32")):
        folder |= gguf_parts(tmp_path, name, file_type=number)
    folder |= gguf_parts(tmp_path, "mmproj-F16", architecture="clip", kind="mmproj")
    folder |= gguf_parts(tmp_path, "imatrix", kind="imatrix") | {"imatrix.dat": bytes(range(40))}
    found = look(folder)
    told = {model.files[0]: (model.kind, model.quantisation, model.context_length) for model in found.weight_sets}
    assert told == {
        "model-Q4_K_M.gguf": ("model", "Q4_K_M", 8192),
        "model-Q8_0.gguf": ("model", "Q8_0", 8192),
        "model-F16.gguf": ("model", "F16", 8192),
        "model-F32.gguf": ("model", "F32", 8192),
        "mmproj-F16.gguf": ("mmproj", None, None),
        "imatrix.gguf": ("imatrix", None, None),
    }
    assert {model.parameters for model in found.weight_sets} == {192}
    assert found.weight_sets[0].architectures == (found.weight_sets[0].model_type,)
    assert asides(found) == {"imatrix.dat": AsideKind.OTHER}


def test_a_split_gguf(tmp_path: Path) -> None:
    parts = gguf_parts(tmp_path, "big", tensors=5, split=2)
    assert len(parts) == 3
    (model,) = look({f"Q4_K_M/{name}": data for name, data in parts.items()}).weight_sets
    assert model.files == tuple(f"Q4_K_M/{name}" for name in sorted(parts))
    assert (model.parameters, model.quantisation, model.model_type) == (5 * 64, "Q4_K_M", "llama")


def test_a_split_gguf_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    parts = gguf_parts(tmp_path, "big", tensors=5, split=2)
    first, second, third = sorted(parts)
    for folder, reason in (
        ({first: parts[first], third: parts[third]}, "Part 2 of the 3"),
        (parts | {second: parts[third]}, "it is part 2 of 3, but has split.no 2"),
        ({"renamed.gguf": parts[first]}, "it is part 1 of 1, but has split.no 0 and split.count 3"),
        (parts | {"big-00004-of-00003.gguf": parts[third]}, "it is part 4 of 3"),
        (parts | {"big-1-of-3.gguf": parts[first]}, "the same part"),
    ):
        with pytest.raises(UnsafeModelFile, match=reason):
            look(folder)


def test_numbered_safetensors_without_an_index_are_one_model() -> None:
    shards = {name: data for name, data in sharded().items() if not name.endswith(".json")}
    (model,) = look(shards).weight_sets
    assert (model.files, model.parameters) == (tuple(sorted(shards)), 96)
    for folder, reason in (
        ({"model-00002-of-00002.safetensors": weights("c")}, "Part 1 of the 2"),
        (shards | {"model-00002-of-00002.safetensors": weights("a")}, "'a' is in another part too"),
        (shards | {"model-00003-of-00002.safetensors": weights("d")}, "parts beyond the 2"),
    ):
        with pytest.raises(UnsafeModelFile, match=reason):
            look(folder)
    from_zero = {"model-00000-of-00002.safetensors": weights("a"), "model-00001-of-00002.safetensors": weights("b")}
    assert [found.parameters for found in look(from_zero).weight_sets] == [64]


def test_an_index_of_pickles_beside_one_of_safetensors_is_only_a_text() -> None:
    shard = "pytorch_model-00001-of-00001.bin"
    index = {"pytorch_model.bin.index.json": as_json({"weight_map": {"a": shard}}), shard: torch_file()}
    found = look(common() | sharded() | index)
    assert len(found.weight_sets) == 1
    assert asides(found) == {shard: AsideKind.PICKLE}


def test_an_adapter() -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B", "r": 8}
    adapter = {"adapter_config.json": as_json(config), "adapter_model.safetensors": weights("lora_A", "lora_B")}
    found = look(
        adapter | {"README.md": CARD, "training_args.bin": torch_file(), "runs/events.out.tfevents.1.host": b"\x18\0"}
    )
    (model,) = found.weight_sets
    assert (model.kind, model.base_model, model.parameters) == ("adapter", "meta-llama/Llama-3.1-8B", 64)
    assert asides(found)["runs/events.out.tfevents.1.host"] is AsideKind.OTHER


def test_sentence_transformers() -> None:
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules += [{"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    config = {"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": 512}
    found = look(
        {
            "modules.json": as_json(modules),
            "config_sentence_transformers.json": b"{}",
            "sentence_bert_config.json": b'{"max_seq_length": 256}',
            "config.json": as_json(config),
            "model.safetensors": weights("embeddings", dtype=np.float16),
            "1_Pooling/config.json": b'{"word_embedding_dimension": 384}',
            "2_Dense/config.json": b'{"in_features": 384}',
            "2_Dense/model.safetensors": weights("linear.weight"),
            "vocab.txt": b"[PAD]\n[UNK]\n",
        }
    )
    assert found.asks_for_code == ()
    dense, bert = found.weight_sets
    assert (dense.files, dense.architectures) == (("2_Dense/model.safetensors",), ())
    assert (bert.architectures, bert.context_length, bert.bytes_by_dtype) == (("BertModel",), 512, {"F16": 64})


def test_diffusers() -> None:
    found = look(
        {
            "model_index.json": as_json({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet"]}),
            "unet/config.json": as_json({"_class_name": "UNet2DConditionModel"}),
            "unet/diffusion_pytorch_model.safetensors": weights("conv"),
            "unet/diffusion_pytorch_model.fp16.safetensors": weights("conv", dtype=np.float16),
            "unet/diffusion_pytorch_model.bin": torch_file(),
            "text_encoder/config.json": as_json({"architectures": ["CLIPTextModel"], "max_position_embeddings": 77}),
            "text_encoder/model.safetensors": weights("embeddings"),
            "scheduler/scheduler_config.json": b"{}",
            "v1-5-pruned.ckpt": pickle.dumps({"state_dict": {}}, 2),
        }
    )
    assert [model.architectures for model in found.weight_sets] == [
        ("CLIPTextModel",),
        ("UNet2DConditionModel",),
        ("UNet2DConditionModel",),
    ]
    assert {"v1-5-pruned.ckpt", "unet/diffusion_pytorch_model.bin"} == set(found.set_aside)


@pytest.mark.parametrize(
    ("files", "quantisation"),
    [
        ({"config.json": LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}}, "gptq, 4 bits"),
        ({"config.json": LLAMA | {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        (
            {"config.json": LLAMA | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}},
            "bitsandbytes, 4 bits",
        ),
        ({"config.json": LLAMA | {"quantization": {"group_size": 64, "bits": 4}}}, "4 bits"),
        ({"config.json": LLAMA | {"quantization_config": {"bits": "4"}}}, "unnamed"),
        ({"config.json": LLAMA, "quantize_config.json": {"bits": 3}}, "3 bits"),
        ({"config.json": LLAMA, "hf_quant_config.json": {"quantization": {"quant_algo": "NVFP4"}}}, "NVFP4"),
    ],
)
def test_packed_weights_have_no_known_number_of_parameters(files: dict[str, Any], quantisation: str) -> None:
    texts = {name: as_json(value) for name, value in files.items()}
    (model,) = look(texts | {"model.safetensors": weights("qweight", dtype=np.int32)}).weight_sets
    assert (model.quantisation, model.parameters, model.elements) == (quantisation, None, 32)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_seq_len": 65536}, 65536),
        ({"text_config": {"max_position_embeddings": 32768}, "vision_config": {"max_position_embeddings": 1}}, 32768),
        ({"max_position_embeddings": 32768, "seq_length": 8192}, None),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": "8192"}, None),
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": 2**80}, None),
        ([], None),
    ],
)
def test_a_context_length_is_what_is_told_without_contradiction(config: Any, length: int | None) -> None:
    folder = {"config.json": as_json(config), "model.safetensors": weights("w")}
    assert look(folder).weight_sets[0].context_length == length


def test_names_in_a_configuration_that_cannot_be_shown_are_unknown() -> None:
    config = {"architectures": ["\x1b[31mX", "Y", 7, ""], "model_type": "a" * 300}
    (model,) = look({"config.json": as_json(config), "model.safetensors": weights("w")}).weight_sets
    assert (model.architectures, model.model_type) == (("Y",), None)


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "tokenizer.model", "tokenizer.json"])
def test_a_clone_without_its_large_files_is_refused_and_told_so(name: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    folder = common() | tokenizer() | sharded() | {"tokenizer.model": sentencepiece_model(), name: pointer}
    with pytest.raises(UnsafeModelFile, match="Git LFS pointer"):
        look(folder)


def test_a_repository_of_pickles_alone_is_no_model() -> None:
    with pytest.raises(
        UnsafeModelFile, match=r"no safetensors or GGUF file\. Not used: pytorch_model\.bin: It is a ZIP"
    ):
        look({"config.json": as_json(LLAMA), "pytorch_model.bin": torch_file()})


def test_file_types_are_those_of_the_package() -> None:
    theirs = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {number: name for number, name in theirs.items() if name != "GUESSED"} == FILE_TYPES
