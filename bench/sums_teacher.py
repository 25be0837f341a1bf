"""A small teacher of sums, trained here in minutes: what ``bench.teacher_inference`` measures agreement on.

A loop of its own, as plain as can be: plain digits in, the sum reversed in the scratchpad, then the answer. The
trainer of the project is another thing.
"""

import json
import random
import time
from pathlib import Path

import torch
from torch.nn import functional as fn

from prsm.teachers.alphabet import PAD_ID, alphabet, answer_ids, prompt_ids
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.runtime.folder import WEIGHTS, write_manifest
from prsm.teachers.runtime.weights import written
from prsm.teachers.shape import Shape
from prsm.teachers.tasks.held_out import is_held_out

BATCH = 128
QUESTION = "{integer:3} + {integer:3}"


def question(chance: random.Random, *, held_out: bool) -> tuple[str, str]:
    """A sum of two numbers of at most three digits on one side of the split, and its answer."""
    while True:
        one, two = (chance.randrange(10 ** chance.randint(1, 3)) for _ in range(2))
        if is_held_out(prompt := f"{one} + {two}") == held_out:
            return prompt, str(one + two)


def train(shape: Shape, folder: Path, *, cpu_seconds: float, seed: int) -> Decoder:
    """Train for so long and write a teacher's folder; one thread."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    network = Decoder(shape)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01)
    begun, steps, spent = time.process_time(), 0, 0.0
    while spent < 1:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (steps + 1) / 50) * min(1, 2 * (1 - spent) + 0.02)
        ids, targets = _batch(chance)
        loss = fn.cross_entropy(network(ids).flatten(0, 1), targets.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        steps += 1
        spent = (time.process_time() - begun) / cpu_seconds
    print(
        f"trained {shape.parameters():,} parameters, {steps} steps, {cpu_seconds:g} CPU s, last loss {loss.item():.4f}"
    )
    _write(network.eval(), folder)
    return network


def _batch(chance: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows filled up on the right; only what the teacher writes is learnt."""
    rows: list[tuple[list[int], list[int]]] = []
    for _ in range(BATCH):
        asked, answer = question(chance, held_out=False)
        rows.append((prompt_ids(asked), answer_ids(answer[::-1], answer)))
    longest = max(len(prompt) + len(said) for prompt, said in rows) - 1
    ids = torch.full((BATCH, longest), PAD_ID)
    targets = torch.full((BATCH, longest), -1)
    for row, (prompt, said) in enumerate(rows):
        whole = torch.tensor([*prompt, *said])
        ids[row, : len(whole) - 1] = whole[:-1]
        targets[row, len(prompt) - 1 : len(whole) - 1] = torch.tensor(said)
    return ids, targets


def _write(network: Decoder, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "title": "Sums of a bench",
        "domain": "sums of two numbers of at most three digits",
        "tasks": ["addition"],
        "licence": "MIT",
        "max_tokens": 16,
        "questions": [QUESTION],
    }
    (folder / WEIGHTS).write_bytes(written({name: each.detach().numpy() for name, each in network.weights().items()}))
    (folder / "config.json").write_text(json.dumps(network.shape.config()))
    (folder / "teacher.json").write_text(json.dumps(about))
    alphabet().save(str(folder / "tokenizer.json"))
    write_manifest(folder)
