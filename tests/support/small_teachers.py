"""Folders of teachers with random weights: whole and answering, but having learnt nothing. For tests only."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from prsm.teachers.alphabet import ANSWER_ID, END_ID, VOCABULARY, alphabet
from prsm.teachers.runtime.int8 import Matrix
from prsm.teachers.runtime.weights import written
from prsm.teachers.shape import Shape

ABOUT: dict[str, Any] = {
    "title": "Sums",
    "domain": "sums of two numbers",
    "tasks": ["addition"],
    "licence": "MIT",
    "max_tokens": 20,
    "questions": ["{integer:3} + {integer:3}"],
}


def small_shape(**sizes: Any) -> Shape:
    """A shape that computes in microseconds."""
    given: dict[str, Any] = {"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "hidden": 48, "context_tokens": 64}
    return Shape(vocabulary=len(VOCABULARY), **given | sizes)


def random_weights(shape: Shape, seed: int = 0) -> dict[str, Matrix]:
    """Weights of a network that ends some of what it writes by itself."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Matrix] = {}
    for name, size in shape.tensors().items():
        drawn = rng.normal(size=size, scale=size[-1] ** -0.5 if len(size) > 1 else 0.1).astype(np.float32)
        weights[name] = drawn if len(size) > 1 else drawn + 1
    head = weights["model.embed_tokens.weight" if shape.tied else "lm_head.weight"]
    assert isinstance(head, np.ndarray)
    head[[ANSWER_ID, END_ID]] *= 2
    return weights


def write_teacher(folder: Path, shape: Shape | None = None, *, seed: int = 0, **about: Any) -> Path:
    """A teacher's folder; what is None in ``about`` is left out of its ``teacher.json``."""
    shape = shape or small_shape()
    folder.mkdir(parents=True, exist_ok=True)
    said = {name: value for name, value in (ABOUT | about).items() if value is not None}
    (folder / "model.safetensors").write_bytes(written(random_weights(shape, seed)))
    (folder / "config.json").write_text(json.dumps(shape.config()))
    (folder / "teacher.json").write_text(json.dumps(said))
    alphabet().save(str(folder / "tokenizer.json"))
    return folder
