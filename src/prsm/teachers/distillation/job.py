"""A distillation job as a state machine: pure transitions over one JSON value, and the file that it is kept in.

A stage's result is recorded before the next begins; whoever opens a job after a kill finds the last whole record. Which
work a stage does is not known here.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from prsm.core.errors import Kind, PrsmError
from prsm.teachers.training.run_folder import write_durably

_FILE, _CANCEL = "job.json", "cancel"


class Stage(StrEnum):
    """What a job goes through, in this order."""

    ANALYSE = "analyse"
    DESIGN = "design"
    TRAIN = "train"
    EVALUATE = "evaluate"
    SAFETY = "safety"
    PUBLISH = "publish"


class Standing(StrEnum):
    """How a job stands: running, done, or ended early. Refused is one whose student failed an examination."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"
    REFUSED = "refused"
    FAILED = "failed"


class JobConflict(PrsmError):
    """What was asked cannot be done to a job that stands as it does."""

    kind = Kind.CONFLICT
    code = "job_conflict"


class Job(Struct, frozen=True, kw_only=True):
    """One job. ``hold``, ``budget_micro_ftns``, ``used_cpu_ms`` and ``is_settled`` are of the present round of payment:
    each resumption after an end is a new round. ``results`` are the facts that each finished stage gave."""

    id: str
    hold: str
    budget_micro_ftns: int
    price_micro_ftns_per_cpu_s: int
    stage: Stage
    standing: Standing
    since: datetime
    used_cpu_ms: int = 0
    is_settled: bool = False
    results: dict[Stage, dict[str, Any]] = {}
    reason: str = ""

    @property
    def cost_micro_ftns(self) -> int:
        """What this round has used, rounded up, and never more than was held."""
        return min(self.budget_micro_ftns, -(-self.used_cpu_ms * self.price_micro_ftns_per_cpu_s // 1000))

    @property
    def left_cpu_ms(self) -> int:
        """Processor time that the budget still pays for."""
        return self.budget_micro_ftns * 1000 // self.price_micro_ftns_per_cpu_s - self.used_cpu_ms


def begun(name: str, hold: str, budget_micro_ftns: int, price_micro_ftns_per_cpu_s: int, now: datetime) -> Job:
    """A new job before its first stage. Raises JobConflict for a budget or price below one micro-FTNS."""
    if budget_micro_ftns < 1 or price_micro_ftns_per_cpu_s < 1:
        raise JobConflict("A job needs a budget and a price of at least one micro-FTNS.", param="budget_micro_ftns")
    return Job(
        id=name,
        hold=hold,
        budget_micro_ftns=budget_micro_ftns,
        price_micro_ftns_per_cpu_s=price_micro_ftns_per_cpu_s,
        stage=Stage.ANALYSE,
        standing=Standing.RUNNING,
        since=now,
    )


def used(job: Job, cpu_ms: int) -> Job:
    """The job after so much more processor time."""
    return replace(_running(job), used_cpu_ms=job.used_cpu_ms + cpu_ms)


def finished(job: Job, facts: Mapping[str, Any], now: datetime) -> Job:
    """The job after its stage gave ``facts``: at the next stage, or done."""
    results = _running(job).results | {job.stage: dict(facts)}
    order = list(Stage)
    if job.stage is order[-1]:
        return replace(job, results=results, standing=Standing.DONE, since=now)
    return replace(job, results=results, stage=order[order.index(job.stage) + 1], since=now)


def ended(job: Job, standing: Standing, reason: str, now: datetime, facts: Mapping[str, Any] | None = None) -> Job:
    """The job ended at its stage before its time; ``reason`` is a sentence, ``facts`` what the stage found by then."""
    if standing in (Standing.RUNNING, Standing.DONE):
        raise JobConflict(f"A job does not end as {standing}.")
    results = _running(job).results if facts is None else job.results | {job.stage: dict(facts)}
    return replace(_running(job), standing=standing, reason=reason, since=now, results=results)


def settled(job: Job) -> Job:
    """The job after its round was paid for."""
    if job.standing is Standing.RUNNING:
        raise JobConflict("A running job is not settled.")
    return replace(job, is_settled=True)


def resumed(job: Job, hold: str, budget_micro_ftns: int, now: datetime) -> Job:
    """The job taken up again at the stage where it ended, with another hold.

    Raises JobConflict for one that runs, is done, is not paid for yet, or was refused: that needs another student.
    """
    if job.standing in (Standing.RUNNING, Standing.DONE, Standing.REFUSED) or not job.is_settled:
        raise JobConflict(f"The job {job.id} is {job.standing} and cannot be taken up again.")
    fresh = begun(job.id, hold, budget_micro_ftns, job.price_micro_ftns_per_cpu_s, now)
    return replace(fresh, stage=job.stage, results=job.results)


def read_job(folder: Path) -> Job | None:
    """The job kept in ``folder``; None where there is none."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=Job)
    except FileNotFoundError:
        return None


def write_job(folder: Path, job: Job) -> None:
    """Keep the job: whoever reads sees it whole, as it was or as it is, also after a kill or a power cut."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / _FILE, msgspec.to_builtins(job))


def ask_to_cancel(folder: Path) -> None:
    """Ask whoever runs the job, in whatever process, to stop at its next checkpoint."""
    (folder / _CANCEL).touch()


def is_cancelled(folder: Path) -> bool:
    """Whether somebody asked."""
    return (folder / _CANCEL).exists()


def forget_cancel(folder: Path) -> None:
    """Take the wish back, before the job is taken up again."""
    (folder / _CANCEL).unlink(missing_ok=True)


def _running(job: Job) -> Job:
    if job.standing is not Standing.RUNNING:
        raise JobConflict(f"The job {job.id} is {job.standing}, not running.")
    return job
