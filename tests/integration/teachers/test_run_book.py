"""Runs of the trainer in PostgreSQL: what was asked for, said and charged stands, and nothing moves twice."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from prsm.core import database
from prsm.core.database import Database
from prsm.core.errors import InvalidRequest, PrsmError
from prsm.core.subject_keys import SubjectKeys
from prsm.teachers.runs.preference_book import Preference, PreferenceBook
from prsm.teachers.runs.run_book import MAX_OPEN, Run, RunBook


@pytest.fixture
async def db(fresh_database: str) -> AsyncIterator[Database]:
    opened = await database.connect(fresh_database, pool_size=3, timeout_ms=20_000)
    yield opened
    await opened.close()


@pytest.fixture
def book(db: Database) -> RunBook:
    return RunBook(db.pool, "node-1")


async def submitted(book: RunBook, name: str = "sums", budget_micro: int = 1000) -> Run:
    return await book.submit("train", name, "[plan]", account="principal:a", api_key_id=None, budget_micro=budget_micro)


async def test_a_run_waits_starts_reports_and_ends(book: RunBook) -> None:
    run = await submitted(book)
    assert (run.state, run.starts, run.is_open) == ("queued", 0, True)
    await book.started(run.id)
    await book.note(run.id, {"seed": 1}, [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}])
    await book.note(run.id, {"seed": 1}, [{"step": 2, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 3, "loss": 1.0}])
    found = await book.run(run.id)
    assert (found.state, found.starts, found.facts) == ("running", 1, {"seed": 1})
    assert found.report == {"step": 3, "loss": 1.0}
    said = await book.reports(run.id)
    assert [each["loss"] for each in said] == [2.5, 1.5, 1.0]
    assert [each["step"] for each in await book.reports(run.id, after=1, limit=1)] == [2]
    await book.end(run.id, "done", "")
    await book.end(run.id, "failed", "too late")
    assert (await book.run(run.id)).state == "done"
    assert await book.open_runs() == []


async def test_one_that_waits_is_stopped_at_once_and_one_that_runs_is_asked(book: RunBook) -> None:
    waiting, running = await submitted(book), await submitted(book)
    await book.started(running.id)
    assert (await book.ask_stop(waiting.id, "enough")).state == "stopped"
    asked = await book.ask_stop(running.id, "enough")
    assert (asked.state, asked.wants_stop, asked.reason) == ("running", True, "enough")
    assert (await book.ask_stop(running.id, "another reason")).reason == "enough"


async def test_what_has_stopped_may_go_on_and_what_is_done_may_not(book: RunBook, db: Database) -> None:
    run = await submitted(book)
    await book.started(run.id)
    await book.end(run.id, "failed", "it broke")
    assert ((again := await book.resume(run.id)).state, again.reason) == ("queued", "")
    await book.end(run.id, "done", "")
    with pytest.raises(PrsmError, match="not resumed"):
        await book.resume(run.id)
    other = await submitted(RunBook(db.pool, "node-2"))
    await RunBook(db.pool, "node-2").end(other.id, "failed", "")
    with pytest.raises(PrsmError, match="another node's"):
        await book.resume(other.id)


async def test_another_nodes_runs_are_read_and_not_taken(book: RunBook, db: Database) -> None:
    other = await submitted(RunBook(db.pool, "node-2"))
    mine = await submitted(book)
    assert [run.id for run in await book.open_runs()] == [mine.id]
    assert {run.id for run in await book.runs(limit=10)} == {mine.id, other.id}
    assert [run.id for run in await book.runs(limit=1, before=mine.id)] == [other.id]


async def test_another_nodes_run_is_asked_to_stop(book: RunBook, db: Database) -> None:
    theirs = RunBook(db.pool, "node-2")
    other = await submitted(theirs)
    await theirs.started(other.id)
    await book.ask_stop(other.id, "enough")
    assert [(run.state, run.wants_stop) for run in await theirs.open_runs()] == [("running", True)]


async def test_a_slice_is_charged_with_what_was_said_first(book: RunBook) -> None:
    run = await submitted(book, budget_micro=1000)
    assert await book.open_slice(run, 600, 5000) == 1
    await book.capturing(run.id, 400)
    await book.capturing(run.id, 550)  # after a crash: another figure by now
    found = await book.run(run.id)
    assert (found.capturing_micro, found.money.held_micro, found.money.began_cpu_ms) == (400, 600, 5000)
    await book.close_slice(run.id, captured=True)
    found = await book.run(run.id)
    assert (found.money.charged_micro, found.money.held_micro, found.capturing_micro) == (400, 0, None)
    assert await book.open_slice(found, 600, 9000) == 2
    await book.capturing(run.id, 100)
    await book.close_slice(run.id, captured=False)
    assert (await book.run(run.id)).money.charged_micro == 400


async def test_a_new_budget_pays_for_what_is_held_still(book: RunBook) -> None:
    run = await submitted(book)
    await book.open_slice(run, 600, 0)
    await book.end(run.id, "stopped", "")
    with pytest.raises(InvalidRequest, match=r"0\.0006 FTNS"):
        await book.resume(run.id, budget_micro=599, account=run.account)
    assert (await book.resume(run.id, budget_micro=600, account=run.account)).money.budget_micro == 600


async def test_an_ended_run_with_an_open_slice_is_not_forgotten(book: RunBook) -> None:
    run = await submitted(book)
    await book.open_slice(run, 600, 0)
    await book.end(run.id, "done", "")
    assert [each.id for each in await book.unsettled_runs()] == [run.id]
    await book.close_slice(run.id, captured=False)
    assert await book.unsettled_runs() == []


async def test_bad_runs_are_refused_by_field(book: RunBook) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        await submitted(book, name="")
    with pytest.raises(InvalidRequest, match="budget"):
        await submitted(book, budget_micro=-1)
    with pytest.raises(InvalidRequest, match="recipe"):
        await book.submit("train", "n", "x" * 300_000, account="a", api_key_id=None, budget_micro=0)
    with pytest.raises(PrsmError, match="no run"):
        await book.run(uuid4())


async def test_only_so_many_are_open(book: RunBook) -> None:
    first = await submitted(book)
    for _ in range(MAX_OPEN - 1):
        await submitted(book)
    with pytest.raises(PrsmError, match="open already"):
        await submitted(book)
    await book.ask_stop(first.id, "room")
    assert (await submitted(book)).state == "queued"


async def test_preferences_are_their_givers(db: Database) -> None:
    book = PreferenceBook(db.pool, SubjectKeys(db.pool, b"s" * 32))
    mine, other = uuid4(), uuid4()
    for principal in (mine, other):
        await db.pool.execute("INSERT INTO principals (id, name, role) VALUES ($1, 'x', 'user')", principal)
    first = await book.add(mine, "jokes", "tell one", "a good one", "a bad one")
    second = await book.add(other, "jokes", "tell one", "another", "none")
    await book.add(mine, "poems", "write one", "rhymes", "does not")
    assert await book.of("jokes", limit=10) == [first, second]
    assert await book.of("jokes", limit=10, after=first.id) == [second]
    assert await book.of("jokes", limit=10, principal_id=mine) == [first]
    assert await book.collections() == {"jokes": 2, "poems": 1}
    with pytest.raises(PrsmError, match="no preference"):
        await book.remove(first.id, other)
    await book.remove(first.id, mine)
    await book.remove(second.id, None)
    assert await book.of("jokes", limit=10) == []


async def test_a_page_of_preferences_is_full_although_some_cannot_be_opened(db: Database) -> None:
    keys = SubjectKeys(db.pool, b"s" * 32)
    book, erased, other = PreferenceBook(db.pool, keys), uuid4(), uuid4()
    for principal in (erased, other):
        await db.pool.execute("INSERT INTO principals (id, name, role) VALUES ($1, 'x', 'user')", principal)
    given: list[Preference] = []
    for giver in (other, erased, erased, other, erased, other, other):
        given.append(await book.add(giver, "jokes", "tell one", f"joke {len(given)}", "none"))
        await asyncio.sleep(0.002)  # ids of one millisecond are in no order
    whole = [each for each in given if each.principal_id == other]
    await db.pool.execute("INSERT INTO privacy_erasures (subject_id, certificate) VALUES ($1, '')", erased)
    keys.forget(erased)
    altered = "UPDATE preferences SET chosen = 'sealed:v1:AAAA' WHERE id = $1"
    await db.pool.execute(altered, whole.pop(1).id)
    assert await book.of("jokes", limit=2) == whole[:2]
    assert await book.of("jokes", limit=2, after=whole[1].id) == whole[2:]
    assert await book.of("jokes", limit=1, after=whole[0].id) == whole[1:2]
    assert await book.of("jokes", limit=3) == await book.of("jokes", limit=10) == whole


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("prompt", ("", "a", "b")),
        ("chosen", ("p", "", "b")),
        ("rejected", ("p", "a", "x" * 20_001)),
        ("rejected", ("p", "a", "b\0")),
        ("rejected", ("p", "same", "same")),
    ],
)
async def test_a_bad_preference_is_refused_by_field(db: Database, field: str, texts: tuple[str, str, str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await PreferenceBook(db.pool, SubjectKeys(db.pool, b"s" * 32)).add(uuid4(), "c", *texts)
    assert refused.value.param == field
