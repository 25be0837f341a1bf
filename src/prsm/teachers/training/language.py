"""The next token: what a language model learns of text, and a teacher of demonstrations (SFT)."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from prsm.teachers.training.objective import Batch, Loss, Objective
from prsm.teachers.training.sources import NOTHING


def next_token(network: nn.Module, batch: Batch) -> Loss:
    """Cross-entropy summed over the targets that are to be learnt; ``accuracy`` counts those that come first."""
    logits, targets = logits_of(network, batch).float(), batch["targets"]
    total = fn.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOTHING, reduction="sum")
    learnt = targets != NOTHING
    right = (logits.detach().argmax(-1) == targets) & learnt
    return Loss(total, learnt.sum(), {"accuracy": right.sum()})


def logits_of(network: nn.Module, batch: Batch) -> Tensor:
    """The network's logits for whatever a batch has of ``ids``, ``mask`` and ``positions``."""
    if "positions" in batch:
        return network(batch["ids"], batch.get("mask"), positions=batch["positions"])
    return network(batch["ids"], batch.get("mask"))


@torch.no_grad()
def held_out_loss(
    network: nn.Module, batches: Iterable[Batch], objective: Objective = next_token
) -> Mapping[str, float]:
    """``validation_loss`` a unit of ``objective`` (nats a token) and ``validation_accuracy``, over all batches."""
    device = next(network.parameters()).device
    total = count = right = 0.0
    for batch in batches:
        loss = objective(network, {name: tensor.to(device) for name, tensor in batch.items()})
        total, count = total + float(loss.total), count + float(loss.count)
        right += float(loss.metrics["accuracy"])
    return {"validation_loss": total / count if count else math.nan, "validation_accuracy": right / (count or 1)}
