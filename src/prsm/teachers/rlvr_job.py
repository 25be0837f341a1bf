"""Learning from verified answers as a run of the node: ``python -m prsm.teachers.rlvr_job RECIPE.toml --out DIR``.

A recipe is one of ``rlvr_plan.py`` with the folder of the teacher to begin with in it. What it lacks is measured first,
on prompts that are not held out. The result is ``DIR/model``. Exit codes as of ``prsm.teachers.training.main``.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from prsm.core.errors import ConfigError, Kind, PrsmError
from prsm.teachers.alphabet import prompt_ids
from prsm.teachers.curriculum import Standing
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.networks.sampling import sample
from prsm.teachers.rlvr_engine import improve, rewards
from prsm.teachers.rlvr_plan import RlvrRecipe, read_rlvr_recipe
from prsm.teachers.seams import Task
from prsm.teachers.tasks.held_out import problems
from prsm.teachers.tasks.registry import task
from prsm.teachers.training.recipe import file_sha256
from prsm.teachers.training.run_folder import Ended, RunFolder
from prsm.teachers.training.small_teacher import load_teacher, save_teacher

EXIT_CODES: Final = {"done": 0, "failed": 1, "stopped": 130}
_MEASURED: Final = 100
_MEASURED_FROM: Final = 2 * 10**12
"""The seeds of what is measured: far from those of training and of exams."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; says on stderr what went wrong."""
    parser = argparse.ArgumentParser(prog="prsm.teachers.rlvr_job", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    folder = RunFolder(options.out)
    try:
        teacher, recipe = read_job(options.recipe)
        ended = _improved(teacher, recipe, folder)
    except PrsmError as error:
        print(f"Error: {error}", file=sys.stderr)
        folder.refuse(error)
        return 2 if error.kind is Kind.INVALID else 1
    print(f"{ended.state} after {ended.step} updates. {ended.reason}", file=sys.stderr)
    return EXIT_CODES[ended.state]


def read_job(path: Path) -> tuple[Path, RlvrRecipe]:
    """The teacher's folder, and the rest of the recipe in a file. Raises ConfigError naming the field."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The recipe {path} cannot be read: {error}.") from error
    named = [line for line in lines if line.partition("=")[0].strip() == "teacher"]
    if len(named) != 1:
        raise ConfigError('A recipe begins with one line that names its teacher: teacher = "FOLDER".', param="teacher")
    folder = Path(named[0].partition("=")[2].strip().strip('"'))
    return folder, read_rlvr_recipe("".join(line for line in lines if line is not named[0]))


def measured(network: Decoder, tasks: Mapping[str, Task], recipe: RlvrRecipe) -> dict[str, dict[int, Standing]]:
    """How many of some prompts of each level are answered exactly right, greedily."""
    return {
        name: {level: _standing(network, tasks[name], level, recipe.rlvr.max_tokens) for level in range(levels)}
        for name, levels in recipe.tasks.items()
    }


def _standing(network: Decoder, asked: Task, level: int, max_tokens: int) -> Standing:
    drawn = list(islice(problems(asked, level, _MEASURED_FROM, held_out=False), _MEASURED))
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
