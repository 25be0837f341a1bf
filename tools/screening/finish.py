"""Joins both readers into calibrated probabilities on rows kept out of their training, and writes the shipped files."""

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save
from tools.screening.written import NAMES
from torch.nn import functional

Floats = npt.NDArray[np.float32]


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
    return head.detach().numpy(), bias.detach().numpy()


def base_head(outputs: int) -> Floats:
    """Each category believes mostly its own two logits, and a little the two of any harm."""
    base = np.zeros((2 * outputs, len(NAMES)), np.float32)
    for category in range(len(NAMES)):
        harm = 0.0 if NAMES[category] == "jailbreak" else 0.15
        base[[category, outputs + category], category] = 0.6, 0.25
        base[[outputs - 1, 2 * outputs - 1], category] = harm
    return base


def write(
    folder: Path,
    branch: bytes,
    table: Floats,
    bias: Floats,
    head: tuple[Floats, Floats],
    encoder_sha256: str,
    card: str,
) -> str:
    """Writes the files and their manifest; returns the version, which is of their content."""
    scale = np.maximum(np.abs(table).max(0), 1e-6) / 127
    tensors = {
        "table": np.round(table / scale).astype(np.int8),
        "table_scale": scale.astype(np.float32),
        "table_bias": bias.astype(np.float32),
        "head": np.ascontiguousarray(head[0], np.float32),
        "head_bias": head[1].astype(np.float32),
    }
    files = {"branch.onnx": branch, "weights.safetensors": save(tensors)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    version = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:12]
    manifest = {"version": version, "encoder_sha256": encoder_sha256, "sha256": hashes}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    if card:
        (folder / "card.md").write_text(card, encoding="utf-8")
    return version
