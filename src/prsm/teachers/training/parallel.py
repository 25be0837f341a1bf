"""The processes of one run: each draws its own share, gradients are added up, and all hold the same weights.

Alone, replicated (DDP) or sharded (FSDP2), over gloo on CPUs and nccl on GPUs; started by ``launch.py`` or
``torchrun``. Processes on several machines need one file system for the run's folder.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class Group:
    """This process among those of its run; ``sharded`` divides weights and optimizers among them."""

    rank: int = 0
    world: int = 1
    sharded: bool = False

    def wrapped(self, network: nn.Module) -> nn.Module:
        """What the objective calls; the network itself where this process is alone. Sharding changes it in place."""
        if self.sharded:
            return _sharded(network)
        return DistributedDataParallel(network, gradient_as_bucket_view=True) if self.world > 1 else network

    @contextmanager
    def adding(self, wrapped: nn.Module, *, last: bool) -> Generator[None]:
        """One batch of an update: gradients travel with the last one only."""
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(last)
        if isinstance(wrapped, DistributedDataParallel) and not last:
            with wrapped.no_sync():
                yield
        else:
            yield

    def sums(self, values: Tensor) -> Tensor:
        """The sums over all processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """The largest over all processes."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def _reduced(self, values: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.world > 1:
            dist.all_reduce(values, how)
        return values


ALONE = Group()


@contextmanager
def joined(*, sharded: bool = False) -> Generator[Group]:
    """The group that the environment of ``torchrun`` names, left at the end; alone where it names no others."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), sharded)
    finally:
        dist.destroy_process_group()


def whole_tensors(network: nn.Module) -> dict[str, Any]:
    """The whole weights on the CPU; every process of a sharded network must ask at the same time."""
    return get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def _sharded(network: nn.Module) -> nn.Module:
    """Each layer is gathered by itself, just before its turn; the rest with the whole."""
    for module in reversed(list(network.modules())):  # inner layers before those that hold them
        if isinstance(module, nn.ModuleList):
            for layer in module:
                fully_shard(layer)
    fully_shard(network)
    return network
