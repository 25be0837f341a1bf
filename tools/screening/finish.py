"""Joins both readers into calibrated probabilities on rows kept out of their training, and writes the shipped files."""

import hashlib
import json
import zlib
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save
from tools.screening.written import NAMES
from torch.nn import functional

PROFANE = {"hate": 0.5, "harassment": 1.0, "sexual": 0.7, "violence": 0.3}
"""How much a logit of profanity counts for a category, before the fit; chosen on the evaluation halves."""
LEANING = {"hate": 0.6}
"""What is added to a category's logit after the fit: hate missed counts for more; chosen on the evaluation halves."""
Floats = npt.NDArray[np.float32]
Tensors = dict[str, npt.NDArray[np.generic]]


def fit_head(logits: Floats, y: Floats, w: Floats, base: Floats, strength: float = 2e-3) -> tuple[Floats, Floats]:
    """Logistic regression of every category on all logits [n, 2 x outputs]; begun at, and drawn towards, ``base``."""
    x, target, weight = (
        torch.from_numpy(logits),
        torch.from_numpy(y[:, : len(NAMES)]),
        torch.from_numpy(w[:, : len(NAMES)]),
    )
    start = torch.from_numpy(base)
    head, bias = start.clone().requires_grad_(), torch.zeros(len(NAMES), requires_grad=True)
    optimiser = torch.optim.LBFGS([head, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        error = functional.binary_cross_entropy_with_logits(x @ head + bias, target, reduction="none") * weight
        total = error.sum() / weight.sum() + strength * ((head - start) ** 2).sum()
        total.backward()
        return total

    optimiser.step(loss)
    leaning = np.array([LEANING.get(name, 0.0) for name in NAMES], np.float32)
    return head.detach().numpy(), bias.detach().numpy() + leaning


def base_head(outputs: int) -> Floats:
    """Each category believes mostly its own two logits, a little the two of any harm, and profanity as it concerns it."""
    base = np.zeros((2 * outputs + 1, len(NAMES)), np.float32)
    for category in range(len(NAMES)):
        harm = 0.0 if NAMES[category] == "jailbreak" else 0.4
        base[[category, outputs + category], category] = 0.6, 0.25
        base[[outputs - 1, 2 * outputs - 1], category] = harm
    base[2 * outputs, [NAMES.index(name) for name in PROFANE]] = list(PROFANE.values())
    return base


def profane_weights(package: Path) -> Tensors:
    """The words of alt-profanity-check's model with their weights, averaged over its folds."""
    # Unpickled here, from the one pinned wheel; what is shipped is numbers.
    vectoriser, model = (joblib.load(package / "data" / f"{name}.joblib") for name in ("vectorizer", "model"))
    weights = np.mean([fold.estimator.coef_[0] for fold in model.calibrated_classifiers_], 0)
    slope = -np.mean([fold.calibrators[0].a_ for fold in model.calibrated_classifiers_])
    words = vectoriser.vocabulary_.items()
    rows = sorted((zlib.crc32(w.encode()), vectoriser.idf_[i], slope * weights[i]) for w, i in words)
    numbers, frequencies, values = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "words": numbers.astype(np.uint32),
        "frequencies": frequencies.astype(np.float16),
        "weights": values.astype(np.float16),
    }


def content_tensors(table: Floats, bias: Floats, head: tuple[Floats, Floats], profane: Tensors) -> Tensors:
    """All weights outside the branch, the table in eight bits."""
    scale = np.maximum(np.abs(table).max(0), 1e-6) / 127
    return {
        "table": np.round(table / scale).astype(np.int8),
        "table_scale": scale.astype(np.float32),
        "table_bias": bias.astype(np.float32),
        "head": np.ascontiguousarray(head[0], np.float32),
        "head_bias": head[1].astype(np.float32),
        **profane,
    }


def write(folder: Path, branch: bytes, tensors: Tensors, encoder_sha256: str) -> str:
    """Writes the files and their manifest; returns the version, which is of their content."""
    files = {"branch.onnx": branch, "weights.safetensors": save(tensors)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    version = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:12]
    manifest = {"version": version, "encoder_sha256": encoder_sha256, "sha256": hashes}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return version
