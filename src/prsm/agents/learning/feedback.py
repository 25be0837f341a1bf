"""What callers say of answers: stored at once and durably, one word per request, the later in place of the earlier.

Only who asked may speak, by any key of the same principal, and only while the answer is recent. What is said is learnt
from later; the comment is for the operator alone.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from prsm.agents.learning.outcomes import REASON_WEIGHTS, Reason
from prsm.agents.rollouts.evidence import Mean
from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.subject_keys import SubjectKeys

MAX_COMMENT_CHARS: Final = 2_000
MAX_RATINGS: Final = 3
"""Of one caller that count where versions are rated: the first ones, so that nobody decides by saying it often."""
_PREFIXES = ("chatcmpl-", "resp_", "msg_")

_RECEIPT = (
    "SELECT body, created_at < now() - make_interval(secs => $3) AS old FROM receipts WHERE id = $1 AND account_id = $2"
)
_STORE = """
INSERT INTO quality_feedback AS f (request_id, principal_id, model, version, score, reason, comment)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (request_id) DO UPDATE SET
    score = excluded.score, reason = excluded.reason, comment = excluded.comment, updated_at = now(),
    pending = f.pending OR (f.score, f.reason) IS DISTINCT FROM (excluded.score, excluded.reason)
WHERE (f.score, f.reason, f.comment) IS DISTINCT FROM (excluded.score, excluded.reason, excluded.comment)
"""
_LIST = """
SELECT request_id, principal_id, model, score, reason, comment, created_at, updated_at FROM quality_feedback
WHERE ($1::uuid IS NULL OR request_id < $1) ORDER BY request_id DESC LIMIT $2
"""
_RATED = """
SELECT arm, count(*) AS count, sum(score) AS total FROM (
    SELECT arm, score, row_number() OVER (PARTITION BY principal_id, arm ORDER BY request_id) AS nth
    FROM quality_feedback f JOIN unnest($1::text[], $2::text[], $3::text[]) AS part (model, version, arm)
    ON f.model = part.model AND f.version IN (part.version, '')
    WHERE created_at >= $4 AND created_at <= coalesce($5, now()) AND (reason IS NULL OR reason <> ALL ($6))
) rated WHERE nth <= $7 GROUP BY arm
"""
_NOT_OF_ANSWERS = [reason.value for reason, weight in REASON_WEIGHTS.items() if not weight]


@dataclass(frozen=True, slots=True)
class Part:
    """An instance whose ratings count for ``arm``, as far as it answered for ``version`` or named none."""

    model: str
    version: str
    arm: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """One caller's word on one answer; ``model`` is the instance that gave it, ``score`` 0 (bad) to 1 (good)."""

    request_id: UUID
    principal_id: UUID
    model: str
    score: float
    reason: str | None
    comment: str
    created_at: datetime
    updated_at: datetime


class _Model(msgspec.Struct):
    name: str
    version: str = ""


class _Body(msgspec.Struct):
    model: _Model
    operation: str


class _Receipt(msgspec.Struct):
    receipt: _Body


_decode_receipt = msgspec.json.Decoder(_Receipt).decode


class FeedbackBook:
    """Takes and lists feedback. ``account_id`` is ``tokenomics/ftns_service.py: Ledger.account_id``."""

    def __init__(
        self, pool: Pool, account_id: Callable[[str], Awaitable[int]], keys: SubjectKeys, *, ttl_s: int
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._account_id = account_id
        self._ttl_s = ttl_s

    async def give(
        self, request_id: UUID, principal_id: UUID, account: str, score: float, reason: Reason | None, comment: str
    ) -> str:
        """Store what a principal says of an answer that its ``account`` paid for; answers the model that gave it.

        Saying the same again changes nothing. Raises PrsmError: NOT_FOUND for what is not this account's, CONFLICT
        when it is too old, INVALID for what is no answer in text.
        """
        row = await self._pool.fetchrow(_RECEIPT, request_id, await self._account_id(account), self._ttl_s)
        if row is None:
            raise _unknown(request_id)
        if row["old"]:
            raise _too_late(self._ttl_s)
        receipt = _decode_receipt(row["body"]).receipt
        if receipt.operation != "chat":
            raise InvalidRequest("Feedback is on answers in text; this request embedded texts.", param="request_id")
        name, version = receipt.model.name, receipt.model.version
        sealed = (await self._keys.key(principal_id)).seal(comment, comment_place(request_id))
        await self._pool.execute(_STORE, request_id, principal_id, name, version, score, reason, sealed)
        return name

    async def rated(self, parts: Sequence[Part], since: datetime, until: datetime | None = None) -> dict[str, Mean]:
        """The ratings of answers by arm; the first MAX_RATINGS of a caller for each, and none of speed or price."""
        columns = [[getattr(part, name) for part in parts] for name in ("model", "version", "arm")]
        rows = await self._pool.fetch(_RATED, *columns, since, until, _NOT_OF_ANSWERS, MAX_RATINGS)
        return {row["arm"]: Mean(row["count"], row["total"]) for row in rows}

    async def newest(self, limit: int, before: UUID | None = None) -> list[Feedback]:
        """The feedback on the newest requests first, of all callers; page by the last id seen."""
        rows = await self._pool.fetch(_LIST, before, limit)
        return [await self._opened(row) for row in rows]

    async def _opened(self, row: Any) -> Feedback:
        key = await self._keys.key(row["principal_id"])
        values: dict[str, Any] = dict(row)
        values["comment"] = key.open(values["comment"], comment_place(values["request_id"]))
        return Feedback(**values)


def comment_place(request_id: UUID) -> str:
    """Where the comment on an answer is sealed for."""
    return f"comment:{request_id}"


def parse_request_id(text: str) -> UUID:
    """The request that a client's id names: a response's ``id``, ``x-request-id``, or the receipt's id.

    Raises InvalidRequest.
    """
    bare = next((text.removeprefix(prefix) for prefix in _PREFIXES if text.startswith(prefix)), text)
    try:
        return UUID(bare)
    except ValueError:
        raise InvalidRequest(
            "request_id is not the id of a request.",
            param="request_id",
            remedy="Send the response's id (chatcmpl-..., resp_..., msg_...), or its x-request-id header.",
        ) from None


def _unknown(request_id: UUID) -> PrsmError:
    return PrsmError(
        f"No request {request_id} of yours was answered.",
        kind=Kind.NOT_FOUND,
        code="unknown_request",
        remedy="Send the id of a response, once it has ended.",
        param="request_id",
    )


def _too_late(ttl_s: int) -> PrsmError:
    return PrsmError(
        f"Feedback is taken for {ttl_s} seconds after an answer; this one is older.",
        kind=Kind.CONFLICT,
        code="feedback_too_late",
        param="request_id",
    )
