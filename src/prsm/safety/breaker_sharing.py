"""What one worker's breakers learn, every worker knows, and a restart does not forget: openings stand in PostgreSQL.

Who opens a breaker probes it; the others stay open a while longer and close when it does, so that what recovers meets
one worker's probes and not all workers' at once. Where that worker has died, another takes over after its grace.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from prsm.core.clock import Clock
from prsm.core.database import Pool
from prsm.core.errors import Kind, PrsmError
from prsm.core.events import emit
from prsm.safety.circuit_breaker import BreakerBoard, Opening

CHANGED: Final = "breakers.changed"
GRACE_S: Final = 10.0
"""How much longer others wait for whoever opened a breaker, at least; up to twice that, drawn anew by each."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A breaker that is not closed, as all workers know it."""

    board: str
    name: str
    held: bool
    open_until: datetime | None
    opened: int
    reason: str
    by: str
    at: datetime


class BreakerSharing:
    """Shares ``boards`` among the workers of one database; ``worker`` is this process's own id."""

    def __init__(self, pool: Pool, boards: Mapping[str, BreakerBoard], worker: UUID, clock: Clock) -> None:
        self._pool = pool
        self._boards = boards
        self._worker = worker
        self._clock = clock
        self._waiting: dict[tuple[str, str], Opening | None] = {}
        self._noted = asyncio.Event()
        self._adopted: dict[tuple[str, str], datetime] = {}
        for name, board in boards.items():
            board.changed = self._noting(name)

    def _noting(self, board: str) -> Callable[[str, Opening | None], None]:
        def note(name: str, opening: Opening | None) -> None:
            self._waiting[board, name] = opening
            self._noted.set()

        return note

    async def follow(self) -> None:
        """Wait until something opens or closes here, and tell the others; after a failure, with what it left."""
        if not self._waiting:
            self._noted.clear()
            await self._noted.wait()
        await self.settle()

    async def settle(self) -> None:
        """Tell the others what has opened or closed here since."""
        while self._waiting:
            (board, name), opening = next(iter(self._waiting.items()))
            at = await self._write(board, name, opening, by="")
            if opening is not None:
                self._adopted[board, name] = at  # by whomever its row is taken away, it closes here too
            if self._waiting.get((board, name)) is opening:
                self._waiting.pop((board, name), None)  # a person's word may have taken it away meanwhile

    async def trip(self, board: str, name: str, *, by: str, reason: str) -> None:
        """Open a breaker by hand, everywhere, until ``reset``. Raises PrsmError for a board there is not."""
        self._known(board).trip(name, reason)
        self._waiting.pop((board, name), None)
        self._adopted[board, name] = await self._write(board, name, Opening(0.0, 0, reason, held=True), by=by)

    async def reset(self, board: str, name: str, *, by: str) -> None:
        """Close a breaker by hand, everywhere. Raises PrsmError for a board there is not."""
        self._known(board).reset(name)
        self._waiting.pop((board, name), None)
        await self._write(board, name, None, by=by)

    async def reload(self) -> None:
        """Take over what the other workers, and those before, have opened, and close what they have closed."""
        rows = {(row["board"], row["name"]): row for row in await self._pool.fetch("SELECT * FROM breakers")}
        for (board, name), at in list(self._adopted.items()):
            if (board, name) not in rows and (board, name) not in self._waiting:
                self._boards[board].adopt(name, None)
                del self._adopted[board, name]
            elif (board, name) in rows and rows[board, name]["at"] != at:
                del self._adopted[board, name]  # it has opened again since
        for (board, name), row in rows.items():
            is_news = (board, name) not in self._adopted and (row["worker"] != self._worker or row["held"])
            if board in self._boards and is_news:
                self._boards[board].adopt(name, self._opening(row))
                self._adopted[board, name] = row["at"]

    async def kept(self) -> list[Kept]:
        """Every breaker that is not closed."""
        rows = await self._pool.fetch("SELECT * FROM breakers ORDER BY board, name")
        names = Kept.__slots__
        return [Kept(**{name: row[name] for name in names}) for row in rows]

    async def forget_passed(self) -> None:
        """Forget openings that nobody has come back from: who opened them is gone, and nobody has asked since."""
        await self._pool.execute("DELETE FROM breakers WHERE NOT held AND open_until < now() - interval '1 hour'")

    def _known(self, board: str) -> BreakerBoard:
        if board not in self._boards:
            raise PrsmError(
                f"There are no breakers of {board[:100]!r}.",
                kind=Kind.NOT_FOUND,
                code="unknown_board",
                remedy=f"There are those of {', '.join(sorted(self._boards))}.",
                param="board",
            )
        return self._boards[board]

    def _opening(self, row: Any) -> Opening:
        until: datetime | None = row["open_until"]
        left_s = (until - self._clock()).total_seconds() if until else 0.0
        grace_s = GRACE_S * (1 + random.random())  # noqa: S311 - jitter, not a secret
        return Opening(max(0.0, left_s) + grace_s, row["opened"], row["reason"], row["held"])

    async def _write(self, board: str, name: str, opening: Opening | None, *, by: str) -> datetime:
        at = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            if opening is None:
                await connection.execute(_CLOSE, board, name, bool(by))
            else:
                until = None if opening.held else at + timedelta(seconds=opening.remaining_s)
                args = opening.held, until, opening.opened, opening.reason, by, self._worker, at
                await connection.execute(_WRITE, board, name, *args)
            await emit(connection, CHANGED, {"board": board, "name": name, "open": opening is not None})
        return at


_CLOSE = "DELETE FROM breakers WHERE board = $1 AND name = $2 AND ($3 OR NOT held)"
_WRITE = """
INSERT INTO breakers (board, name, held, open_until, opened, reason, by, worker, at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (board, name) DO UPDATE SET held = excluded.held, open_until = excluded.open_until,
    opened = excluded.opened, reason = excluded.reason, by = excluded.by, worker = excluded.worker, at = excluded.at
WHERE NOT breakers.held OR excluded.held
"""
