"""A distillation as a run of the node: ``python -m prsm.teachers.distillation.main RECIPE.toml --out DIR``.

A recipe is a distillation's with the teachers' folders and the tasks in it. The run's folder is as a training run's
is, and the job's too; the student that passed all stages is ``model/`` in it. Who pays for a run of the node is its
supervisor, by slices; the job's own budget is processor time.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from prsm.core import clock
from prsm.teachers.distillation.analysis import answered, draw_problems, measured
from prsm.teachers.distillation.backends.choosing import open_backend
from prsm.teachers.distillation.job import Job, Stage, Standing, begun, forget_cancel, read_job, resumed, write_job
from prsm.teachers.distillation.recipe import Distillation
from prsm.teachers.distillation.running import Watch, run
from prsm.teachers.distillation.saying import examined
from prsm.teachers.distillation.seams import Backend
from prsm.teachers.distillation.stages import Distiller, Verdict
from prsm.teachers.evaluation.plan import FilePart, Plan
from prsm.teachers.evaluation.questions import questions
from prsm.teachers.tasks.first_levels import FirstLevels, first_levels
from prsm.teachers.tasks.registry import task
from prsm.teachers.training.run_command import carry_out, recipe_of
from prsm.teachers.training.run_folder import Ended, RunFolder

_EXAM_PROMPTS: Final = 200
_EXAM_SEED: Final = 10**6
_HOLD: Final = "paid by its supervisor"


class Recipe(Struct, frozen=True, kw_only=True):
    """Teachers by name with their folders, tasks by name with how many of their levels, and the job's own recipe.

    ``safety`` are files of the rule ``forbidden`` below ``data``: what the student must not say.
    """

    teachers: Annotated[dict[str, str], Meta(min_length=1)]
    tasks: Annotated[dict[str, int], Meta(min_length=1)]
    distillation: Distillation
    safety: tuple[FilePart, ...] = ()
    cpu_minutes: Annotated[float, Meta(gt=0)] = 60.0
    data: str = "."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""

    def distilled(path: Path, folder: RunFolder) -> Ended:
        recipe = recipe_of(path, Recipe, "distillation")
        with folder.held():
            ended = _distilled(recipe, folder)
            folder.end(ended)
        return ended

    return carry_out(arguments, "prsm.teachers.distillation.main", __doc__, distilled)


def _distilled(recipe: Recipe, folder: RunFolder) -> Ended:
    backend = open_backend(recipe.distillation.backend)
    tasks = [first_levels(task(name, Path(recipe.data)), levels) for name, levels in recipe.tasks.items()]
    folder.begin(
        {
            "recipe": msgspec.to_builtins(recipe),
            "seeds": [recipe.distillation.plan.seed],
            "parents": [{"path": path} for path in recipe.teachers.values()],
        }
    )
    job = run(folder.path, _distiller(recipe, tasks, backend).works(), _begin(recipe, folder))
    if job.standing is Standing.DONE:
        return Ended(state="done", step=len(Stage))
    if job.standing is Standing.RUNNING:
        return Ended(state="stopped", reason="It was told to stop.", step=_place(job))
    state = "stopped" if job.standing in (Standing.CANCELLED, Standing.EXHAUSTED) else "failed"
    return Ended(state=state, reason=job.reason, step=_place(job), by_choice=True)


def _begin(recipe: Recipe, folder: RunFolder) -> "Reports":
    """Begin the job, or take it up where it ended; its budget is in milliseconds of processor time."""
    job = read_job(folder.path)
    budget = round(recipe.cpu_minutes * 60_000)
    if job is None:
        write_job(folder.path, begun(folder.path.name, _HOLD, budget, 1000, clock.now()))
    elif job.is_settled and job.standing not in (Standing.DONE, Standing.REFUSED):
        forget_cancel(folder.path)
        write_job(folder.path, resumed(job, _HOLD, budget, clock.now()))
    return Reports(folder)


def _distiller(recipe: Recipe, tasks: Sequence[FirstLevels], backend: Backend) -> Distiller:
    teachers = {name: backend.load(Path(path)) for name, path in recipe.teachers.items()}

    def evaluate(student: Path, watch: Watch) -> Verdict:
        found: dict[str, Any] = {}
        for each in tasks:
            problems = draw_problems(each, _EXAM_PROMPTS, _EXAM_SEED, held_out=True)
            written = answered(backend.load(student), problems, max_tokens=recipe.distillation.amounts.max_tokens)
            found[each.name] = msgspec.to_builtins(measured(each, problems, written))
            watch.check()
        return Verdict(passed=True, facts=found)

    def safety(student: Path, watch: Watch) -> Verdict:
        tokens = recipe.distillation.amounts.max_tokens
        asked = questions(Plan(files=recipe.safety), task, Path(recipe.data)) if recipe.safety else []
        return examined(asked, backend.load(student), teachers, tokens, watch.check)

    def publish(student: Path, _job: str) -> Mapping[str, Any]:
        kept = RunFolder(student.parent)
        kept.keep_model(lambda path: _copy(student, path))
        return {"model": str(kept.model), "next": "evaluate, publish and gate it as any run's model"}

    return Distiller(
        recipe=recipe.distillation,
        teachers=teachers,
        tasks=tasks,
        backend=backend,
        evaluate=evaluate,
        safety=safety,
        publish=publish,
    )


def _copy(student: Path, path: Path) -> None:
    shutil.copytree(student, path)


class Reports:
    """The job's meter: what it used becomes a line of the run's metrics, by which the run's supervisor pays."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        last = (folder.reports() or [{}])[-1]
        job = read_job(folder.path)
        in_this_round_s = job.cost_micro_ftns / 1000 if job else 0.0  # is told again, in all
        self._before_s = max(float(last.get("cpu_s", 0.0)) - in_this_round_s, 0.0)
        self._step = int(last.get("step", 0))

    def hold(self, hold: str, budget_micro_ftns: int) -> None:
        """Nothing: its supervisor has it."""

    def use(self, hold: str, cost_micro_ftns: int) -> None:
        """Tell how far it is, and what it has used."""
        job = read_job(self._folder.path)
        if job:
            self._step += 1
            figures = {"stage": _place(job), "stages": len(Stage), "cpu_s": self._before_s + cost_micro_ftns / 1000}
            self._folder.report({"step": self._step, "steps": self._step, "name": str(job.stage)} | figures)

    def settle(self, hold: str, cost_micro_ftns: int) -> None:
        """Nothing: its supervisor captures."""


def _place(job: Job) -> int:
    return list(Stage).index(job.stage)


if __name__ == "__main__":
    sys.exit(main())
