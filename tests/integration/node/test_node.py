"""The composition root on real servers: a node starts, answers, hears other nodes, and outlives what goes away."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from tests.support.answering import Interrupted
from tests.support.servers import new_database

from prsm.agents.billing import Bill
from prsm.agents.call import ChatCall, Completion, EmbedCall
from prsm.agents.plan import Ask, Caller
from prsm.core.clock import uuid7
from prsm.core.config import Settings
from prsm.core.errors import Kind, PrsmError, Unavailable
from prsm.core.events import emit
from prsm.core.identity import Grant, IssuedKey
from prsm.federation.model_registry import Model, Provider
from prsm.node import KEY_REVOKED, Node, open_node, readiness, recover
from prsm.tokenomics.enrolment import account_of
from prsm.tokenomics.orders import HoldOrder

pytestmark = pytest.mark.asyncio(loop_scope="module")

AWAY = "redis://127.0.0.1:1"
QUESTION = "What is 127 + 385?"


class Site:
    """One database, one Valkey, one home: where a node and its siblings stand."""

    def __init__(self, settings: Settings, postgres_url: str, valkey_url: str) -> None:
        self.settings = settings
        self.postgres_url = postgres_url
        self.valkey_url = valkey_url

    def open(self, *, valkey_url: str | None = None) -> AbstractAsyncContextManager[Node]:
        return open_node(self.settings, self.postgres_url, valkey_url or self.valkey_url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(postgres_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, database_timeout_ms=20_000)
    with new_database(postgres_url, f"node_{uuid4().hex}") as url:
        yield Site(settings, url, valkey_url)
    shutil.rmtree(home)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(site: Site) -> AsyncIterator[Node]:
    async with site.open() as opened:
        yield opened


async def until(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while True:
            held = holds()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.01)


async def refused(call: Awaitable[object]) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        await call
    return raised.value


async def new_key(node: Node) -> IssuedKey:
    principal = await node.enrolment.principal("ada", "user")
    return await node.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=None)


def ask(issued: IssuedKey, text: str = QUESTION, *, model: str = "auto", embed: bool = False) -> Ask:
    request_id = uuid7()
    call = ChatCall(request_id, [{"role": "user", "content": text}], model)
    caller = Caller(issued.key.id, account_of(issued.key.principal_id))
    return Ask(caller, EmbedCall(request_id, [text], "auto") if embed else call, "ab" * 32, 100)


def text_of(completion: Completion, bill: Bill) -> bytes:
    return (completion.choices[0].content or "").encode()


async def spent(node: Node, issued: IssuedKey) -> int:
    return (await node.ledger.budgets([issued.key.id]))[issued.key.id].spent_micro


async def test_a_fresh_node_is_ready_in_every_part(node: Node) -> None:
    parts = await readiness(node)
    assert set(parts) == {"postgres", "valkey", "models", "ledger", "storage", "teachers", "screening"}
    assert all(part["ok"] for part in parts.values()), parts
    assert parts["postgres"]["latency_ms"] >= 0
    assert parts["models"]["count"] == len({"encoder", "arithmetic"} | node.teachers.family.keys())
    metrics = node.metrics.render()
    assert b"prsm_cache_up 1.0" in metrics
    assert b"prsm_ledger_queue 0.0" in metrics


async def test_a_fresh_node_answers_arithmetic_is_paid_and_refuses_a_poem(node: Node) -> None:
    issued = await new_key(node)
    body, bill = await node.path.chat(ask(issued), text_of)
    assert b"512" in body
    assert await spent(node, issued) == bill.captured_micro > 0
    error = await refused(node.path.chat(ask(issued, "Write a poem about rain."), text_of))
    assert (error.kind, error.code) == (Kind.UNPROCESSABLE, "no_able_model")
    assert "prsm models add" in error.remedy


async def test_a_fresh_node_embeds_and_finds_models_by_description(node: Node) -> None:
    issued = await new_key(node)
    width, bill = await node.path.embed(
        ask(issued, "a text", embed=True), lambda found, bill: str(len(found.vectors[0])).encode()
    )
    assert width == b"384"
    assert await spent(node, issued) == bill.captured_micro > 0
    found = await node.registry.search("adding and multiplying numbers", 1)
    assert found[0][0].name == "local/arithmetic"


async def test_what_one_node_adds_the_other_offers_without_a_restart(site: Site, node: Node) -> None:
    async with site.open() as other:
        assert other.key.node_id == node.key.node_id
        await node.registry.put_provider(Provider("up", "vllm", "http://127.0.0.1:9", "sk-secret-value"))
        await node.registry.put_model(Model("up/m", "up", "m", frozenset({"chat"}), input_price_micro=5))
        node.outbox.hint()
        await until(lambda: "up/m" in other.path.models.by_name)
        target = other.path.models.by_name["up/m"]
        assert (target.kind, target.base_url, target.api_key) == ("vllm", "http://127.0.0.1:9", "sk-secret-value")
        assert target.executor_account == other.account
        await other.registry.remove_model("up/m")
        other.outbox.hint()
        await until(lambda: "up/m" not in node.path.models.by_name)


async def test_a_model_that_another_worker_has_just_added_is_known_at_once(site: Site, node: Node) -> None:
    """By no event, for this node hears none: it looks before it says that there is no such model."""
    async with site.open(valkey_url=AWAY) as deaf:
        issued = await new_key(deaf)
        await node.registry.put_provider(Provider("here", "embedded"))
        await node.registry.put_model(Model("here/arithmetic", "here", "arithmetic", frozenset({"chat"})))
        try:
            assert b"512" in (await deaf.path.chat(ask(issued, model="here/arithmetic"), text_of))[0]
        finally:
            await node.registry.remove_model("here/arithmetic")
        begun_s = time.monotonic()
        missing = [refused(deaf.path.chat(ask(issued, model="here/none"), text_of)) for _ in range(50)]
        codes = [error.code for error in await asyncio.gather(*missing)]
        assert set(codes) == {"model_not_found"}
        assert time.monotonic() - begun_s < 5, "they share their looks"


async def test_a_key_revoked_on_one_node_is_refused_on_the_other_at_once_by_the_ledger(site: Site, node: Node) -> None:
    issued = await new_key(node)
    async with site.open(valkey_url=AWAY) as deaf:
        assert (await deaf.identities.authenticate(issued.token)).id == issued.key.id
        await node.identities.revoke(issued.key.id, actor=None)
        # Nobody told it, and its cache still knows the key: it is the hold that is refused.
        await deaf.identities.authenticate(issued.token)
        error = await refused(deaf.path.chat(ask(issued), text_of))
        assert (error.kind, error.code) == (Kind.UNAUTHENTICATED, "invalid_api_key")
    assert await spent(node, issued) == 0


async def test_a_revocation_reaches_the_others_and_ends_what_they_remember(site: Site, node: Node) -> None:
    issued = await new_key(node)
    async with site.open() as other:
        await other.identities.authenticate(issued.token)
        await node.identities.revoke(issued.key.id, actor=None)
        await emit(node.database.pool, KEY_REVOKED, {"prefix": issued.key.prefix})
        node.outbox.hint()

        async def is_refused() -> bool:
            try:
                await other.identities.authenticate(issued.token)
            except PrsmError as error:
                return error.code == "revoked_api_key"
            return False

        await until(is_refused)


async def test_without_valkey_a_node_answers_says_so_and_reads_changes_from_the_database(site: Site) -> None:
    async with site.open(valkey_url=AWAY) as alone:
        issued = await new_key(alone)
        assert b"512" in (await alone.path.chat(ask(issued), text_of))[0]
        parts = await readiness(alone)
        assert parts["valkey"]["ok"] is False
        assert "away" in parts["valkey"]["error"]
        assert parts["postgres"]["ok"]
        assert b"prsm_cache_up 0.0" in alone.metrics.render()


async def test_a_database_that_drops_its_connections_is_unready_and_ready_again(site: Site) -> None:
    async with site.open() as opened:
        async with opened.database.pool.acquire() as killer:
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        async def is_ready() -> bool:
            return all(part["ok"] for part in (await readiness(opened)).values())

        await until(is_ready)
        issued = await new_key(opened)
        assert b"512" in (await opened.path.chat(ask(issued), text_of))[0]


async def test_recovery_lets_go_what_a_killed_node_held(site: Site, node: Node) -> None:
    issued = await new_key(node)
    request_id = uuid7()
    account_id = await node.ledger.account_id(account_of(issued.key.principal_id))
    await node.idempotency.claim(issued.key.id, "k", request_id, b"d")
    await node.ledger.hold(HoldOrder(request_id, account_id, issued.key.id, 100))
    await recover(node)
    assert (await node.ledger.balance(account_of(issued.key.principal_id))).held_micro == 0
    assert await node.idempotency.claim(issued.key.id, "k", uuid7(), b"d") is None


async def test_a_node_that_starts_leaves_the_open_work_of_others_alone_and_ends_a_dead_ones(
    fresh_database: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, database_url=fresh_database, database_timeout_ms=20_000)

    async def hold(node: Node, request_id: UUID) -> str:
        issued = await new_key(node)
        account = account_of(issued.key.principal_id)
        await node.ledger.hold(HoldOrder(request_id, await node.ledger.account_id(account), issued.key.id, 100))
        return account

    async with open_node(settings, fresh_database, AWAY, first=True) as one:
        account = await hold(one, uuid7())
        async with (
            open_node(settings, fresh_database, AWAY, first=True),
            open_node(settings, fresh_database, AWAY),
        ):
            assert (await one.ledger.balance(account)).held_micro == 100
        # Its sign is put back when the server has ended the connection that it hung on.
        signs = (
            "FROM pg_locks JOIN pg_database d ON d.oid = database "
            "WHERE locktype = 'advisory' AND objid = 7014 AND granted AND datname = current_database()"
        )
        assert await one.database.pool.fetchval(f"SELECT pg_terminate_backend(pid, 10000) {signs}")

        async def shown() -> bool:
            return bool(await one.database.pool.fetch(f"SELECT 1 {signs}"))

        await until(shown)
        async with open_node(settings, fresh_database, AWAY, first=True):
            assert (await one.ledger.balance(account)).held_micro == 100
    async with open_node(settings, fresh_database, AWAY) as worker:
        assert (await worker.ledger.balance(account)).held_micro == 100
    async with open_node(settings, fresh_database, AWAY, first=True) as two:
        assert (await two.ledger.balance(account)).held_micro == 0


async def left_over(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Tasks that stay: the database's pool ends some of its own a moment after it was left."""
    for _ in range(500):
        if not asyncio.all_tasks() - before:
            break
        await asyncio.sleep(0.01)
    return asyncio.all_tasks() - before


async def test_a_closed_node_leaves_no_task_and_takes_no_request(site: Site) -> None:
    before = asyncio.all_tasks()
    async with site.open() as opened:
        issued = await new_key(opened)
        assert len(asyncio.all_tasks()) > len(before)
    assert await left_over(before) == set()
    assert (await refused(opened.path.chat(ask(issued), text_of))).code == "ledger_unavailable"


async def test_a_start_that_is_cancelled_anywhere_ends_and_leaves_nothing(site: Site) -> None:
    async def start() -> None:
        async with site.open():
            pass

    before = asyncio.all_tasks()
    at, ended = 0, False
    while not ended:
        work = Interrupted(start(), at)
        task = asyncio.create_task(work.run())
        async with asyncio.timeout(60):
            await asyncio.wait([task])
        ended = work.points <= at
        assert task.cancelled() != ended, at
        assert await left_over(before) == set(), at
        at += 7  # each seventh point, for time's sake
    assert at > 40


async def test_a_node_that_cannot_reach_its_database_says_which_setting_is_wrong(site: Site) -> None:
    gone = site.postgres_url.replace("/node_", "/nowhere_")
    for url in (gone, "postgresql://nobody:x@127.0.0.1:1/x"):
        with pytest.raises(Unavailable) as raised:
            async with open_node(site.settings, url, site.valkey_url):
                pass
        assert "PRSM_DATABASE_URL" in raised.value.remedy


async def test_nodes_that_start_at_once_on_an_empty_database_take_turns(
    postgres_url: str, valkey_url: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", database_timeout_ms=20_000)

    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Node]:
        async with open_node(settings, url, valkey_url) as node:
            yield node

    async def start(url: str) -> UUID:
        async with opened(url) as node:
            return (await new_key(node)).key.id

    with new_database(postgres_url, f"node_{uuid4().hex}") as url:
        started: list[Any] = await asyncio.gather(start(url), start(url))
    assert len(set(started)) == 2
