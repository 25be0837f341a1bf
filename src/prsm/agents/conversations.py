"""Conversations that a client continues by id: kept in PostgreSQL, with Valkey in front, lost by no restart.

PostgreSQL tells which conversation this is, whose, and how many turns it has, each time; the cache saves only the
reading of their messages, so a stale, foreign or missing cache costs time and never truth.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from prsm.agents.call import Json
from prsm.core.cache import Cache
from prsm.core.database import Pool
from prsm.core.errors import Kind, PrsmError, Unavailable
from prsm.core.subject_keys import SubjectKey, SubjectKeys, Unreadable
from prsm.tokenomics.orders import Statement

_CACHE_TTL_S = 3600
_PROMPTS = ("system", "developer")


class _Cached(msgspec.Struct, array_like=True):
    """``created_at`` tells a conversation from another that had its id before it and was deleted."""

    created_at: datetime
    turns: int
    messages: list[Json]


_decode_cached = msgspec.json.Decoder(_Cached).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_messages = msgspec.json.Decoder(list[Json]).decode


def turn(
    conversation_id: UUID, principal_id: UUID, request_id: UUID, messages: list[Json], key: SubjectKey
) -> Statement:
    """The statement that adds one request's messages, sealed under their owner's ``key``; it is committed with the
    capture, so that no charged answer is missing from its conversation and none stands there twice. Of another
    principal's conversation it changes nothing.
    """
    sealed = key.seal(msgspec.json.encode(messages).decode(), _turn_place(request_id))
    return _ADD_TURN, (conversation_id, principal_id, request_id, msgspec.json.encode(sealed).decode())


def open_turn(stored: str, request_id: UUID, key: SubjectKey) -> list[Json]:
    """The messages of a turn from its JSON: a sealed text, or, from before turns were sealed, the messages."""
    if stored.startswith('"'):
        stored = key.open(_decode_text(stored), _turn_place(request_id))
    return _decode_messages(stored)


def joined(history: list[Json], messages: list[Json]) -> list[Json]:
    """What a model is sent of a conversation: a system prompt that comes with ``messages`` replaces the one before.

    It stands first: behind the history it would part a tool's result from its call, which providers refuse. Newer
    models of OpenAI call it the developer's.
    """
    if not history or not messages or messages[0]["role"] not in _PROMPTS:
        return [*history, *messages]
    said = history[1:] if history[0]["role"] in _PROMPTS else history
    return [messages[0], *said, *messages[1:]]


def size_bytes(messages: list[Json]) -> int:
    """What messages add to a request: their JSON, which no model's tokenizer makes more tokens of than it has bytes."""
    return sum([len(msgspec.json.encode(message)) for message in messages])


class Conversations:
    """Reads and deletes conversations; each has one owner and at most ``max_messages`` messages."""

    def __init__(self, pool: Pool, cache: Cache | None, keys: SubjectKeys, *, max_messages: int) -> None:
        self._pool = pool
        self._cache = cache
        self._keys = keys
        self._max_messages = max_messages

    async def history(self, conversation_id: UUID, principal_id: UUID) -> list[Json]:
        """All messages so far, oldest first behind the last system prompt; empty for an id that is new.

        Raises PrsmError for another's.
        """
        row = await self._pool.fetchrow(
            "SELECT principal_id, created_at, turns FROM conversations WHERE id = $1", conversation_id
        )
        if row is None:
            return []
        if row["principal_id"] != principal_id:
            raise _unknown(conversation_id)
        key = await self._keys.key(principal_id)
        cached = await self._cached(conversation_id, key)
        if cached is not None and (cached.created_at, cached.turns) == (row["created_at"], row["turns"]):
            return cached.messages
        turns = await self._pool.fetch(
            "SELECT request_id, messages::text AS messages FROM conversation_turns WHERE conversation_id = $1 "
            "ORDER BY seq",
            conversation_id,
        )
        messages: list[Json] = []
        for stored in turns:
            messages = joined(messages, open_turn(stored["messages"], stored["request_id"], key))
        await self._keep(conversation_id, _Cached(row["created_at"], len(turns), messages), key)
        return messages

    async def until(self, request_id: UUID, principal_id: UUID) -> tuple[UUID, list[Json]]:
        """The conversation that a request's answer belongs to, and its messages up to that answer.

        Raises PrsmError when there is none of this principal, or when it has gone on since.
        """
        row = await self._pool.fetchrow(
            "SELECT c.id, c.turns, t.seq FROM conversation_turns t JOIN conversations c ON c.id = t.conversation_id "
            "WHERE t.request_id = $1 AND c.principal_id = $2",
            request_id,
            principal_id,
        )
        if row is None:
            raise PrsmError(
                "The previous response is not stored.", kind=Kind.NOT_FOUND, code="previous_response_not_found"
            )
        if row["seq"] != row["turns"]:
            raise PrsmError(
                "The conversation has gone on after the previous response.",
                kind=Kind.CONFLICT,
                code="previous_response_continued",
                remedy="Continue its last response, or begin a new conversation.",
            )
        return row["id"], await self.history(row["id"], principal_id)

    def check_room(self, history: list[Json], added: list[Json]) -> None:
        """Raise PrsmError when the conversation would grow beyond its limit."""
        if len(history) + len(added) + 1 > self._max_messages:
            raise PrsmError(
                f"The conversation would have more than {self._max_messages} messages.",
                kind=Kind.CONFLICT,
                code="conversation_full",
                remedy="Begin a new one.",
            )

    async def delete(self, conversation_id: UUID, principal_id: UUID) -> None:
        """Delete a conversation and its turns. Raises PrsmError when there is none of this owner."""
        tag = await self._pool.execute(
            "DELETE FROM conversations WHERE id = $1 AND principal_id = $2", conversation_id, principal_id
        )
        if tag == "DELETE 0":
            raise _unknown(conversation_id)
        await self.forget(conversation_id)

    async def list_of(self, principal_id: UUID, limit: int) -> list[dict[str, Any]]:
        """The newest conversations of a principal: id, turns, created_at, updated_at."""
        rows = await self._pool.fetch(
            "SELECT id, turns, created_at, updated_at FROM conversations WHERE principal_id = $1 "
            "ORDER BY updated_at DESC LIMIT $2",
            principal_id,
            limit,
        )
        return [dict(row) for row in rows]

    async def _cached(self, conversation_id: UUID, key: SubjectKey) -> _Cached | None:
        if self._cache is None:
            return None
        try:
            raw = await self._cache.get(_key(conversation_id))
        except Unavailable:
            return None
        try:
            return _decode_cached(key.open_bytes(raw, _key(conversation_id))) if raw else None
        except (Unreadable, msgspec.DecodeError):  # another version's, or somebody else's
            return None

    async def _keep(self, conversation_id: UUID, value: _Cached, key: SubjectKey) -> None:
        if self._cache is not None:
            name = _key(conversation_id)
            try:
                await self._cache.set(name, key.seal_bytes(msgspec.json.encode(value), name), ttl_s=_CACHE_TTL_S)
            except PrsmError:  # away, or the conversation is larger than a cache value may be
                return

    async def forget(self, conversation_id: UUID) -> None:
        """Drop what the cache has of a conversation that was deleted."""
        if self._cache is not None:
            try:
                await self._cache.delete(_key(conversation_id))
            except Unavailable:
                return


_ADD_TURN = """
WITH grown AS (
    INSERT INTO conversations (id, principal_id, turns) VALUES ($1, $2, 1)
    ON CONFLICT (id) DO UPDATE SET turns = conversations.turns + 1, updated_at = now()
    WHERE conversations.principal_id = $2 RETURNING turns
)
INSERT INTO conversation_turns (conversation_id, seq, request_id, messages)
SELECT $1, turns, $3, $4::text::json FROM grown
"""


def _turn_place(request_id: UUID) -> str:
    return f"turn:{request_id}"


def _key(conversation_id: UUID) -> str:
    return f"conversation:{conversation_id}"


def _unknown(conversation_id: UUID) -> PrsmError:
    return PrsmError(f"There is no conversation {conversation_id}.", kind=Kind.NOT_FOUND, code="unknown_conversation")
