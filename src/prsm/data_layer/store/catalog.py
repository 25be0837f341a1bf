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
from prsm.data_layer.store.object_files import NotStored, ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import Home, ObjectIndex, Place

_KEEP_LOCK = 7031
_COPY_ROWS = 20_000
MAX_NAME_CHARS = 200
_COLUMNS = (
    "cid, kind, profile, size_bytes, dag_bytes, stored_bytes, state, created_at, verified_at, last_read_at, "
    "EXISTS (SELECT FROM storage_pins p WHERE p.cid = o.cid) AS pinned"
)
_NOW_PLACE = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

KEPT = """
    WITH RECURSIVE kept(cid) AS (
        (SELECT cid FROM storage_pins
         UNION SELECT cid FROM storage_leases WHERE until > now()
         UNION SELECT cid FROM storage_uploads WHERE state IN ('waiting', 'running'))
        UNION
        SELECT l.child_cid FROM kept k
        JOIN storage_objects o ON o.cid = k.cid
        JOIN storage_links l ON l.parent_id = o.id
    )
"""
"""The CIDs that nobody may take away: pinned, leased or waiting to be sent, and everything under those."""


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
    ) -> StoredObject:
        """Enter a published object with its blocks and entries, and keep it from now on if so asked; idempotent.

        An object that is there already is renewed; a known ``profile`` stays. Raises NotStored if a collector has taken
        its files since they were published (take it in again), InvalidRequest for a bad pin.
        """
        cid = str(index.root)
        stored_bytes = await asyncio.to_thread(self.files.stored_bytes, index.root)
        async with self._keeping() as connection:
            if not self.files.outboard_path(index.root).exists():
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
                RETURNING id, {_COLUMNS}
                """,  # noqa: S608 - constants
                cid,
                index.kind.value,
                profile,
                index.size_bytes,
                index.dag_bytes if dag_bytes is None else dag_bytes,
                stored_bytes,
                state.value,
            )
            await _replace_blocks(connection, row["id"], index)
            if pin is not None:
                await _pin(connection, [cid], pin)
            if lease is not None:
                await _lease(connection, [cid], lease)
        return _object(row)

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

    async def lease(self, cids: Iterable[Cid], lease: Lease) -> None:
        """Keep objects for a while, stored or not yet; again to go on."""
        async with self._keeping() as connection:
            await _lease(connection, [str(cid) for cid in cids], lease)

    async def release(self, holder: str, cids: Iterable[Cid] | None = None) -> None:
        """End leases of a holder before their time."""
        await self._pool.execute(
            "DELETE FROM storage_leases WHERE holder = $1 AND ($2::text[] IS NULL OR cid = ANY($2))",
            holder,
            None if cids is None else [str(cid) for cid in cids],
        )

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
        await self._pool.execute(
            "UPDATE storage_objects o SET reads = least(3, o.reads + r.reads), last_read_at = now() "
            "FROM unnest($1::text[], $2::int[]) AS r(cid, reads) WHERE o.cid = r.cid",
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
    async def _keeping(self) -> AsyncGenerator[Connection]:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock_shared($1)", _KEEP_LOCK)
            yield connection


@dataclass(frozen=True, slots=True)
class Upload:
    """An object on its way to a node. A running one counts as given up at ``next_try_at`` unless it is renewed."""

    cid: Cid
    node: str
    state: str
    attempts: int
    next_try_at: datetime
    last_error: str


class UploadQueue:
    """The durable queue of uploads; any number of workers claim from it, each upload one at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, cids: Sequence[Cid], node: str) -> int:
        """Queue objects for a node; what waits or runs stays, what ended begins anew. Answers how many began."""
        tag = await self._pool.execute(
            "INSERT INTO storage_uploads AS u (cid, node, state) SELECT DISTINCT cid, $2, 'waiting' "
            "FROM unnest($1::text[]) AS cid ON CONFLICT (cid, node) DO UPDATE SET state = 'waiting', attempts = 0, "
            "next_try_at = now(), last_error = '', updated_at = now() WHERE u.state IN ('done', 'failed')",
            [str(cid) for cid in cids],
            node,
        )
        return int(tag.split()[-1])

    async def claim(self, nodes: Sequence[str], *, seconds: float, limit: int = 1) -> list[Upload]:
        """Take what is due for one of these nodes, longest due first, to be ended or renewed within ``seconds``."""
        rows = await self._pool.fetch(
            """
            UPDATE storage_uploads u SET state = 'running', attempts = attempts + 1, updated_at = now(),
                next_try_at = now() + make_interval(secs => $2)
            FROM (SELECT cid, node FROM storage_uploads
                  WHERE state IN ('waiting', 'running') AND next_try_at <= now() AND node = ANY($1)
                  ORDER BY next_try_at LIMIT $3 FOR UPDATE SKIP LOCKED) due
            WHERE u.cid = due.cid AND u.node = due.node
            RETURNING u.cid, u.node, u.state, u.attempts, u.next_try_at, u.last_error
            """,
            list(nodes),
            seconds,
            limit,
        )
        return [_upload(row) for row in rows]

    async def renew(self, upload: Upload, *, seconds: float) -> bool:
        """Go on with a claimed upload; False when another worker has it by now."""
        return await self._end(upload, "state = 'running', next_try_at = now() + make_interval(secs => $4)", seconds)

    async def done(self, upload: Upload) -> bool:
        """The node has all of it."""
        return await self._end(upload, "state = 'done', last_error = $4", "")

    async def postpone(self, upload: Upload, error: str, *, seconds: float) -> bool:
        """It failed and shall be tried again after ``seconds``."""
        change = "state = 'waiting', next_try_at = now() + make_interval(secs => $4), last_error = $5"
        return await self._end(upload, change, seconds, error[:2000])

    async def give_up(self, upload: Upload, error: str) -> bool:
        """It failed and trying again would not help."""
        return await self._end(upload, "state = 'failed', last_error = $4", error[:2000])

    async def hasten(self, node: str) -> None:
        """A node is back: what waits for it is due now."""
        await self._pool.execute(
            "UPDATE storage_uploads SET next_try_at = now() WHERE node = $1 AND state = 'waiting'", node
        )

    async def entries(self, *, cid: Cid | None = None, limit: int = 1000) -> list[Upload]:
        """The queue, or what it has of one object; those that ended too."""
        rows = await self._pool.fetch(
            "SELECT cid, node, state, attempts, next_try_at, last_error FROM storage_uploads "
            "WHERE $1::text IS NULL OR cid = $1 ORDER BY updated_at, cid, node LIMIT $2",
            str(cid) if cid else None,
            limit,
        )
        return [_upload(row) for row in rows]

    async def forget_done(self, older_s: float) -> int:
        """Delete uploads that ended well so long ago; answers how many."""
        tag = await self._pool.execute(
            "DELETE FROM storage_uploads WHERE state = 'done' AND updated_at < now() - make_interval(secs => $1)",
            older_s,
        )
        return int(tag.split()[-1])

    async def _end(self, upload: Upload, change: str, *values: Any) -> bool:
        # The number of the attempt tells this claim from a later one of another worker.
        tag = await self._pool.execute(
            f"UPDATE storage_uploads SET updated_at = now(), {change} "  # noqa: S608 - constants of this class
            "WHERE cid = $1 AND node = $2 AND attempts = $3 AND state = 'running'",
            str(upload.cid),
            upload.node,
            upload.attempts,
            *values,
        )
        return tag.endswith(" 1")


async def _replace_blocks(connection: Connection, object_id: int, index: ObjectIndex) -> None:
    await connection.execute("DELETE FROM storage_blocks WHERE object_id = $1", object_id)
    await connection.execute("DELETE FROM storage_links WHERE parent_id = $1", object_id)
    driver: Any = connection  # asyncpg's COPY has no types
    records = ((it.cid.digest, object_id, it.home, it.offset, it.size_bytes) for it in index.places())
    while batch := list(itertools.islice(records, _COPY_ROWS)):
        await driver.copy_records_to_table(
            "storage_blocks", records=batch, columns=("digest", "object_id", "home", "offset_bytes", "size_bytes")
        )
    children = {(object_id, str(child)) for _, child in index.children()}
    if children:
        await driver.copy_records_to_table("storage_links", records=children, columns=("parent_id", "child_cid"))


async def _pin(connection: Connection, cids: Sequence[str], name: str) -> None:
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidRequest(f"A pin's name has at most {MAX_NAME_CHARS} printable characters.", param="name")
    await connection.execute(
        "INSERT INTO storage_pins (cid, name) SELECT cid, $2 FROM unnest($1::text[]) AS cid ON CONFLICT DO NOTHING",
        cids,
        name,
    )


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


def _upload(row: Any) -> Upload:
    return Upload(
        Cid.parse(row["cid"]),
        row["node"],
        row["state"],
        row["attempts"],
        row["next_try_at"],
        row["last_error"],
    )
