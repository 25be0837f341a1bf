"""Runs a distillation job: its stages in order, what they cost booked as they go, a wish to stop heard in between.

One process a job (a lock on its folder). Each stage's work is given; it may be done again after a kill, and must then
come to the same. Processor time between two bookings that a kill swallows is not charged.
"""

import fcntl
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from prsm.core import clock
from prsm.core.errors import PrsmError
from prsm.teachers.distillation.job import (
    Job,
    JobConflict,
    Stage,
    Standing,
    ended,
    finished,
    is_cancelled,
    read_job,
    settled,
    used,
    write_job,
)

_BOOKED_EVERY_MS = 1000


class Meter(Protocol):
    """What pays for a job, by the hold's id; each call may come again after a kill and then changes nothing.

    Of a hold that was refused, use and settlement are told, too, with 0.
    """

    def hold(self, hold: str, budget_micro_ftns: int) -> None:
        """Set the budget aside. Raises PrsmError where there is not so much."""
        ...

    def use(self, hold: str, cost_micro_ftns: int) -> None:
        """What this hold has cost so far, in all."""
        ...

    def settle(self, hold: str, cost_micro_ftns: int) -> None:
        """Capture the cost and release the rest; called once the round has ended, however it did."""
        ...


class Halted(Exception):
    """Raised out of a stage that is to end the job; what the stage has done is kept."""

    def __init__(self, standing: Standing, reason: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.standing = standing
        self.reason = reason
        self.facts = facts


class Interrupted(Exception):
    """Raised out of a stage whose process is asked to end: the job stays as it is, and goes on when it is run again."""


class Watch:
    """What a stage sees of its job while it runs; ``stop`` books what was used and says whether to stop."""

    def __init__(self, folder: Path, job: Job, meter: Meter, cpu_ms: Callable[[], int]) -> None:
        self.folder = folder
        self.job = job
        self._meter = meter
        self._cpu_ms = cpu_ms
        self._seen_ms = cpu_ms()

    def stop(self) -> bool:
        """Whether the stage should come to an end: somebody cancelled, or the budget is used up."""
        if self._cpu_ms() - self._seen_ms >= _BOOKED_EVERY_MS:
            self.book()
        return self._halted() is not None

    def book(self) -> None:
        """Enter what was used since the last time."""
        now_ms = self._cpu_ms()
        self.job = used(self.job, now_ms - self._seen_ms)
        self._seen_ms = now_ms
        write_job(self.folder, self.job)
        self._meter.use(self.job.hold, self.job.cost_micro_ftns)

    def check(self) -> None:
        """As ``stop``, but raises Halted."""
        self.stop()
        halted = self._halted()
        if halted:
            raise halted

    def _halted(self) -> Halted | None:
        if is_cancelled(self.folder):
            return Halted(Standing.CANCELLED, "The job was cancelled.")
        if self.job.left_cpu_ms <= 0:
            return Halted(Standing.EXHAUSTED, f"The budget is used up in the stage {self.job.stage}.")
        return None


Work = Callable[[Watch], Mapping[str, Any]]
"""One stage's work: gives its facts, as JSON. Raises Halted to end the job, PrsmError where it fails."""


def run(folder: Path, works: Mapping[Stage, Work], meter: Meter, *, cpu_ms: Callable[[], int] | None = None) -> Job:
    """Run the job in ``folder`` until it ends or is interrupted, and pay for it; answers how it stands.

    A job that has ended is only settled, where that was not done yet. Raises JobConflict where there is no job, or
    another process runs it.
    """
    with _held(folder):
        job = read_job(folder)
        if job is None:
            raise JobConflict(f"There is no job in {folder}.")
        if job.standing is Standing.RUNNING:
            job = _to_its_end(folder, job, works, meter, cpu_ms or _process_ms)
        if job.standing is not Standing.RUNNING and not job.is_settled:
            meter.settle(job.hold, job.cost_micro_ftns)
            job = settled(job)
            write_job(folder, job)
        return job


def _to_its_end(folder: Path, job: Job, works: Mapping[Stage, Work], meter: Meter, cpu_ms: Callable[[], int]) -> Job:
    watch = Watch(folder, job, meter, cpu_ms)
    try:
        meter.hold(job.hold, job.budget_micro_ftns)
        while watch.job.standing is Standing.RUNNING:
            watch.check()
            facts = works[watch.job.stage](watch)
            watch.book()
            watch.job = finished(watch.job, facts, clock.now())
            write_job(folder, watch.job)
    except Interrupted:
        watch.book()
    except Halted as halted:
        watch.book()
        watch.job = ended(watch.job, halted.standing, halted.reason, clock.now(), halted.facts)
    except PrsmError as error:
        watch.book()
        watch.job = ended(watch.job, Standing.FAILED, str(error), clock.now())
    write_job(folder, watch.job)
    return watch.job


def _process_ms() -> int:
    return time.process_time_ns() // 1_000_000


@contextmanager
def _held(folder: Path) -> Generator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JobConflict(f"Another process runs the job in {folder}.") from error
        yield
