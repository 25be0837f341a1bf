"""An evaluation as a run of the node, without torch: ``python -m prsm.teachers.evaluation.job RECIPE.toml --out DIR``.

A recipe is a plan with the teacher's folder in it. The run's folder is as a training run's is; in it
``evaluation.json`` is what was found.
"""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from prsm.core.errors import ConfigError
from prsm.teachers.evaluation.harness import evaluate
from prsm.teachers.evaluation.outcomes import Evaluation, encode
from prsm.teachers.evaluation.plan import Plan
from prsm.teachers.evaluation.questions import questions
from prsm.teachers.runtime.engine import Engine
from prsm.teachers.runtime.folder import ModelFolder
from prsm.teachers.runtime.learner import EngineLearner
from prsm.teachers.tasks.registry import task
from prsm.teachers.training.run_command import carry_out, recipe_of
from prsm.teachers.training.run_folder import Ended, RunFolder

RESULT = "evaluation.json"
_BATCH = 64


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask what: the folder of a teacher, a plan, where the files it names are, and the longest answer."""

    teacher: str
    plan: Plan
    data: str = "."
    max_tokens: int = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""

    def evaluated(path: Path, folder: RunFolder) -> Ended:
        recipe = read_recipe(path)
        with folder.held():
            ended = _run(recipe, folder)
            folder.end(ended)
        return ended

    return carry_out(arguments, "prsm.teachers.evaluation.job", __doc__, evaluated)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a TOML file. Raises ConfigError naming the field."""
    recipe = recipe_of(path, Recipe, "plan")
    if recipe.plan.standard:
        raise ConfigError(
            "Standard tasks need torch: evaluate them by prsm.teachers.evaluation.main.", param="standard"
        )
    return recipe


def _run(recipe: Recipe, run: RunFolder) -> Ended:
    model, data = ModelFolder.open(Path(recipe.teacher)), Path(recipe.data)
    asked = questions(recipe.plan, lambda name: task(name, data), data)
    run.begin({"recipe": msgspec.to_builtins(recipe), "learner": model.version})
    reports, stops = _Reports(run), _stops()
    found = evaluate(
        EngineLearner(Engine(model.shape, model.weights(), threads=1), recipe.max_tokens),
        recipe.plan,
        asked,
        run.path / "outcomes.jsonl",
        version=model.version,
        batch=_BATCH,
        size_bytes=model.weights_bytes,
        progress=reports.tell,
        cancelled=lambda: bool(stops),
    )
    if not found.is_whole:
        return Ended(state="stopped", reason="It was told to stop.", step=len(found.outcomes))
    _write(run.path / RESULT, found)
    return Ended(state="done", step=len(found.outcomes))


class _Reports:
    """How many answers there are, as a training run reports its steps; processor time goes on from an earlier try."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        last = (run.reports() or [{}])[-1]
        self._before_s = float(last.get("cpu_s", 0.0))

    def tell(self, done: int, total: int) -> None:
        """A batch was answered."""
        cpu_s = self._before_s + time.process_time()
        self._run.report({"step": done, "steps": total, "units": done, "cpu_s": cpu_s})


def _stops() -> list[int]:
    """Fills when the process is told to stop, so that what is under way is kept."""
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: told.append(number))
    return told


def _write(path: Path, found: Evaluation) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(encode(found))
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
