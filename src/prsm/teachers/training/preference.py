"""Learning from preferences: DPO directly, or a reward model by Bradley and Terry.

A batch holds a row for each answer: those that were chosen first, then those rejected for them, in the same order.
``targets`` are the answers' tokens and NOTHING elsewhere, so that prompts weigh nothing.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from prsm.teachers.training.language import logits_of
from prsm.teachers.training.objective import Batch, Loss, Objective
from prsm.teachers.training.sources import NOTHING

REFERENCE = "reference"
"""The key of log-probabilities that a frozen reference gives the answers of a batch, (rows,)."""


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt and two answers to it, as tokens; ``reference`` are the answers' log-probabilities, where computed."""

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]
    reference: tuple[float, float] | None = None


def preferred(pairs: Sequence[Preference]) -> Batch:
    """A batch of preferences; ``last`` (rows,) is where each answer ends, ``reference`` is there where all have it."""
    answers = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    last = torch.tensor([len(prompt) + len(answer) - 1 for prompt, answer in answers])
    ids = torch.zeros(len(answers), int(last.max()) + 1, dtype=torch.long)
    targets = torch.full_like(ids, NOTHING)
    for row, (prompt, answer) in enumerate(answers):
        ids[row, : last[row] + 1] = torch.tensor([*prompt, *answer])
        targets[row, len(prompt) - 1 : last[row]] = torch.tensor(answer)
    found = {"ids": ids, "targets": targets, "last": last}
    known = [pair.reference for pair in pairs if pair.reference is not None]
    if len(known) == len(pairs):
        found[REFERENCE] = torch.tensor([chosen for chosen, _ in known] + [rejected for _, rejected in known])
    return found


def answer_log_probabilities(network: nn.Module, batch: Batch) -> Tensor:
    """The log-probability of each row's answer, (rows,)."""
    targets = batch["targets"]
    likely = logits_of(network, batch).float().log_softmax(-1)
    each = likely.gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return (each * (targets != NOTHING)).sum(1)


@torch.no_grad()
def with_reference(network: nn.Module, pairs: Sequence[Preference], rows: int = 32) -> list[Preference]:
    """The preferences with the log-probabilities that ``network`` gives now, before it is trained."""
    device, found = next(network.parameters()).device, []
    network.eval()
    for at in range(0, len(pairs), rows):
        some = pairs[at : at + rows]
        batch = {name: tensor.to(device) for name, tensor in preferred(some).items()}
        chosen, rejected = answer_log_probabilities(network, batch).chunk(2)
        for pair, pros, cons in zip(some, chosen.tolist(), rejected.tolist(), strict=True):
            found.append(Preference(pair.prompt, pair.chosen, pair.rejected, (pros, cons)))
    return found


@torch.no_grad()
def rewards(network: nn.Module, pairs: Sequence[Preference], rows: int = 32) -> tuple[list[float], list[float]]:
    """What a ``RewardModel`` gives the chosen and the rejected answers."""
    device = next(network.parameters()).device
    chosen: list[float] = []
    rejected: list[float] = []
    for at in range(0, len(pairs), rows):
        batch = preferred(pairs[at : at + rows])
        pros, cons = network(batch["ids"].to(device), batch["last"].to(device)).float().chunk(2)
        chosen += pros.tolist()
        rejected += cons.tolist()
    return chosen, rejected


def dpo(*, beta: float = 0.1, label_smoothing: float = 0.0, reference: nn.Module | None = None) -> Objective:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), a unit a pair.

    ``label_smoothing`` is how often labels are taken to be wrong (cDPO, Mitchell 2023). The reference is a frozen
    network, or its log-probabilities are in the batch.
    """

    def objective(network: nn.Module, batch: Batch) -> Loss:
        policy = answer_log_probabilities(network, batch)
        if reference is not None:
            with torch.no_grad():
                frozen = answer_log_probabilities(reference, batch)
        else:
            frozen = batch[REFERENCE]
        chosen, rejected = (policy - frozen).chunk(2)
        margin = beta * (chosen - rejected)
        losses = -(1 - label_smoothing) * fn.logsigmoid(margin) - label_smoothing * fn.logsigmoid(-margin)
        return Loss(losses.sum(), _pairs(margin), _margins(margin))

    return objective


def bradley_terry(network: nn.Module, batch: Batch) -> Loss:
    """The reward model's loss, -log sigmoid(chosen - rejected) (Bradley and Terry 1952), a unit a pair.

    The network gives a reward to each row, as ``RewardModel`` does.
    """
    chosen, rejected = network(batch["ids"], batch["last"]).float().chunk(2)
    return Loss(-fn.logsigmoid(chosen - rejected).sum(), _pairs(chosen), _margins(chosen - rejected))


class RewardModel(nn.Module):
    """A body that gives a vector a token, and a head that reads a number off the vector of an answer's last token."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.score.weight, std=(width + 1) ** -0.5)

    def forward(self, ids: Tensor, last: Tensor) -> Tensor:
        """Rewards (rows,) of ``ids`` (rows, tokens), whose answers end at ``last`` (rows,)."""
        tokens = self.body(ids)
        return self.score(tokens[torch.arange(len(ids), device=ids.device), last])[:, 0]


def _pairs(values: Tensor) -> Tensor:
    return torch.tensor(len(values), device=values.device)


def _margins(margin: Tensor) -> dict[str, Tensor]:
    """How often, and by how much on the average, what was chosen comes first."""
    return {"accuracy": (margin > 0).sum(), "margin": margin.detach().sum()}
