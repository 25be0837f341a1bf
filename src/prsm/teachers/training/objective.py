"""What the training loop asks of whoever trains: where batches come from, and what is to be made small.

A network is any ``nn.Module`` called as ``network(ids, mask)`` that gives logits; ``networks/decoder.py`` is one.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Loss:
    """A sum over ``count`` units (tokens, pairs, answers), so that batches and processes add up exactly.

    What is minimised is the sum of ``total`` over the sum of ``count``; ``metrics`` are such sums too.
    """

    total: Tensor
    count: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


Objective = Callable[[nn.Module, Batch], Loss]


class Source(Protocol):
    """Batches without end, in an order that depends on nothing but its seed and its state."""

    def draw(self) -> Batch:
        """The next batch of this process."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the next batches depend on, as JSON: kept with a checkpoint."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``: the next batches are those that would have followed."""
        ...
