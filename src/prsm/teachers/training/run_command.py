"""The command line of a run of the node: a recipe in, a run's folder out, an exit code that its supervisor reads.

Exit codes: 0 done, 1 failed, 2 wrong recipe, 130 stopped.
"""

import argparse
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from prsm.core.errors import ConfigError, Kind, PrsmError
from prsm.teachers.training.run_folder import Ended, RunFolder

EXIT_CODES: Final = {"done": 0, "failed": 1, "stopped": 130}
Recipe = TypeVar("Recipe", bound=msgspec.Struct)


def carry_out(
    arguments: Sequence[str] | None, name: str, about: str | None, run: Callable[[Path, RunFolder], Ended]
) -> int:
    """``run`` the recipe in the folder that ``arguments`` name; says on stderr how it ended, or what was wrong."""
    parser = argparse.ArgumentParser(prog=name, description=about)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    folder = RunFolder(options.out)
    try:
        ended = run(options.recipe, folder)
    except PrsmError as error:
        print(f"Error: {error}", file=sys.stderr)
        folder.refuse(error)
        return 2 if error.kind is Kind.INVALID else 1
    print(f"{ended.state} at {ended.step}. {ended.reason}", file=sys.stderr)
    return EXIT_CODES[ended.state]


def recipe_of(path: Path, shape: type[Recipe], rest: str) -> Recipe:
    """The recipe of a TOML file: the fields of ``shape`` by name, and all others as its field ``rest``.

    Raises ConfigError that names the field, or says why the file cannot be read.
    """
    try:
        given: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        own = {name: given.pop(name) for name in shape.__struct_fields__ if name != rest and name in given}
        return msgspec.convert({**own, rest: given}, shape)
    except (OSError, ValueError) as error:
        field = str(error).partition("`$.")[2].strip("`").removeprefix(f"{rest}.") or "recipe"
        raise ConfigError(f"{path} cannot be used: {error}.", param=field) from error
