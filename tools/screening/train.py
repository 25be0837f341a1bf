"""Trains the network of the branch and the linear model of n-grams; both say the same: any harm, and each kind of it."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tools.screening.gather import Example
from tools.screening.network import FORK_VALUE, Network
from tools.screening.written import NAMES
from torch import nn
from torch.nn import functional

from prsm.core.encoder import TextEncoder
from prsm.safety.detectors.ngrams import BUCKETS, buckets
from prsm.safety.detectors.normalise import plain

OUTPUTS = len(NAMES) + 1
"""Each category, and last whether there is any harm but jailbreaks."""
MAX_ROW = 80
SHARES = {
    "long": 0.25,
    "mmlu": 0.35,
    "davidson": 0.45,
    "written": 0.45,
    "disguised": 0.5,
    "pyrit": 0.6,
    "plays": 0.5,
    "pii": 0.5,
}
"""How much of a source the network learns from, of those of which there is more than it needs; the n-grams take all."""
BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Recipe:
    """How it is trained; ``bits`` of mixed precision are bfloat16."""

    seed: int = 7
    epochs: int = 2
    rate: float = 2e-4
    head_rate: float = 1e-3
    smooth: float = 0.03
    bag_epochs: int = 2
    bag_rate: float = 0.02


def targets(examples: Sequence[Example]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Labels [n, OUTPUTS] and weights alike, 0 where nobody said."""
    y = np.array([e.labels for e in examples], np.float32)
    harm = y[:, :-1]
    known = np.where((harm == 1).any(1), 1.0, np.where((harm == 0).sum(1) >= 6, 0.0, -1.0))
    # Offensive language that is no hate, as Davidson's readers marked it, counts as some harm.
    any_harm = np.where([e.source == "davidson" and known[i] < 0 for i, e in enumerate(examples)], 1.0, known)
    y = np.concatenate([y, any_harm[:, None]], 1).astype(np.float32)
    weights = np.array([e.weight for e in examples], np.float32)[:, None] * (y >= 0)
    return np.maximum(y, 0), weights.astype(np.float32)


def for_network(examples: Sequence[Example], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Indices of the examples that the network is trained on: of each source the first ones, as SHARES has it."""
    counts = Counter(e.source for e in examples)
    taken: Counter[str] = Counter()
    chosen: list[int] = []
    for index, example in enumerate(examples):
        if known[index] and taken[example.source] < counts[example.source] * SHARES.get(example.source, 1.0):
            taken[example.source] += 1
            chosen.append(index)
    return np.array(chosen)


def token_rows(examples: Sequence[Example], encoder: TextEncoder) -> list[list[int]]:
    return [list(encoder.tokens(plain(e.text[:3000]).text).ids[:MAX_ROW]) for e in examples]


def lower_states(rows: Sequence[Sequence[int]], encoder: TextEncoder) -> list[npt.NDArray[np.float16]]:
    """What the shared lower layers make of each row, markers included, [tokens + 2, width]."""
    branch = encoder.branch(b"", {FORK_VALUE: ("batch", "tokens_and_markers", "384")})
    found: list[npt.NDArray[np.float16]] = []
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        for states in branch.read(part)[FORK_VALUE]:
            found.append(states.astype(np.float16))
    return found


def train_network(
    states: Sequence[npt.NDArray[np.float16]],
    y: npt.NDArray[np.float32],
    w: npt.NDArray[np.float32],
    recipe: Recipe,
    encoder: Path,
) -> Network:
    torch.manual_seed(recipe.seed)
    network = Network(OUTPUTS, encoder)
    heads = [*network.regard.parameters(), *network.value.parameters()]
    lower = list(network.blocks.parameters())
    optimiser = torch.optim.AdamW(
        [{"params": lower, "lr": recipe.rate}, {"params": heads, "lr": recipe.head_rate}], weight_decay=0.01
    )
    chance = np.random.default_rng(recipe.seed)
    plans = [list(_batches([len(s) for s in states], chance)) for _ in range(recipe.epochs)]
    total = sum(map(len, plans))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda n: min(1, (n + 1) / (0.06 * total)) * max(0.02, 1 - n / total)
    )
    started, seen, loss_sum = time.monotonic(), 0, 0.0
    network.train()
    for epoch, plan in enumerate(plans):
        for batch in plan:
            x, mask = _padded([states[i] for i in batch])
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(x, mask)
            target, weight = torch.from_numpy(y[batch]), torch.from_numpy(w[batch])
            soft = target * (1 - 2 * recipe.smooth) + recipe.smooth
            loss = (
                functional.binary_cross_entropy_with_logits(logits.float(), soft, reduction="none") * weight
            ).sum() / weight.sum()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            seen, loss_sum = seen + 1, loss_sum + float(loss.detach())
            if seen % 50 == 0:
                print(
                    f"epoch {epoch} batch {seen}/{total} loss {loss_sum / 50:.4f} {time.monotonic() - started:.0f} s",
                    flush=True,
                )
                loss_sum = 0.0
    return network.eval()


@torch.no_grad()
def network_logits(network: Network, states: Sequence[npt.NDArray[np.float16]]) -> npt.NDArray[np.float32]:
    found = np.empty((len(states), OUTPUTS), np.float32)
    for batch in _batches([len(s) for s in states], np.random.default_rng(0)):
        with torch.autocast("cpu", torch.bfloat16):
            found[batch] = network(*_padded([states[i] for i in batch])).float().numpy()
    return found


@dataclass(frozen=True, slots=True)
class Bags:
    """Buckets of all texts in a row."""

    indices: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    def of(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = [self.indices[self.starts[i] : self.starts[i + 1]] for i in rows]
        lengths = np.array([len(p) for p in parts])
        weights = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(offsets), torch.from_numpy(weights)


def bags(texts: Sequence[str]) -> Bags:
    found = [buckets(text) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(f) for f in found])])
    return Bags(np.concatenate(found), starts)


def train_bag(
    read: Bags, y: npt.NDArray[np.float32], w: npt.NDArray[np.float32], recipe: Recipe
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights [BUCKETS, OUTPUTS] and biases of a logistic regression on n-grams."""
    torch.manual_seed(recipe.seed)
    table = nn.EmbeddingBag(BUCKETS, OUTPUTS, mode="sum", sparse=True)
    nn.init.zeros_(table.weight)
    bias = nn.Parameter(torch.full((OUTPUTS,), -2.0))
    sparse, dense = torch.optim.SparseAdam(table.parameters(), lr=recipe.bag_rate), torch.optim.Adam([bias], lr=0.01)
    chance = np.random.default_rng(recipe.seed)
    for _ in range(recipe.bag_epochs):
        order = chance.permutation(len(y))
        for start in range(0, len(order), 256):
            batch = order[start : start + 256]
            indices, offsets, weights = read.of(batch)
            logits = 4 * table(indices, offsets, per_sample_weights=weights) + bias
            weight = torch.from_numpy(w[batch])
            soft = torch.from_numpy(y[batch]) * (1 - 2 * recipe.smooth) + recipe.smooth
            loss = (
                functional.binary_cross_entropy_with_logits(logits, soft, reduction="none") * weight
            ).sum() / weight.sum()
            sparse.zero_grad()
            dense.zero_grad()
            loss.backward()
            sparse.step()
            dense.step()
    return 4 * table.weight.detach().numpy(), bias.detach().numpy()


def bag_logits(read: Bags, table: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    found = np.empty((len(read.starts) - 1, OUTPUTS), np.float32)
    for i in range(len(found)):
        part = read.indices[read.starts[i] : read.starts[i + 1]]
        found[i] = table[part].sum(0) / math.sqrt(max(1, len(part))) + bias
    return found


def _batches(lengths: Sequence[int], chance: np.random.Generator) -> Iterator[list[int]]:
    """Indices of texts of like length, BATCH_TOKENS padded tokens together, in random order."""
    order = np.argsort(np.array(lengths) + chance.random(len(lengths)) * 3)
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and (len(batches[-1]) + 1) * (lengths[index] + 3) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(int(index))
    for number in chance.permutation(len(batches)):
        yield batches[number]


def _padded(rows: Sequence[npt.NDArray[np.float16]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    x = np.zeros((len(rows), width, rows[0].shape[1]), np.float32)
    mask = np.zeros((len(rows), width), np.bool_)
    for index, row in enumerate(rows):
        x[index, : len(row)] = row
        mask[index, : len(row)] = True
    return torch.from_numpy(x), torch.from_numpy(mask)
