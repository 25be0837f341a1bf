"""Learning from verified answers as a run of the node: ``python -m prsm.teachers.rlvr_job RECIPE.toml --out DIR``.

A recipe is one of ``rlvr_plan.py`` with the folder of the teacher to begin with in it. What it lacks is measured first,
on prompts that are not held out. The result is ``DIR/model``.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from msgspec import Struct

from prsm.teachers.alphabet import prompt_ids
from prsm.teachers.curriculum import Standing
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.networks.sampling import sample
from prsm.teachers.rlvr_engine import check_practised, improve, rewards
from prsm.teachers.rlvr_plan import RlvrRecipe
from prsm.teachers.seams import Task
from prsm.teachers.tasks.held_out import problems
from prsm.teachers.tasks.registry import task
from prsm.teachers.training.recipe import file_sha256
from prsm.teachers.training.run_command import carry_out, recipe_of
from prsm.teachers.training.run_folder import Ended, RunFolder
from prsm.teachers.training.small_teacher import load_teacher, save_teacher

_MEASURED: Final = 100
_SEEDS_A_PROMPT: Final = 20
_MEASURED_FROM: Final = 2 * 10**12
"""The seeds of what is measured: far from those of training and of exams."""


class Recipe(Struct, frozen=True, kw_only=True):
    """The folder of the teacher to begin with, and how it is improved."""

    teacher: str
    improve: RlvrRecipe


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""

    def improved(path: Path, folder: RunFolder) -> Ended:
        recipe = recipe_of(path, Recipe, "improve")
        return _improved(Path(recipe.teacher), recipe.improve, folder)

    return carry_out(arguments, "prsm.teachers.rlvr_job", __doc__, improved)


def measured(network: Decoder, tasks: Mapping[str, Task], recipe: RlvrRecipe) -> dict[str, dict[int, Standing]]:
    """How many of some prompts of each level are answered exactly right, greedily.

    Raises ConfigError for a level that cannot be practised.
    """
    return {
        name: {level: _standing(network, tasks[name], level, recipe.rlvr.max_tokens) for level in range(levels)}
        for name, levels in recipe.tasks.items()
    }


def _standing(network: Decoder, asked: Task, level: int, max_tokens: int) -> Standing:
    practised = problems(asked, level, _MEASURED_FROM, held_out=False, seeds=_SEEDS_A_PROMPT * _MEASURED)
    drawn = list(islice(practised, _MEASURED))
    check_practised(asked, level, drawn)
    said = sample(network, [prompt_ids(problem.prompt) for problem in drawn], max_tokens=max_tokens)
    return Standing(round(sum(rewards(asked, drawn, [each.ids for each in said]))), len(drawn))


def _improved(teacher: Path, recipe: RlvrRecipe, folder: RunFolder) -> Ended:
    file_sha256(teacher / "model.safetensors", "teacher")
    network, tasks = load_teacher(teacher), {name: task(name) for name in recipe.tasks}
    ended = improve(network, tasks, recipe, folder.path, found=measured(network, tasks, recipe), show=True)
    if ended.state == "done":
        folder.keep_model(lambda path: save_teacher(path, network.shape, network.weights()))
    folder.end(ended)
    return ended


if __name__ == "__main__":
    sys.exit(main())
