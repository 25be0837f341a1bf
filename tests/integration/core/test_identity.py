import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from prsm.core import clock, database
from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import (
    ADMIN,
    AUDIT,
    CACHE_TTL_S,
    CHAT,
    KEYS,
    MAX_GRACE_S,
    MAX_KEYS_PER_PRINCIPAL,
    READ,
    SCOPES,
    USER_SCOPES,
    ApiKey,
    Grant,
    Identities,
    IssuedKey,
    Principal,
)
from prsm.core.subject_keys import SubjectKeys

PEPPER = b"p" * 32


class World:
    """A database, its identities, a clock that can be moved, and a count of the questions asked."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.shift = timedelta()
        self.asked = 0
        self.before: dict[str, str] = {}
        """What somebody else does just before a statement that begins so."""
        self.identities = self.another()

    def another(self, pepper: bytes = PEPPER) -> Identities:
        return Identities(
            self, pepper, SubjectKeys(self, b"s" * 32), clock=self.now, monotonic=lambda: self.shift.total_seconds()
        )

    def now(self) -> datetime:
        return clock.now() + self.shift

    def pass_s(self, seconds: float) -> None:
        self.shift += timedelta(seconds=seconds)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        self.asked += 1
        for start in [start for start in self.before if query.startswith(start)]:
            await self.pool.execute(self.before.pop(start))
        return await self.pool.fetchrow(query, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    async def user(self, name: str = "ada", role: Any = "user") -> Principal:
        return await self.identities.create_principal(name, role)

    async def issue(self, owner: Principal, actor: ApiKey | None = None, **wishes: Any) -> IssuedKey:
        if "scopes" in wishes:
            wishes["scopes"] = frozenset(wishes["scopes"])
        return await self.identities.create_key(owner.id, Grant("a key", **wishes), actor=actor)


@pytest.fixture
async def world(fresh_database: str) -> AsyncIterator[World]:
    store = await database.connect(fresh_database, pool_size=4, timeout_ms=20_000)
    yield World(store.pool)
    await store.close()


async def refused(awaitable: Any, code: str) -> PrsmError:
    with pytest.raises(PrsmError) as caught:
        await awaitable
    assert caught.value.code == code
    return caught.value


async def test_a_new_key_authenticates_and_only_its_hash_is_kept(world: World) -> None:
    owner = await world.user()
    issued = await world.issue(owner, rate_limit_per_minute=7)
    key = await world.identities.authenticate(issued.token)
    assert (key.id, key.principal_id, key.role) == (issued.key.id, owner.id, "user")
    assert (key.scopes, key.rate_limit_per_minute, key.expires_at) == (USER_SCOPES, 7, None)
    assert issued.token.startswith(f"prsm_{key.prefix}_")
    secret = issued.token.rpartition(f"{key.prefix}_")[2]
    assert len(secret) == 43
    row = await world.pool.fetchrow("SELECT * FROM api_keys")
    assert len(row["key_hash"]) == 32
    assert secret not in repr(dict(row)) + repr(issued) + repr(key)
    assert row["last_used_at"] is not None


@pytest.mark.parametrize(
    "token",
    ["", "prsm_", "sk-123", "prsm_abcdefgh_short", "prsm_abcdefgh_" + "a" * 44, "prsm_abcdefg\0_" + "a" * 43,
     "prsm_abcdefgh_" + "a" * 42 + "\n", "prsm_abcdefgh_" + "é" * 43, "\ud800" * 57, "x" * 100_000,
     "prsm_abcdefgh_" + "a" * 43],
)  # fmt: skip
async def test_malformed_and_guessed_tokens_cost_no_question(world: World, token: str) -> None:
    await refused(world.identities.authenticate(token), "invalid_api_key")
    assert world.asked == 0


async def test_a_known_prefix_helps_no_guess(world: World) -> None:
    issued = await world.issue(await world.user())
    await world.identities.authenticate(issued.token)
    asked = world.asked
    last = issued.token[-1]
    for end in (c for c in "ABab01-_" if c != last):
        error = await refused(world.identities.authenticate(issued.token[:-1] + end), "invalid_api_key")
        assert error.kind is Kind.UNAUTHENTICATED
    world.pass_s(CACHE_TTL_S)
    await refused(world.identities.authenticate(issued.token[:-5] + "AAAAA"), "invalid_api_key")
    assert world.asked == asked


async def test_another_pepper_or_a_lost_row_is_invalid_and_remembered(world: World) -> None:
    issued = await world.issue(await world.user())
    await refused(world.another(b"q" * 32).authenticate(issued.token), "invalid_api_key")
    await world.pool.execute("DELETE FROM api_keys")
    asked = world.asked
    for _ in range(3):
        await refused(world.identities.authenticate(issued.token), "invalid_api_key")
    assert world.asked == asked + 1


async def test_a_swapped_hash_is_invalid(world: World) -> None:
    issued = await world.issue(await world.user())
    await world.pool.execute("UPDATE api_keys SET key_hash = $1", b"\0" * 32)
    await refused(world.identities.authenticate(issued.token), "invalid_api_key")


async def test_many_callers_ask_once_and_then_the_cache_answers_for_its_time(world: World) -> None:
    issued = await world.issue(await world.user())
    world.asked = 0
    keys = await asyncio.gather(*(world.identities.authenticate(issued.token) for _ in range(200)))
    assert len({key.id for key in keys}) == 1
    assert world.asked == 1
    await world.identities.authenticate(issued.token)
    assert world.asked == 1
    world.pass_s(CACHE_TTL_S)
    await world.identities.authenticate(issued.token)
    assert world.asked == 2


async def test_one_caller_leaving_does_not_fail_the_others(world: World) -> None:
    issued = await world.issue(await world.user())
    first = asyncio.create_task(world.identities.authenticate(issued.token))
    others = [asyncio.create_task(world.identities.authenticate(issued.token)) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    assert {key.id for key in await asyncio.gather(*others)} == {issued.key.id}
    assert first.cancelled()


async def test_expiry_counts_even_while_cached(world: World) -> None:
    issued = await world.issue(await world.user(), expires_at=world.now() + timedelta(seconds=3))
    await world.identities.authenticate(issued.token)
    world.pass_s(3)
    await refused(world.identities.authenticate(issued.token), "expired_api_key")
    await refused(world.another().authenticate(issued.token), "expired_api_key")


async def test_revoking_is_seen_here_at_once_and_elsewhere_after_forget_or_the_cache_time(world: World) -> None:
    issued = await world.issue(await world.user())
    elsewhere, far = world.another(), world.another()
    for one in (world.identities, elsewhere, far):
        await one.authenticate(issued.token)
    revoked = await world.identities.revoke(issued.key.id, actor=None)
    assert revoked.revoked_at is not None
    await refused(world.identities.authenticate(issued.token), "revoked_api_key")
    elsewhere.forget(issued.key.prefix)
    await refused(elsewhere.authenticate(issued.token), "revoked_api_key")
    await far.authenticate(issued.token)
    world.pass_s(CACHE_TTL_S)
    await refused(far.authenticate(issued.token), "revoked_api_key")
    again = await world.identities.revoke(issued.key.id, actor=None)
    assert again.revoked_at == revoked.revoked_at


async def test_an_answer_that_a_forget_overtook_is_not_kept(world: World) -> None:
    issued = await world.issue(await world.user())
    early = asyncio.create_task(world.identities.authenticate(issued.token))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.identities.forget(issued.key.prefix)
    await early
    await world.pool.execute("UPDATE api_keys SET revoked_at = now()")
    await refused(world.identities.authenticate(issued.token), "revoked_api_key")


async def test_rotation_with_and_without_grace(world: World) -> None:
    owner = await world.user()
    one = await world.issue(owner, scopes={CHAT}, rate_limit_per_minute=5)
    two = await world.identities.rotate(one.key.id, actor=None, grace_s=60)
    assert (two.key.scopes, two.key.rate_limit_per_minute, two.key.expires_at) == ({CHAT}, 5, None)
    await world.identities.authenticate(one.token)
    await world.identities.authenticate(two.token)
    world.pass_s(61)
    await refused(world.identities.authenticate(one.token), "expired_api_key")
    three = await world.identities.rotate(two.key.id, actor=None)
    await refused(world.identities.authenticate(two.token), "revoked_api_key")
    await world.identities.authenticate(three.token)
    await refused(world.identities.rotate(two.key.id, actor=None), "key_not_live")
    await refused(world.identities.rotate(one.key.id, actor=None), "key_not_live")
    for grace_s in (-1, MAX_GRACE_S + 1):
        await refused(world.identities.rotate(three.key.id, actor=None, grace_s=grace_s), "invalid_request")


async def test_grace_never_prolongs_a_key(world: World) -> None:
    end = world.now() + timedelta(seconds=30)
    issued = await world.issue(await world.user(), expires_at=end)
    fresh = await world.identities.rotate(issued.key.id, actor=None, grace_s=3600)
    assert (await world.identities.key(issued.key.id, actor=None)).expires_at == end
    assert fresh.key.expires_at == end


async def test_of_racing_rotations_one_wins(world: World) -> None:
    issued = await world.issue(await world.user())
    rotations = (world.identities.rotate(issued.key.id, actor=None) for _ in range(4))
    outcomes = await asyncio.gather(*rotations, return_exceptions=True)
    assert sum(isinstance(outcome, IssuedKey) for outcome in outcomes) == 1
    assert {o.code for o in outcomes if isinstance(o, PrsmError)} == {"key_not_live"}
    assert await world.pool.fetchval("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL") == 1


async def test_a_key_revoked_meanwhile_is_not_rotated(world: World) -> None:
    issued = await world.issue(await world.user())
    world.before["WITH old"] = "UPDATE api_keys SET revoked_at = now()"
    await refused(world.identities.rotate(issued.key.id, actor=None, grace_s=60), "key_not_live")
    assert world.before == {}
    assert await world.pool.fetchval("SELECT count(*) FROM api_keys") == 1


async def test_a_key_grants_no_more_than_it_has(world: World) -> None:
    owner = await world.user()
    end = world.now() + timedelta(days=1)
    actor = (await world.issue(owner, scopes={KEYS, CHAT}, expires_at=end, rate_limit_per_minute=10)).key
    within = {"scopes": {CHAT}, "expires_at": end, "rate_limit_per_minute": 10}
    assert (await world.issue(owner, actor, **within)).key.scopes == {CHAT}
    for wish, code in [
        ({"scopes": {CHAT, READ}}, "scope_not_held"),
        ({"scopes": {ADMIN}}, "not_an_admin"),
        ({"expires_at": None}, "expiry_not_held"),
        ({"expires_at": end + timedelta(seconds=1)}, "expiry_not_held"),
        ({"rate_limit_per_minute": None}, "rate_not_held"),
        ({"rate_limit_per_minute": 11}, "rate_not_held"),
    ]:
        assert (await refused(world.issue(owner, actor, **(within | wish)), code)).kind is Kind.FORBIDDEN
    broad = await world.issue(owner)
    await refused(world.identities.rotate(broad.key.id, actor=actor), "scope_not_held")
    await world.identities.authenticate(broad.token)


async def test_a_key_without_the_keys_scope_manages_nothing(world: World) -> None:
    owner = await world.user()
    key = (await world.issue(owner, scopes={CHAT, READ})).key
    for attempt in (
        world.issue(owner, key, scopes={CHAT}),
        world.identities.rotate(key.id, actor=key),
        world.identities.revoke(key.id, actor=key),
        world.identities.list_keys(actor=key),
    ):
        await refused(attempt, "missing_scope")


async def test_users_reach_only_their_own_and_admins_all(world: World) -> None:
    ada, bob = await world.user("ada"), await world.user("bob")
    root = await world.user("root", "admin")
    ada_key, bob_key = (await world.issue(ada)).key, (await world.issue(bob)).key
    admin = (await world.issue(root, scopes=SCOPES)).key
    await refused(world.identities.rotate(ada_key.id, actor=bob_key), "key_not_found")
    await refused(world.identities.revoke(ada_key.id, actor=bob_key), "key_not_found")
    await refused(world.issue(ada, bob_key, scopes={CHAT}), "principal_not_found")
    await refused(world.identities.revoke(uuid4(), actor=admin), "key_not_found")
    ids = {key.id for key in await world.identities.list_keys(actor=admin)}
    assert ids == {ada_key.id, bob_key.id, admin.id}
    assert [key.id for key in await world.identities.list_keys(actor=admin, owner=ada.id)] == [ada_key.id]
    assert [key.id for key in await world.identities.list_keys(actor=bob_key)] == [bob_key.id]
    assert await world.identities.list_keys(actor=bob_key, owner=ada.id) == []
    assert (await world.identities.revoke(ada_key.id, actor=admin)).revoked_at
    assert len(await world.identities.list_keys(actor=None, limit=2)) == 2


async def test_admin_takes_role_and_scope(world: World) -> None:
    root = await world.user("root", "admin")
    plain, full = await world.issue(root), await world.issue(root, scopes=SCOPES)
    key = await world.identities.authenticate(plain.token)
    assert not key.is_admin
    with pytest.raises(PrsmError):
        key.require(ADMIN)
    admin = await world.identities.authenticate(full.token)
    admin.require(ADMIN)
    await world.pool.execute("UPDATE principals SET role = 'user'")
    world.identities.forget(admin.prefix)
    demoted = await world.identities.authenticate(full.token)
    assert not demoted.is_admin
    assert demoted.scopes == USER_SCOPES | {AUDIT}, "who audits need not be an admin"


async def test_a_disabled_principal_ends_all_its_keys(world: World) -> None:
    owner = await world.user()
    tokens = [(await world.issue(owner)).token for _ in range(2)]
    for token in tokens:
        await world.identities.authenticate(token)
    assert len(await world.identities.disable_principal(owner.id)) == 2
    for token in tokens:
        await refused(world.identities.authenticate(token), "revoked_api_key")
    await refused(world.issue(owner), "principal_disabled")
    await refused(world.identities.disable_principal(uuid4()), "principal_not_found")
    assert [p.disabled_at is not None for p in await world.identities.list_principals()] == [True]


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "\ud800", "x" * 201, "two\nlines"])
async def test_bad_names_are_refused(world: World, name: str) -> None:
    assert (await refused(world.identities.create_principal(name), "invalid_request")).param == "name"


async def test_bad_grants_name_the_field(world: World) -> None:
    owner = await world.user()
    for wish, field in [
        ({"scopes": set()}, "scopes"),
        ({"scopes": {"root"}}, "scopes"),
        ({"expires_at": world.now()}, "expires_at"),
        ({"expires_at": datetime(2999, 1, 1)}, "expires_at"),
        ({"rate_limit_per_minute": 0}, "rate_limit_per_minute"),
        ({"rate_limit_per_minute": 10**7}, "rate_limit_per_minute"),
    ]:
        assert (await refused(world.issue(owner, **wish), "invalid_request")).param == field
    await refused(world.identities.create_key(uuid4(), Grant("x"), actor=None), "principal_not_found")
    await refused(world.identities.create_principal("x", "root"), "invalid_request")  # type: ignore[arg-type]
    assert await world.pool.fetchval("SELECT count(*) FROM api_keys") == 0


async def test_live_keys_of_a_principal_are_bounded(world: World) -> None:
    owner = await world.user()
    issued = await world.issue(owner)
    await world.pool.execute(
        "INSERT INTO api_keys SELECT gen_random_uuid(), principal_id, 'p' || n, key_hash, name, scopes"
        " FROM api_keys, generate_series(2, $1) n", MAX_KEYS_PER_PRINCIPAL)  # fmt: skip
    await refused(world.issue(owner), "too_many_keys")
    await world.identities.revoke(issued.key.id, actor=None)
    await world.issue(owner)


async def test_last_use_is_kept_loosely(world: World) -> None:
    issued = await world.issue(await world.user())
    seen = []
    for seconds in (0, CACHE_TTL_S, 301):
        world.pass_s(seconds)
        await world.identities.authenticate(issued.token)
        seen.append((await world.identities.key(issued.key.id, actor=None)).last_used_at)
    assert seen[0] == seen[1] < seen[2]


async def test_a_database_that_is_away_is_unavailable(world: World, fresh_database: str) -> None:
    issued = await world.issue(await world.user())
    async with asyncpg.create_pool(fresh_database, min_size=1, max_size=1) as pool:
        identities = Identities(pool, PEPPER, SubjectKeys(pool, b"s" * 32))
    error = await refused(identities.authenticate(issued.token), "unavailable")
    assert error.kind is Kind.UNAVAILABLE


async def test_who_authenticates_brings_along_the_key_that_seals_what_he_says(world: World) -> None:
    owner = await world.user()
    issued = await world.issue(owner)
    keys = SubjectKeys(world, b"s" * 32)
    await Identities(world, PEPPER, keys, clock=world.now).authenticate(issued.token)
    world.pool = None  # whatever is asked of the database now fails
    assert (await keys.key(owner.id)).seal("x", "here")
    keys.forget(owner.id)
    with pytest.raises(AttributeError):
        await keys.key(owner.id)


async def test_names_are_stored_sealed_and_told_as_they_were_given(world: World) -> None:
    owner = await world.user("Ada Lovelace")
    await world.issue(owner)
    stored = await world.pool.fetchval("SELECT name FROM principals WHERE id = $1", owner.id)
    assert stored.startswith("sealed:v1:")
    assert [each.name for each in await world.identities.list_principals()] == ["Ada Lovelace"]
    assert [each.name for each in await world.identities.list_keys(actor=None)] == ["a key"]
    await world.pool.execute("DELETE FROM subject_salts")
    assert [each.name for each in await world.identities.list_principals()] == [""]
