"""The book of alerts in a real PostgreSQL, and an alerter that goes on when it is away or when another takes over."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from prsm.core import database
from prsm.core.errors import PrsmError
from prsm.monitoring.alerting.alerter import Alerter
from prsm.monitoring.alerting.book import AlertBook
from prsm.monitoring.alerting.sinks import Courier, LogSink, trial
from prsm.monitoring.alerting.states import Alert, AlertPolicy
from prsm.monitoring.objectives.declared import shipped
from prsm.monitoring.objectives.selector import Sample

DOWN, UP = [Sample("prsm_cache_up", {}, 0.0)], [Sample("prsm_cache_up", {}, 1.0)]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[database.Database]:
    store = await database.connect(url, pool_size=3, timeout_ms=20_000)
    try:
        yield store
    finally:
        await store.close()


async def test_a_folder_that_cannot_be_written_stops_no_alert(fresh_database: str, tmp_path: Path) -> None:
    async with opened(fresh_database) as store:
        world = World(AlertBook(store.pool, "n1"), tmp_path)
        await world.turns(1, UP)
        (tmp_path / "history.new").mkdir()  # what a full disk refuses, refused to root too
        world.now_s += 120
        await world.turns(3, DOWN)
        assert world.told == ["firing ValkeyDown"]
        world.alerter.close()


def an_alert(**changes: Any) -> Alert:
    return replace(trial("page", 1000.0).alerts[0], id=uuid4(), key=uuid4().hex, labels={"disk": "home"}, **changes)


async def test_an_alert_is_kept_taken_and_forgotten_long_after_its_end(fresh_database: str) -> None:
    async with opened(fresh_database) as store:
        book, other = AlertBook(store.pool, "n1"), AlertBook(store.pool, "n2")
        alert = an_alert()
        await book.keep([alert])
        assert (await book.open_alerts())[alert.key] == replace(alert, seen_s=1000.0)
        assert await other.open_alerts() == {}
        taken = await book.acknowledge(alert.id, "ann", "on it")
        assert (taken.acked_by, taken.ack_note) == ("ann", "on it")
        await book.keep([replace(alert, value=2.0, told_s=1001.0)])
        kept = (await book.open_alerts())[alert.key]
        assert (kept.value, kept.acked_by) == (2.0, "ann"), "who writes states leaves people's words"
        with pytest.raises(PrsmError, match="no such alert"):
            await other.acknowledge(alert.id, "bob", "")
        ended = replace(alert, state="resolved", resolved_s=time.time())
        await book.keep([ended])
        assert await book.open_alerts() == {}
        assert [each.state for each in await book.recent(10)] == ["resolved"]
        with pytest.raises(PrsmError, match="no such alert"):
            await book.acknowledge(alert.id, "ann", "")
        await book.forget_old()
        assert len(await book.recent(10)) == 1
        await book.keep([replace(ended, resolved_s=time.time() - 91 * 86_400)])
        await book.forget_old()
        assert await book.recent(10) == []


async def test_a_silence_holds_until_it_ends_or_is_lifted(fresh_database: str) -> None:
    async with opened(fresh_database) as store:
        book = AlertBook(store.pool, "n1")
        until = datetime.now(UTC) + timedelta(hours=1)
        made = await book.silence("X", {"disk": "home"}, "ann", "being moved", until)
        await book.silence("X", {}, "ann", "over", datetime.now(UTC) - timedelta(seconds=1))
        assert [each.id for each in await book.silences()] == [made.id]
        await book.lift(made.id)
        assert await book.silences() == []
        with pytest.raises(PrsmError, match="no such silence"):
            await book.lift(made.id)


class World:
    """An alerter on samples that a test sets, with a clock of its own."""

    def __init__(self, book: AlertBook, folder: Path) -> None:
        self.samples: Sequence[Sample] = UP
        self.now_s = 1_900_000_000.0
        self.told: list[str] = []
        courier = Courier(LogSink(), lambda *_: None)
        courier.take = lambda notice: self.told.append(f"{notice.kind} {notice.rule}")  # type: ignore[method-assign]
        self.alerter = Alerter(shipped(), self._read, book, [courier], folder, AlertPolicy(), clock=lambda: self.now_s)

    async def _read(self) -> Sequence[Sample]:
        return self.samples

    async def turns(self, count: int, samples: Sequence[Sample]) -> None:
        self.samples = samples
        for _ in range(count):
            self.now_s += 5
            await self.alerter.tick()


async def test_a_restart_goes_on_with_what_fires_and_tells_only_its_end(fresh_database: str, tmp_path: Path) -> None:
    async with opened(fresh_database) as store:
        book = AlertBook(store.pool, "n1")
        first = World(book, tmp_path)
        await first.turns(3, DOWN)
        assert first.told == ["firing ValkeyDown"]
        first.alerter.close()
        second = World(book, tmp_path)
        second.now_s = first.now_s
        await second.turns(2, DOWN)
        assert second.told == []
        await second.turns(3, UP)
        assert second.told == ["resolved ValkeyDown"]
        assert await book.open_alerts() == {}
        second.alerter.close()


async def test_of_two_one_evaluates_and_the_other_takes_over(fresh_database: str, tmp_path: Path) -> None:
    async with opened(fresh_database) as store:
        book = AlertBook(store.pool, "n1")
        one, other = World(book, tmp_path), World(book, tmp_path)
        assert await one.alerter.tick()
        assert not await other.alerter.tick()
        await one.turns(3, DOWN)
        await other.turns(3, DOWN)
        assert (one.told, other.told) == (["firing ValkeyDown"], [])
        one.alerter.close()
        other.now_s = one.now_s
        await other.turns(3, UP)
        assert other.told == ["resolved ValkeyDown"]
        other.alerter.close()


async def test_alerts_fire_and_end_while_the_database_is_away_and_are_written_when_it_is_back(
    fresh_database: str, tmp_path: Path
) -> None:
    async with opened(fresh_database) as store:
        book = AlertBook(store.pool, "n1")
        world = World(book, tmp_path)
        await world.turns(1, UP)
        await store.pool.execute("ALTER TABLE alerts RENAME TO hidden")
        await world.turns(3, DOWN)
        assert world.told == ["firing ValkeyDown"]
        await world.turns(3, UP)
        await world.turns(3, DOWN)
        assert world.told == ["firing ValkeyDown", "resolved ValkeyDown", "firing ValkeyDown"]
        await store.pool.execute("ALTER TABLE hidden RENAME TO alerts")
        await world.turns(1, DOWN)
        assert [each.state for each in await book.recent(10)] == ["firing", "resolved"]
        world.alerter.close()


async def test_people_are_heard_at_the_next_turn(fresh_database: str, tmp_path: Path) -> None:
    async with opened(fresh_database) as store:
        book = AlertBook(store.pool, "n1")
        world = World(book, tmp_path)
        await world.turns(3, DOWN)
        (alert,) = world.alerter.alerts.values()
        await book.acknowledge(alert.id, "ann", "")
        await world.turns(1, DOWN)
        assert next(iter(world.alerter.alerts.values())).acked_by == "ann"
        world.now_s += 20_000
        await world.turns(1, DOWN)
        assert world.told == ["firing ValkeyDown"], "neither escalated nor told again"
        world.alerter.close()


async def test_budgets_outlive_a_restart_and_a_history_that_is_damaged_begins_anew(
    fresh_database: str, tmp_path: Path
) -> None:
    def asked(count: float) -> list[Sample]:
        return [Sample("prsm_requests_total", {}, count)]

    async with opened(fresh_database) as store:
        book = AlertBook(store.pool, "n1")
        first = World(book, tmp_path)
        await first.turns(1, asked(0))
        await first.turns(1, asked(500))
        first.alerter.close()
        second = World(book, tmp_path)
        second.now_s = first.now_s + 3600
        await second.turns(1, asked(0))
        assert second.alerter.budgets()[0].events == 500
        second.alerter.close()
        whole = (tmp_path / "history.npz").read_bytes()
        for damaged in (b"damaged", b"", whole[: len(whole) // 2], whole[:-40]):
            (tmp_path / "history.npz").write_bytes(damaged)
            third = World(book, tmp_path)
            await third.turns(1, asked(0))
            assert third.alerter.budgets()[0].events == 0
            third.alerter.close()
