"""Idempotency keys: a caller's retry is answered with the first answer and pays nothing.

A key is claimed before the hold is placed; its answer is stored in the transaction of the capture, and a release
frees it. The claim need not be flushed by itself: the hold's commit, which is, comes after it in the same log.
"""

from dataclasses import dataclass
from uuid import UUID

from prsm.core.database import UNREACHABLE, Pool
from prsm.core.errors import InvalidRequest, Kind, PrsmError

MAX_KEY_CHARS = 255
_MAX_OWED = 20_000

_CLAIM = """
INSERT INTO idempotency_keys (api_key_id, key, request_id, request_digest, created_at)
VALUES ($1, $2, $3, $4, now()) ON CONFLICT DO NOTHING RETURNING request_id
"""
_FREE = """
DELETE FROM idempotency_keys i WHERE request_id = ANY($1) AND answer IS NULL
AND NOT EXISTS (SELECT 1 FROM ledger_holds h WHERE h.id = i.request_id)
"""
_FIND = "SELECT request_id, request_digest, answer FROM idempotency_keys WHERE api_key_id = $1 AND key = $2"


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer that a key stands for, and the request that it was given to."""

    request_id: UUID
    answer: bytes


class IdempotencyKeys:
    """Claims, finds and forgets keys; the ledger's functions fill in the answers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._owed: set[UUID] = set()

    async def claim(self, api_key_id: UUID, key: str, request_id: UUID, digest: bytes) -> Stored | None:
        """None when the key is now this request's; else the stored answer of the request that had it.

        Raises InvalidRequest for a malformed key, and PrsmError (CONFLICT) when the key names a request that is still
        being answered, or one of another digest.
        """
        if not 1 <= len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
            raise InvalidRequest(
                f"Idempotency-Key has 1 to {MAX_KEY_CHARS} printable ASCII characters.", param="idempotency-key"
            )
        try:
            claimed = await self._insert(api_key_id, key, request_id, digest)
        except BaseException:
            # The connection may have gone with the commit's answer: whether the claim stands is not known.
            self._owe(request_id)
            raise
        if claimed:
            return None
        row = await self._pool.fetchrow(_FIND, api_key_id, key)
        if row is None:
            raise _in_progress()
        if row["request_digest"] != digest:
            raise PrsmError(
                "The Idempotency-Key was used for another request.",
                kind=Kind.UNPROCESSABLE,
                code="idempotency_key_reused",
                remedy="Send a new key.",
            )
        if row["answer"] is None:
            raise _in_progress()
        return Stored(row["request_id"], row["answer"])

    async def free(self, request_id: UUID) -> None:
        """Give up a claim whose request ended before its hold was placed.

        A claim with a hold is freed by that hold's release, never before: a capture may still be on its way. While
        the database is away the claim is only noted; ``free_owed`` gives it up later.
        """
        try:
            await self._pool.execute(_FREE, [request_id])
        except UNREACHABLE:
            self._owe(request_id)

    async def free_owed(self) -> None:
        """Give up the claims that could not be given up when their requests ended."""
        if owed := list(self._owed):
            await self._pool.execute(_FREE, owed)
            self._owed.difference_update(owed)

    async def free_all(self) -> int:
        """Give up all claims without answer; only when no request is being answered. Answers how many."""
        return int((await self._pool.execute("DELETE FROM idempotency_keys WHERE answer IS NULL")).split()[-1])

    async def forget_old(self, ttl_s: int) -> int:
        """Delete answers older than ``ttl_s``, and claims without hold that a crash left; answers how many.

        A claim whose request has its hold is kept whatever its age: that request may still be charged.
        """
        tag = await self._pool.execute(
            "DELETE FROM idempotency_keys i "
            "WHERE (answer IS NOT NULL AND created_at < now() - make_interval(secs => $1)) "
            "OR (answer IS NULL AND created_at < now() - interval '2 minutes' "
            "AND NOT EXISTS (SELECT 1 FROM ledger_holds h WHERE h.id = i.request_id))",
            ttl_s,
        )
        return int(tag.split()[-1])

    def _owe(self, request_id: UUID) -> None:
        if len(self._owed) < _MAX_OWED:
            self._owed.add(request_id)

    async def _insert(self, api_key_id: UUID, key: str, request_id: UUID, digest: bytes) -> bool:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL synchronous_commit = off")
            return await connection.fetchval(_CLAIM, api_key_id, key, request_id, digest) is not None


def _in_progress() -> PrsmError:
    return PrsmError(
        "The request with this Idempotency-Key is still being answered.",
        kind=Kind.CONFLICT,
        code="request_in_progress",
        remedy="Ask again in a moment.",
        retry_after_s=1,
    )
