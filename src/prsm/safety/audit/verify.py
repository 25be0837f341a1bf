"""Replays the whole log of a database: entries against hashes, the tree against what was signed, the ledger against the
digests of its ranges, and the watched tables against their last audited state. Changes nothing.

All is read in one snapshot by statements of this package, never by functions of the database, which whoever changed
the data could have changed too.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from prsm.core.database import Connection
from prsm.core.merkle.notes import VerifierKey
from prsm.core.merkle.tiles import Tile
from prsm.safety.audit.checking import Findings, LogCheck, Witnessed
from prsm.safety.audit.entries import LEDGER, Entry, LedgerRange, read_entry
from prsm.safety.audit.ledger_range import digest_of
from prsm.safety.audit.sequencer import read_tiles
from prsm.safety.audit.state import AuditedState, WatchedTable, differences, form_of

_PREFETCH: Final = 500
_TIMEOUT_S: Final = 60
_SNAPSHOT: Final = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    f"SET LOCAL statement_timeout = '{_TIMEOUT_S}s'",
    "SET LOCAL timezone = 'UTC'",
    "SET LOCAL bytea_output = 'hex'",
    "SET LOCAL datestyle = 'ISO'",
    "SET LOCAL extra_float_digits = 1",
)
_ROWS: Final = (
    "SELECT (SELECT jsonb_object_agg(each.key, each.value) FROM jsonb_each_text(to_jsonb(t)) each)::text AS row FROM"
)
_NOTES: Final = "SELECT size, note FROM audit_checkpoints ORDER BY size"
_BODIES: Final = "SELECT position, body FROM audit_entries ORDER BY position"
_TRIGGERS: Final = """
SELECT name, tgname FROM unnest($1::text[], $2::text[]) AS wanted(name, tgname) WHERE NOT EXISTS (
    SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = to_regclass(wanted.name) AND t.tgname = wanted.tgname AND t.tgenabled IN ('O', 'A'))
"""
_GUARDED: Final = (
    *(("audit_entries", "append_only"), ("audit_checkpoints", "append_only"), ("audit_pending", "append_only")),
    ("ledger_transfers", "audit_insert"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: ``findings`` are sentences, of which at most the first 100 are kept."""

    entries: int
    checkpoints: int
    witnessed: int
    ledger_positions: int
    tables: int
    pending: int
    finding_count: int
    findings: tuple[str, ...]


async def verify_log(connection: Connection, log_key: VerifierKey, witnessed: Sequence[Witnessed] = ()) -> Verdict:
    """Verify the log as it stands now."""
    async with connection.transaction():
        for statement in _SNAPSHOT:
            await connection.execute(statement)
        return await _Replay(connection, log_key, witnessed).run()


class _Replay:
    def __init__(self, connection: Connection, log_key: VerifierKey, witnessed: Sequence[Witnessed]) -> None:
        self._connection = connection
        self._findings = Findings()
        self._check = LogCheck(log_key, witnessed, self._findings)
        self._witnessed = len(witnessed)
        self._ledger_position = 0
        self._checkpoints = 0
        self._tiles = 0

    async def run(self) -> Verdict:
        tables = await self._watched()
        state = AuditedState(tables)
        await self._read_entries(state)
        pending = await self._read_pending(state)
        await self._compare_head()
        salts = {
            row["subject_id"]: row["salt"]
            for row in await self._connection.fetch("SELECT subject_id, salt FROM subject_salts")
        }
        for table in tables.values():
            await self._compare_table(table, state, salts)
        for name, rules in state.watched.items():
            if name not in tables or rules != " ".join(tables[name].rules):
                self._findings.add(f"The table {name} is no longer watched, or by other rules than the log says.")
        await self._look_for_triggers(tables)
        return Verdict(
            self._check.size,
            self._checkpoints,
            self._witnessed,
            self._ledger_position,
            len(tables),
            pending,
            self._findings.count,
            tuple(self._findings.sentences),
        )

    async def _watched(self) -> dict[str, WatchedTable]:
        rows = await self._connection.fetch("SELECT name, key_columns, rules FROM audit_tables ORDER BY name")
        return {row["name"]: WatchedTable(row["name"], tuple(row["key_columns"]), tuple(row["rules"])) for row in rows}

    async def _read_entries(self, state: AuditedState) -> None:
        own = aiter(self._connection.cursor(_NOTES, prefetch=_PREFETCH))
        due = await anext(own, None)
        async for row in self._connection.cursor(_BODIES, prefetch=_PREFETCH):
            while due is not None and due["size"] <= self._check.size + 1:
                due = await self._own(due, own)
            self._check.add(row["position"], row["body"])
            await self._compare_tiles(self._check.full_tiles())
            await self._read(row["position"], row["body"], state)
        while due is not None:
            due = await self._own(due, own)
        await self._compare_tiles(self._check.edge_tiles())
        self._check.finish()

    async def _own(self, due: Any, own: AsyncIterator[Any]) -> Any:
        self._check.own(due["size"], due["note"])
        self._checkpoints += 1
        return await anext(own, None)

    async def _compare_tiles(self, computed: Iterator[tuple[Tile, bytes]]) -> None:
        by_tile = dict(computed)
        if by_tile:
            stored = await read_tiles(self._connection, list(by_tile))
            for tile, hashes in by_tile.items():
                self._check.compare(tile, hashes, stored.get(tile))
            self._tiles += len(by_tile)

    async def _read(self, position: int, body: bytes, state: AuditedState) -> None:
        try:
            entry = read_entry(body)
            state.apply(entry)
            if entry.what == LEDGER:
                await self._compare_range(msgspec.convert(entry.rows[0], LedgerRange))
        except (ValueError, LookupError, msgspec.ValidationError) as error:
            self._findings.add(f"Entry {position} cannot be read: {error}.")

    async def _compare_range(self, part: LedgerRange) -> None:
        first, last = int(part.first), int(part.last)
        if first != self._ledger_position + 1 or last < first:
            self._findings.add(f"The log goes from position {self._ledger_position} of the ledger on to {first}.")
        digest, rows = await digest_of(self._connection, first, last)
        if rows != last - first + 1:
            self._findings.add(f"Of positions {first} to {last} of the ledger {rows} are left.")
        elif digest != part.sha256:
            self._findings.add(f"Positions {first} to {last} of the ledger are not as they were audited.")
        self._ledger_position = last

    async def _read_pending(self, state: AuditedState) -> int:
        """What was changed and is not in the log yet belongs to the state all the same."""
        rows = await self._connection.fetch("SELECT what, op, rows::text AS rows FROM audit_pending ORDER BY id")
        for row in rows:
            state.apply(Entry("", "", "", row["what"], row["op"], msgspec.json.decode(row["rows"])))
        return len(rows)

    async def _compare_head(self) -> None:
        size, ledger_position = await self._connection.fetchrow("SELECT size, ledger_position FROM audit_head")
        if (size, ledger_position) != (self._check.size, self._ledger_position):
            self._findings.add(f"The sequencer stands at {size} entries and position {ledger_position} of the ledger.")
        stored: int = await self._connection.fetchval("SELECT count(*) FROM audit_tiles")
        if stored != self._tiles:
            self._findings.add(f"There are {stored} tiles; the entries make {self._tiles}.")

    async def _compare_table(self, table: WatchedTable, state: AuditedState, salts: Mapping[UUID, bytes]) -> None:
        if await self._connection.fetchval("SELECT to_regclass($1) IS NULL", table.name):
            self._findings.add(f"The table {table.name} is not there.")
            return
        query = f'{_ROWS} "{table.name}" t'  # a table that exists; the name cannot hold a quote and be found
        rows = [msgspec.json.decode(row["row"]) async for row in self._connection.cursor(query, prefetch=_PREFETCH)]
        for sentence in differences(table, state, (form_of(row, table.rules, salts) for row in rows)):
            self._findings.add(sentence)

    async def _look_for_triggers(self, tables: Iterable[str]) -> None:
        wanted = [*_GUARDED]
        for name in tables:
            wanted += [(name, f"audit_{op}") for op in ("insert", "update", "delete", "truncate")]
        rows = await self._connection.fetch(_TRIGGERS, [table for table, _ in wanted], [name for _, name in wanted])
        for row in rows:
            self._findings.add(f"The table {row['name']} has lost its trigger {row['tgname']}.")
