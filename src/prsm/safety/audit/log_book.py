"""What can be asked of the log: its checkpoint, tiles, entries and proofs, as they are stored; changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from prsm.core.database import Connection, Pool
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.merkle import tiles
from prsm.core.merkle.tiles import WIDTH, Tile, TilePath
from prsm.core.merkle.tree import HASH_BYTES, NodeAt, consistency_proof, inclusion_proof
from prsm.safety.audit.sequencer import read_tiles


@dataclass(frozen=True, slots=True)
class Proven:
    """An entry with the checkpoint that it is under and the path between the two."""

    position: int
    body: bytes
    checkpoint: str
    size: int
    proof: tuple[bytes, ...]


class LogBook:
    """Reads the log of one database."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def checkpoint(self, size: int | None = None) -> tuple[int, str]:
        """The newest checkpoint, or that of ``size``: how many entries are under it, and the note. Raises NOT_FOUND."""
        row = await self._pool.fetchrow(
            "SELECT size, note FROM audit_checkpoints WHERE $1::bigint IS NULL OR size = $1 ORDER BY size DESC LIMIT 1",
            size,
        )
        if row is None:
            raise _unknown("checkpoint", "No checkpoint of this size was ever signed." if size else _EMPTY)
        return row["size"], row["note"]

    async def checkpoints(self, after: int, limit: int) -> list[tuple[int, str]]:
        """The checkpoints of more than ``after`` entries, the smallest first."""
        rows = await self._pool.fetch(
            "SELECT size, note FROM audit_checkpoints WHERE size > $1 ORDER BY size LIMIT $2", after, limit
        )
        return [(row["size"], row["note"]) for row in rows]

    async def entry(self, position: int) -> bytes:
        """The bytes of an entry. Raises NOT_FOUND."""
        body: bytes | None = await self._pool.fetchval("SELECT body FROM audit_entries WHERE position = $1", position)
        if body is None:
            raise _unknown("entry", f"There is no entry {position}.")
        return body

    async def entries(self, first: int, limit: int) -> list[tuple[int, bytes]]:
        """Entries from position ``first`` on."""
        rows = await self._pool.fetch(
            "SELECT position, body FROM audit_entries WHERE position >= $1 ORDER BY position LIMIT $2", first, limit
        )
        return [(row["position"], row["body"]) for row in rows]

    async def resource(self, path: str) -> bytes:
        """What a path under ``tile/`` names (C2SP tlog-tiles). Raises InvalidRequest, NOT_FOUND."""
        try:
            wanted = tiles.parse_path(path)
        except ValueError as error:
            raise InvalidRequest(f"{error}.", param="path") from error
        found = (
            await self._bundle(wanted)
            if wanted.level is None
            else await self._tile(Tile(wanted.level, wanted.number), wanted.width)
        )
        if found is None:
            raise _unknown("tile", f"The log is not long enough for {path}.")
        return found

    async def prove(self, position: int, size: int | None = None) -> Proven:
        """That an entry is under the newest checkpoint, or under that of ``size``. Raises NOT_FOUND, InvalidRequest."""
        size, note = await self.checkpoint(size)
        body = await self.entry(position)
        if position >= size:
            raise InvalidRequest(f"Entry {position} came after the checkpoint of {size} entries.", param="size")
        proof = await self._compute(lambda at: inclusion_proof(position, size, at))
        return Proven(position, body, note, size, tuple(proof))

    async def consistency(self, first: int, second: int) -> list[bytes]:
        """That the tree of ``second`` entries begins with that of ``first``. Raises InvalidRequest."""
        newest, _ = await self.checkpoint()
        if not 0 <= first <= second <= newest:
            raise InvalidRequest(f"Sizes are 0 to {newest}, the smaller first.", param="second")
        return await self._compute(lambda at: consistency_proof(first, second, at))

    async def _compute(self, compute: Callable[[NodeAt], list[bytes]]) -> list[bytes]:
        wanted = tiles.needed(compute)
        return compute(tiles.reader(await read_tiles(self._pool, list(wanted)) if wanted else {}))

    async def _tile(self, tile: Tile, width: int) -> bytes | None:
        hashes = (await read_tiles(self._pool, [tile])).get(tile, b"")
        return hashes[: width * HASH_BYTES] if len(hashes) >= width * HASH_BYTES else None

    async def _bundle(self, wanted: TilePath) -> bytes | None:
        first = wanted.number * WIDTH
        found = await self.entries(first, wanted.width)
        return tiles.bundle(body for _, body in found) if len(found) == wanted.width else None


async def note(connection: Connection | Pool, what: str, **facts: str) -> None:
    """Write an event into the log, with the transaction of ``connection``; ``facts`` hold nothing personal."""
    await connection.execute("SELECT audit_note($1, $2::text::jsonb)", what, msgspec.json.encode(facts).decode())


_EMPTY = "The log is empty; its first checkpoint comes with its first entry."


def _unknown(what: str, message: str) -> PrsmError:
    return PrsmError(message, kind=Kind.NOT_FOUND, code=f"unknown_audit_{what}")
