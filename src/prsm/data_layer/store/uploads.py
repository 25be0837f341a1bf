"""What waits to be sent to own IPFS nodes, durable in PostgreSQL; any number of workers claim from it.

A claim is for a while, is renewed as long as its worker lives, and has a number: who comes back too late changes
nothing. Only what failed counts as an attempt, not a worker or a node that stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prsm.core.database import Pool
from prsm.data_layer.codec.cid import Cid

_COLUMNS = "cid, node, state, attempts, claims, next_try_at, last_error"


@dataclass(frozen=True, slots=True)
class Upload:
    """An object on its way to a node. A running one counts as given up at ``next_try_at`` unless it is renewed.

    ``attempts`` have failed; ``claim`` tells this one from those of other workers.
    """

    cid: Cid
    node: str
    state: str
    attempts: int
    claim: int
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
            UPDATE storage_uploads u SET state = 'running', claims = claims + 1, updated_at = now(),
                next_try_at = now() + make_interval(secs => $2)
            FROM (SELECT cid, node FROM storage_uploads
                  WHERE state IN ('waiting', 'running') AND next_try_at <= now() AND node = ANY($1)
                  ORDER BY next_try_at LIMIT $3 FOR UPDATE SKIP LOCKED) due
            WHERE u.cid = due.cid AND u.node = due.node
            RETURNING u.cid, u.node, u.state, u.attempts, u.claims, u.next_try_at, u.last_error
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
        change = "state = 'waiting', attempts = attempts + 1, last_error = $5, "
        change += "next_try_at = now() + make_interval(secs => $4)"
        return await self._end(upload, change, seconds, error[:2000])

    async def put_back(self, upload: Upload) -> bool:
        """It was broken off by nobody's failure, and is due again at once."""
        return await self._end(upload, "state = 'waiting', next_try_at = now()")

    async def give_up(self, upload: Upload, error: str) -> bool:
        """It failed and trying again would not help."""
        return await self._end(upload, "state = 'failed', attempts = attempts + 1, last_error = $4", error[:2000])

    async def give_up_others(self, nodes: Sequence[str], *, older_s: float) -> None:
        """Give up what has been due so long for nodes that are not among these."""
        await self._pool.execute(
            "UPDATE storage_uploads SET state = 'failed', updated_at = now(), "
            "last_error = node || ' is no node of one''s own any more.' WHERE state IN ('waiting', 'running') "
            "AND node <> ALL($1::text[]) AND next_try_at < now() - make_interval(secs => $2)",
            list(nodes),
            older_s,
        )

    async def hasten(self, node: str) -> None:
        """A node is back: what waits for it is due now."""
        await self._pool.execute(
            "UPDATE storage_uploads SET next_try_at = now() WHERE node = $1 AND state = 'waiting'", node
        )

    async def entries(self, *, cid: Cid | None = None, limit: int = 1000) -> list[Upload]:
        """The queue, or what it has of one object; those that ended too."""
        rows = await self._pool.fetch(
            f"SELECT {_COLUMNS} FROM storage_uploads "  # noqa: S608 - constants
            "WHERE $1::text IS NULL OR cid = $1 ORDER BY updated_at, cid, node LIMIT $2",
            str(cid) if cid else None,
            limit,
        )
        return [_upload(row) for row in rows]

    async def forget_ended(self, older_s: float) -> int:
        """Delete uploads that ended so long ago, however they did; answers how many."""
        tag = await self._pool.execute(
            "DELETE FROM storage_uploads WHERE state IN ('done', 'failed') "
            "AND updated_at < now() - make_interval(secs => $1)",
            older_s,
        )
        return int(tag.split()[-1])

    async def _end(self, upload: Upload, change: str, *values: Any) -> bool:
        tag = await self._pool.execute(
            f"UPDATE storage_uploads SET updated_at = now(), {change} "  # noqa: S608 - constants of this class
            "WHERE cid = $1 AND node = $2 AND claims = $3 AND state = 'running'",
            str(upload.cid),
            upload.node,
            upload.claim,
            *values,
        )
        return tag.endswith(" 1")


def _upload(row: Any) -> Upload:
    return Upload(
        Cid.parse(row["cid"]),
        row["node"],
        row["state"],
        row["attempts"],
        row["claims"],
        row["next_try_at"],
        row["last_error"],
    )
