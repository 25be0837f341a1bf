"""Train by a recipe, or go on with a run: ``python -m prsm.teachers.training.main RECIPE.toml --out DIR``.

Exit codes: 0 done, 1 failed, 2 wrong recipe or no torch, 130 stopped. The run is DIR (docs/decisions/0021), its result
DIR/model. More processes by ``--processes``, or under ``torchrun``.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from prsm.core.errors import ConfigError, Kind, PrsmError
from prsm.teachers.training.launch import launch, threads_each, watch_launcher
from prsm.teachers.training.recipe import Recipe, read_recipe
from prsm.teachers.training.run_command import EXIT_CODES
from prsm.teachers.training.run_folder import Ended, RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        recipe = read_recipe(options.recipe, options.set)
        if find_spec("torch") is None:
            raise ConfigError("Training needs torch.", remedy="Install it with: pip install 'prsm[train]'")
        if options.processes > 1 and "RANK" not in os.environ:
            return launch([sys.executable, "-m", __spec__.name, *given], options.processes, recipe.plan.threads)
        ended = _trained(recipe, options.out)
    except PrsmError as error:
        print(f"Error: {error}", file=sys.stderr)
        RunFolder(options.out).refuse(error)
        return 2 if error.kind is Kind.INVALID else 1
    if os.environ.get("RANK", "0") == "0":
        said = ended.reason or f"The model is in {options.out / 'model'}."
        print(f"{ended.state} after {ended.step} updates. {said}", file=sys.stderr)
    return EXIT_CODES[ended.state]


def _trained(recipe: Recipe, out: Path) -> Ended:
    watch_launcher()
    # Read when torch is first imported.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_each(1, recipe.plan.threads)))
    from prsm.teachers.training.assembly import run  # needs torch

    return run(recipe, out, show=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prsm.teachers.training.main", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a TOML file, such as those in prsm/teachers/recipes")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; a run that is there goes on")
    parser.add_argument("--processes", type=int, default=1, help="how many processes on this machine share the run")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field")
    return parser


if __name__ == "__main__":
    sys.exit(main())
