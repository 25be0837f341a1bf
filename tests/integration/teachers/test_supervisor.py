"""Runs as processes of their own: started, followed, paid for by slices, stopped, and started again after a kill.

The runs are real evaluations by a teacher with drawn weights, which need no torch.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from tests.support.drawn_teachers import write_teacher
from tests.support.ledger import PAYER, World, open_world

from prsm.core.clock import now
from prsm.node.training import LedgerMeter
from prsm.teachers.evaluation.outcomes import read_evaluation
from prsm.teachers.runs.run_book import Run, RunBook, RunKind
from prsm.teachers.runs.supervisor import MAX_STARTS, Supervisor
from prsm.teachers.training.run_folder import RunFolder
from prsm.tokenomics.verify import verify

PLAN = 'max_tokens = 24\n[[tasks]]\nname = "addition"\nlevels = [2]\nprompts = {prompts}\n'
DISTIL = """
cpu_minutes = 0.0001
[teachers]
one = "{teacher}"
[tasks]
addition = 1
[limits]
parameter_share = 0.9
[amounts]
measured_prompts = 4
lessons_per_family = 8
max_tokens = 8
[plan]
steps = 2
"""
PRICE_MICRO = 1000


@pytest.fixture
async def world(fresh_database: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(fresh_database) as opened:
        yield opened
    for process in _processes(tmp_path):  # whatever a failing test has left running
        process.kill()


class Desk:
    """A node's runs: one supervisor over one book, stepped by the test."""

    def __init__(self, world: World, folder: Path, *, price_micro: int = PRICE_MICRO) -> None:
        self.world, self.folder = world, folder
        self.book = RunBook(world.db.pool, "node-1")
        self.price_micro = price_micro
        self.teacher = folder / "teacher"
        if not self.teacher.exists():
            write_teacher(self.teacher)
        self.supervisor = self.another()

    def another(self) -> Supervisor:
        """Another worker of the same node, or the next start of it."""
        return Supervisor(
            self.world.db.pool,
            self.book,
            self.folder / "runs",
            {"evaluate": "prsm.teachers.evaluation.job", "distil": "prsm.teachers.distillation.main"},
            LedgerMeter(self.world.ledger, "node:1", 1000),
            price_micro=self.price_micro,
            at_once=1,
            clock=now,
        )

    async def submit(
        self, prompts: int, *, budget_micro: int = 900_000, recipe: str = "", kind: RunKind = "evaluate"
    ) -> Run:
        text = recipe or f'teacher = "{self.teacher}"\n' + PLAN.format(prompts=prompts)
        return await self.book.submit(
            kind, "sums", text, account=PAYER, api_key_id=self.world.key_id, budget_micro=budget_micro
        )

    async def until(self, run_id: UUID, holds: Callable[[Run], bool], *, supervisor: Supervisor | None = None) -> Run:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            await (supervisor or self.supervisor).step()
            run = await self.book.run(run_id)
            if holds(run):
                return run
            await asyncio.sleep(0.1)
        raise AssertionError(f"still {run.state}: {run.reason} {run.report}")

    async def process(self, run_id: UUID) -> psutil.Process:
        """The run's own process, as the process table has it: for a moment after it was made without its arguments."""
        async with asyncio.timeout(20):
            while not (found := next(_processes(self.supervisor.folder_of(run_id)), None)):
                await asyncio.sleep(0.05)
        return found


def _processes(folder: Path) -> Iterator[psutil.Process]:
    """The trainers whose folder is this one, or below it."""
    for process in psutil.process_iter(["cmdline"]):
        argv = process.info["cmdline"] or []
        if "--out" in argv and Path(argv[-1]).is_relative_to(folder):
            yield process


def ended(run: Run) -> bool:
    return not run.is_open


def answering(run: Run) -> bool:
    return run.report.get("step", 0) > 0


async def test_a_run_is_started_followed_paid_for_and_done(world: World, tmp_path: Path) -> None:
    desk = Desk(world, tmp_path)
    run = await desk.submit(100)
    done = await desk.until(run.id, ended)
    assert (done.state, done.starts, done.reason) == ("done", 1, "")
    assert done.report["step"] == done.report["steps"] == 100
    assert done.facts["learner"]
    found = read_evaluation(desk.supervisor.folder_of(run.id) / "evaluation.json")
    assert (found.is_whole, found.learner) == (True, done.facts["learner"])
    assert done.money.held_micro == 0  # paid for by the time that it is said to be done
    charged = done.money.charged_micro
    assert charged == PRICE_MICRO * int(done.report["cpu_s"] * 1000) // 1000 > 0
    payer, node = await world.ledger.balance(PAYER), await world.ledger.balance("node:1")
    assert (payer.balance_micro, payer.held_micro) == (1_000_000 - charged, 0)
    assert node.balance_micro + (await world.ledger.balance("treasury")).balance_micro == charged
    assert await world.spent_and_held() == (charged, 0)
    async with world.db.pool.acquire() as connection:
        assert (await verify(connection)).violation_count == 0


async def test_a_killed_run_goes_on_and_so_does_a_killed_node(world: World, tmp_path: Path) -> None:
    desk = Desk(world, tmp_path)
    run = await desk.submit(20_000)
    await desk.until(run.id, answering)
    (await desk.process(run.id)).kill()
    again = await desk.until(run.id, lambda run: run.starts == 2)
    before = again.report["step"]
    successor = desk.another()  # knows nothing but the database and the folders
    followed = await desk.until(run.id, lambda run: run.report["step"] > before, supervisor=successor)
    assert (followed.state, followed.starts) == ("running", 2)
    await desk.book.ask_stop(run.id, "enough")
    stopped = await desk.until(run.id, ended, supervisor=successor)
    assert (stopped.state, stopped.reason) == ("stopped", "enough")
    resumed = await desk.book.resume(run.id)
    assert resumed.state == "queued"
    on = await desk.until(run.id, lambda run: run.report["step"] > stopped.report["step"], supervisor=successor)
    assert on.state == "running"
    await successor.close()
    assert (await desk.book.run(run.id)).state == "running"  # the next start goes on with it


async def test_two_workers_step_one_at_a_time(world: World, tmp_path: Path) -> None:
    desk = Desk(world, tmp_path)
    run = await desk.submit(100)
    other = desk.another()
    deadline = time.monotonic() + 120
    while not ended(found := await desk.book.run(run.id)) and time.monotonic() < deadline:
        await asyncio.gather(desk.supervisor.step(), other.step())
        await asyncio.sleep(0.05)
    assert (found.state, found.starts, found.money.slices) == ("done", 1, 1)


async def test_a_run_without_money_is_not_started(world: World, tmp_path: Path) -> None:
    desk = Desk(world, tmp_path, price_micro=10_000_000)
    too_small = await desk.submit(100, budget_micro=9_999_999)
    too_dear = await desk.submit(100, budget_micro=2_000_000_000)
    for run, reason in ((too_small, "budget is used up"), (too_dear, "less available")):
        found = await desk.until(run.id, lambda run: not run.is_open)
        assert (found.state, found.starts, found.money.charged_micro) == ("stopped", 0, 0)
        assert reason in found.reason


async def test_a_run_that_uses_up_its_budget_stops_with_what_it_has(world: World, tmp_path: Path) -> None:
    desk = Desk(world, tmp_path, price_micro=100_000)
    recipe = f'teacher = "{desk.teacher}"\nanswer_seeds = {list(range(500))}\n{PLAN.format(prompts=200)}'
    run = await desk.submit(0, recipe=recipe, budget_micro=100_000)
    found = await desk.until(run.id, ended)
    assert (found.state, found.reason.partition(";")[0]) == ("stopped", "The budget is used up")
    assert 0 < found.money.charged_micro <= 100_000
    assert found.report["step"] < found.report["steps"]


async def test_a_recipe_that_is_wrong_fails_in_a_sentence(world: World, tmp_path: Path) -> None:
    desk = Desk(world, tmp_path)
    run = await desk.submit(0, recipe='teacher = "nowhere"\n[[tasks]]\nname = "addition"\n')
    found = await desk.until(run.id, ended)
    assert found.state == "failed"
    assert "prompts" in found.reason
    assert found.starts == 1


async def test_what_ends_again_and_again_without_a_word_has_failed(world: World, tmp_path: Path) -> None:
    desk = Desk(world, tmp_path, price_micro=0)
    run = await desk.submit(4000)
    for start in range(1, MAX_STARTS + 1):
        await desk.until(run.id, lambda run, start=start: run.starts == start)
        (await desk.process(run.id)).kill()
    found = await desk.until(run.id, lambda run: not run.is_open)
    assert found.state == "failed"
    assert str(MAX_STARTS) in found.reason


async def test_a_run_that_stopped_of_its_own_accord_is_not_started_again(world: World, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra `train` is not installed")
    desk = Desk(world, tmp_path)
    run = await desk.submit(0, recipe=DISTIL.format(teacher=desk.teacher), kind="distil")
    found = await desk.until(run.id, lambda run: not run.is_open or run.starts > 1)
    assert (found.state, found.starts) == ("stopped", 1), found.reason
    assert "The budget is used up in the stage" in found.reason
    await desk.book.resume(run.id)  # whoever asks for it has another budget's worth
    again = await desk.until(run.id, lambda run: not run.is_open or run.starts > 1)
    assert (again.state, again.starts) == ("failed", 1)  # in the next stage: its teacher knows nothing
    assert "addition" in again.reason


async def test_a_run_that_has_failed_goes_on_once_it_is_resumed(world: World, tmp_path: Path) -> None:
    desk = Desk(world, tmp_path)
    late = tmp_path / "late"
    run = await desk.submit(0, recipe=f'teacher = "{late}"\n{PLAN.format(prompts=100)}')
    found = await desk.until(run.id, ended)
    assert (found.state, found.starts) == ("failed", 1)
    write_teacher(late)
    await desk.book.resume(run.id)
    found = await desk.until(run.id, ended)
    assert (found.state, found.starts) == ("done", 1), found.reason


async def test_the_nodes_own_ends_do_not_count_against_a_run(world: World, tmp_path: Path) -> None:
    desk = Desk(world, tmp_path, price_micro=0)
    run = await desk.submit(20_000)
    step = 0
    for _ in range(MAX_STARTS + 1):
        supervisor = desk.another()
        found = await desk.until(run.id, lambda run, last=step: run.report.get("step", 0) > last, supervisor=supervisor)
        assert (found.state, found.starts) == ("running", 1), found.reason
        await supervisor.close()
        step = RunFolder(supervisor.folder_of(run.id)).reports()[-1]["step"]
