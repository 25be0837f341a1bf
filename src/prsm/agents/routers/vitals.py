"""How every instance did lately, as columns for decisions.

Of a roster of some dozens each decision reads all anew. Of a larger one it goes by columns that are read in turns in
the background; who is chosen is looked at once more, so that nobody is asked who has begun to rest meanwhile.
"""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from prsm.agents.routers.question import Health
from prsm.agents.routers.roster import Columns, Roster
from prsm.agents.routers.weighing import Vitals, paced

MAX_READ_ALWAYS = 64
"""Instances in question up to which each decision reads all."""
_SLICE = 500
"""Instances read between two turns of the event loop."""

Watch = Callable[[str], Health]


class VitalsBoard:
    """Keeps the columns of one roster at a time."""

    def __init__(self, health: Watch) -> None:
        self._health = health
        self._models: Roster | None = None
        self._kept = read([])

    def follow(self, models: Roster) -> None:
        """Another roster; what is known of an instance goes with it."""
        before, kept = self._models, self._kept
        if before is not None and models.row_of is before.row_of:
            self._models = models
            return
        count = len(models.targets)
        self._models = models
        columns = np.zeros(count), np.zeros(count), np.ones(count)
        self._kept = Vitals(np.zeros(count, np.bool_), *columns, paced(*columns))
        if before is None or count <= MAX_READ_ALWAYS:
            return
        rows = np.array([before.row_of.get(target.name, -1) for target in models.targets], np.intp)
        known = np.flatnonzero(rows >= 0)
        carried = kept.take(rows[known])
        for name in ("resting", "first_token_ms", "token_ms", "availability"):
            getattr(self._kept, name)[known] = getattr(carried, name)
        self._pace(slice(count))

    def of(self, models: Roster, asked: Columns) -> Vitals:
        """How the instances ``asked`` do."""
        if models is not self._models:
            self.follow(models)
        rows = asked.row
        if len(rows) <= MAX_READ_ALWAYS:
            few: list[int] = rows.tolist()
            return read([self._health(models.targets[row].name) for row in few])
        return self._kept if len(rows) == len(models.targets) else self._kept.take(rows)

    def changed(self, models: Roster, rows: list[int]) -> bool:
        """Whether one of ``rows`` has begun, or ceased, to rest since it was read; if so, all of them are read anew."""
        if models is not self._models:
            return True
        seen = [self._health(models.targets[row].name) for row in rows]
        if [each.resting for each in seen] == self._kept.resting[rows].tolist():
            return False
        for row, each in zip(rows, seen, strict=True):
            self._write(row, each)
            self._pace(slice(row, row + 1))
        return True

    async def refresh(self) -> None:
        """Read a large roster once, in slices."""
        models = self._models
        if models is None or len(models.targets) <= MAX_READ_ALWAYS:
            return
        for start in range(0, len(models.targets), _SLICE):
            await asyncio.sleep(0)
            if models is not self._models:
                return
            for row, target in enumerate(models.targets[start : start + _SLICE], start):
                self._write(row, self._health(target.name))
            self._pace(slice(start, start + _SLICE))

    def _write(self, row: int, seen: Health) -> None:
        kept = self._kept
        kept.resting[row] = seen.resting
        kept.first_token_ms[row] = seen.first_token_ms
        kept.token_ms[row] = _token_ms(seen)
        kept.availability[row] = seen.availability

    def _pace(self, rows: slice) -> None:
        kept = self._kept
        if kept.pace is not None:
            kept.pace[:, rows] = paced(kept.first_token_ms[rows], kept.token_ms[rows], kept.availability[rows])


def read(seen: Sequence[Health]) -> Vitals:
    """Columns of some instances, in the order given."""
    return Vitals(
        np.array([each.resting for each in seen], np.bool_),
        np.array([each.first_token_ms for each in seen], np.float64),
        np.array([_token_ms(each) for each in seen], np.float64),
        np.array([each.availability for each in seen], np.float64),
    )


def _token_ms(seen: Health) -> float:
    return 1000 / seen.tokens_per_s if seen.tokens_per_s > 0 else 0.0
