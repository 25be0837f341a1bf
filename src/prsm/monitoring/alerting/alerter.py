"""The node's own alerter: reads, evaluates, moves states, tells; once every few seconds, in one worker at a time.

It holds a lock on a file of the home, so that of several workers one evaluates, and another goes on when that one dies.
Its truth is in memory: PostgreSQL may be away, which is itself an alert; what was not written then is written later.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID
from zipfile import BadZipFile

import structlog
from msgspec.structs import replace

from prsm.core.clock import uuid7
from prsm.monitoring.alerting.book import AlertBook
from prsm.monitoring.alerting.sinks import Courier
from prsm.monitoring.alerting.states import Alert, AlertPolicy, Silence, due, key_of, silenced, step
from prsm.monitoring.objectives.declared import Objectives
from prsm.monitoring.objectives.evaluation import Budget, budgets, findings
from prsm.monitoring.objectives.history import History
from prsm.monitoring.objectives.selector import Sample

Read = Callable[[], Awaitable[Sequence[Sample]]]
Words = tuple[str, float, str]
"""Who took an alert, when, and what they noted."""
_KEPT_EVERY_S = 60.0
_BOOK_S = 2.0
"""Longest wait for the database within a turn: one that hangs must not delay the alert that says so."""
_log: Any = structlog.get_logger("alerts")


class Alerter:
    """The alerts of one node. ``read`` gives all samples that the objectives name, of all workers."""

    def __init__(
        self,
        objectives: Objectives,
        read: Read,
        book: AlertBook,
        couriers: Sequence[Courier],
        folder: Path,
        policy: AlertPolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.objectives = objectives
        self.couriers = couriers
        self.policy = policy
        self.alerts: dict[str, Alert] = {}
        self.history = History(objectives, clock())
        self.samples: Sequence[Sample] = ()
        self.leading = False
        self.at_s = 0.0
        """When it was evaluated last."""
        self._read = read
        self._book = book
        self._clock = clock
        self._folder = folder
        self._lock = -1
        self._known = False
        self._silences: Sequence[Silence] = ()
        self._asked: asyncio.Task[Any] | None = None
        self._written: asyncio.Task[None] | None = None
        self._writing: Sequence[Alert] = ()
        self._unwritten: dict[UUID, Alert] = {}
        self._kept_s = clock()

    async def tick(self) -> bool:
        """One evaluation; False where another worker does it. Outages of PostgreSQL do not stop it."""
        if not self.leading and not self._lead():
            return False
        now_s = self._clock()
        self.samples = await self._read()
        self.at_s = now_s
        self.history.add(self.samples, now_s)
        await self._hear()
        found = findings(self.objectives, self.samples, self.history, now_s)
        ids = {key_of(one.rule, one.labels): uuid7() for one in found}
        before = self.alerts
        after = silenced(step(before, found, ids, now_s, self.policy), self._silences, now_s)
        resolved = [alert for alert in after.values() if alert.state == "resolved"]
        self.alerts, notices = due(after, now_s, self.policy)
        for notice in notices:
            for courier in self.couriers:
                courier.take(notice)
        changed = [alert for key, alert in self.alerts.items() if _differs(before.get(key), alert)]
        self._unwritten |= {alert.id: alert for alert in (*resolved, *changed)}
        await self._write()
        if now_s - self._kept_s >= _KEPT_EVERY_S or now_s < self._kept_s:
            self.keep_history(now_s)
        return True

    def budgets(self) -> list[Budget]:
        """What is left of each error budget."""
        return budgets(self.objectives, self.history, self._clock())

    def keep_history(self, now_s: float) -> None:
        """Write what is to outlive a restart; on a full disk it is not, and alerts go on."""
        self._kept_s = now_s
        path = self._folder / "history.npz"
        new = path.with_suffix(".new")
        try:
            new.write_bytes(self.history.packed())
            new.replace(path)
        except OSError as error:
            _log.warning("the history of error budgets is not kept", reason=str(error))

    def close(self) -> None:
        """Keep the history and let another evaluate."""
        for task in (self._asked, self._written):
            if task is not None:
                task.cancel()
        if self.leading:
            self.keep_history(self._clock())
        if self._lock >= 0:
            os.close(self._lock)
            self._lock, self.leading = -1, False

    def _lead(self) -> bool:
        """Try to become the worker that evaluates, and go on where the one before stopped."""
        if self._lock < 0:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.leading = True
        try:
            self.history.unpack((self._folder / "history.npz").read_bytes(), self._clock())
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            _log.warning("the history of error budgets begins anew", reason=str(error))
        return True

    async def _hear(self) -> None:
        """Read what people said, and at first what was firing when the node was last evaluated.

        An answer that takes longer than a turn has for it is taken in at a later one. It is not cancelled: what ends a
        query may itself wait for a server that hangs.
        """
        if self._asked is None:
            self._asked = asyncio.create_task(self._ask())
        await asyncio.wait([self._asked], timeout=_BOOK_S)
        if not self._asked.done():
            return
        asked, self._asked = self._asked, None
        if asked.cancelled() or asked.exception() is not None:
            return  # away: PostgresDown says it to people, and what was heard last holds
        open_alerts, taken, self._silences = asked.result()
        if open_alerts is not None and not self._known:
            self._go_on_with(open_alerts)
        self.alerts = {key: _taken(alert, taken) for key, alert in self.alerts.items()}

    async def _ask(self) -> tuple[Mapping[str, Alert] | None, Mapping[UUID, Words], Sequence[Silence]]:
        open_alerts = None if self._known else await self._book.open_alerts()
        return open_alerts, await self._book.acknowledged(), await self._book.silences()

    def _go_on_with(self, open_alerts: Mapping[str, Alert]) -> None:
        """Those that fired before; what was begun here meanwhile for one of them is dropped."""
        self._known = True
        self._unwritten = {alert.id: alert for alert in self._unwritten.values() if alert.key not in open_alerts}
        self.alerts |= open_alerts

    async def _write(self) -> None:
        """Write what is not written yet; what fails, or takes too long, is written at a later turn."""
        if self._written is None:
            if not self._known or not self._unwritten:
                return
            self._writing = list(self._unwritten.values())
            self._written = asyncio.create_task(self._book.keep(self._writing))
        await asyncio.wait([self._written], timeout=_BOOK_S)
        if not self._written.done():
            return
        written, self._written = self._written, None
        if written.cancelled() or written.exception() is not None:
            return
        for alert in self._writing:
            if self._unwritten.get(alert.id) is alert:
                del self._unwritten[alert.id]


def _differs(before: Alert | None, after: Alert) -> bool:
    """Whether it is to be written; what is pending is not."""
    if after.fired_s is None:
        return False
    if before is None or before.id != after.id:
        return True
    return (before.state, before.told_s, before.escalated_s) != (after.state, after.told_s, after.escalated_s)


def _taken(alert: Alert, taken: Mapping[UUID, Words]) -> Alert:
    if alert.id not in taken or alert.acked_s is not None:
        return alert
    by, at_s, note = taken[alert.id]
    return replace(alert, acked_by=by, acked_s=at_s, ack_note=note)
