"""Folders of small teachers that nobody has trained: their weights are drawn, everything else is as it should be."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from prsm.teachers.alphabet import VOCABULARY, alphabet, tokenizer_config
from prsm.teachers.shape import Shape

TINY = Shape(layers=1, width=16, heads=2, kv_heads=1, hidden=24, vocabulary=len(VOCABULARY), context_tokens=64)


def write_teacher(folder: Path, seed: int = 0, shape: Shape = TINY) -> Path:
    """A model's folder, as a trainer leaves it."""
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(seed)
    weights = {name: drawn.normal(0, 0.1, size).astype(np.float32) for name, size in shape.tensors().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(shape.config()))
    (folder / "tokenizer.json").write_text(alphabet().to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config()))
    return folder
