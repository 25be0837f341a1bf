"""What a student is to make small, in torch: the objectives of ``recipe.Method``, over the tokens that have a target.

``keras_losses`` computes the same with TensorFlow; one suite holds both to plain sums in numpy.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from prsm.teachers.distillation.recipe import Hard, Logits, Method, OnPolicy
from prsm.teachers.distillation.seams import NOTHING
from prsm.teachers.training.objective import Batch, Loss, Objective


def objective(method: Method) -> Objective:
    """The method's loss: a sum over the tokens that have a target, in nats."""

    def loss(network: nn.Module, batch: Batch) -> Loss:
        taught = batch["targets"] != NOTHING
        logits = network(batch["ids"], None)[taught].float()
        scored = {name: tensor[taught] for name, tensor in batch.items() if tensor.ndim == 3}
        return Loss(_total(method, logits, scored, batch["targets"][taught]), taught.sum())

    return loss


def _total(method: Method, logits: Tensor, scored: dict[str, Tensor], targets: Tensor) -> Tensor:
    match method:
        case Hard():
            return fn.cross_entropy(logits, targets, reduction="sum")
        case Logits(temperature=temperature, hard_share=hard_share):
            soft = (logits / temperature).log_softmax(-1)
            total = forward_kl(coarse(soft, scored["likely"]), scored["log_likely"]) * temperature**2
            if hard_share:
                total = (1 - hard_share) * total + hard_share * fn.cross_entropy(logits, targets, reduction="sum")
            return total
        case OnPolicy(beta=beta):
            own = coarse(logits.log_softmax(-1), scored["likely"])
            return jensen_shannon(own, scored["log_likely"], beta)


def coarse(log_probabilities: Tensor, likely: Tensor) -> Tensor:
    """Log-probabilities (tokens, k) of ``likely``, and in one column more those of all other tokens together."""
    top = log_probabilities.gather(-1, likely)
    if likely.shape[-1] == log_probabilities.shape[-1]:
        return top
    rest = log_probabilities.scatter(-1, likely, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([top, rest], -1)


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student), summed; both are log-probabilities (tokens, outcomes)."""
    return (teacher.exp() * (teacher - student)).sum()


def jensen_shannon(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """The generalised Jensen-Shannon divergence, summed: beta KL(t || m) + (1 - beta) KL(s || m).

    m is beta t + (1 - beta) s. At the ends, where it vanishes, its limits over beta and
    1 - beta: KL(t || s) at 0 and KL(s || t) at 1.
    """
    if beta in (0.0, 1.0):
        return forward_kl(student, teacher) if beta == 0.0 else forward_kl(teacher, student)
    middle = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * forward_kl(middle, teacher) + (1 - beta) * forward_kl(middle, student)
