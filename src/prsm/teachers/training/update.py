"""One update of the weights, exact over batches and processes: the gradient of summed totals over summed counts."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import math

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from prsm.teachers.training.objective import Loss, Objective, Source
from prsm.teachers.training.optimizers import optimizers, set_rate
from prsm.teachers.training.parallel import Group
from prsm.teachers.training.plan import TrainingPlan


class NotFinite(Exception):
    """The loss or the gradient is no finite number; the weights are as they were before."""


class Updater:
    """A network with its optimizers, ready to be updated on its own device by all processes of a group."""

    def __init__(self, network: nn.Module, objective: Objective, plan: TrainingPlan, group: Group) -> None:
        self.network, self._objective, self._plan, self._group = network, objective, plan, group
        self._device = next(network.parameters()).device
        self._wrapped = group.wrapped(network)
        self._trained = [p for p in network.parameters() if p.requires_grad]
        self.optimizers = optimizers(network, plan)

    def update(self, source: Source, rate: float) -> dict[str, float]:
        """Draw ``plan.accumulate`` batches and step; the sums ``loss``, ``count`` and of the objective's metrics.

        ``grad_norm`` is there too, of the mean's gradient before clipping, unless nothing counted: then the weights
        stay as they are. Raises NotFinite.
        """
        batches = self._plan.accumulate
        sums = self._added([self._backward(source, last=batch == batches - 1) for batch in range(batches)])
        if not math.isfinite(sums["loss"]):
            raise NotFinite("The loss is not a finite number.")
        if sums["count"]:
            sums["grad_norm"] = self._scale_gradients(self._group.world / sums["count"])
            set_rate(self.optimizers, rate)
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        return sums

    def _backward(self, source: Source, *, last: bool) -> Loss:
        batch = {name: tensor.to(self._device) for name, tensor in source.draw().items()}
        half = self._plan.precision == "bfloat16"
        with self._group.adding(self._wrapped, last=last):
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=half):
                loss = self._objective(self._wrapped, batch)
            loss.total.backward()
        return loss

    def _added(self, losses: list[Loss]) -> dict[str, float]:
        """The sums over the batches of an update and over all processes."""
        names = ["loss", "count", *losses[0].metrics]
        rows = [[loss.total, loss.count, *loss.metrics.values()] for loss in losses]
        added = torch.stack([torch.stack([value.detach().double() for value in row]) for row in rows]).sum(0)
        return dict(zip(names, self._group.sums(added).tolist(), strict=True))

    def _scale_gradients(self, factor: float) -> float:
        """Multiply by ``factor``, then clip; the norm between the two. Gradients have been averaged over processes."""
        gradients = [p.grad for p in self._trained if p.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        norm = factor * float(total.full_tensor() if isinstance(total, DTensor) else total)
        if not math.isfinite(norm):
            raise NotFinite("The gradient is not finite.")
        if self._plan.clip_norm and norm > self._plan.clip_norm:
            factor *= self._plan.clip_norm / norm
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage] - as torch.optim does
        return norm
