"""An evaluation as a run of the node, without torch: ``python -m prsm.teachers.evaluation.job RECIPE.toml --out DIR``.

A recipe is a plan with the teacher's folder in it. The run's folder is as a training run's is; in it
``evaluation.json`` is what was found. Exit codes: 0 done, 1 failed, 2 wrong recipe, 130 stopped.
"""

import argparse
import signal
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from prsm.core.errors import ConfigError, PrsmError
from prsm.teachers.evaluation.harness import evaluate
from prsm.teachers.evaluation.outcomes import Evaluation, encode
from prsm.teachers.evaluation.plan import Plan
from prsm.teachers.evaluation.questions import questions
from prsm.teachers.runtime.engine import Engine
from prsm.teachers.runtime.folder import ModelFolder
from prsm.teachers.runtime.learner import EngineLearner
from prsm.teachers.tasks.registry import task
from prsm.teachers.training.run_folder import Ended, RunFolder

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 130
RESULT = "evaluation.json"
_BATCH = 64


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask what: the folder of a teacher, a plan, where the files it names are, and the longest answer."""

    teacher: str
    plan: Plan
    data: str = "."
    max_tokens: int = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; says on stderr what went wrong."""
    parser = argparse.ArgumentParser(prog="evaluation", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    run = RunFolder(options.out)
    try:
        recipe = read_recipe(options.recipe)
    except PrsmError as error:
        print(error, file=sys.stderr)
        options.out.mkdir(parents=True, exist_ok=True)
        run.end(Ended(state="failed", reason=str(error)))
        return USAGE
    try:
        with run.held():
            ended = _run(recipe, run)
            run.end(ended)
    except PrsmError as error:
        print(error, file=sys.stderr)
        run.end(Ended(state="failed", reason=str(error)))
        return FAILED
    return DONE if ended.state == "done" else STOPPED


def read_recipe(path: Path) -> Recipe:
    """The recipe of a TOML file. Raises ConfigError naming the field."""
    try:
        given: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        own = {name: given.pop(name) for name in ("teacher", "data", "max_tokens") if name in given}
        recipe = msgspec.convert({**own, "plan": given}, Recipe)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be used: {error}.") from error
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
