"""Where batches come from: numbered examples without end, of which each process takes its own.

Example ``n`` is the same in every process and after every resumption, so that all a source must remember is a number,
and two processes with ``b`` rows each learn from what one would with ``2 b``.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from prsm.core.errors import ConfigError
from prsm.teachers.training.objective import Batch
from prsm.teachers.training.parallel import ALONE, Group

T = TypeVar("T")
Examples = Callable[[int], T]
"""Example ``n``, always the same one."""

NOTHING = -100
"""The target where nothing is to be learnt."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What is read and what should be written after it, as tokens; both with their marks."""

    prompt: Sequence[int]
    answer: Sequence[int]


class Batches(Generic[T]):
    """A Source: ``rows`` examples a batch in each process, put together by ``collate``."""

    def __init__(
        self, examples: Examples[T], collate: Callable[[Sequence[T]], Batch], rows: int, group: Group = ALONE
    ) -> None:
        self._examples, self._collate, self._rows, self._group = examples, collate, rows, group
        self._next = 0

    def draw(self) -> Batch:
        """The next examples of this process."""
        begin, self._next = self._next, self._next + self._rows * self._group.world
        numbers = range(begin + self._group.rank, self._next, self._group.world)
        return self._collate([self._examples(n) for n in numbers])

    def state(self) -> dict[str, Any]:
        """The number of the next example."""
        return {"next": self._next}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._next = state["next"]


class Packed:
    """A Source of pairs packed into rows of ``row_tokens``: none sees another, and positions restart with each.

    Rows are filled in order by the next example that is there; one that does not fit opens the next row. A pair longer
    than a row is a ConfigError.
    """

    def __init__(self, examples: Examples[Pair], row_tokens: int, rows: int, group: Group = ALONE) -> None:
        self._examples, self._row_tokens, self._rows, self._group = examples, row_tokens, rows, group
        self._next = 0

    def draw(self) -> Batch:
        """The next rows of this process: ``ids``, ``targets``, ``positions`` and ``mask`` (rows, tokens, tokens)."""
        rows = [self._row() for _ in range(self._rows * self._group.world)]
        return packed(rows[self._group.rank :: self._group.world], self._row_tokens)

    def state(self) -> dict[str, Any]:
        """The number of the next example."""
        return {"next": self._next}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._next = state["next"]

    def _row(self) -> list[Pair]:
        row: list[Pair] = []
        left = self._row_tokens
        while True:
            pair = self._examples(self._next)
            size = len(pair.prompt) + len(pair.answer) - 1
            if size > self._row_tokens:
                raise ConfigError(
                    f"Example {self._next} has {size} tokens and a row has {self._row_tokens}.",
                    remedy="Give rows as many tokens as the longest example.",
                    param="data.row_tokens",
                )
            if size > left:
                return row
            row.append(pair)
            left -= size
            self._next += 1


def packed(rows: Sequence[Sequence[Pair]], row_tokens: int) -> Batch:
    """Rows of pairs side by side; what is left over at their ends sees itself alone and is no target."""
    ids, targets, positions, owners = (torch.zeros(len(rows), row_tokens, dtype=torch.long) for _ in range(4))
    targets.fill_(NOTHING)
    for index, row in enumerate(rows):
        at = 0
        for owner, pair in enumerate(row, 1):
            read, said = _shifted(pair)
            here = slice(at, at + len(read))
            ids[index, here], targets[index, here] = torch.tensor(read), torch.tensor(said)
            positions[index, here], owners[index, here] = torch.arange(len(read)), owner
            at += len(read)
    causal = torch.ones(row_tokens, row_tokens, dtype=torch.bool).tril()
    mask = causal & (owners[:, :, None] == owners[:, None, :])
    return {"ids": ids, "targets": targets, "positions": positions, "mask": mask}


def padded(pairs: Sequence[Pair]) -> Batch:
    """One pair a row, padded at the right: a causal network needs no mask for it."""
    shifted = [_shifted(pair) for pair in pairs]
    longest = max(len(read) for read, _ in shifted)
    ids, targets = torch.zeros(len(pairs), longest, dtype=torch.long), torch.full((len(pairs), longest), NOTHING)
    for row, (read, said) in enumerate(shifted):
        ids[row, : len(read)], targets[row, : len(said)] = torch.tensor(read), torch.tensor(said)
    return {"ids": ids, "targets": targets}


def windows(ids: Tensor, context_tokens: int, seed: int) -> Examples[Tensor]:
    """Random crops of one more than ``context_tokens`` of a text. Raises ConfigError where the text is shorter."""
    starts = len(ids) - context_tokens
    if starts < 1:
        raise ConfigError(f"The text has {len(ids)} tokens; it needs {context_tokens + 1}.", param="data.path")

    def example(n: int) -> Tensor:
        start = int.from_bytes(hashlib.blake2b(f"{seed}/{n}".encode(), digest_size=8).digest(), "big") % starts
        return ids[start : start + context_tokens + 1]

    return example


def continued(crops: Sequence[Tensor]) -> Batch:
    """Crops of text, each token to be foretold from those before it."""
    rows = torch.stack(list(crops))
    return {"ids": rows[:, :-1], "targets": rows[:, 1:]}


def shuffled(items: Sequence[T], seed: int) -> Examples[T]:
    """Items in another order each time through. Raises ConfigError where there are none."""
    if not items:
        raise ConfigError("The data has no examples.", param="data.path")

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        numbers = list(range(len(items)))
        random.Random(f"{seed}/{epoch}").shuffle(numbers)  # noqa: S311 - an order of lessons, guards nothing
        return numbers

    return lambda n: items[order(n // len(items))[n % len(items)]]


def _shifted(pair: Pair) -> tuple[list[int], list[int]]:
    """What is read, and what should be said after each token of it."""
    prompt, answer = list(pair.prompt), list(pair.answer)
    return [*prompt, *answer[:-1]], [NOTHING] * (len(prompt) - 1) + answer
