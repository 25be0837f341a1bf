"""Trains the teacher from scratch: ``python -m prsm.teachers.arithmetic.recipe --out DIR --seed 0 --minutes 30``.

A pre-norm decoder-only transformer in PyTorch (extra ``train``), next-token loss on scratchpad and answer only,
Muon for the matrices and AdamW for the rest. It writes what the numpy runtime loads; nothing imports this file.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import argparse
import hashlib
import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as fn

from prsm.teachers.arithmetic.data import LEVELS, Level, items
from prsm.teachers.arithmetic.lessons import worked
from prsm.teachers.arithmetic.tokens import FEATURE_SIZES, ID, PAD, TOKENS, Locator
from prsm.teachers.decoder import Shape
from prsm.teachers.tasks.held_out import is_held_out

_EXAM_SEED_OFFSET = 1_000_000
_EXAM_ITEMS = 32


SHAPE = Shape(
    layers=4, width=128, heads=4, hidden=512, vocabulary=len(TOKENS), features=FEATURE_SIZES, context_tokens=384
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train. ``minutes`` are of CPU time, so that a busy machine trains no less."""

    minutes: float
    seed: int
    rate_scale: float = 1.0
    batch_tokens: int = 6000
    pool_items: int = 1536
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    warmup_steps: int = 100
    decay_from: float = 0.4
    exam_every_steps: int = 250


class Block(nn.Module):
    """One layer: causal attention, then a squared-ReLU feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm1 = nn.Parameter(torch.ones(shape.width))
        self.qkv = nn.Parameter(torch.randn(3 * shape.width, shape.width) * shape.width**-0.5)
        self.out = nn.Parameter(torch.zeros(shape.width, shape.width))
        self.norm2 = nn.Parameter(torch.ones(shape.width))
        self.up = nn.Parameter(torch.randn(shape.hidden, shape.width) * shape.width**-0.5)
        self.down = nn.Parameter(torch.zeros(shape.width, shape.hidden))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = fn.linear(fn.rms_norm(x, (width,), self.norm1), self.qkv)
        q, k, v = qkv.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        # Written out: the fused kernel's backward pass is eight times slower in bfloat16 on a CPU (torch 2.13).
        future = torch.full((length, length), -torch.inf).triu(1)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        shares = (scores.float() + future).softmax(-1)
        mixed = shares.to(v.dtype) @ v
        x = x + fn.linear(mixed.transpose(1, 2).reshape(batch, length, width), self.out)
        hidden = fn.relu(fn.linear(fn.rms_norm(x, (width,), self.norm2), self.up))
        return x + fn.linear(hidden * hidden, self.down)


class Network(nn.Module):
    """Token and structural-position embeddings, the blocks, and an untied output head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(shape.vocabulary, shape.width) * 0.5)
        self.features = nn.ParameterList([_waves(size, shape.width) for size in shape.features])
        self.layers = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.norm = nn.Parameter(torch.ones(shape.width))
        self.head = nn.Parameter(torch.randn(shape.vocabulary, shape.width) * shape.width**-0.5)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        x = self.embed[ids]
        for index, table in enumerate(self.features):
            x = x + table[positions[..., index]]
        for layer in self.layers:
            x = layer(x)
        return fn.linear(fn.rms_norm(x, x.shape[-1:], self.norm), self.head)


def _waves(size: int, width: int) -> nn.Parameter:
    # Sinusoids in a random subspace: "one place further" is then one linear map, also for places seen rarely.
    pairs = width // 8
    angles = torch.arange(size)[:, None] * torch.logspace(0, -1.5, pairs)[None, :] * math.pi / 2
    basis, _ = torch.linalg.qr(torch.randn(width, 2 * pairs))
    return nn.Parameter(torch.cat([angles.sin(), angles.cos()], dim=1) @ basis.T)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded lessons; ``targets`` is -100 wherever nothing is to be learned."""

    ids: Tensor
    positions: Tensor
    targets: Tensor


def collate(lessons: Sequence[list[int]]) -> Batch:
    """Pads lessons to one length; the prompt and the padding carry no loss."""
    longest = max(map(len, lessons)) - 1
    ids, positions, targets = [], [], []
    for lesson in lessons:
        gap = longest - len(lesson) + 1
        prompt = lesson.index(ID["="])
        ids.append(lesson[:-1] + [PAD] * gap)
        positions.append(Locator().walk(lesson[:-1]) + [(0, 0, 0, 0)] * gap)
        targets.append([-100] * prompt + lesson[prompt + 1 :] + [-100] * gap)
    return Batch(torch.tensor(ids), torch.tensor(positions), torch.tensor(targets))


class Mixture:
    """Draws training lessons over the levels; what the last exam showed to be hard is drawn more often."""

    def __init__(self, plan: Plan) -> None:
        self._rng = random.Random(plan.seed)  # noqa: S311 - draws lessons, guards nothing
        self._streams = [items(level, plan.seed) for level in LEVELS]
        self._plan = plan
        self.shares = [level.weight for level in LEVELS]

    def batches(self) -> Iterator[Batch]:
        """Endless batches of similar length, at most ``batch_tokens`` padded tokens each."""
        while True:
            levels = self._rng.choices(range(len(LEVELS)), self.shares, k=self._plan.pool_items)
            lessons = sorted((self._lesson(index) for index in levels), key=len)
            groups: list[list[list[int]]] = [[]]
            for lesson in lessons:
                if (len(groups[-1]) + 1) * len(lesson) > self._plan.batch_tokens:
                    groups.append([])
                groups[-1].append(lesson)
            self._rng.shuffle(groups)
            yield from map(collate, groups)

    def reweigh(self, scores: dict[Level, float]) -> None:
        """Shares follow the error of each level, with a floor that keeps what is known."""
        self.shares = [level.weight * (0.25 + 1.0 - scores[level]) for level in LEVELS]

    def _lesson(self, index: int) -> list[int]:
        while True:
            canonical = next(self._streams[index]).problem.canonical
            if not is_held_out(canonical):
                return worked(canonical)


def exam(plan: Plan) -> dict[Level, Batch]:
    """A small fixed set of held-out lessons per level, to steer the mixture; the card's exam is another one."""
    papers: dict[Level, Batch] = {}
    for level in LEVELS:
        stream = (item.problem.canonical for item in items(level, plan.seed + _EXAM_SEED_OFFSET))
        kept = itertools.islice(filter(is_held_out, stream), _EXAM_ITEMS)
        papers[level] = collate([worked(canonical) for canonical in kept])
    return papers


@torch.no_grad()
def score(network: Network, paper: Batch) -> float:
    """Share of lessons whose every token is the arg-max: exactly those greedy decoding would get right."""
    guess = network(paper.ids, paper.positions).argmax(-1)
    right = (guess == paper.targets) | (paper.targets == -100)
    return right.all(-1).float().mean().item()


def train(plan: Plan, shape: Shape, out: Path, start: Path | None = None) -> None:
    """Trains for ``plan.minutes`` of CPU time, from scratch or from the weights in ``start``.

    ``out`` holds the newest weights after every exam and at the end.
    """
    torch.manual_seed(plan.seed)
    network, mixture, papers = Network(shape), Mixture(plan), exam(plan)
    earlier: list[dict[str, Any]] = []
    if start:
        network.load_state_dict(load_file(start / "model.safetensors"))
        earlier = json.loads((start / "config.json").read_text(encoding="utf-8"))["training"]
    matrices = [p for name, p in network.named_parameters() if name.startswith("layers") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in network.parameters() if id(p) not in chosen]
    optimizers = (
        torch.optim.Muon(matrices, lr=plan.muon_rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=plan.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    )
    rates = (plan.muon_rate * plan.rate_scale, plan.adam_rate * plan.rate_scale)
    begun, seen = time.process_time(), 0
    for step, batch in enumerate(mixture.batches()):
        progress = (time.process_time() - begun) / (60 * plan.minutes)
        if progress >= 1:
            save(network, shape, [*earlier, _run(plan, step)], out)
            return
        factor = min(1.0, (step + 1) / plan.warmup_steps, (1 - progress) / (1 - plan.decay_from))
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(batch.ids, batch.positions)
        loss = fn.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += batch.ids.numel()
        if step % plan.exam_every_steps == 0:
            scores = {level: score(network, paper) for level, paper in papers.items()}
            mixture.reweigh(scores)
            save(network, shape, [*earlier, _run(plan, step)], out)
            _report(step, seen, time.process_time() - begun, loss.item(), scores)


def _report(step: int, seen: int, seconds: float, loss: float, scores: dict[Level, float]) -> None:
    shown = " ".join(f"{level.family}/{level.name}={value:.2f}" for level, value in scores.items())
    print(f"step {step} tokens {seen} seconds {seconds:.0f} loss {loss:.4f} {shown}", flush=True)


def _run(plan: Plan, steps: int) -> dict[str, Any]:
    return asdict(plan) | {"steps": steps, "torch": torch.__version__}


def save(network: Network, shape: Shape, runs: list[dict[str, Any]], out: Path) -> None:
    """Writes ``model.safetensors`` (float16), ``config.json``, ``vocab.json`` and the manifest of their SHA-256."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().half().contiguous() for name, tensor in network.named_parameters()}
    save_file(weights, out / "model.safetensors")
    _write(out / "config.json", {"shape": asdict(shape), "training": runs})
    _write(out / "vocab.json", list(TOKENS))
    names = ("model.safetensors", "config.json", "vocab.json")
    digests = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}
    _write(out / "manifest.json", {"version": "1", "sha256": digests})


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate-scale", type=float, default=1.0, help="multiplies both learning rates")
    parser.add_argument("--start", type=Path, help="go on from the weights in this folder")
    arguments = parser.parse_args()
    plan = Plan(arguments.minutes, arguments.seed, arguments.rate_scale)
    train(plan, SHAPE, arguments.out, arguments.start)


if __name__ == "__main__":
    main()
