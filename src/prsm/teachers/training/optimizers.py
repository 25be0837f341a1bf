"""The optimizers of a plan, and their state as named tensors, so that a checkpoint needs no pickle."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from prsm.core.errors import ConfigError
from prsm.teachers.training.plan import TrainingPlan

Optimizers = Sequence[torch.optim.Optimizer]


def optimizers(network: nn.Module, plan: TrainingPlan) -> Optimizers:
    """AdamW over everything trainable, or Muon over the layers' matrices and AdamW over the rest.

    Weight decay is on matrices only. Muon (Jordan 2024) is scaled to AdamW's root mean square (Liu et al. 2025,
    arXiv:2502.16982), so that both share one rate. Raises ConfigError where Muon has nothing that it can take.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    hidden = _layer_matrices(network) if plan.optimizer == "muon" else []
    found: list[torch.optim.Optimizer] = []
    if plan.optimizer == "muon":
        if not hidden or any(isinstance(p, DTensor) for p in hidden):
            raise ConfigError(
                "Muon trains whole matrices of a network's layers; this one has none, or is sharded.",
                remedy='Use optimizer = "adamw".',
                param="plan.optimizer",
            )
        found.append(
            torch.optim.Muon(hidden, lr=plan.rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    taken = {id(p) for p in hidden}
    rest = [p for p in trained if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (plan.beta1, plan.beta2)
    found.append(torch.optim.AdamW([g for g in groups if g["params"]], lr=plan.rate, betas=betas, fused=True))
    return found


def set_rate(optimizers: Optimizers, rate: float) -> None:
    """Give every group this learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def optimizer_tensors(network: nn.Module, optimizers: Optimizers) -> dict[str, Tensor]:
    """The optimizers' state by ``parameter name/state name``."""
    names = {id(p): name for name, p in network.named_parameters()}
    return {
        f"{names[id(p)]}/{key}": value
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }


def empty_state(network: nn.Module, optimizers: Optimizers, sizes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Give the optimizers zeros of the state named in ``sizes``, to be read into; sharded where the parameter is."""
    owners = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(network.named_parameters())
    for name, size in sizes.items():
        owner, key = name.rsplit("/", 1)
        p = parameters[owner]
        like = size == tuple(p.shape)
        owners[id(p)].state[p][key] = torch.zeros_like(p) if like else torch.zeros(size, device=p.device)
    return optimizer_tensors(network, optimizers)


def _layer_matrices(network: nn.Module) -> list[nn.Parameter]:
    """The matrices inside the network's lists of layers: not its embeddings, not its heads."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    found = {id(p): p for each in lists for p in each.parameters() if p.ndim == 2 and p.requires_grad}
    return list(found.values())
