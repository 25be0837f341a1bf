"""What leaves the disk, and how disk and catalog come together again: garbage, eviction, reconciliation.

Nothing that is kept (pinned, leased, being sent, or under such a directory) and nothing that is open anywhere
is ever taken. What keeps an object is read anew under the catalog's lock for every few objects; rows go in the
transaction that sees the files go, and a crash between the two is mended by ``reconcile``.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from prsm.core.database import Pool
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.seams import Fault, Pace, StorageFault
from prsm.data_layer.store.catalog import KEPT, Catalog, State
from prsm.data_layer.store.object_files import Found, NotStored, ObjectKind
from prsm.data_layer.store.object_index import kind_on_disk
from prsm.data_layer.store.s3_fifo import Entry, Queue, S3Fifo, Snapshot
from prsm.data_layer.store.scrub import Scrubbed, scrub

_COLLECTOR_LOCK = 7032
_BATCH = 64


_LEASED = """
SELECT count(DISTINCT cid) FROM storage_leases JOIN storage_objects USING (cid)
WHERE until > now() AND NOT EXISTS (SELECT FROM storage_pins p WHERE p.cid = storage_leases.cid)
"""
"""Objects that nothing but a lease keeps, those under them not counted."""

_NOT_KEPT = """
WITH RECURSIVE above(victim, cid) AS (
    SELECT cid, cid FROM unnest($1::text[]) AS cid
    UNION
    SELECT a.victim, o.cid FROM above a
    JOIN storage_links l ON l.child_cid = a.cid
    JOIN storage_objects o ON o.id = l.parent_id
)
SELECT v.cid, v.stored_bytes FROM storage_objects v WHERE v.cid = ANY($1) AND NOT EXISTS (
    SELECT FROM above a WHERE a.victim = v.cid AND coalesce(
        (SELECT 1 FROM storage_pins p WHERE p.cid = a.cid LIMIT 1),
        (SELECT 1 FROM storage_leases l WHERE l.cid = a.cid AND l.until > now() LIMIT 1),
        (SELECT 1 FROM storage_uploads u WHERE u.cid = a.cid AND u.state = 'running' LIMIT 1)
    ) IS NOT NULL
)
"""
"""Those of a few objects that are not among ``KEPT``, found from below: what is kept besides is not looked at.

With LIMIT the planner looks each up, where it would make a table of all pins for EXISTS.
"""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection took.

    ``busy`` stayed for the moment: open somewhere, or leased (all under them stayed too). ``elsewhere``: another worker
    collects now.
    """

    objects: int = 0
    freed_bytes: int = 0
    busy: int = 0
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a reconciliation found: files without rows and rows without files."""

    adopted: int = 0
    damaged: int = 0
    missing: int = 0
    swept: int = 0


class Collector:
    """Takes objects away. Of several workers one collects at a time; the others answer so at once."""

    def __init__(self, pool: Pool, catalog: Catalog) -> None:
        self._pool = pool
        self._catalog = catalog
        self._files = catalog.files

    async def collect_garbage(self, *, unread_s: float = 0) -> Collected:
        """Take everything that nothing keeps and that was neither made nor read within ``unread_s``."""
        async with self._alone() as turn:
            if not turn:
                return Collected(elsewhere=True)
            rows = await self._pool.fetch(
                f"{KEPT} SELECT cid FROM storage_objects WHERE cid NOT IN (SELECT cid FROM kept) "  # noqa: S608
                "AND greatest(created_at, last_read_at) <= now() - make_interval(secs => $1) ORDER BY cid",
                unread_s,
            )
            leased = await self._pool.fetchval(_LEASED)
            done = await self._take([row["cid"] for row in rows])
            return replace(done, busy=done.busy + leased)

    async def evict(self, limit_bytes: int) -> Collected:
        """Bring what is stored within the limit by S3-FIFO, as far as it is not kept."""
        async with self._alone() as turn:
            if not turn:
                return Collected(elsewhere=True)
            cache = S3Fifo(limit_bytes, await self._snapshot())
            before = cache.snapshot()
            victims = list(cache.victims())
            taken = await self._take([entry.key for entry in victims])
            await self._save(before, cache.snapshot())
            return taken

    async def reconcile(self, *, pace: Pace | None = None) -> Reconciled | None:
        """Bring catalog and disk together, as at each start; safe while other workers add and take.

        A file without a row is hashed at ``pace`` and adopted, a row without a file is marked missing, what killed
        processes left is swept; None while another worker does this or collects. Raises StorageFault (LOCAL_DISK) and
        what ``pace`` raises.
        """
        async with self._alone() as turn:
            if not turn:
                return None
            await self._catalog.forget_leases()
            done = Reconciled(swept=await asyncio.to_thread(self._files.sweep))
            done = replace(done, missing=await self._mark_missing())
            known = {
                row["cid"]: (row["state"], row["size_bytes"])
                for row in await self._pool.fetch("SELECT cid, state, size_bytes FROM storage_objects")
            }
            for found in await asyncio.to_thread(lambda: list(self._files.listing())):
                state, size_bytes = known.get(str(found.cid), ("", 0))
                if state in ("", State.MISSING):
                    done = await self._adopt(found, pace, done)
                elif state == State.WHOLE and (not found.outboard or found.payload_bytes not in (None, size_bytes)):
                    await self._catalog.mark(found.cid, State.DAMAGED)
                    done = replace(done, damaged=done.damaged + 1)
            return done

    async def _adopt(self, found: Found, pace: Pace | None, done: Reconciled) -> Reconciled:
        cid = found.cid
        try:
            half = found.payload_bytes is None or not found.outboard
            if half and await asyncio.to_thread(kind_on_disk, self._files, cid) is None:
                return replace(done, swept=done.swept + await asyncio.to_thread(self._files.drop_half, cid))
            await asyncio.to_thread(self._files.settle, cid)
            scrubbed = await asyncio.to_thread(scrub, self._files, cid, pace=pace)
        except NotStored:  # taken by somebody meanwhile
            return done
        except StorageFault as fault:
            if fault.fault is not Fault.LOCAL_DISK:
                raise
            scrubbed = Scrubbed(cid, None, True, (), 0)  # damaged, or on a part of the disk that cannot be read
        if scrubbed.index is None:
            await self._catalog.enter_damaged(found)
        else:
            await self._catalog.record(scrubbed.index, state=State.WHOLE if scrubbed.whole else State.DAMAGED)
        return replace(done, adopted=done.adopted + scrubbed.whole, damaged=done.damaged + (not scrubbed.whole))

    async def _mark_missing(self) -> int:
        rows = await self._pool.fetch("SELECT cid, kind FROM storage_objects WHERE state <> 'missing'")
        maybe = await asyncio.to_thread(self._not_on_disk, rows)
        async with self._catalog.taking() as connection:  # for moments only, so not for all rows
            gone = [row["cid"] for row in await asyncio.to_thread(self._not_on_disk, maybe)]
            await connection.execute("UPDATE storage_objects SET state = 'missing' WHERE cid = ANY($1)", gone)
        return len(gone)

    def _not_on_disk(self, rows: Sequence[Any]) -> list[Any]:
        return [row for row in rows if not self._on_disk(row)]

    def _on_disk(self, row: Any) -> bool:
        cid = Cid.parse(row["cid"])
        is_file = row["kind"] == ObjectKind.FILE
        return (self._files.payload_path(cid) if is_file else self._files.outboard_path(cid)).exists()

    async def _take(self, cids: Sequence[str]) -> Collected:
        """Take those away that nothing keeps and nobody reads."""
        done = Collected()
        for start in range(0, len(cids), _BATCH):
            failed: StorageFault | None = None
            async with self._catalog.taking() as connection:
                rows = await connection.fetch(_NOT_KEPT, list(cids[start : start + _BATCH]))
                gone: list[str] = []
                for row in rows:
                    try:
                        taken = await asyncio.to_thread(self._files.remove, Cid.parse(row["cid"]))
                    except StorageFault as fault:
                        failed = fault
                        break
                    if taken:
                        gone.append(row["cid"])
                        done = replace(
                            done, objects=done.objects + 1, freed_bytes=done.freed_bytes + row["stored_bytes"]
                        )
                    else:
                        done = replace(done, busy=done.busy + 1)
                await connection.execute("DELETE FROM storage_objects WHERE cid = ANY($1)", gone)
            if failed:
                raise failed
        return done

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[bool]:
        """Whether it is this worker's turn to collect, for the time of the context.

        The lock is the session's: the server ends a transaction that is idle for as long as a collection may last.
        """
        async with self._pool.acquire() as connection:
            try:
                turn: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", _COLLECTOR_LOCK)
                yield turn
                if turn:
                    await connection.execute("SELECT pg_advisory_unlock($1)", _COLLECTOR_LOCK)
            except BaseException:
                connection.terminate()  # and the lock goes with it, in whatever moment this was
                raise

    async def _snapshot(self) -> Snapshot:
        rows = await self._pool.fetch(
            f"{KEPT} SELECT o.cid, o.stored_bytes, o.queue, o.reads, k.cid IS NOT NULL AS held "  # noqa: S608
            "FROM storage_objects o LEFT JOIN kept k ON k.cid = o.cid WHERE o.state <> 'missing' ORDER BY o.place, o.id"
        )
        entries = (
            Entry(row["cid"], row["stored_bytes"], Queue(row["queue"]), row["reads"], row["held"]) for row in rows
        )
        ghosts = await self._pool.fetch("SELECT cid, size_bytes FROM storage_ghosts ORDER BY place, cid")
        return Snapshot(tuple(entries), tuple((row["cid"], row["size_bytes"]) for row in ghosts))

    async def _save(self, before: Snapshot, after: Snapshot) -> None:
        """Write the queues as they are now; only reads that were used up go, not those counted meanwhile."""
        old = {entry.key: entry for entry in before.entries}
        moved = [entry for entry in after.entries if entry != old[entry.key]]  # who moves loses reads or changes queue
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                """
                UPDATE storage_objects o SET queue = m.queue, reads = greatest(0, o.reads - m.used),
                    place = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + m.number
                FROM unnest($1::text[], $2::text[], $3::int[]) WITH ORDINALITY AS m(cid, queue, used, number)
                WHERE o.cid = m.cid
                """,
                [entry.key for entry in moved],
                [entry.queue.value for entry in moved],
                [old[entry.key].reads - entry.reads for entry in moved],
            )
            await connection.execute("DELETE FROM storage_ghosts")
            await connection.execute(
                "INSERT INTO storage_ghosts (cid, size_bytes, place) SELECT g.cid, g.size_bytes, g.number "
                "FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS g(cid, size_bytes, number) "
                "WHERE NOT EXISTS (SELECT FROM storage_objects o WHERE o.cid = g.cid)",
                [key for key, _ in after.ghosts],
                [size_bytes for _, size_bytes in after.ghosts],
            )
