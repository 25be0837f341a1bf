"""How a run is paid for while it goes on: in slices, each held before it is used and captured with what was used.

Pure: what a run's money stands at, and what is to be done next. A hold lives for minutes only and a run for hours, so
that a slice is ended long before its hold would expire; what a run uses beyond a slice the node bears.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

from msgspec import Struct

SLICE_CPU_S: Final = 120
"""Processor seconds that one hold pays for."""
SLICE_AGE: Final = timedelta(minutes=5)
"""A slice is captured after this, however little of it was used."""
_NEARLY = 0.8


class Money(Struct, frozen=True, kw_only=True):
    """A run's budget, what was captured of it, and the slice that is open (``held_micro`` 0: none)."""

    budget_micro: int
    charged_micro: int = 0
    slices: int = 0
    held_micro: int = 0
    began_cpu_ms: int = 0
    began_at: datetime | None = None

    @property
    def left_micro(self) -> int:
        """What may still be held."""
        return self.budget_micro - self.charged_micro


def hold_id(run_id: UUID, number: int) -> UUID:
    """The id of the hold of a run's slice, always the same, so that it can be asked for again."""
    return uuid5(run_id, f"slice {number}")


def to_hold_micro(money: Money, price_micro: int) -> int:
    """What the next slice holds, at ``price_micro`` a processor second; 0 where the budget pays for no whole one."""
    wanted = min(price_micro * SLICE_CPU_S, money.left_micro)
    return wanted if wanted >= price_micro else 0


def due_micro(money: Money, price_micro: int, cpu_ms: int) -> int:
    """What the open slice has come to, at most what it holds; ``cpu_ms`` is what the run has used in all."""
    used_ms = max(cpu_ms - money.began_cpu_ms, 0)
    return min(price_micro * used_ms // 1000, money.held_micro)


def is_over(money: Money, price_micro: int, cpu_ms: int, at: datetime) -> bool:
    """Whether the open slice is to be captured now, while the run goes on."""
    if money.held_micro == 0 or money.began_at is None:
        return False
    return due_micro(money, price_micro, cpu_ms) >= _NEARLY * money.held_micro or at - money.began_at >= SLICE_AGE
