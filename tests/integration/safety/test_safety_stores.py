"""What the room of safety keeps in PostgreSQL: all workers agree on it and a restart forgets nothing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.support.servers import new_database

from prsm.core import database
from prsm.core.clock import uuid7
from prsm.core.database import Database
from prsm.core.errors import Kind, PrsmError
from prsm.core.subject_keys import SubjectKeys
from prsm.safety.breaker_sharing import GRACE_S, BreakerSharing
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy, State
from prsm.safety.incidents import IncidentBook
from prsm.safety.policy import Action, Direction, Finding, Policy, Rule, Verdict
from prsm.safety.policy_book import NODE, PolicyBook, of_key, of_model
from prsm.safety.seams import Category
from prsm.safety.threat import Event, Law
from prsm.safety.threats import Threats

USUAL = Policy((Rule(Category.HATE, "block"),))
STRICTER = Policy((Rule(Category.VIOLENCE, "block"),))
BLOCKED = Verdict(Action.BLOCK, (Finding(Category.HATE, 0.91, Action.BLOCK),))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(postgres_url: str) -> AsyncIterator[Database]:
    with new_database(postgres_url, f"safety_{uuid4().hex}") as url:
        opened = await database.connect(url, pool_size=8, timeout_ms=20_000)
        yield opened
        await opened.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def refused(work: object) -> PrsmError:
    with pytest.raises(PrsmError) as caught:
        await work  # type: ignore[misc]
    return caught.value


# -- policies ---------------------------------------------------------------------------------------------------------


async def test_policies_of_node_key_and_model_add_up(store: Database) -> None:
    book, other = PolicyBook(store.pool, USUAL), PolicyBook(store.pool, USUAL)
    key, name = uuid7(), f"m{uuid4().hex}"
    assert book.in_force(key, name).policies == (USUAL,)
    await book.write(of_key(key), STRICTER, by="a", reason="r")
    await book.write(of_model(name), USUAL, by="a", reason="r")
    assert book.in_force(key, name).policies == (USUAL, STRICTER, USUAL)
    assert book.in_force(uuid7(), name, "else").policies == (USUAL, USUAL)
    assert not other.is_by_model
    await other.reload()
    assert other.is_by_model
    assert other.in_force(key, name) == book.in_force(key, name)
    await book.write(NODE, STRICTER, by="b", reason="the node's own")
    assert book.in_force(uuid7()).policies == (STRICTER,)
    for scope in (NODE, of_key(key), of_model(name)):
        await book.write(scope, None, by="b", reason="over")
    assert book.in_force(key, name).policies == (USUAL,)
    assert [each.policy for each in await book.history(NODE)] == [None, STRICTER]
    assert {each.scope for each in await book.current()} == set()


# -- incidents --------------------------------------------------------------------------------------------------------


def incidents(store: Database) -> IncidentBook:
    return IncidentBook(store.pool, SubjectKeys(store.pool, bytes(32)))


async def test_an_incident_is_recorded_appealed_and_decided(store: Database) -> None:
    book, request_id, account = incidents(store), uuid7(), f"principal:{uuid4()}"
    await book.record(request_id, account, "up/m", Direction.INPUT, BLOCKED, ["a word", "\x00\ud83d"])
    [one] = await book.listed(account=account)
    assert (one.action, one.status, one.texts) == ("block", "recorded", ())
    assert [(seen.category, seen.score) for seen in one.findings] == [("hate", 0.91)]
    assert (await book.get(one.id)).texts == ("a word", "\x00\ud83d")
    kept = await store.pool.fetchval("SELECT texts FROM safety_incidents WHERE id = $1", one.id)
    assert "word" not in kept
    assert (await refused(book.appeal(request_id, "principal:other", "mine"))).code == "no_incident"
    assert await book.appeal(request_id, account, "It is a quotation.") == 1
    assert [each.id for each in await book.listed(status="open")] == [one.id]
    decided = await book.decide(one.id, "overturned", by="admin", note="so it is")
    assert (decided.status, decided.appeal, decided.note) == ("overturned", "It is a quotation.", "so it is")
    assert (await refused(book.appeal(request_id, account, "again"))).code == "no_incident"
    assert [(each.id, each.texts[0]) for each in await book.examples()] == [(one.id, "a word")]
    assert (await refused(book.decide(uuid7(), "upheld", by="admin", note=""))).kind is Kind.NOT_FOUND


async def test_texts_are_not_read_for_a_list_or_a_decision(store: Database) -> None:
    """Each may be as long as a request, and a list has up to a thousand."""
    book, account = incidents(store), f"principal:{uuid4()}"
    await book.record(uuid7(), account, "up/m", Direction.INPUT, BLOCKED, ["a word"])
    await store.pool.execute("ALTER TABLE safety_incidents RENAME COLUMN texts TO away")
    try:
        [one] = await book.listed(account=account)
        assert (await book.decide(one.id, "upheld", by="admin", note="")).status == "upheld"
    finally:
        await store.pool.execute("ALTER TABLE safety_incidents RENAME COLUMN away TO texts")
    assert (await book.get(one.id)).texts == ("a word",)


async def test_what_asks_for_a_person_waits_for_one(store: Database) -> None:
    book, account = incidents(store), f"principal:{uuid4()}"
    for action in (Action.REVIEW, Action.ESCALATE):
        verdict = Verdict(action, (Finding(Category.HATE, 0.9, action),))
        await book.record(uuid7(), account, "up/m", Direction.OUTPUT, verdict, ["x"])
    assert [each.status for each in await book.listed(account=account)] == ["open", "open"]


async def test_what_was_recorded_of_somebody_while_erased_does_not_stop_the_review(store: Database) -> None:
    """A request on its way may be blocked just after its caller's key was destroyed."""
    late, principal_id = incidents(store), uuid4()
    account = f"principal:{principal_id}"
    await late.record(uuid7(), account, "up/m", Direction.INPUT, BLOCKED, ["a word"])
    async with store.pool.acquire() as connection, connection.transaction():
        await connection.execute("DELETE FROM safety_incidents WHERE account = $1", account)
        await connection.execute("DELETE FROM subject_salts WHERE subject_id = $1", principal_id)
        await connection.execute("INSERT INTO privacy_erasures (subject_id, certificate) VALUES ($1, '')", principal_id)
    await late.record(uuid7(), account, "up/m", Direction.INPUT, BLOCKED, ["a word"])
    book = incidents(store)
    [one] = await book.listed(account=account)
    assert (one.action, one.appeal) == ("block", "")
    assert (await book.get(one.id)).texts == ()
    assert (await book.decide(one.id, "upheld", by="admin", note="")).status == "upheld"
    assert [each.texts for each in await book.examples() if each.account == account] == [()]


# -- threats ----------------------------------------------------------------------------------------------------------


async def test_a_caller_is_slowed_suspended_everywhere_and_lifted(store: Database) -> None:
    now_s = 1_800_000_000.0
    one, other = (Threats(store.pool, lambda: now_s) for _ in range(2))
    account = f"principal:{uuid4()}"
    for _ in range(4):
        one.note(account, Event.BLOCKED)
    assert one.admit(account)
    await one.settle()
    assert not one.admit(account)
    assert other.admit(account)
    await other.reload()
    assert not other.admit(account)
    for _ in range(4):
        other.note(account, Event.BLOCKED)
    await other.settle()
    with pytest.raises(PrsmError, match="suspended") as told:
        other.admit(account)
    assert told.value.retry_after_s == Law().suspend_s
    restarted = Threats(store.pool, lambda: now_s)
    await restarted.reload()
    with pytest.raises(PrsmError, match="suspended"):
        restarted.admit(account)
    [(name, threat)] = [each for each in await one.listed() if each[0] == account]
    assert (name, threat.suspensions) == (account, 1)
    await one.lift(account, by="admin")
    assert one.admit(account)
    for held in (account, f"principal:{uuid4()}"):  # known, and not yet known of
        for _ in range(8):
            one.note(held, Event.BLOCKED)
        await one.lift(held, by="admin")
        await one.settle()
        assert one.admit(held), "what came before it was lifted"
    assert (await refused(one.lift("principal:nobody", by="admin"))).code == "no_threat"


async def test_a_suspension_ends_by_itself(store: Database) -> None:
    now_s = 1_800_000_000.0
    threats, account = Threats(store.pool, lambda: now_s), f"principal:{uuid4()}"
    for _ in range(3):
        threats.note(account, Event.ESCALATED)
    await threats.settle()
    with pytest.raises(PrsmError, match="suspended"):
        threats.admit(account)
    now_s += Law().suspend_s + 1
    assert not threats.admit(account)
    now_s += Law().throttle_s + 1
    assert threats.admit(account)
    now_s += Law().forget_s
    assert await threats.forget_old() >= 1


async def test_events_noted_while_the_database_is_away_are_added_later(store: Database) -> None:
    account = f"principal:{uuid4()}"
    pool = await database.connect(store.url, pool_size=1, timeout_ms=20_000)
    threats = Threats(pool.pool, lambda: 1_800_000_000.0)
    await pool.close()
    for _ in range(3):
        threats.note(account, Event.BLOCKED)
    with pytest.raises(Exception, match=r".*"):
        await threats.settle()
    threats._pool = store.pool  # the same as a pool that has come back
    await threats.settle()
    assert not threats.admit(account)


# -- breakers ---------------------------------------------------------------------------------------------------------

QUICK = BreakerPolicy(min_calls=2, open_s=1, probes_to_close=1)


class Worker:
    """One process's breakers; its clock is all workers'."""

    seconds = 1000.0

    def __init__(self, store: Database) -> None:
        self.board = BreakerBoard(lambda: Worker.seconds, QUICK)
        clock = lambda: datetime.fromtimestamp(Worker.seconds, UTC)  # noqa: E731
        self.sharing = BreakerSharing(store.pool, {"models": self.board}, uuid7(), clock)

    def fail(self, name: str) -> None:
        for _ in range(QUICK.min_calls):
            self.board.record(name, ok=False)


async def test_eight_workers_open_together_and_one_alone_probes(store: Database) -> None:
    workers, name = [Worker(store) for _ in range(8)], f"m{uuid4().hex}"
    workers[0].fail(name)
    await workers[0].sharing.settle()
    for each in workers:
        await each.sharing.reload()
    assert all(each.board.resting(name) for each in workers)
    restarted = Worker(store)
    await restarted.sharing.reload()
    assert restarted.board.resting(name)
    Worker.seconds += QUICK.open_s
    assert [each.board.allow(name) for each in workers] == [True] + [False] * 7  # no herd
    workers[0].board.record(name, ok=True)
    await workers[0].sharing.settle()
    for each in (*workers, restarted):
        await each.sharing.reload()
    assert all(each.board.allow(name) for each in (*workers, restarted))
    assert name not in {each.name for each in await workers[0].sharing.kept()}


async def test_where_the_worker_that_opened_it_has_died_another_takes_over(store: Database) -> None:
    dead, heir, third, name = Worker(store), Worker(store), Worker(store), f"m{uuid4().hex}"
    dead.fail(name)
    await dead.sharing.settle()
    for each in (heir, third):
        await each.sharing.reload()
    Worker.seconds += QUICK.open_s + 2 * GRACE_S
    assert heir.board.allow(name)
    heir.board.record(name, ok=True)
    await heir.sharing.settle()
    await third.sharing.reload()
    view = third.board.view(name)
    assert view
    assert view.state is State.CLOSED


async def test_a_breaker_opened_by_hand_stays_open_until_it_is_reset(store: Database) -> None:
    one, other, name = Worker(store), Worker(store), f"m{uuid4().hex}"
    await one.sharing.trip("models", name, by="admin", reason="it misbehaves")
    await other.sharing.reload()
    Worker.seconds += 1e6
    assert one.board.resting(name)
    assert other.board.resting(name)
    other.fail(name)  # what was on its way
    await other.sharing.settle()
    [kept] = [each for each in await one.sharing.kept() if each.name == name]
    assert (kept.held, kept.by, kept.reason) == (True, "admin", "it misbehaves")
    await other.sharing.reset("models", name, by="admin")
    await one.sharing.reload()
    assert one.board.allow(name)
    assert (await refused(one.sharing.trip("rivers", name, by="admin", reason="r"))).code == "unknown_board"


async def test_an_opening_is_told_even_where_the_database_was_away(store: Database) -> None:
    worker, other, name = Worker(store), Worker(store), f"m{uuid4().hex}"
    worker.fail(name)
    lock = await store.pool.acquire()
    settling = asyncio.create_task(worker.sharing.settle())
    await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await store.pool.release(lock)
    await worker.sharing.settle()
    await other.sharing.reload()
    assert other.board.resting(name)


async def test_a_reset_by_hand_reaches_the_worker_that_opened_it(store: Database) -> None:
    opener, other, name = Worker(store), Worker(store), f"m{uuid4().hex}"
    opener.fail(name)
    await opener.sharing.settle()
    await opener.sharing.reload()
    assert opener.board.resting(name)
    await other.sharing.reset("models", name, by="admin")
    await opener.sharing.reload()
    assert opener.board.allow(name)
    opener.fail(name)
    await opener.sharing.reload()
    assert opener.board.resting(name), "it was not told yet that it has opened again"


async def test_opened_by_hand_while_its_closing_is_being_told(store: Database) -> None:
    worker, name = Worker(store), f"m{uuid4().hex}"
    worker.fail(name)
    await worker.sharing.settle()
    Worker.seconds += QUICK.open_s
    assert worker.board.allow(name)
    worker.board.record(name, ok=True)
    async with store.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM breakers WHERE name = $1 FOR UPDATE", name)
        telling = asyncio.create_task(worker.sharing.settle())
        await asyncio.sleep(0.05)
        tripping = asyncio.create_task(worker.sharing.trip("models", name, by="admin", reason="it misbehaves"))
        await asyncio.sleep(0.05)
    await asyncio.gather(telling, tripping)
    [kept] = [each for each in await worker.sharing.kept() if each.name == name]
    assert kept.held
