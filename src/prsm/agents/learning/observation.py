"""What is remembered of each answer so that an outcome can be learnt from later: no text, only hashes and the item.

Noting costs the answer path about a microsecond; everything else happens in batches behind it. A batch that a killed
node had not written is lost, and so is what comes faster than it can be written: an observation is no one's property.
"""

import hashlib
from collections import deque
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

from msgspec import Struct

from prsm.agents.call import ChatCall, Target
from prsm.agents.learning.callers import caller_id
from prsm.agents.learning.outcomes import Ended, Seen
from prsm.agents.learning.prompts import READ_CHARS, PromptReader
from prsm.agents.plan import Ask
from prsm.agents.routers.quality import Item
from prsm.agents.routers.roster import served_model
from prsm.agents.texts import last_user_text
from prsm.core.clock import Clock, now
from prsm.core.database import Pool
from prsm.core.subject_keys import erased_among

MAX_WAITING: Final = 2_000
"""Observations that may wait to be written, with at most 16,384 characters each; more are dropped and counted."""
MAX_READS: Final = 8
"""Prompts that one batch reads which the router has not read, as of requests that named their model: a sample."""

_INSERT = """
INSERT INTO quality_answers
    (request_id, model, cluster, difficulty, discrimination, caller, prompt, asked_at, answered_at, ended)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::float8[], $5::float8[], $6::bigint[], $7::bytea[],
    $8::timestamptz[], $9::timestamptz[], $10::text[])
ON CONFLICT (request_id, model) DO UPDATE SET
    ended = excluded.ended, prompt = excluded.prompt, caller = excluded.caller, answered_at = excluded.answered_at
WHERE NOT quality_answers.settled
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Observe(Protocol):
    """What the answer path tells: how a target ended an answer of an ask, or an attempt at it (ERROR)."""

    def __call__(self, ask: Ask, target: Target, ended: Ended) -> None:
        """Note it; never waits, never raises."""
        ...


def unobserved(ask: Ask, target: Target, ended: Ended) -> None:
    """Observe for who learns nothing."""


class _Noted(Struct, frozen=True, gc=False):
    """An answer as the path has left it. ``opening`` is the first message's text, ``text`` the last user's."""

    request_id: UUID
    model: str
    account: str
    messages: int
    opening: str
    text: str
    answered_at: datetime
    ended: Ended


class Observer:
    """Notes answers and writes them down; one per process."""

    def __init__(self, pool: Pool, prompts: PromptReader, key: bytes, *, clock: Clock = now) -> None:
        """``key`` keys every hash (``NodeKey.derive("quality-callers")``)."""
        self._pool = pool
        self._prompts = prompts
        self._key = key
        self._clock = clock
        self._waiting: deque[_Noted] = deque()
        self.witness = caller_id(key, "")
        """The caller that stands for this node where it speaks of what it saw itself."""
        self.dropped = 0
        """Answers that were not observed, for too many waited or too many were unread."""

    def answered(self, ask: Ask, target: Target, ended: Ended) -> None:
        """Note how ``target`` ended an answer; implements Observe.

        What a model's own owner asks of it is not noted, for an owner's verdict is none.
        """
        call = ask.call
        if not isinstance(call, ChatCall) or target.owner_account == ask.caller.account:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        opening = call.messages[0].get("content") if call.messages else None
        self._waiting.append(
            _Noted(
                call.request_id,
                served_model(target),
                ask.caller.account,
                len(call.messages),
                opening[:READ_CHARS] if isinstance(opening, str) else "",
                last_user_text(call)[:READ_CHARS],
                self._clock(),
                ended,
            )
        )

    async def write(self) -> int:
        """Write down what waits, but of nobody erased meanwhile; answers how many. What fails is lost."""
        waiting = list(self._waiting)
        self._waiting.clear()
        read = await self._read(waiting)
        if not read:
            return 0
        accounts = {each.request_id: each.account for each in waiting}
        async with self._pool.acquire() as connection, connection.transaction():
            erased = await erased_among(connection, set(accounts.values()))
            # Of several words on one model's part in a request the last stands: it failed, and then it answered.
            batch = {(seen.request_id, seen.model): seen for seen in read if accounts[seen.request_id] not in erased}
            await connection.execute("SET LOCAL synchronous_commit = off")
            await connection.execute(_INSERT, *_columns(batch.values()))
        return len(batch)

    async def _read(self, waiting: list[_Noted]) -> list[Seen]:
        found: list[Seen] = []
        reads = 0
        for each in waiting:
            reading = self._prompts.known(each.text)
            if reading is None:
                reads += 1
                if reads > MAX_READS:
                    self.dropped += 1
                    continue
                reading = await self._prompts.read(each.text)
            found.append(self._seen(each, reading.item))
        return found

    def _seen(self, noted: _Noted, item: Item) -> Seen:
        return Seen(
            request_id=noted.request_id,
            model=noted.model,
            item=item,
            caller=caller_id(self._key, noted.account),
            prompt=b"" if noted.ended is Ended.ERROR else _prompt_digest(self._key, noted),
            asked_at=asked_at(noted.request_id),
            answered_at=noted.answered_at,
            ended=noted.ended,
        )


def asked_at(request_id: UUID) -> datetime:
    """When a request came, by its id (RFC 9562, version 7)."""
    return _EPOCH + timedelta(milliseconds=request_id.int >> 80)


def _prompt_digest(key: bytes, noted: _Noted) -> bytes:
    """What is equal when one caller asks the same again at the same place of a conversation; tells nothing of it."""
    digest = hashlib.blake2b(digest_size=16, key=key, person=b"prompt")
    for part in (noted.account, str(noted.messages), noted.opening, noted.text):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8))
        digest.update(data)
    return digest.digest()


def _columns(batch: Collection[Seen]) -> list[list[Any]]:
    """As _INSERT takes them."""
    return [
        [each.request_id for each in batch],
        [each.model for each in batch],
        [each.item.cluster for each in batch],
        [each.item.difficulty for each in batch],
        [each.item.discrimination for each in batch],
        [each.caller for each in batch],
        [each.prompt for each in batch],
        [each.asked_at for each in batch],
        [each.answered_at for each in batch],
        [each.ended.value for each in batch],
    ]
