"""What is stored, where its blocks lie, who keeps it, and what waits to be sent: the metadata in PostgreSQL.

The disk is the truth about bytes and the catalog about everything else: a file without a row is adopted after it was
verified, a row without a file is marked missing. Every write is idempotent and set-based. What keeps an object (a pin,
a lease, a record) takes one advisory lock shared, and what takes objects away takes it alone, for moments.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from prsm.core.database import Connection, Pool
from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.store.object_files import Found, NotStored, ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import Home, ObjectIndex, Place

_KEEP_LOCK = 7031
_COPY_ROWS = 20_000
_FEW_ROWS = 8
MAX_NAME_CHARS = 200
_COLUMNS = (
    "cid, kind, profile, size_bytes, dag_bytes, stored_bytes, state, created_at, verified_at, last_read_at, "
    "EXISTS (SELECT FROM storage_pins p WHERE p.cid = o.cid) AS pinned"
)
# A lease is for as long as its holder lives: one that is lost with the server's last moments is renewed or runs out.
_NOT_DURABLE = "SET LOCAL synchronous_commit = off"
_NOW_PLACE = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

KEPT = """
    WITH RECURSIVE kept(cid) AS (
        (SELECT cid FROM storage_pins
         UNION SELECT cid FROM storage_leases WHERE until > now()
         UNION SELECT cid FROM storage_uploads WHERE state = 'running')
        UNION
        SELECT l.child_cid FROM kept k
        JOIN storage_objects o ON o.cid = k.cid
        JOIN storage_links l ON l.parent_id = o.id
    )
"""
"""The CIDs that nobody may take away: pinned, leased or being sent, and everything under those.

What waits to be sent stays by its pin, which counts in a quota; without one it may go, and then its upload fails.
"""


class State(StrEnum):
    """What the disk has of an object."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A row of the catalog."""

    cid: Cid
    kind: ObjectKind
    profile: str
    size_bytes: int
    dag_bytes: int
    stored_bytes: int
    state: State
    created_at: datetime
    verified_at: datetime | None
    last_read_at: datetime | None
    pinned: bool


@dataclass(frozen=True, slots=True)
class Located:
    """A block of a stored object."""

    root: Cid
    place: Place


@dataclass(frozen=True, slots=True)
class Pin:
    """A reason to keep an object."""

    cid: Cid
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Keep:
    """What came of keeping an object; ``size_bytes`` is all that its name would pin, or 0 where nothing limits that.

    Where it is within the limit it may be more than that: files that two of its pins keep count twice.

    ``unknown`` is one of those under it of which nothing says how large they are, where that kept it from being pinned.
    """

    here: bool
    before: bool
    size_bytes: int
    unknown: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the catalog counts."""

    objects: int
    stored_bytes: int
    damaged: int
    missing: int
    pinned: int
    leased: int
    uploads_waiting: int
    uploads_failed: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Keeps an object while somebody uses it; ``holder`` says who, uniquely."""

    holder: str
    seconds: float


class Catalog:
    """The catalog of one folder of objects; several workers may share both."""

    def __init__(self, pool: Pool, files: ObjectFiles) -> None:
        self._pool = pool
        self.files = files

    async def record(
        self,
        index: ObjectIndex,
        *,
        profile: str = "",
        dag_bytes: int | None = None,
        state: State = State.WHOLE,
        pin: str | None = None,
        lease: Lease | None = None,
        durably: bool = True,
    ) -> StoredObject:
        """Enter a published object with its blocks and entries, and keep it from now on if so asked; idempotent.

        An object that is there already is renewed; a known ``profile`` stays. Not ``durably`` is for who commits again
        before anybody is told, which brings this to the database's disk too. Raises NotStored if a collector has taken
        its files since they were published (take it in again), InvalidRequest for a bad pin.
        """
        cid = str(index.root)
        stored_bytes = await asyncio.to_thread(self.files.stored_bytes, index.root)
        async with self._keeping(durably=durably) as connection:
            path = self.files.payload_path if index.kind is ObjectKind.FILE else self.files.outboard_path
            if not path(index.root).exists():
                raise NotStored(f"{cid} is no longer in this node's storage.", remedy="Add it again.")
            row = await connection.fetchrow(
                f"""
                WITH ghost AS (DELETE FROM storage_ghosts WHERE cid = $1 RETURNING cid)
                INSERT INTO storage_objects AS o (cid, kind, profile, size_bytes, dag_bytes, stored_bytes, state,
                    queue, place, verified_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7,
                    CASE WHEN EXISTS (SELECT FROM ghost) THEN 'main' ELSE 'small' END, {_NOW_PLACE}, now())
                ON CONFLICT (cid) DO UPDATE SET kind = $2, size_bytes = $4, stored_bytes = $6, state = $7,
                    profile = CASE WHEN o.profile = '' THEN $3 ELSE o.profile END,
                    dag_bytes = $5, verified_at = now()
                RETURNING id, xmax = 0 AS is_new, {_COLUMNS}
                """,  # noqa: S608 - constants
                cid,
                index.kind.value,
                profile,
                index.size_bytes,
                index.dag_bytes if dag_bytes is None else dag_bytes,
                stored_bytes,
                state.value,
            )
            if not row["is_new"]:
                await _forget_blocks(connection, row["id"])
            await _enter_blocks(connection, row["id"], index)
            if pin is not None:
                await _pin(connection, [cid], pin)
            if lease is not None:
                await _lease(connection, [cid], lease)
        return _object(row)

    async def enter_damaged(self, found: Found) -> None:
        """Enter an object whose outboard says nothing any more, so that it is repaired or collected; idempotent."""
        kind = ObjectKind.DIRECTORY if found.payload_bytes is None else ObjectKind.FILE
        await self._pool.execute(
            f"""
            INSERT INTO storage_objects (cid, kind, profile, size_bytes, dag_bytes, stored_bytes, state, queue, place)
            VALUES ($1, $2, '', $3, 0, $4, 'damaged', 'small', {_NOW_PLACE})
            ON CONFLICT (cid) DO UPDATE SET state = 'damaged'
            """,  # noqa: S608 - constants
            str(found.cid),
            kind.value,
            found.payload_bytes or 0,
            found.stored_bytes,
        )

    async def get(self, cid: Cid) -> StoredObject | None:
        """What is known of an object, whatever its state."""
        row = await self._pool.fetchrow(f"SELECT {_COLUMNS} FROM storage_objects o WHERE cid = $1", str(cid))  # noqa: S608
        return _object(row) if row else None

    async def get_many(self, cids: Iterable[Cid]) -> dict[Cid, StoredObject]:
        """What is known of several objects; unknown ones are left out."""
        rows = await self._pool.fetch(
            f"SELECT {_COLUMNS} FROM storage_objects o WHERE cid = ANY($1)",  # noqa: S608
            [str(cid) for cid in cids],
        )
        return {found.cid: found for found in map(_object, rows)}

    async def list_objects(
        self, *, after: Cid | None = None, limit: int = 100, pin: str | None = None
    ) -> list[StoredObject]:
        """Objects by CID, from the one after ``after`` on: all, or those pinned under the name ``pin``."""
        rows = await self._pool.fetch(
            f"SELECT {_COLUMNS} FROM storage_objects o WHERE cid > $1 "  # noqa: S608
            "AND ($3::text IS NULL OR EXISTS (SELECT FROM storage_pins p WHERE p.cid = o.cid AND p.name = $3)) "
            "ORDER BY cid LIMIT $2",
            str(after) if after else "",
            limit,
            pin,
        )
        return [_object(row) for row in rows]

    async def find_block(self, cid: Cid) -> Located | None:
        """Where a whole object has this block, of whatever codec: a digest names the same bytes."""
        row = await self._pool.fetchrow(
            "SELECT o.cid, b.home, b.offset_bytes, b.size_bytes FROM storage_blocks b "
            "JOIN storage_objects o ON o.id = b.object_id WHERE b.digest = $1 AND o.state = 'whole' LIMIT 1",
            cid.digest,
        )
        if row is None:
            return None
        place = Place(cid, Home(row["home"]), row["offset_bytes"], row["size_bytes"])
        return Located(Cid.parse(row["cid"]), place)

    async def mark(self, cid: Cid, state: State) -> None:
        """Note what the disk has; WHOLE means that every byte was just verified."""
        await self._pool.execute(
            "UPDATE storage_objects SET state = $2, "
            "verified_at = CASE WHEN $2 = 'whole' THEN now() ELSE verified_at END WHERE cid = $1",
            str(cid),
            state.value,
        )

    async def longest_unverified(self, older_s: float, *, limit: int = 1) -> list[Cid]:
        """Whole objects that were verified longest ago, at least ``older_s``."""
        rows = await self._pool.fetch(
            "SELECT cid FROM storage_objects WHERE state = 'whole' AND "
            "coalesce(verified_at, '-infinity') < now() - make_interval(secs => $1) "
            "ORDER BY verified_at NULLS FIRST, cid LIMIT $2",
            older_s,
            limit,
        )
        return [Cid.parse(row["cid"]) for row in rows]

    async def in_state(self, state: State) -> list[Cid]:
        """All objects in a state."""
        rows = await self._pool.fetch("SELECT cid FROM storage_objects WHERE state = $1 ORDER BY cid", state.value)
        return [Cid.parse(row["cid"]) for row in rows]

    async def pin(self, cid: Cid, name: str = "") -> None:
        """Keep an object and all under it, stored or not yet; pinning again changes nothing. Raises InvalidRequest."""
        async with self._keeping() as connection:
            await _pin(connection, [str(cid)], name)

    async def unpin(self, cid: Cid, name: str | None = None) -> int:
        """Take away one pin, or all of an object; answers how many there were."""
        tag = await self._pool.execute(
            "DELETE FROM storage_pins WHERE cid = $1 AND ($2::text IS NULL OR name = $2)", str(cid), name
        )
        return int(tag.split()[-1])

    async def unpin_all(self, cids: Sequence[Cid], name: str) -> int:
        """Take away the pins that ``name`` has on these; answers how many there were."""
        tag = await self._pool.execute(
            "DELETE FROM storage_pins WHERE cid = ANY ($1::text[]) AND name = $2", [str(cid) for cid in cids], name
        )
        return int(tag.split()[-1])

    async def pins(self, cid: Cid | None = None) -> list[Pin]:
        """All pins, or those of one object."""
        rows = await self._pool.fetch(
            "SELECT cid, name, created_at FROM storage_pins WHERE $1::text IS NULL OR cid = $1 ORDER BY cid, name",
            str(cid) if cid else None,
        )
        return [Pin(Cid.parse(row["cid"]), row["name"], row["created_at"]) for row in rows]

    async def pinned_bytes(self, name: str) -> int:
        """Bytes of all files that are kept by the pins of this name, each once."""
        total: int = await self._pool.fetchval(
            """
            WITH RECURSIVE under(cid) AS (
                SELECT cid FROM storage_pins WHERE name = $1
                UNION SELECT l.child_cid FROM under u JOIN storage_objects o ON o.cid = u.cid
                JOIN storage_links l ON l.parent_id = o.id
            )
            SELECT coalesce(sum(o.size_bytes), 0)::bigint FROM under JOIN storage_objects o USING (cid)
            """,
            name,
        )
        return total

    async def most_pinned_bytes(self, name: str) -> int | None:
        """What ``pinned_bytes`` cannot exceed, without counting; None if that is not known."""
        most: int | None = await self._pool.fetchval("SELECT most_bytes FROM storage_totals WHERE name = $1", name)
        return most

    async def lease(self, cids: Iterable[Cid], lease: Lease) -> None:
        """Keep objects for a while, stored or not yet; again to go on."""
        async with self._keeping(durably=False) as connection:
            await _lease(connection, [str(cid) for cid in cids], lease)

    async def renew(self, cids: Iterable[Cid], lease: Lease) -> None:
        """As ``lease``, and go on with all else that this holder has leased."""
        async with self._keeping(durably=False) as connection:
            await _lease(connection, [str(cid) for cid in cids], lease)
            await connection.execute(
                "UPDATE storage_leases SET until = greatest(until, now() + make_interval(secs => $2)) "
                "WHERE holder = $1",
                lease.holder,
                lease.seconds,
            )

    async def release(self, holder: str, cids: Iterable[Cid] | None = None) -> None:
        """End leases of a holder before their time."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_NOT_DURABLE)
            await connection.execute(
                "DELETE FROM storage_leases WHERE holder = $1 AND ($2::text[] IS NULL OR cid = ANY($2))",
                holder,
                None if cids is None else [str(cid) for cid in cids],
            )

    async def forget_leases(self) -> None:
        """Delete what workers that died had leased, when it has long run out."""
        await self._pool.execute("DELETE FROM storage_leases WHERE until < now() - interval '1 hour'")

    async def kept(self, cid: Cid) -> bool:
        """Whether something keeps this object now."""
        found: bool = await self._pool.fetchval(
            f"{KEPT} SELECT EXISTS (SELECT FROM kept WHERE cid = $1)",  # noqa: S608 - constants
            str(cid),
        )
        return found

    async def count_reads(self, reads: Mapping[Cid, int]) -> None:
        """Add what was read since the last call, in one statement; unknown objects are passed over."""
        if not reads:
            return
        # Locked in one order, so that two workers cannot wait for each other's rows.
        await self._pool.execute(
            """
            WITH r AS (SELECT * FROM unnest($1::text[], $2::int[]) AS r(cid, reads)),
            locked AS (SELECT o.id, r.reads FROM storage_objects o JOIN r USING (cid) ORDER BY o.id FOR UPDATE OF o)
            UPDATE storage_objects o SET reads = least(3, o.reads + locked.reads), last_read_at = now()
            FROM locked WHERE o.id = locked.id
            """,
            [str(cid) for cid in reads],
            list(reads.values()),
        )

    async def usage(self) -> Usage:
        """Totals for status and metrics."""
        row = await self._pool.fetchrow(
            """
            SELECT count(*) AS objects, coalesce(sum(stored_bytes) FILTER (WHERE state <> 'missing'), 0)::bigint
                AS stored_bytes,
                count(*) FILTER (WHERE state = 'damaged') AS damaged,
                count(*) FILTER (WHERE state = 'missing') AS missing,
                (SELECT count(DISTINCT cid) FROM storage_pins) AS pinned,
                (SELECT count(DISTINCT cid) FROM storage_leases WHERE until > now()) AS leased,
                (SELECT count(*) FROM storage_uploads WHERE state IN ('waiting', 'running')) AS uploads_waiting,
                (SELECT count(*) FROM storage_uploads WHERE state = 'failed') AS uploads_failed
            FROM storage_objects
            """
        )
        return Usage(**dict(row))

    async def add_provenance(self, cid: Cid, envelope: bytes, publisher: str, at: datetime) -> bool:
        """Keep a signed statement about an object, which the caller has verified; False when it is there already."""
        tag = await self._pool.execute(
            "INSERT INTO storage_provenance (cid, digest, envelope, publisher, at) VALUES ($1, sha256($2), $2, $3, $4) "
            "ON CONFLICT DO NOTHING",
            str(cid),
            envelope,
            publisher,
            at,
        )
        return tag.endswith(" 1")

    async def provenance(self, cid: Cid, *, limit: int = 1000) -> list[bytes]:
        """The statements about an object, oldest first."""
        rows = await self._pool.fetch(
            "SELECT envelope FROM storage_provenance WHERE cid = $1 ORDER BY at, digest LIMIT $2", str(cid), limit
        )
        return [row["envelope"] for row in rows]

    @asynccontextmanager
    async def taking(self) -> AsyncGenerator[Connection]:
        """A transaction in which nothing can begin to be kept; for moments only."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _KEEP_LOCK)
            yield connection

    @asynccontextmanager
    async def _keeping(self, *, durably: bool = True) -> AsyncGenerator[Connection]:
        async with self._pool.acquire() as connection, connection.transaction():
            if not durably:
                await connection.execute(_NOT_DURABLE)
            await connection.execute("SELECT pg_advisory_xact_lock_shared($1)", _KEEP_LOCK)
            yield connection

    async def keep(self, cid: Cid, name: str, *, most_bytes: int | None = None) -> Keep:
        """Pin an object that is here, unless all that ``name`` pins is more than ``most_bytes`` then, or may be.

        Those of one name take turns, in whatever worker: of two that do not fit together, the first is kept. Raises
        InvalidRequest for a bad name.
        """
        async with self._keeping() as connection:
            await _take_turn(connection, name)
            row = await connection.fetchrow(_KEEP, str(cid), name, most_bytes)
        return Keep(**dict(row))


_KEEP = """
    WITH RECURSIVE here AS (SELECT cid FROM storage_objects WHERE cid = $1 AND state <> 'missing'),
    before AS (SELECT cid FROM storage_pins WHERE cid = $1 AND name = $2),
    under(cid) AS (
        (SELECT cid FROM storage_pins WHERE name = $2 UNION SELECT cid FROM here)
        UNION SELECT l.child_cid FROM under u JOIN storage_objects o ON o.cid = u.cid
        JOIN storage_links l ON l.parent_id = o.id
    ),
    tree(cid) AS (
        SELECT cid FROM here UNION SELECT l.child_cid FROM tree t JOIN storage_objects o ON o.cid = t.cid
        JOIN storage_links l ON l.parent_id = o.id
    ),
    free AS (SELECT $3::bigint IS NULL OR EXISTS (SELECT FROM before) AS of_limits),
    new AS (
        -- Not here, or found so damaged that its row says nothing, is unknown.
        SELECT coalesce(sum(o.size_bytes), 0)::bigint AS size_bytes,
            min(t.cid) FILTER (WHERE o.state IS DISTINCT FROM 'whole' AND coalesce(o.dag_bytes, 0) = 0) AS unknown
        FROM tree t LEFT JOIN storage_objects o USING (cid) WHERE NOT (SELECT of_limits FROM free)
    ),
    quick AS (
        SELECT t.most_bytes + new.size_bytes AS size_bytes FROM new, free, storage_totals t
        WHERE t.name = $2 AND NOT of_limits AND t.most_bytes + new.size_bytes <= $3
    ),
    counted AS (
        SELECT coalesce(sum(o.size_bytes), 0)::bigint AS size_bytes,
            coalesce(bool_and(coalesce(o.state = 'whole' OR o.dag_bytes > 0, false)), false) AS known
        FROM under LEFT JOIN storage_objects o USING (cid)
        WHERE NOT (SELECT of_limits FROM free) AND NOT EXISTS (SELECT FROM quick)
    ),
    total AS (
        SELECT coalesce(quick.size_bytes, counted.size_bytes) AS size_bytes, unknown,
            quick.size_bytes IS NOT NULL OR known AS known
        FROM counted, new LEFT JOIN quick ON true
    ),
    pinned AS (
        INSERT INTO storage_pins (cid, name) SELECT here.cid, $2 FROM here, total
        WHERE total.size_bytes <= coalesce($3, 0) AND total.unknown IS NULL ON CONFLICT DO NOTHING RETURNING cid
    ),
    noted AS (
        INSERT INTO storage_totals AS t (name, most_bytes) SELECT $2, size_bytes FROM total, pinned, free
        WHERE known AND NOT of_limits ON CONFLICT (name) DO UPDATE SET most_bytes = excluded.most_bytes
    ),
    forgotten AS (DELETE FROM storage_totals WHERE name = $2 AND $3::bigint IS NULL)
    SELECT EXISTS (SELECT FROM here) AS here, EXISTS (SELECT FROM before) AS before, size_bytes, unknown FROM total
"""


async def _forget_blocks(connection: Connection, object_id: int) -> None:
    await connection.execute("DELETE FROM storage_blocks WHERE object_id = $1", object_id)
    await connection.execute("DELETE FROM storage_links WHERE parent_id = $1", object_id)


async def _enter_blocks(connection: Connection, object_id: int, index: ObjectIndex) -> None:
    records = ((it.cid.digest, object_id, it.home, it.offset, it.size_bytes) for it in index.places())
    while batch := list(itertools.islice(records, _COPY_ROWS)):
        await _copy(connection, "storage_blocks", ("digest", "object_id", "home", "offset_bytes", "size_bytes"), batch)
    children = {(object_id, str(child)) for _, child in index.children()}
    await _copy(connection, "storage_links", ("parent_id", "child_cid"), list(children))


async def _copy(connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    if len(rows) > _FEW_ROWS:
        driver: Any = connection  # asyncpg's COPY has no types
        await driver.copy_records_to_table(table, records=rows, columns=columns)
    elif rows:  # the most frequent case, a file of one block: COPY would ask for the table's types first
        values = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"  # noqa: S608 - constants
        await connection.executemany(insert, rows)


async def _pin(connection: Connection, cids: Sequence[str], name: str) -> None:
    await _take_turn(connection, name)
    await connection.execute("DELETE FROM storage_totals WHERE name = $1", name)
    await connection.execute(
        "INSERT INTO storage_pins (cid, name) SELECT cid, $2 FROM unnest($1::text[]) AS cid ON CONFLICT DO NOTHING",
        cids,
        name,
    )


async def _take_turn(connection: Connection, name: str) -> None:
    """Wait for those who keep something under this name; statements after this one see what they did."""
    _check_name(name)
    await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _KEEP_LOCK, name)


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidRequest(f"A pin's name has at most {MAX_NAME_CHARS} printable characters.", param="name")


async def _lease(connection: Connection, cids: Sequence[str], lease: Lease) -> None:
    # In one order, so that two holders cannot wait for each other's rows.
    await connection.execute(
        "INSERT INTO storage_leases AS l (cid, holder, until) "
        "SELECT DISTINCT cid, $2, now() + make_interval(secs => $3) FROM unnest($1::text[]) AS cid ORDER BY cid "
        "ON CONFLICT (cid, holder) DO UPDATE SET until = greatest(l.until, excluded.until)",
        cids,
        lease.holder,
        lease.seconds,
    )


def _object(row: Any) -> StoredObject:
    return StoredObject(
        cid=Cid.parse(row["cid"]),
        kind=ObjectKind(row["kind"]),
        profile=row["profile"],
        size_bytes=row["size_bytes"],
        dag_bytes=row["dag_bytes"],
        stored_bytes=row["stored_bytes"],
        state=State(row["state"]),
        created_at=row["created_at"],
        verified_at=row["verified_at"],
        last_read_at=row["last_read_at"],
        pinned=row["pinned"],
    )
