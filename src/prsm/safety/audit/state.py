"""What the watched tables should hold by the log, and how that compares with what they hold. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from prsm.safety.audit.entries import Change, Entry, Form, Value, equal

ERASED: Final = "privacy.erased"
"""The event of an erasure; its fact ``subject`` is whose salt is gone."""
WATCHED: Final = "audit.watched"
"""The event of a table's coming under the log, with its rules."""
_CHANGES: Final = frozenset({"baseline", "insert", "update", "delete"})


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """A table under the log: its key, and how its columns go in."""

    name: str
    key_columns: tuple[str, ...]
    rules: tuple[str, ...]


Key = tuple[str | None, ...]


class AuditedState:
    """The last audited form of each row of each table, as entries are given in order."""

    def __init__(self, tables: Mapping[str, WatchedTable]) -> None:
        self._tables = tables
        self.rows: dict[str, dict[Key, Form]] = {}
        self.erased: set[str] = set()
        """Subjects whose salts were destroyed."""
        self.watched: dict[str, str] = {}
        """Tables that are to be watched, and by which rules."""

    def apply(self, entry: Entry) -> None:
        """Take in an entry; one that is about no watched table changes nothing. Raises ValueError for a bad one."""
        if entry.what == ERASED:
            self.erased.update(str(fact["subject"]) for fact in entry.rows if "subject" in fact)
        if entry.what == WATCHED:
            self.watched.update({str(fact["table"]): str(fact["rules"]) for fact in entry.rows})
        table = self._tables.get(entry.what)
        if table is None:
            return
        rows = self.rows.setdefault(entry.what, {})
        if entry.op == "truncate":
            rows.clear()
        elif entry.op in _CHANGES:
            for change in entry.changes:
                _apply(rows, table, change)


def _apply(rows: dict[Key, Form], table: WatchedTable, change: Change) -> None:
    if change.now is not None:
        rows[_key(table, change.now)] = change.now
    elif change.was is not None:
        rows.pop(_key(table, change.was), None)


def differences(table: WatchedTable, state: AuditedState, live: Iterable[Form]) -> Iterable[str]:
    """What a table holds otherwise than the log says.

    A column that only one of the two knows came or went with a migration and says nothing.
    """
    left = dict(state.rows.get(table.name, {}))
    for form in live:
        key = _key(table, form)
        known = left.pop(key, None)
        if known is None:
            yield f"The row {_named(table, key)} is in the table, and no entry put it there."
            continue
        for column in sorted(known.keys() & form.keys()):
            if not _same(known[column], form[column], state.erased):
                yield f"The row {_named(table, key)} was changed in {column} by no entry."
    for key in left:
        yield f"The row {_named(table, key)} is gone by no entry."


def form_of(row: Mapping[str, str | None], rules: Iterable[str], salts: Mapping[UUID, bytes]) -> Form:
    """The form in which the database would put a row into the log, given the salts that there are.

    Must say what ``audit_form`` of migration 0014 says; longer texts may stand as they are.
    """
    by_column = {parts[1]: parts for parts in (rule.split(":") for rule in rules)}
    form: Form = {}
    for column, value in row.items():
        kind, *rest = by_column.get(column, ("",))
        if kind == "skip":
            continue
        form[column] = _personal(value, row.get(rest[1]), salts) if kind == "personal" and value else value
    return form


def _personal(value: str, subject: str | None, salts: Mapping[UUID, bytes]) -> str | dict[str, str]:
    try:
        subject_id = UUID((subject or "")[-36:])
    except ValueError:  # not a principal's: a plain digest equals the text
        return value
    salt = salts.get(subject_id)
    if salt is None:
        return {"erased": str(subject_id)}
    return {"salted": hashlib.sha256(salt + value.encode()).hexdigest()}


def _same(audited: Value, live: Value, erased: set[str]) -> bool:
    if isinstance(live, dict) and "erased" in live:
        return live["erased"] in erased and isinstance(audited, dict) and "salted" in audited
    return equal(audited, live)


def _named(table: WatchedTable, key: Key) -> str:
    return f"{table.name} {'/'.join(str(part)[:80] for part in key)}"


def _key(table: WatchedTable, form: Form) -> Key:
    return tuple(str(value) if (value := form.get(column)) is not None else None for column in table.key_columns)
