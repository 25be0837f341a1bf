"""A small real training run for tests: a decoder of a few thousand weights learns to say the number before."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as fn

from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.shape import Shape
from prsm.teachers.training.loop import train
from prsm.teachers.training.objective import Batch, Loss
from prsm.teachers.training.parallel import joined, whole_tensors
from prsm.teachers.training.plan import TrainingPlan

SHAPE = Shape(layers=2, width=16, heads=2, kv_heads=1, hidden=24, vocabulary=20, context_tokens=16)


class Numbers:
    """Rows of numbers, to be said one later; row ``n`` of all processes together is always the same."""

    def __init__(self, rows: int = 4, rank: int = 0, world: int = 1) -> None:
        self._rows, self._rank, self._world = rows, rank, world
        self.next = 0

    def draw(self) -> Batch:
        """The next rows of this process."""
        numbers = range(self.next + self._rank, self.next + self._rows * self._world, self._world)
        self.next += self._rows * self._world
        ids = torch.stack([torch.randint(0, 20, (8,), generator=torch.Generator().manual_seed(n)) for n in numbers])
        return {"ids": ids, "targets": ids.roll(1, 1)}

    def state(self) -> dict[str, Any]:
        """The next row."""
        return {"next": self.next}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.next = state["next"]


def with_noise(network: nn.Module, batch: Batch) -> Loss:
    """Cross-entropy with inputs dropped by torch's global generator, so that a lost generator shows."""
    kept = torch.rand(batch["ids"].shape) > 0.05
    return cross_entropy(network, {**batch, "ids": torch.where(kept, batch["ids"], 0)})


def cross_entropy(network: nn.Module, batch: Batch) -> Loss:
    """Cross-entropy of each number but the first, which none is before."""
    logits: Tensor = network(batch["ids"])[:, 1:]
    total = fn.cross_entropy(logits.flatten(0, 1), batch["targets"][:, 1:].flatten(), reduction="sum")
    return Loss(total, torch.tensor(batch["targets"][:, 1:].numel()))


def network(seed: int = 0) -> Decoder:
    """A fresh decoder."""
    torch.manual_seed(seed)
    return Decoder(SHAPE)


def digest(network: nn.Module) -> str:
    """The SHA-256 of all weights, bit by bit."""
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.parameters())).hexdigest()


def plan(steps: int) -> TrainingPlan:
    """A plan whose rate does not depend on ``steps``, so that a run can be gone on with for longer."""
    return TrainingPlan(steps=steps, rate=3e-3, decay="none", accumulate=2, checkpoint_every_steps=4)


def main(folder: Path) -> None:
    """One process as torchrun starts it: replicas, then shards, and what this process holds after each."""
    with joined() as alike:
        for name, group in (("replicas", alike), ("shards", replace(alike, sharded=True))):
            trained = network()
            numbers = Numbers(4 // group.world, group.rank, group.world)
            train(trained, numbers, cross_entropy, plan(8), folder / name, group=group)
            weights = whole_tensors(trained) if group.sharded else trained.weights()
            if weights:  # of a sharded network only the first process gets them
                whole = {name: tensor.clone() for name, tensor in weights.items()}
                save_file(whole, folder / name / f"weights-{group.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
