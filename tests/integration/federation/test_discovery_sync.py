"""Sources on a real PostgreSQL: what a pass keeps, what breaks off, who may read, and what is shown of secrets."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.federation.conftest import KEY, Discovery
from tests.support.listed import ListedSource, listing, priced

from prsm.core.clock import now
from prsm.core.errors import ConfigError, InvalidRequest, Kind, PrsmError
from prsm.core.keys import NodeKey
from prsm.federation.discovery.seams import SourceError
from prsm.federation.discovery.source_book import ClaimLost, SourceBook, SourceConfig, check_source, is_stale
from prsm.federation.discovery.sync import Outcome


async def test_a_pass_keeps_all_that_is_listed(discovery: Discovery) -> None:
    full = listing(
        "org/Full-7B",
        "Writes code.",
        title="Full",
        input_modalities=frozenset({"text", "image"}),
        output_modalities=frozenset({"text"}),
        context_tokens=8_192,
        max_output_tokens=1_024,
        parameters=7_000_000_000,
        licence="Apache-2.0",
        gated=False,
        price=priced(250_000_000, None),
        served_by=("one", "two"),
        revision="r1",
        updated_at=now(),
        page_url="https://hub.example/full",
    )
    discovery.source.pages = [(full,), (listing("org/bare", capabilities=frozenset()),)]
    before = now()
    assert await discovery.read() == Outcome("hub", 2, 2, 0)
    found = await discovery.one("org/Full-7B")
    assert found.listing.licence == "apache-2.0"
    assert found.listing == replace(full, licence="apache-2.0")
    assert found.read_at is not None
    assert before <= found.read_at <= found.last_seen_at <= now()
    bare = (await discovery.one("org/bare")).listing
    assert (bare.price, bare.context_tokens, bare.gated, bare.licence, bare.served_by) == (None,) * 5
    state = await discovery.state()
    assert (state.listings, state.left_out, state.failures, state.last_error) == (2, 1, 0, "")
    assert discovery.source.closed == discovery.source.pages_closed == 1


async def test_what_is_unchanged_is_not_written_again(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a"), listing("b"))]
    await discovery.read()
    rows = "SELECT name, xmin::text AS written FROM listings ORDER BY name"
    before = [tuple(row) for row in await discovery.database.pool.fetch(rows)]
    assert await discovery.read() == Outcome("hub")  # the source says so by its mark
    discovery.source.pages.append((listing("c"),))
    assert await discovery.read() == Outcome("hub", 3, 1, 0)
    after = [tuple(row) for row in await discovery.database.pool.fetch(rows)]
    assert after[:2] == before
    assert discovery.source.marks[0] == ""
    assert discovery.source.marks[1] != ""


async def test_what_is_listed_otherwise_now_is_changed(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a", price=priced(5, 5)),)]
    await discovery.read()
    first = await discovery.one("a")
    discovery.source.pages = [(listing("a", price=priced(6, 5)),)]
    assert await discovery.read() == Outcome("hub", 1, 1, 0)
    second = await discovery.one("a")
    assert second.listing.price is not None
    assert second.listing.price.input_nano == 6
    assert second.first_seen_at == first.first_seen_at
    assert second.last_seen_at > first.last_seen_at


async def test_a_whole_reading_retires_what_it_did_not_meet_and_takes_it_back(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a"), listing("b"))]
    await discovery.read()
    discovery.source.pages = [(listing("b"),)]
    assert await discovery.read() == Outcome("hub", 1, 0, 1)
    gone = await discovery.one("a")
    assert gone.removed_at is not None
    assert gone.last_seen_at < gone.removed_at
    assert await discovery.live() == {"b"}
    discovery.source.pages = [(listing("a"), listing("b"))]
    assert await discovery.read() == Outcome("hub", 2, 1, 0)
    back = await discovery.one("a")
    assert back.removed_at is None
    assert back.first_seen_at == gone.first_seen_at


async def test_a_reading_of_changes_retires_nothing(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a"), listing("b"))]
    await discovery.read()
    discovery.source.pages, discovery.source.whole = [(listing("c"),)], False
    assert await discovery.read() == Outcome("hub", 1, 1, 0)
    assert await discovery.live() == {"a", "b", "c"}


async def test_a_pass_that_breaks_off_retires_nothing_and_is_made_again_from_the_same_mark(
    discovery: Discovery,
) -> None:
    discovery.source.pages = [(listing("a"), listing("b"))]
    await discovery.read()
    read_at = (await discovery.state()).last_read_at
    discovery.source.pages = [(listing("c"),)]
    discovery.source.error = SourceError(f"The key {KEY} is not known.", code="source_refused")
    outcome = await discovery.read()
    assert outcome.error == "source_refused"
    assert await discovery.live() == {"a", "b", "c"}
    state = await discovery.state()
    assert (state.failures, state.last_error_code, state.last_read_at) == (1, "source_refused", read_at)
    assert KEY not in state.last_error
    assert state.next_read_at > now()
    discovery.source.error = None
    assert await discovery.read() == Outcome("hub", 1, 0, 2)
    assert discovery.source.marks[-2:] == [discovery.source.marks[-1]] * 2
    assert (await discovery.state()).failures == 0


async def test_an_error_of_our_own_is_no_end_of_other_sources(discovery: Discovery) -> None:
    discovery.source.error = ZeroDivisionError("secret things")
    assert (await discovery.read()).error == "source_failed"
    assert (await discovery.state()).last_error == "ZeroDivisionError"


async def test_a_source_is_left_alone_for_as_long_as_it_asked(discovery: Discovery) -> None:
    discovery.source.error = SourceError("Slow down.", code="source_rate_limited", retry_after_s=500)
    await discovery.read()
    state = await discovery.state()
    assert now() + timedelta(seconds=490) < state.next_read_at < now() + timedelta(seconds=560)
    assert await discovery.worker().read_due() is None
    with pytest.raises(PrsmError) as refused:
        await discovery.book.read_soon("hub")
    assert refused.value.code == "source_rate_limited"
    await discovery.book.read_soon()  # all of them: those that may be asked
    assert await discovery.worker().read_due() is None


async def test_a_source_is_read_once_in_its_interval(discovery: Discovery) -> None:
    await discovery.read()
    assert await discovery.worker().read_due() is None
    assert now() + timedelta(seconds=3_200) < (await discovery.state()).next_read_at
    await discovery.book.read_soon("hub")
    assert await discovery.worker().read_due() == Outcome("hub")


async def test_two_workers_read_a_source_once(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a"),)]
    discovery.source.gate = asyncio.Semaphore(0)
    workers = [asyncio.create_task(discovery.worker().read_due()) for _ in range(8)]
    done, reading = await asyncio.wait(workers, timeout=1)
    assert [task.result() for task in done] == [None] * 7
    discovery.source.gate.release()
    assert [await task for task in reading] == [Outcome("hub", 1, 1, 0)]
    assert discovery.source.opened == 1


async def test_who_lost_its_claim_writes_nothing_more(discovery: Discovery) -> None:
    hung = ListedSource("hub", [listing("old-1")], [listing("old-2")])
    hung.gate = asyncio.Semaphore(1)
    slow = asyncio.create_task(discovery.worker(hung).read_due())
    while "old-1" not in await discovery.live():
        await asyncio.sleep(0.01)
    await discovery.database.pool.execute("UPDATE listing_sources SET claimed_until = now() - interval '1 s'")
    discovery.source.pages = [(listing("new"),)]
    assert await discovery.worker().read_due() == Outcome("hub", 1, 1, 1)
    hung.gate.release()
    outcome = await slow
    assert outcome is not None
    assert outcome.error == ClaimLost.code
    assert await discovery.live() == {"new"}
    assert (await discovery.state()).failures == 0
    assert hung.pages_closed == hung.closed == 1


async def test_a_change_of_the_source_ends_the_reading_of_what_it_was(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a"),)]
    discovery.source.gate = asyncio.Semaphore(0)
    slow = asyncio.create_task(discovery.worker().read_due())
    while not (await discovery.state()).reading:
        await asyncio.sleep(0.01)
    await discovery.book.put(SourceConfig("hub", "openai", "http://127.0.0.1:10/v1"))
    discovery.source.gate.release()
    outcome = await slow
    assert outcome is not None
    assert outcome.error == ClaimLost.code
    assert await discovery.live() == set()
    assert (await discovery.state()).last_read_at is None


async def test_a_worker_that_is_stopped_lets_the_next_one_read_at_once(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a"),), (listing("b"),)]
    discovery.source.gate = asyncio.Semaphore(1)
    stopped = asyncio.create_task(discovery.worker().read_due())
    while "a" not in await discovery.live():
        await asyncio.sleep(0.01)
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    discovery.source.gate = None
    assert await discovery.worker().read_due() == Outcome("hub", 2, 1, 0)
    assert discovery.source.pages_closed == 2


KILLED = """
import asyncio, sys
from tests.support.listed import ListedSource, listing
from prsm.core import database
from prsm.federation.discovery.listings import Listings
from prsm.federation.discovery.source_book import SourceBook
from prsm.federation.discovery.sync import Sync

async def main():
    db = await database.connect(sys.argv[1], pool_size=2, timeout_ms=20_000)
    source = ListedSource("hub", *[[listing(f"m{p}-{n}") for n in range(100)] for p in range(50)])
    source.gate = asyncio.Semaphore(20)
    book = SourceBook(db.pool, seal=lambda text, _: text, unseal=lambda text, _: text)
    await Sync(book, Listings(db.pool, book), lambda _: source).read_due()

asyncio.run(main())
"""


async def test_a_pass_killed_in_its_middle_is_taken_over_and_loses_nothing(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("before"),)]
    await discovery.read()
    await discovery.book.read_soon()
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", KILLED, discovery.database.url], cwd=root) as other:
        while len(await discovery.live()) < 2_001:
            assert other.poll() is None
            await asyncio.sleep(0.02)
        os.kill(other.pid, signal.SIGKILL)
    assert await discovery.worker().read_due() is None  # its claim holds still
    await discovery.database.pool.execute("UPDATE listing_sources SET claimed_until = now() - interval '1 s'")
    discovery.source.pages = [tuple(listing(f"m{page}-{n}") for n in range(100)) for page in range(50)]
    assert await discovery.worker().read_due() == Outcome("hub", 5_000, 3_000, 1)
    assert len(await discovery.live()) == 5_000


async def test_staleness_is_that_of_the_last_reading_that_ended(discovery: Discovery) -> None:
    assert is_stale(None, 3_600, now())
    discovery.source.pages = [(listing("a", "about cats"),)]
    discovery.ahead = -timedelta(hours=3)
    await discovery.read()
    await discovery.indexed()
    (found,) = await discovery.found("cats")
    assert is_stale(found.kept.read_at, found.kept.every_s, now())
    discovery.ahead = timedelta()
    discovery.source.error = SourceError("Away.")
    await discovery.read()
    (found,) = await discovery.found("cats")
    assert is_stale(found.kept.read_at, found.kept.every_s, now())
    discovery.source.error = None
    await discovery.read()  # nothing has changed there, and that is known now
    (found,) = await discovery.found("cats")
    assert not is_stale(found.kept.read_at, found.kept.every_s, now())


async def test_a_secret_is_sealed_and_kept_only_for_its_address(discovery: Discovery) -> None:
    pool, book = discovery.database.pool, discovery.book
    rows = await pool.fetch("SELECT s::text AS shown FROM listing_sources s")
    assert KEY not in rows[0]["shown"]
    assert KEY not in repr(await book.all())
    assert KEY not in repr(SourceConfig("hub", "openai", secret=KEY))
    assert await book.secret("hub") == KEY
    await book.put(SourceConfig("hub", "openai", "http://127.0.0.1:9/v1/", 60))
    assert (await book.secret("hub"), (await book.one("hub")).has_secret) == (KEY, True)
    await book.put(SourceConfig("hub", "openai", "http://127.0.0.1:10/v1"))
    assert (await book.secret("hub"), (await book.one("hub")).has_secret) == ("", False)


async def test_a_secret_of_another_key_puts_its_source_off_and_no_other(discovery: Discovery, tmp_path: Path) -> None:
    await discovery.book.put(SourceConfig("open", "openai", "http://127.0.0.1:11/v1"))
    other = NodeKey.load_or_create(tmp_path / "other.key")
    discovery.book = SourceBook(discovery.database.pool, seal=other.seal, unseal=other.unseal)
    outcome = await discovery.worker().read_due()
    assert outcome == Outcome("open")
    assert (await discovery.state()).last_error_code == ConfigError("", code="secret_unreadable").code


async def test_a_removed_source_goes_with_all_it_listed(discovery: Discovery) -> None:
    discovery.source.pages = [tuple(listing(f"m{n}", f"about cats {n}") for n in range(600))]
    await discovery.read()
    await discovery.indexed()
    assert await discovery.index.count() == 600
    await discovery.book.remove("hub")
    assert await discovery.names("cats") == []
    with pytest.raises(PrsmError, match="being removed"):
        await discovery.book.put(SourceConfig("hub", "openai", "http://127.0.0.1:9/v1"))
    await discovery.book.finish_removals()
    assert (await discovery.state()).removing  # the index has not forgotten them yet
    assert await discovery.indexed() == 600
    await discovery.book.finish_removals()
    assert await discovery.book.all() == []
    assert await discovery.index.count() == 0
    assert await discovery.database.pool.fetchval("SELECT count(*) FROM listings") == 0


async def test_what_was_removed_long_ago_is_forgotten(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a"), listing("b"))]
    await discovery.read()
    discovery.source.pages = [(listing("b"),)]
    await discovery.read()
    await discovery.indexed()
    assert await discovery.listings.forget_removed(60) == 0
    assert await discovery.listings.forget_removed(0) == 1
    with pytest.raises(PrsmError) as refused:
        await discovery.one("a")
    assert refused.value.code == "unknown_listing"


async def test_what_can_have_no_name_is_not_there(discovery: Discovery) -> None:
    for asked in (
        discovery.book.one("a\0"),
        discovery.book.secret("a\0"),
        discovery.book.remove("a\0"),
        discovery.book.read_soon("a\0"),
        discovery.listings.one("hub", "a\0"),
        discovery.listings.one("a\0", "a"),
    ):
        with pytest.raises(PrsmError) as refused:
            await asked
        assert refused.value.kind is Kind.NOT_FOUND


async def test_names_that_cannot_be_kept_are_left_out(discovery: Discovery) -> None:
    odd = listing("ok/\u65e5\u672c", "a\0b \ud800 c")
    discovery.source.pages = [(listing("x" * 301), listing("a\0b"), listing("---"), listing(""), odd)]
    assert await discovery.read() == Outcome("hub", 1, 1, 0)
    assert (await discovery.one(odd.name)).listing.description == "ab  c"


@pytest.mark.parametrize(
    ("config", "param"),
    [
        (SourceConfig("a/b", "openai"), "name"),
        (SourceConfig("", "openai"), "name"),
        (SourceConfig("n" * 65, "openai"), "name"),
        (SourceConfig("a", "ftp"), "kind"),
        (SourceConfig("a", "openai", "ftp://x"), "address"),
        (SourceConfig("a", "openai", "http://x y"), "address"),
        (SourceConfig("a", "openai", "http://x", secret="s" * 4_001), "address"),
        (SourceConfig("a", "openai", "http://x", every_s=59), "every_s"),
    ],
)
def test_bad_sources_are_refused(config: SourceConfig, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_source(config, ("openai",))
    assert refused.value.param == param
