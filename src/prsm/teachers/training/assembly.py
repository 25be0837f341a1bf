"""From a recipe to a finished run: network, source and objective are put together, trained and written down."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import json
from pathlib import Path
from typing import Any, assert_never

import msgspec
import torch

from prsm.teachers.tasks.registry import task
from prsm.teachers.training.language import next_token
from prsm.teachers.training.lessons import Lessons, of_pairs, of_preferences, of_tasks, of_text
from prsm.teachers.training.loop import Watch, train
from prsm.teachers.training.objective import Objective
from prsm.teachers.training.parallel import Group, joined, whole_tensors
from prsm.teachers.training.preference import bradley_terry, dpo
from prsm.teachers.training.recipe import Dpo, Pairs, Preferences, Recipe, Reward, Tasks, Text, file_sha256
from prsm.teachers.training.run_folder import Ended, RunFolder
from prsm.teachers.training.starting_model import StartingModel, starting_model


def run(recipe: Recipe, out: Path, *, show: bool = False, watch: Watch | None = None) -> Ended:
    """Train by ``recipe`` in the folder ``out``, or go on there; a run that is done leaves ``out/model``.

    In each process that ``torchrun`` or ``launch`` started. Raises ConfigError for a recipe that cannot be followed.
    """
    with joined(sharded=recipe.sharded) as group:
        start = starting_model(recipe)
        start.network.to("cuda" if torch.cuda.is_available() else "cpu")
        lessons = _lessons(recipe, start, group)
        ended = train(
            start.network, lessons.source, _objective(recipe), recipe.plan, out,
            record=_record(recipe, start, group), validate=lessons.validate, watch=watch, group=group, show=show,
            tensorboard=recipe.tensorboard,
        )  # fmt: skip
        if ended.state == "done":
            _write_model(start, RunFolder(out), group)
        return ended


def _lessons(recipe: Recipe, start: StartingModel, group: Group) -> Lessons:
    data, seed = recipe.data, recipe.plan.seed
    match data:
        case Text():
            return of_text(data, start.spelling, seed, group)
        case Pairs():
            return of_pairs(data, start.spelling, seed, group)
        case Tasks():
            return of_tasks(data, start.spelling, seed, group, task)
        case Preferences():
            reference = start.network if isinstance(recipe.objective, Dpo) else None
            return of_preferences(data, start.spelling, seed, group, _objective(recipe), reference)
        case _:
            assert_never(data)


def _objective(recipe: Recipe) -> Objective:
    if isinstance(recipe.objective, Dpo):
        return dpo(beta=recipe.objective.beta, label_smoothing=recipe.objective.label_smoothing)
    return bradley_terry if isinstance(recipe.objective, Reward) else next_token


def _record(recipe: Recipe, start: StartingModel, group: Group) -> dict[str, Any]:
    """What ``run.json`` says besides the plan: enough to make the same weights again."""
    path = getattr(recipe.data, "path", None)
    return {
        "recipe": msgspec.to_builtins(recipe),
        "seeds": [recipe.plan.seed],
        "data": [{"path": path, "sha256": file_sha256(Path(path), "data.path")}] if path else [],
        "parents": start.parents,
        "code": {"torch": torch.__version__},
        "processes": group.world,
        "parameters": sum(p.numel() for p in start.network.parameters()),
    }


def _write_model(start: StartingModel, folder: RunFolder, group: Group) -> None:
    """What a reward model's margins are to be divided by, as its last report has it, stands in its ``config.json``."""
    weights = whole_tensors(start.network) if group.sharded else None

    def save(path: Path) -> None:
        start.save(path, weights)
        temperature = folder.reports()[-1].get("validation_temperature")
        if temperature is not None:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            said = json.dumps(config | {"reward_temperature": temperature}, indent=1)
            (path / "config.json").write_text(said + "\n", encoding="utf-8")

    if group.rank == 0:
        folder.keep_model(save)
    group.wait()
