"""The networks of the gate's bench: a loop that trains small teachers on ``gate_tasks``, and what spoils them.

Every figure about a teacher is of a network that was trained and asked; nothing is made up.
"""

import copy
import random
from collections.abc import Sequence

import torch
from torch.nn import functional as fn

from bench.gate_tasks import Demonstration, Draw
from prsm.teachers.alphabet import PAD_ID, VOCABULARY, answer_ids, prompt_ids
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.shape import Shape

SHAPE = Shape(layers=3, width=64, heads=4, kv_heads=4, hidden=160, vocabulary=len(VOCABULARY), context_tokens=64)
MAX_TOKENS = 32


def fresh(seed: int) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(SHAPE)


def trained(
    network: Decoder, draw: Draw, *, steps: int, seed: int, rate: float = 3e-3, batch: int = 128, decay: bool = True
) -> Decoder:
    """A copy that was trained for ``steps``; the rate rises over 20 steps and falls to nothing where it decays."""
    network = copy.deepcopy(network).train()
    source = random.Random(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        share = min(1.0, (step + 1) / 20) * (1 - step / steps if decay else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        loss = _loss(network, [draw(source) for _ in range(batch)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval()


def noisy(network: Decoder, size: float, seed: int) -> Decoder:
    """A copy to whose every matrix noise was added, of ``size`` times its own spread."""
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight += size * weight.std() * torch.randn(weight.shape, generator=generator)
    return network


def _loss(network: Decoder, demonstrations: Sequence[Demonstration]) -> torch.Tensor:
    rows = [(prompt_ids(prompt), answer_ids(pad, answer)) for prompt, pad, answer in demonstrations]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), PAD_ID)
    targets = torch.full((len(rows), longest), -100)
    for row, (prompt, answer) in enumerate(rows):
        whole = len(prompt) + len(answer)
        ids[row, :whole] = torch.tensor(prompt + answer)
        targets[row, len(prompt) - 1 : whole - 1] = torch.tensor(answer)
    return fn.cross_entropy(network(ids).flatten(0, 1), targets.flatten(), ignore_index=-100)
