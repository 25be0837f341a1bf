"""The state machine of a distillation job: what may follow what, what it costs, and that it survives everything."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import PrsmError
from prsm.teachers.distillation.job import (
    Job,
    JobConflict,
    Stage,
    Standing,
    ask_to_cancel,
    begun,
    ended,
    finished,
    forget_cancel,
    read_job,
    resumed,
    settled,
    used,
    write_job,
)
from prsm.teachers.distillation.main import Reports
from prsm.teachers.distillation.running import Halted, Interrupted, Watch, run
from prsm.teachers.training.run_folder import RunFolder

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STAGES = list(Stage)


class Book:
    """A meter over a dict, which keeps to its Protocol: repeated calls change nothing."""

    def __init__(self, funds: int = 10**9) -> None:
        self.funds = funds
        self.held: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.paid: dict[str, int] = {}

    def hold(self, hold: str, budget_micro_ftns: int) -> None:
        if hold not in self.held and budget_micro_ftns > self.funds:
            raise PrsmError("There is not enough.", code="insufficient_funds")
        self.held[hold] = budget_micro_ftns

    def use(self, hold: str, cost_micro_ftns: int) -> None:
        assert cost_micro_ftns >= self.used.get(hold, 0)
        self.used[hold] = cost_micro_ftns

    def settle(self, hold: str, cost_micro_ftns: int) -> None:
        assert self.paid.setdefault(hold, cost_micro_ftns) == cost_micro_ftns <= self.held.get(hold, 0)


class Cpu:
    """Processor time that passes when it is said to."""

    ms = 0

    def __call__(self) -> int:
        return self.ms


def new_job(budget: int = 100_000, price: int = 10) -> Job:
    return begun("job", "hold-1", budget, price, NOW)


def works(cpu: Cpu, order: list[Stage], **own: Any) -> dict[Stage, Any]:
    def each(stage: Stage) -> Any:
        def work(_watch: Watch) -> Mapping[str, Any]:
            order.append(stage)
            cpu.ms += 1000
            return {"did": stage}

        return own.get(stage, work)

    return {stage: each(stage) for stage in STAGES}


@given(st.lists(st.sampled_from(["finish", "use", "cancel", "exhaust", "refuse", "settle", "resume"]), max_size=40))
def test_whatever_happens_stages_are_passed_in_order_and_cost_stays_within_the_hold(actions: list[str]) -> None:
    job = new_job(budget=50)
    for number, action in enumerate(actions):
        before = job
        try:
            match action:
                case "finish":
                    job = finished(job, {"number": number}, NOW)
                case "use":
                    job = used(job, 1700)
                case "cancel":
                    job = ended(job, Standing.CANCELLED, "x", NOW)
                case "exhaust":
                    job = ended(job, Standing.EXHAUSTED, "x", NOW)
                case "refuse":
                    job = ended(job, Standing.REFUSED, "x", NOW, {"why": 1})
                case "settle":
                    job = settled(job)
                case _:
                    job = resumed(job, f"hold-{number}", 50, NOW)
        except JobConflict:
            assert job is before
            continue
        assert STAGES.index(job.stage) - STAGES.index(before.stage) in (0, 1)
        assert 0 <= job.cost_micro_ftns <= job.budget_micro_ftns
        passed = STAGES[: STAGES.index(job.stage) + (job.standing in (Standing.DONE, Standing.REFUSED))]
        assert list(job.results) == passed
        if before.standing in (Standing.DONE, Standing.REFUSED):
            assert job.standing is before.standing


def test_cost_is_rounded_up() -> None:
    assert used(new_job(price=10), 1).cost_micro_ftns == 1
    assert used(new_job(price=10), 1001).cost_micro_ftns == 11
    assert used(new_job(budget=10, price=10), 5000).cost_micro_ftns == 10


def test_a_job_needs_a_budget_and_a_price() -> None:
    for budget, price in ((0, 1), (1, 0)):
        with pytest.raises(JobConflict):
            begun("job", "hold", budget, price, NOW)


def test_a_job_runs_to_its_end_and_is_paid_by_use(tmp_path: Path) -> None:
    cpu, book, order = Cpu(), Book(), list[Stage]()
    write_job(tmp_path, new_job())
    job = run(tmp_path, works(cpu, order), book, cpu_ms=cpu)
    assert order == STAGES
    assert job.standing is Standing.DONE
    assert job.results[Stage.PUBLISH] == {"did": "publish"}
    assert book.paid == {"hold-1": 60}
    assert read_job(tmp_path) == job
    assert run(tmp_path, works(cpu, order), book, cpu_ms=cpu) == job
    assert order == STAGES


def test_a_cancelled_job_pays_for_what_it_had_and_goes_on_with_another_hold(tmp_path: Path) -> None:
    cpu, book, order = Cpu(), Book(), list[Stage]()

    def train(watch: Watch) -> Mapping[str, Any]:
        cpu.ms += 500
        assert not watch.stop()
        ask_to_cancel(watch.folder)
        watch.check()
        raise AssertionError("not reached")

    write_job(tmp_path, new_job())
    job = run(tmp_path, works(cpu, order, train=train), book, cpu_ms=cpu)
    assert (job.standing, job.stage, job.is_settled) == (Standing.CANCELLED, Stage.TRAIN, True)
    assert book.paid == {"hold-1": 25}
    forget_cancel(tmp_path)
    write_job(tmp_path, resumed(job, "hold-2", 1000, NOW))
    job = run(tmp_path, works(cpu, order), book, cpu_ms=cpu)
    assert order == STAGES
    assert job.standing is Standing.DONE
    assert book.paid == {"hold-1": 25, "hold-2": 40}


def test_a_job_stops_where_its_budget_is_used_up(tmp_path: Path) -> None:
    cpu, book, order = Cpu(), Book(), list[Stage]()
    write_job(tmp_path, new_job(budget=25))
    job = run(tmp_path, works(cpu, order), book, cpu_ms=cpu)
    assert (job.standing, job.stage) == (Standing.EXHAUSTED, Stage.EVALUATE)
    assert job.reason == "The budget is used up in the stage evaluate."
    assert book.paid == {"hold-1": 25}


def test_a_refusal_keeps_its_evidence(tmp_path: Path) -> None:
    def evaluate(_watch: Watch) -> Mapping[str, Any]:
        raise Halted(Standing.REFUSED, "Worse than before.", {"score": 0.1})

    write_job(tmp_path, new_job())
    job = run(tmp_path, works(Cpu(), [], evaluate=evaluate), Book(), cpu_ms=Cpu())
    assert (job.standing, job.reason) == (Standing.REFUSED, "Worse than before.")
    assert job.results[Stage.EVALUATE] == {"score": 0.1}
    with pytest.raises(JobConflict, match="refused"):
        resumed(job, "hold-2", 1, NOW)


def test_a_job_without_funds_fails_before_its_first_stage(tmp_path: Path) -> None:
    order, book = list[Stage](), Book(funds=5)
    write_job(tmp_path, new_job())
    job = run(tmp_path, works(Cpu(), order), book, cpu_ms=Cpu())
    assert (job.standing, job.reason, order) == (Standing.FAILED, "There is not enough.", [])
    assert book.paid == {"hold-1": 0}


def test_an_interrupted_job_is_still_running(tmp_path: Path) -> None:
    def train(_watch: Watch) -> Mapping[str, Any]:
        raise Interrupted

    cpu, book, order = Cpu(), Book(), list[Stage]()
    write_job(tmp_path, new_job())
    job = run(tmp_path, works(cpu, order, train=train), book, cpu_ms=cpu)
    assert (job.standing, job.used_cpu_ms, book.paid) == (Standing.RUNNING, 2000, {})
    assert run(tmp_path, works(cpu, order), book, cpu_ms=cpu).standing is Standing.DONE
    assert book.paid == {"hold-1": 60}


def test_what_is_reported_goes_on_over_interruptions_and_resumptions(tmp_path: Path) -> None:
    def train(_watch: Watch) -> Mapping[str, Any]:
        cpu.ms += 98_000
        raise Interrupted

    cpu, folder = Cpu(), RunFolder(tmp_path)
    write_job(tmp_path, new_job(budget=101_000, price=1000))
    run(tmp_path, works(cpu, [], train=train), Reports(folder), cpu_ms=cpu)
    assert folder.reports()[-1]["cpu_s"] == 100
    job = run(tmp_path, works(cpu, []), Reports(folder), cpu_ms=cpu)  # the next process of the same round
    assert (job.standing, folder.reports()[-1]["cpu_s"]) == (Standing.EXHAUSTED, 101)
    write_job(tmp_path, resumed(job, "hold-2", 101_000, NOW))
    assert run(tmp_path, works(cpu, []), Reports(folder), cpu_ms=cpu).standing is Standing.DONE
    assert [report["cpu_s"] for report in folder.reports()][-3:] == [102, 103, 104]
    assert folder.reports()[-1]["cpu_s"] * 1000 == cpu.ms


def test_one_process_runs_a_job(tmp_path: Path) -> None:
    def train(watch: Watch) -> Mapping[str, Any]:
        with pytest.raises(JobConflict, match="Another process"):
            run(watch.folder, {}, Book())
        return {}

    write_job(tmp_path, new_job())
    assert run(tmp_path, works(Cpu(), [], train=train), Book(), cpu_ms=Cpu()).standing is Standing.DONE
    with pytest.raises(JobConflict, match="no job"):
        run(tmp_path / "other", {}, Book())


_KILLED_IN = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from prsm.teachers.distillation.job import Stage
    from prsm.teachers.distillation.running import run

    class Free:
        def hold(self, hold, budget_micro_ftns): ...
        def use(self, hold, cost_micro_ftns): ...
        def settle(self, hold, cost_micro_ftns): ...

    def work(watch):
        with open("order", "a") as file:
            print(watch.job.stage, file=file)
        if watch.job.stage == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"by": os.getpid()}

    run(Path(sys.argv[1]), {stage: work for stage in Stage}, Free())
""")


@pytest.mark.parametrize("stage", [Stage.ANALYSE, Stage.TRAIN, Stage.PUBLISH])
def test_a_killed_job_goes_on_at_the_stage_that_was_killed(tmp_path: Path, stage: Stage) -> None:
    write_job(tmp_path, new_job())
    killed = subprocess.run([sys.executable, "-c", _KILLED_IN, str(tmp_path), stage], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    order = [Stage(line) for line in (tmp_path / "order").read_text().split()]
    assert order == STAGES[: STAGES.index(stage) + 1]
    after, cpu = list[Stage](), Cpu()
    job = run(tmp_path, works(cpu, after), Book(), cpu_ms=cpu)
    assert after == STAGES[STAGES.index(stage) :]
    assert job.standing is Standing.DONE
    assert [facts.get("by") != os.getpid() for facts in job.results.values()] == [True] * len(STAGES)
