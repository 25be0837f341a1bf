"""The listings that are kept: written page by page with set-based SQL, only where something has changed.

A page is written whole or not at all, and only under the claim of its source. What a source no longer lists is retired,
not deleted, and forgotten after a while.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from prsm.core.database import Connection, Pool
from prsm.core.errors import Kind, PrsmError
from prsm.federation.discovery.entry import (
    attributes_of,
    digest_of,
    document_of,
    fields_of,
    kept,
    key_of,
    meaning_of,
    short_name,
    words_of,
)
from prsm.federation.discovery.seams import ListedPrice, Listing
from prsm.federation.discovery.source_book import Claim, SourceBook

_PAGE_ROWS: Final = 500
"""Rows of one statement: a source's page may be of any size, what one statement holds in memory is bounded."""
_SCAN_ROWS: Final = 5_000


@dataclass(frozen=True, slots=True)
class KeptListing:
    """A listing with its source, when it was seen there, and how old the reading is that says so.

    ``read_at`` is when its source was last read to the end; ``every_s`` how often that should be.
    """

    source: str
    listing: Listing
    first_seen_at: datetime
    last_seen_at: datetime
    removed_at: datetime | None
    read_at: datetime | None
    every_s: int
    indexed: bool


class Seen:
    """The names that a pass has met, as 8 bytes each: what a source lists may be large, memory is not."""

    def __init__(self) -> None:
        self._hashes: array[int] = array("Q")

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, names: Sequence[str]) -> None:
        """Remember the names."""
        self._hashes.extend(_hash(name) for name in names)

    def lookup(self) -> "SeenLookup":
        """What answers which names were met."""
        return SeenLookup(np.sort(np.array(self._hashes, np.uint64)))


class SeenLookup:
    """Answers which names were met in a pass; two names in 2^64 are taken for one."""

    def __init__(self, ordered: npt.NDArray[np.uint64]) -> None:
        self._ordered = ordered

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that were not met."""
        hashes = np.array([_hash(name) for name in names], np.uint64)
        at = np.searchsorted(self._ordered, hashes)
        met = np.zeros(len(names), bool)
        inside = at < len(self._ordered)
        met[inside] = self._ordered[at[inside]] == hashes[inside]
        return [name for name, known in zip(names, met, strict=True) if not known]


class Listings:
    """Writes what sources list, and reads it."""

    def __init__(self, pool: Pool, book: SourceBook) -> None:
        self._pool = pool
        self._book = book

    async def keep(self, claim: Claim, page: Sequence[Listing]) -> tuple[list[str], int]:
        """Write what is new or changed of a page; answers the names that are kept, and how many were written.

        What is as it was costs one look at an index and no write. Raises ClaimLost, and then nothing of the statement
        under way is written.
        """
        entries = {entry.name: entry for listing in page if (entry := kept(listing)) is not None}
        names, written = [*entries], 0
        for start in range(0, len(names), _PAGE_ROWS):
            part = [entries[name] for name in names[start : start + _PAGE_ROWS]]
            async with self._pool.acquire() as connection, connection.transaction():
                await self._book.hold(connection, claim)
                written += await _write_changed(connection, claim.config.name, part)
        return names, written

    async def retire(self, claim: Claim, seen: Seen) -> int:
        """Mark as removed what a whole reading has not met; answers how many. Raises ClaimLost."""
        source, lookup, after, retired = claim.config.name, seen.lookup(), "", 0
        while True:
            rows = await self._pool.fetch(_LIVE_NAMES, source, after, _SCAN_ROWS)
            if not rows:
                return retired
            names: list[str] = [row["name"] for row in rows]
            after = names[-1]
            gone = lookup.missing(names)
            for start in range(0, len(gone), _PAGE_ROWS):
                async with self._pool.acquire() as connection, connection.transaction():
                    await self._book.hold(connection, claim)
                    await connection.execute(_RETIRE, source, gone[start : start + _PAGE_ROWS])
            retired += len(gone)

    async def one(self, source: str, name: str) -> KeptListing:
        """A listing, also one that was removed. Raises PrsmError where there is none."""
        row = None
        if "\0" not in source + name:  # no text in PostgreSQL holds one
            row = await self._pool.fetchrow(f"{SELECT} WHERE l.source = $1 AND l.name = $2", source, name)
        if row is None:
            raise PrsmError(
                f"{source[:64]!r} lists no {name[:200]!r}.",
                kind=Kind.NOT_FOUND,
                code="unknown_listing",
                remedy="Find it: prsm discovery search TEXT.",
            )
        return kept_listing(row)

    async def forget_removed(self, older_s: int) -> int:
        """Delete some listings that were removed ``older_s`` ago and that the index has forgotten; answers how many."""
        tag = await self._pool.execute(
            "DELETE FROM listings WHERE (source, name) IN (SELECT source, name FROM listings "
            "WHERE removed_at < now() - make_interval(secs => $1) AND NOT pending LIMIT $2)",
            older_s,
            _PAGE_ROWS,
        )
        return int(tag.split()[-1])


def kept_listing(row: Any) -> KeptListing:
    """A row of SELECT."""
    return KeptListing(
        source=row["source"],
        listing=listing_of(row),
        first_seen_at=row["first_seen_at"],
        # What is still listed was met in the last reading, though nothing was written for it then.
        last_seen_at=row["last_seen_at"]
        if row["removed_at"]
        else max(row["last_seen_at"], row["read_at"] or _LONG_AGO),
        removed_at=row["removed_at"],
        read_at=row["read_at"],
        every_s=row["every_s"],
        indexed=not row["pending"],
    )


def listing_of(row: Any) -> Listing:
    """The listing as it was read, of a row with its columns."""
    price = None
    if row["price_source"] is not None:
        price = ListedPrice(
            source=row["price_source"],
            as_of=row["price_as_of"],
            currency=row["price_currency"],
            input_nano=row["input_price_nano"],
            output_nano=row["output_price_nano"],
            cached_input_nano=row["cached_input_price_nano"],
            request_nano=row["request_price_nano"],
        )
    values: dict[str, Any] = {name: row[name] for name in _PLAIN}
    values |= {name: frozenset(row[name]) for name in ("capabilities", "input_modalities", "output_modalities")}
    values["served_by"] = None if row["served_by"] is None else tuple(row["served_by"])
    return Listing(**values, price=price)


_PLAIN = (
    "name",
    "title",
    "description",
    "context_tokens",
    "max_output_tokens",
    "parameters",
    "licence",
    "gated",
    "revision",
    "updated_at",
    "page_url",
)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)

SELECT = """
SELECT l.*, s.last_read_at AS read_at, s.every_s FROM listings l JOIN listing_sources s ON s.name = l.source
AND NOT s.removing"""

_LIVE_NAMES = "SELECT name FROM listings WHERE source = $1 AND name > $2 AND removed_at IS NULL ORDER BY name LIMIT $3"

_RETIRE = """
UPDATE listings l SET removed_at = now(), pending = true,
    last_seen_at = greatest(l.last_seen_at, s.last_read_at)
FROM listing_sources s WHERE s.name = l.source AND l.source = $1 AND l.name = ANY($2::text[]) AND removed_at IS NULL
"""

_CHANGED = """
SELECT u.name FROM unnest($2::text[], $3::bytea[]) AS u (name, digest)
LEFT JOIN listings l ON l.source = $1 AND l.name = u.name
WHERE l.name IS NULL OR l.digest <> u.digest OR l.removed_at IS NOT NULL
"""

_TYPES = {
    "title": "text",
    "description": "text",
    "capabilities": "text[]",
    "input_modalities": "text[]",
    "output_modalities": "text[]",
    "context_tokens": "bigint",
    "max_output_tokens": "bigint",
    "parameters": "bigint",
    "licence": "text",
    "gated": "boolean",
    "price_source": "text",
    "price_currency": "text",
    "price_as_of": "timestamptz",
    "input_price_nano": "bigint",
    "output_price_nano": "bigint",
    "cached_input_price_nano": "bigint",
    "request_price_nano": "bigint",
    "served_by": "text[]",
    "revision": "text",
    "updated_at": "timestamptz",
    "page_url": "text",
    "name_key": "text",
    "short_key": "text",
}
_COLUMNS = ", ".join(_TYPES)
# The rows come as one JSON text: an array of arrays of different lengths, such as served_by, unnest cannot take apart.
_WRITE = f"""
INSERT INTO listings (source, name, digest, stamp, {_COLUMNS}, words)
SELECT $1, u.name, decode(u.digest, 'hex'), decode(u.stamp, 'hex'), {", ".join(f"u.{name}" for name in _TYPES)},
    setweight(to_tsvector('simple', u.name_words), 'A') || setweight(to_tsvector('english', u.document), 'D')
FROM json_to_recordset($2::text::json) AS u (name text, digest text, stamp text, name_words text, document text,
    {", ".join(f"{name} {kind}" for name, kind in _TYPES.items())})
ON CONFLICT (source, name) DO UPDATE SET digest = excluded.digest, words = excluded.words,
    {", ".join(f"{name} = excluded.{name}" for name in _TYPES)},
    last_seen_at = now(), removed_at = NULL, stamp = excluded.stamp,
    pending = listings.pending OR listings.removed_at IS NOT NULL OR listings.stamp <> excluded.stamp
"""  # noqa: S608 - the names of columns, written above


async def _write_changed(connection: Connection, source: str, entries: Sequence[Listing]) -> int:
    rows = {entry.name: _row(source, entry) for entry in entries}
    digests = [bytes.fromhex(row["digest"]) for row in rows.values()]
    changed = [row["name"] for row in await connection.fetch(_CHANGED, source, [*rows], digests)]
    if changed:
        # In the order of their names, so that two who write the same rows wait for each other and never both.
        await connection.execute(_WRITE, source, msgspec.json.encode([rows[name] for name in sorted(changed)]).decode())
    return len(changed)


def _row(source: str, listing: Listing) -> dict[str, Any]:
    fields = fields_of(listing)
    found_by = {"meaning": meaning_of(listing), "attributes": sorted(attributes_of(source, listing).items())}
    return fields | {
        "name": listing.name,
        "digest": digest_of(fields).hex(),
        "stamp": digest_of(found_by).hex(),
        "price_as_of": listing.price.as_of.isoformat() if listing.price else None,
        "name_key": key_of(listing.name),
        "short_key": key_of(short_name(listing.name)),
        "name_words": " ".join(words_of(listing.name)),
        "document": document_of(listing),
    }


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
