"""All that is held of one subject, read by the register, with what is sealed opened: the export of a person's data."""

import base64
import binascii
from typing import Any, Final
from uuid import UUID

import msgspec

from prsm.core.database import Connection
from prsm.core.subject_keys import SubjectKey, Unreadable, are_sealed
from prsm.safety.privacy.register import HOLDINGS, Holding

_TIMEOUT_S: Final = 60


async def account_of(connection: Connection, subject: UUID) -> tuple[str, int | None]:
    """The name of a subject's account and its id, if it has one."""
    name = f"principal:{subject}"
    return name, await connection.fetchval("SELECT id FROM ledger_accounts WHERE name = $1", name)


async def read_all(connection: Connection, subject: UUID, key: SubjectKey | None) -> dict[str, list[dict[str, Any]]]:
    """By table, every row about the subject, in one snapshot. ``key`` None: it was erased, and nothing is opened."""
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await connection.execute(f"SET LOCAL statement_timeout = '{_TIMEOUT_S}s'; SET LOCAL timezone = 'UTC'")
        account, account_id = await account_of(connection, subject)
        return {
            holding.table: await _read(connection, holding, (subject, account, account_id), key) for holding in HOLDINGS
        }


async def _read(
    connection: Connection, holding: Holding, about: tuple[UUID, str, int | None], key: SubjectKey | None
) -> list[dict[str, Any]]:
    # A statement takes exactly the parameters that it names: all are named here, whichever the condition needs.
    query = (
        f"SELECT to_jsonb(t)::text AS row FROM {holding.table} t, (SELECT $1::uuid, $2::text, $3::bigint) AS about "  # noqa: S608
        f"WHERE {holding.whose}"
    )
    rows: list[dict[str, Any]] = []
    async for found in connection.cursor(query, *about):
        row: dict[str, Any] = msgspec.json.decode(found["row"])
        for column in holding.hidden:
            del row[column]
        for column, place in holding.sealed.items():
            row[column] = _opened(row[column], place.format(**row), key)
        rows.append({name: _readable(value) for name, value in row.items()})
    return rows


def _opened(value: Any, place: str, key: SubjectKey | None) -> Any:
    """What was sealed; None where the key is gone."""
    if not isinstance(value, str):
        return value
    try:
        data = _bytes(value)
        if data is not None and are_sealed(data):
            return key.open_bytes(data, place).decode() if key else None
        opened = key.open(value, place) if key else None
    except Unreadable:
        return None
    return msgspec.json.decode(opened) if opened and place.startswith("turn:") else opened


def _readable(value: Any) -> Any:
    """Bytes as the text they are, or else as base64."""
    data = _bytes(value) if isinstance(value, str) else None
    if data is None:
        return value
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return base64.b64encode(data).decode()


def _bytes(value: str) -> bytes | None:
    """What PostgreSQL writes for bytes in JSON."""
    try:
        return binascii.unhexlify(value[2:]) if value.startswith("\\x") else None
    except (binascii.Error, ValueError):
        return None
