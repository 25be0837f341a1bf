"""Conversations: PostgreSQL is their truth, and whatever the cache says or does not say changes no answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from tests.support.ledger import World

from prsm.agents.conversations import Conversations, turn
from prsm.core.cache import Cache, CacheLimits
from prsm.core.clock import uuid7
from prsm.core.errors import Kind, PrsmError

pytestmark = pytest.mark.asyncio(loop_scope="module")


def said(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text} for text in texts]


async def refused(call: Awaitable[object]) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        await call
    return raised.value


class Talk:
    """A principal's conversation and what is said in it."""

    def __init__(self, world: World, conversations: Conversations, owner: UUID) -> None:
        self.world = world
        self.conversations = conversations
        self.owner = owner
        self.id = uuid7()

    async def add(self, *texts: str, owner: UUID | None = None) -> UUID:
        request_id = uuid7()
        key = await self.world.subject_keys.key(owner or self.owner)
        query, values = turn(self.id, owner or self.owner, request_id, said(*texts), key)
        await self.world.db.pool.execute(query, *values)
        return request_id

    async def history(self) -> list[dict[str, Any]]:
        return await self.conversations.history(self.id, self.owner)


async def principal(world: World) -> UUID:
    principal_id = uuid4()
    await world.db.pool.execute("INSERT INTO principals (id, name, role) VALUES ($1, 'x', 'user')", principal_id)
    return principal_id


@pytest_asyncio.fixture(loop_scope="module")
async def cache(valkey_url: str) -> AsyncIterator[Cache]:
    opened = Cache(valkey_url, namespace=f"talk-{uuid4().hex}", limits=CacheLimits(call_timeout_s=30))
    yield opened
    await opened.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def talk(world: World, cache: Cache) -> Talk:
    return Talk(
        world,
        Conversations(world.db.pool, cache, world.subject_keys, max_messages=10),
        await principal(world),
    )


async def test_messages_come_back_in_order_from_wherever_they_are_read(talk: Talk) -> None:
    assert await talk.history() == []
    await talk.add("a", "b")
    for _ in range(2):
        assert await talk.history() == said("a", "b")
    await talk.add("c")
    await talk.add("d")
    assert await talk.history() == said("a", "b", "c", "d")
    without_cache = Conversations(talk.world.db.pool, None, talk.world.subject_keys, max_messages=10)
    assert await without_cache.history(talk.id, talk.owner) == said("a", "b", "c", "d")


async def test_concurrent_turns_all_stand_and_none_twice(talk: Talk) -> None:
    await asyncio.gather(*(talk.add(str(number)) for number in range(20)))
    assert sorted(int(message["content"]) for message in await talk.history()) == list(range(20))


async def test_what_is_read_again_comes_from_the_cache(talk: Talk) -> None:
    await talk.add("a")
    await talk.history()
    await talk.world.db.pool.execute(
        "UPDATE conversation_turns SET messages = '[]' WHERE conversation_id = $1", talk.id
    )
    assert await talk.history() == said("a")


@pytest.mark.parametrize("text", ["\0", "\x01\x1f", "é€😀", '"\\', "", "1.0", "a" * 5000])
async def test_texts_survive_as_they_were(talk: Talk, text: str) -> None:
    await talk.add(text)
    without_cache = Conversations(talk.world.db.pool, None, talk.world.subject_keys, max_messages=10)
    assert await without_cache.history(talk.id, talk.owner) == said(text)


async def test_a_stale_cache_is_not_believed(talk: Talk, cache: Cache) -> None:
    await talk.add("a")
    await talk.history()
    stale = await cache.get(f"conversation:{talk.id}")
    assert stale is not None
    await talk.add("b")
    await cache.set(f"conversation:{talk.id}", stale, ttl_s=60)
    assert await talk.history() == said("a", "b")


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[1]", b"\xff", b'["x",1,[]]', b"null"])
async def test_a_cache_full_of_something_else_is_not_believed(talk: Talk, cache: Cache, garbage: bytes) -> None:
    await talk.add("a")
    await cache.set(f"conversation:{talk.id}", garbage, ttl_s=60)
    assert await talk.history() == said("a")


async def test_an_id_that_is_used_again_after_a_delete_never_shows_what_stood_there_before(
    talk: Talk, cache: Cache
) -> None:
    await talk.add("a secret")
    await talk.history()
    before = await cache.get(f"conversation:{talk.id}")
    assert before is not None
    await talk.conversations.delete(talk.id, talk.owner)
    # What a cache that was away at the delete still holds; the id may now be anybody's.
    await cache.set(f"conversation:{talk.id}", before, ttl_s=60)
    talk.owner = await principal(talk.world)
    await talk.add("mine")
    assert await talk.history() == said("mine")


async def test_a_conversation_larger_than_the_cache_takes_is_read_all_the_same(talk: Talk) -> None:
    await talk.add("x" * 1_200_000)
    for _ in range(2):
        assert await talk.history() == said("x" * 1_200_000)


async def test_without_a_cache_server_nothing_changes(world: World) -> None:
    cache = Cache("redis://127.0.0.1:1", namespace="away")
    talk = Talk(
        world,
        Conversations(world.db.pool, cache, world.subject_keys, max_messages=10),
        await principal(world),
    )
    try:
        request_id = await talk.add("a")
        assert await talk.history() == said("a")
        assert await talk.conversations.until(request_id, talk.owner) == (talk.id, said("a"))
        await talk.conversations.delete(talk.id, talk.owner)
        assert await talk.history() == []
    finally:
        await cache.aclose()


async def test_nobody_reads_extends_or_deletes_what_is_anothers(talk: Talk) -> None:
    request_id = await talk.add("a")
    other = await principal(talk.world)
    for call in (
        talk.conversations.history(talk.id, other),
        talk.conversations.delete(talk.id, other),
        talk.conversations.until(request_id, other),
    ):
        assert (await refused(call)).kind is Kind.NOT_FOUND
    await talk.add("intruder", owner=other)
    assert await talk.history() == said("a")
    assert [row["id"] for row in await talk.conversations.list_of(other, 10)] == []


async def test_deleted_is_gone_with_its_turns(talk: Talk) -> None:
    await talk.add("a")
    await talk.history()
    await talk.conversations.delete(talk.id, talk.owner)
    assert await talk.history() == []
    left = "SELECT count(*) FROM conversation_turns WHERE conversation_id = $1"
    assert await talk.world.db.pool.fetchval(left, talk.id) == 0
    assert (await refused(talk.conversations.delete(talk.id, talk.owner))).code == "unknown_conversation"


async def test_an_answer_is_continued_only_while_it_is_the_last(talk: Talk) -> None:
    first = await talk.add("a")
    assert await talk.conversations.until(first, talk.owner) == (talk.id, said("a"))
    second = await talk.add("b")
    error = await refused(talk.conversations.until(first, talk.owner))
    assert (error.kind, error.code) == (Kind.CONFLICT, "previous_response_continued")
    assert await talk.conversations.until(second, talk.owner) == (talk.id, said("a", "b"))
    unknown = await refused(talk.conversations.until(uuid7(), talk.owner))
    assert (unknown.kind, unknown.code) == (Kind.NOT_FOUND, "previous_response_not_found")


async def test_a_full_conversation_takes_no_more(talk: Talk) -> None:
    nine = said(*"abcdefghi")
    talk.conversations.check_room(nine, [])
    talk.conversations.check_room([], nine)
    for history, added in ((nine, said("j")), (said(*"abcdefghij"), []), ([], said(*"abcdefghij"))):
        with pytest.raises(PrsmError) as raised:
            talk.conversations.check_room(history, added)
        assert (raised.value.kind, raised.value.code) == (Kind.CONFLICT, "conversation_full")


async def test_the_list_has_the_newest_first_and_no_more_than_asked(world: World, cache: Cache) -> None:
    owner = await principal(world)
    conversations = Conversations(world.db.pool, cache, world.subject_keys, max_messages=10)
    talks = [Talk(world, conversations, owner) for _ in range(3)]
    for one in talks:
        await one.add("x")
    await talks[0].add("y")
    listed = await conversations.list_of(owner, 2)
    assert [(row["id"], row["turns"]) for row in listed] == [(talks[0].id, 2), (talks[2].id, 1)]
