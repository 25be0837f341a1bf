"""Versions and releases over real tables: immutable, one change of a model at a time, and no change without history."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.servers import new_database

from prsm.core import database
from prsm.core.database import Database
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.events import OutboxPublisher
from prsm.core.keys import NodeKey
from prsm.federation.model_registry import CHANGED, Catalogue, Model, ModelRegistry, Provider
from prsm.federation.registry.lifecycle import Limits, Observed, State
from prsm.federation.registry.version_store import Signer, VersionStore
from prsm.federation.registry.versions import Parent, Ref, Version, check_signature, sign

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY, STRANGER = (NodeKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2))
ADA, BOB = "principal:ada", "principal:bob"
AT = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class Place:
    """A database, stores on it as several workers have them, and a clock that tests move."""

    db: Database
    now: datetime = AT
    served: set[Ref] = field(default_factory=set)

    @property
    def store(self) -> VersionStore:
        return VersionStore(
            self.db.pool,
            Signer(KEY.public_key_hex, KEY.sign),
            served=frozenset(self.served),
            clock=lambda: self.now,
        )

    async def catalogue(self) -> Catalogue:
        return await ModelRegistry(self.db.pool, seal=KEY.seal, unseal=KEY.unseal).reload()

    async def model(self, *labels: str) -> str:
        """A new model whose versions all stand, served, as candidates once were; the first is stable."""
        model = f"m-{uuid4().hex[:8]}"
        for place, label in enumerate(labels):
            self.served.add((model, label))
            state = State.DRAFT if place else State.LIVE
            if place:
                self.served.discard((model, label))
            await self.store.register(version(model, label), by=ADA, state=state)
            self.served.add((model, label))
        return model


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(postgres_url: str) -> AsyncIterator[Place]:
    with new_database(postgres_url, f"versions_{uuid4().hex}") as url:
        db = await database.connect(url, pool_size=8, timeout_ms=20_000)
        try:
            yield Place(db)
        finally:
            await db.close()


def version(model: str, label: str, **values: Any) -> Version:
    return Version(model, label, **{"publisher": "", "capabilities": ("chat",), "context_tokens": 4096} | values)


async def refused(call: Awaitable[object]) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        await call
    return raised.value


async def test_a_version_is_signed_by_this_node_and_kept_to_the_byte(place: Place) -> None:
    name = f"m-{uuid4().hex[:8]}"
    made = await place.store.register(version(name, "v1", licence="MIT", data=("b", "a")), by=ADA, owner_account=BOB)
    check_signature(made.version, made.signature)
    assert made.version.publisher == KEY.public_key_hex
    assert made.version.data == ("a", "b")
    catalogue = await place.catalogue()
    assert catalogue.versions[name, "v1"] == made
    assert catalogue.statuses[name, "v1"].state is State.DRAFT
    assert catalogue.releases[name].stable == ""


async def test_the_same_again_changes_nothing_and_another_under_the_label_is_refused(place: Place) -> None:
    name = f"m-{uuid4().hex[:8]}"
    first = await place.store.register(version(name, "v1"), by=ADA)
    assert await place.store.register(version(name, "v1"), by=BOB) == first
    error = await refused(place.store.register(version(name, "v1", licence="MIT"), by=ADA))
    assert (error.kind, error.code) == (Kind.CONFLICT, "version_taken")
    assert "differs in licence" in error.message
    assert len(await place.store.history(name)) == 1


async def test_another_publisher_brings_its_signature(place: Place) -> None:
    name = f"m-{uuid4().hex[:8]}"
    theirs = version(name, "v1", publisher=STRANGER.public_key_hex)
    assert (await refused(place.store.register(theirs, by=ADA))).param == "signature"
    forged = sign(theirs, KEY.sign)
    assert (await refused(place.store.register(theirs, by=ADA, signature=forged))).param == "signature"
    made = await place.store.register(theirs, by=ADA, signature=sign(theirs, STRANGER.sign))
    assert made.version.publisher == STRANGER.public_key_hex
    assert (await refused(place.store.promote(f"{name}-not", by=ADA))).code == "unknown_model"


async def test_nothing_is_left_of_what_is_refused(place: Place) -> None:
    name = f"m-{uuid4().hex[:8]}"
    await refused(place.store.register(version(name, "v1", parents=(Parent("no", "where"),)), by=ADA))
    await refused(place.store.register(version(name, "v1"), by=ADA, state=State.LIVE))  # nobody serves it
    catalogue = await place.catalogue()
    assert name not in catalogue.releases
    assert await place.store.history(name) == []


async def test_children_bind_their_parents_statements(place: Place) -> None:
    name = await place.model("v1")
    child = await place.store.register(version(f"{name}-child", "v1", parents=(Parent(name, "v1", 1500),)), by=ADA)
    parent = (await place.catalogue()).versions[name, "v1"]
    assert child.version.parents == (Parent(name, "v1", 1500, parent.digest),)
    wrong = version(f"{name}-child", "v2", parents=(Parent(name, "v1", 1500, "00" * 32),))
    assert "the digest" in (await refused(place.store.register(wrong, by=ADA))).message


async def test_versions_and_history_can_only_be_added_to(place: Place) -> None:
    name = await place.model("v1")
    for statement in (
        f"UPDATE model_versions SET owner_account = 'me' WHERE model = '{name}'",
        f"DELETE FROM model_versions WHERE model = '{name}'",
        f"UPDATE model_history SET by = 'nobody' WHERE model = '{name}'",
        "TRUNCATE model_history",
    ):
        with pytest.raises(asyncpg.PostgresError):
            await place.db.pool.execute(statement)
    assert [change.by for change in await place.store.history(name)] == [ADA]


async def test_every_change_is_in_the_history_with_who_when_why_and_what(place: Place) -> None:
    name = await place.model("v1", "v2")
    store = place.store
    await store.move((name, "v2"), State.CANDIDATE, by=BOB, reason="looks good")
    await store.set_shares(name, 500, 100, by=BOB)
    await store.promote(name, by=ADA, reason="is good")
    await store.roll_back(name, by=BOB, away_from="v2", reason="is not")
    await store.set_alias(name, "old", "v1", by=ADA)
    await store.set_limits((name, "v1"), Limits(error_bps=50), by=ADA)
    lines = (await store.history(name))[::-1]
    assert [(line.action, line.version, line.by, line.reason) for line in lines] == [
        ("registered", "v1", ADA, ""),
        ("registered", "v2", ADA, ""),
        ("moved to candidate", "v2", BOB, "looks good"),
        ("shared", "v1", BOB, ""),
        ("promoted", "v2", ADA, "is good"),
        ("rolled back", "v1", BOB, "is not"),
        ("aliased", "v1", ADA, ""),
        ("limited", "v1", ADA, ""),
    ]
    for line, following in pairwise(lines):
        assert following.before["release"] == line.after["release"]
        assert following.at >= line.at
    promotion = lines[4]
    assert promotion.before["release"]["candidate_bps"] == 500
    assert promotion.after["release"] == {
        "model": name, "stable": "v2", "candidate": "", "candidate_bps": 0, "shadow_bps": 0, "aliases": {},
        "former": ["v1"],
    }  # fmt: skip
    assert promotion.before["statuses"]["v2"]["state"] == "candidate"
    assert promotion.after["statuses"]["v2"]["state"] == "live"
    page = await store.history(name, limit=2, before=lines[4].id)
    assert [line.id for line in page] == [lines[3].id, lines[2].id]


async def test_each_change_is_announced_and_one_that_changes_nothing_is_not(place: Place) -> None:
    name = await place.model("v1")
    heard: list[tuple[str, bytes]] = []

    async def publish(topic: str, payload: bytes) -> None:
        heard.append((topic, payload))

    publisher = OutboxPublisher(place.db.pool, publish, batch=10_000)
    await publisher.publish_once()
    heard.clear()
    await place.store.set_shares(name, 0, 0, by=ADA)
    await place.store.withdraw(name, "v1", by=ADA, reason="it is no candidate")
    await refused(place.store.roll_back(name, by=ADA))
    await publisher.publish_once()
    assert heard == []
    await place.store.set_alias(name, "old", "v1", by=ADA)
    await publisher.publish_once()
    assert [topic for topic, _ in heard] == [CHANGED]


async def test_two_admins_who_promote_at_once_do_it_one_after_the_other(place: Place) -> None:
    name = await place.model("v1", "v2", "v3")
    for label in ("v2", "v3"):  # v2 was live once, v3 is the candidate
        await place.store.move((name, label), State.CANDIDATE, by=ADA)
        if label == "v2":
            await place.store.promote(name, by=ADA)
            await place.store.promote(name, "v1", by=ADA)
    ended = await asyncio.gather(
        place.store.promote(name, "v2", by=ADA), place.store.promote(name, "v3", by=BOB), return_exceptions=True
    )
    assert not [error for error in ended if isinstance(error, BaseException)]
    last, before = (await place.store.history(name))[:2]
    assert last.before["release"] == before.after["release"]
    release = (await place.store.standing(name)).release
    assert release.stable == last.version
    assert set(release.former) == {"v1", before.version}


async def test_of_many_who_promote_the_candidate_one_does(place: Place) -> None:
    name = await place.model("v1", "v2")
    await place.store.move((name, "v2"), State.CANDIDATE, by=ADA)
    ended = await asyncio.gather(*[place.store.promote(name, by=ADA) for _ in range(6)], return_exceptions=True)
    codes = sorted(error.code for error in ended if isinstance(error, PrsmError))
    assert codes == ["no_candidate"] * 5
    assert (await place.store.standing(name)).release.former == ("v1",)


async def test_of_many_who_roll_back_from_the_same_version_one_does(place: Place) -> None:
    name = await place.model("v1", "v2", "v3")
    for label in ("v2", "v3"):
        await place.store.move((name, label), State.CANDIDATE, by=ADA)
        await place.store.promote(name, by=ADA)
    calls = [place.store.roll_back(name, by=BOB, away_from="v3") for _ in range(4)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(error.code for error in ended if isinstance(error, PrsmError)) == ["release_moved"] * 3
    assert (await place.store.standing(name)).release.stable == "v2"


async def test_workers_that_register_the_same_at_once_register_it_once(place: Place) -> None:
    name = f"m-{uuid4().hex[:8]}"
    made = await asyncio.gather(*[place.store.register(version(name, "v1"), by=ADA) for _ in range(6)])
    assert len(set(made)) == 1
    assert len(await place.store.history(name)) == 1


async def test_what_instances_answer_for_does_not_become_a_draft(place: Place) -> None:
    registry = ModelRegistry(place.db.pool, seal=KEY.seal, unseal=KEY.unseal)
    name = f"m-{uuid4().hex[:8]}"
    await registry.put_provider(Provider("up", "vllm", "http://127.0.0.1:9"))
    await registry.put_model(Model(f"up/{name}-1", "up", f"{name}-1", frozenset({"chat"}), model=name, version="v1"))
    for state in (State.DRAFT, State.CANDIDATE):
        assert (await refused(place.store.register(version(name, "v1"), by=ADA, state=state))).code == "version_in_use"
    await place.store.register(version(name, "v1"), by=ADA, state=State.LIVE)
    await place.store.register(version(name, "v2"), by=ADA)
    await place.store.move((name, "v2"), State.CANDIDATE, by=ADA)
    assert (await refused(place.store.promote(name, by=ADA))).code == "not_served"
    # An instance that names no version serves whichever is stable.
    await registry.put_model(Model(f"up/{name}", "up", name, frozenset({"chat"})))
    await place.store.promote(name, by=ADA)
    catalogue = await registry.reload()
    assert [model.name for model in catalogue.serving(name, "v2")] == [f"up/{name}"]
    assert [model.name for model in catalogue.serving(name, "v1")] == [f"up/{name}-1"]
    await place.store.move((name, "v1"), State.DEPRECATED, by=ADA)
    await place.store.move((name, "v1"), State.RETIRED, by=ADA)
    assert f"up/{name}-1" not in {model.name for model in (await registry.reload()).offered()}


async def test_a_deprecated_version_retires_on_its_day(place: Place) -> None:
    name = await place.model("v1")
    day = place.now + timedelta(days=30)
    await place.store.move((name, "v1"), State.DEPRECATED, by=ADA, retire_at=day)
    assert await place.store.retire_due(by="node:x") == []
    early, place.now = place.now, day
    try:
        both = await asyncio.gather(place.store.retire_due(by="node:x"), place.store.retire_due(by="node:y"))
    finally:
        place.now = early
    assert [(name, "v1")] in both
    standing = await place.store.standing(name)
    assert (standing.statuses["v1"].state, standing.release.stable) == (State.RETIRED, "")
    assert [line.action for line in await place.store.history(name)] == [
        "moved to retired", "moved to deprecated", "registered",
    ]  # fmt: skip


async def test_what_breaks_its_declared_limits_is_deprecated_once(place: Place) -> None:
    name = await place.model("v1")
    ref = (name, "v1")
    poor = {ref: Observed(500, availability_bps=9000, error_bps=1000)}
    assert await place.store.deprecate_broken(poor, by="node:x") == []
    await place.store.set_limits(ref, Limits(availability_bps=9900), by=ADA)
    assert await place.store.deprecate_broken({ref: replace(poor[ref], requests=99)}, by="node:x") == []
    both = await asyncio.gather(*[place.store.deprecate_broken(poor, by="node:x") for _ in range(2)])
    why = "availability 90 % is below the declared 99 % over 500 requests"
    assert [(ref, why)] in both
    standing = await place.store.standing(name)
    assert (standing.statuses["v1"].state, standing.statuses["v1"].reason) == (State.DEPRECATED, why)
    assert standing.release.stable == "v1"  # it goes on answering until somebody promotes another
    assert [line.action for line in await place.store.history(name)].count("moved to deprecated") == 1


async def test_a_reason_of_two_lines_is_refused_before_anything_is_done(place: Place) -> None:
    name = await place.model("v1")
    with pytest.raises(InvalidRequest):
        await place.store.set_alias(name, "old", "v1", by=ADA, reason="a\nb")
    assert (await place.store.standing(name)).release.aliases == {}
