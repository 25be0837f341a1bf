"""A small teacher's folder, made of a decoder and read back into one: what any program reads (docs/decisions/0021)."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import END_ID, PAD_ID, VOCABULARY, alphabet, tokenizer_config
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.runtime.folder import is_int8
from prsm.teachers.runtime.int8 import restored
from prsm.teachers.runtime.weights import read_weights
from prsm.teachers.shape import Shape, read_config


def save_teacher(folder: Path, shape: Shape, weights: dict[str, Tensor]) -> None:
    """Write ``config.json``, ``model.safetensors`` (float32), the tokenizer's two files, ``generation_config.json``."""
    _save(folder, shape.config(), {name: weights[name] for name in shape.tensors()})
    generation = {"eos_token_id": END_ID, "pad_token_id": PAD_ID, "do_sample": False}
    _write(folder / "generation_config.json", generation | {"max_length": shape.context_tokens})


def save_reward_teacher(folder: Path, shape: Shape, weights: dict[str, Tensor]) -> None:
    """Write a ``RewardModel`` over a decoder as the sequence classifier that transformers makes of it."""
    config = shape.config() | {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "reward"}}
    own = {name: weights[f"body.{name}"] for name in shape.tensors() if name != "lm_head.weight"}
    _save(folder, config, own | {"score.weight": weights["score.weight"]})


def load_teacher(folder: Path) -> Decoder:
    """The decoder in a small teacher's folder, of floats or eight bits. Raises ConfigError where it is not one."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = read_config(config)
        decoder = Decoder(shape)
        decoder.load(_weights(folder / "model.safetensors", shape, int8=is_int8(config, folder)))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"The folder {folder} holds no small teacher: {error}", param="model.path") from error
    return decoder


def _weights(file: Path, shape: Shape, *, int8: bool) -> dict[str, Tensor]:
    if not int8:
        return load_file(file)
    read = read_weights(file.read_bytes(), shape, int8=True)
    return {name: torch.from_numpy(restored(matrix)) for name, matrix in read.items()}


def fresh_teacher(seed: int, **sizes: Any) -> Decoder:
    """A decoder of the alphabet's vocabulary, initialised by ``seed``."""
    torch.manual_seed(seed)
    return Decoder(Shape(vocabulary=len(VOCABULARY), **sizes))


class Vectors(nn.Module):
    """A decoder without its head: the vector of each token, for a ``RewardModel``."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.model = decoder.model

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (rows, tokens, width)."""
        return self.model(ids, None, None, None)


def _save(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    named = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    alphabet().save(str(folder / "tokenizer.json"))
    _write(folder / "config.json", config)
    _write(folder / "tokenizer_config.json", tokenizer_config())


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
