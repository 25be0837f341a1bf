"""What an entry of the log says, and its bytes: one canonical JSON object, hashed as it stands.

An entry is a change of a table's rows, an event (who read whose data, what was erased), or a range of the ledger's
positions with the digest of its rows. Values are texts; a value of which only a digest goes in is an object.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from prsm.core.canonical import Canonical, encode

MAX_ENTRY_BYTES: Final = 65_535
"""What a bundle of entries can carry (C2SP tlog-tiles)."""
LEDGER: Final = "ledger"
_SHORT_BYTES: Final = 64

Value: TypeAlias = str | dict[str, str] | None
Form: TypeAlias = dict[str, Value]
"""A row: each column as text, or ``{"sha256": ...}`` or ``{"salted": ...}``."""


class Change(Struct, frozen=True, omit_defaults=True):
    """One row of a table: as it is ``now``, and what of it ``was`` otherwise; all of it where the row is gone."""

    now: Form | None = None
    was: Form | None = None


class Entry(Struct, frozen=True):
    """``what`` is a table, an event or LEDGER; ``op`` is what happened to it; ``rows`` is one Change or fact a row."""

    at: str
    actor: str
    request: str
    what: str
    op: str
    rows: list[dict[str, Any]]
    v: int = 1

    @property
    def changes(self) -> list[Change]:
        """The rows of an entry about a table. Raises msgspec.ValidationError where they are none."""
        return msgspec.convert(self.rows, list[Change])


class LedgerRange(Struct, frozen=True):
    """The positions ``first`` to ``last`` of the ledger, and the digest of their rows (``ledger_range.py``)."""

    first: str
    last: str
    sha256: str


_decode = msgspec.json.Decoder(Entry, strict=True).decode


def write_entry(at: datetime, actor: str, request: str, what: str, op: str, rows: list[dict[str, Any]]) -> bytes:
    """The bytes of an entry; where they would be too many, longer values give way to their digests."""
    about: dict[str, Canonical] = {
        "v": 1,
        "at": at.astimezone(UTC).isoformat(),
        "actor": actor,
        "request": request,
        "what": what,
        "op": op,
    }
    body = encode({**about, "rows": [*rows]})
    return body if len(body) <= MAX_ENTRY_BYTES else encode({**about, "rows": [_shortened(row) for row in rows]})


def read_entry(body: bytes) -> Entry:
    """Read an entry. Raises ValueError for what is none."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the entry cannot be read: {error}") from error


def equal(audited: Value, live: Value) -> bool:
    """Whether two values of forms are of one text; a digest equals the text that it is of."""
    if isinstance(audited, dict) and isinstance(live, str):
        return audited == {"sha256": hashlib.sha256(live.encode()).hexdigest()}
    if isinstance(live, dict) and isinstance(audited, str):
        return equal(live, audited)
    return audited == live


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, str) and len(value.encode()) > _SHORT_BYTES:
        return {"sha256": hashlib.sha256(value.encode()).hexdigest()}
    return value
