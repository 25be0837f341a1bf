"""Takes what waits into the log: positions without a gap, the tree over them, and a signed checkpoint, in one
transaction. Of all workers on a database one does so at a time; whatever fails leaves the log as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from prsm.core.clock import Clock
from prsm.core.database import Connection, Pool
from prsm.core.merkle import tiles
from prsm.core.merkle.notes import Checkpoint, Sign, VerifierKey, sign_note
from prsm.core.merkle.tiles import Tile
from prsm.core.merkle.tree import leaf_hash, root_at
from prsm.safety.audit.entries import write_entry
from prsm.safety.audit.ledger_range import MAX_POSITIONS, next_range

MAX_BATCH: Final = 2000
_LOCK = "SELECT size, ledger_position FROM audit_head WHERE id = 1 FOR UPDATE SKIP LOCKED"
_WAITS = """
SELECT EXISTS (SELECT FROM audit_pending) OR h.position > a.ledger_position FROM ledger_head h, audit_head a
"""
_TAKE = """
DELETE FROM audit_pending WHERE id IN (SELECT id FROM audit_pending ORDER BY id LIMIT $1)
RETURNING id, at, actor, request, what, op, rows::text AS rows
"""
_TILES = """
SELECT t.level, t.number, t.hashes FROM audit_tiles t
JOIN unnest($1::smallint[], $2::bigint[]) AS wanted(level, number) USING (level, number)
"""
_KEEP_TILES = """
INSERT INTO audit_tiles (level, number, hashes) SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes
"""


@dataclass(frozen=True, slots=True)
class LogSigner:
    """The key that signs checkpoints; its name is the log's origin."""

    key: VerifierKey
    sign: Sign


class Sequencer:
    """Appends to the log of one database."""

    def __init__(self, pool: Pool, signer: LogSigner, clock: Clock) -> None:
        self._pool = pool
        self._signer = signer
        self._clock = clock

    async def step(self) -> int:
        """Take in what waits, a bounded part of it; answers how many entries that were, 0 when all is in."""
        if not await self._pool.fetchval(_WAITS):
            return 0
        async with self._pool.acquire() as connection, connection.transaction():
            head = await connection.fetchrow(_LOCK)
            if head is None:
                return 0
            rows = sorted(await connection.fetch(_TAKE, MAX_BATCH), key=lambda row: row["id"])
            bodies = [_body(row) for row in rows]
            ledger_position: int = head["ledger_position"]
            if part := await next_range(connection, ledger_position, self._clock()):
                body, ledger_position = part
                bodies.append(body)
            if bodies:
                await self._append(connection, head["size"], bodies, ledger_position)
            return len(bodies)

    async def drain(self) -> int:
        """Take in all that waits; answers how many entries that were."""
        total = 0
        while took := await self.step():
            total += took
            if took < MAX_BATCH and not await self._ledger_waits():
                break
        return total

    async def _ledger_waits(self) -> bool:
        return await self._pool.fetchval(
            "SELECT h.position - a.ledger_position >= $1 FROM ledger_head h, audit_head a", MAX_POSITIONS
        )

    async def _append(self, connection: Connection, size: int, bodies: Sequence[bytes], ledger_position: int) -> None:
        kept = await read_tiles(connection, [tile for tile, _ in tiles.edge(size)])
        changed = tiles.append(kept, size, map(leaf_hash, bodies))
        grown = size + len(bodies)
        root = root_at(grown, tiles.reader({**kept, **changed}))
        note = sign_note(Checkpoint(self._signer.key.name, grown, root).text, self._signer.key, self._signer.sign)
        await connection.execute(
            "INSERT INTO audit_entries (position, body) SELECT * FROM unnest($1::bigint[], $2::bytea[])",
            *(range(size, grown), bodies),
        )
        await connection.execute(
            _KEEP_TILES, *([t.level for t in changed], [t.number for t in changed], list(changed.values()))
        )
        await connection.execute("INSERT INTO audit_checkpoints (size, note) VALUES ($1, $2)", grown, str(note))
        await connection.execute("UPDATE audit_head SET size = $1, ledger_position = $2", grown, ledger_position)


async def read_tiles(connection: Connection | Pool, wanted: Sequence[Tile]) -> dict[Tile, bytes]:
    """The tiles that are there of those ``wanted``."""
    rows = await connection.fetch(_TILES, [tile.level for tile in wanted], [tile.number for tile in wanted])
    return {Tile(row["level"], row["number"]): row["hashes"] for row in rows}


def _body(row: Any) -> bytes:
    changes: list[dict[str, Any]] = msgspec.json.decode(row["rows"])
    return write_entry(row["at"], row["actor"], row["request"], row["what"], row["op"], changes)
