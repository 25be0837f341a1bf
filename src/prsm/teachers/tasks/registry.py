"""Tasks by name, as recipes and evaluations name them.

``addition``, ``subtraction``, ``multiplication`` and each with ``careless-`` before it; those of ``letters.py`` and
``numerals.py``; ``gym:NAME`` for a family of reasoning-gym; ``file:PATH`` for a user's own JSONL or Python file,
relative to the folder that is given.
"""

from pathlib import Path
from typing import Final, get_args

from prsm.core.errors import ConfigError
from prsm.teachers.seams import Demonstrated, Task
from prsm.teachers.tasks import letters, numerals
from prsm.teachers.tasks.columns import Careless, Columns
from prsm.teachers.tasks.gym_families import gym_family
from prsm.teachers.tasks.own_tasks import code_task, written_task

FORGETS: Final = 0.6
"""Of a careless teacher's problems, the share that is worked without carries."""

_COLUMNS: Final = (Columns("+"), Columns("-"), Columns("*"))
_OWN: Final[dict[str, Demonstrated]] = {
    each.name: each
    for each in (
        *_COLUMNS,
        *(Careless(columns, FORGETS) for columns in _COLUMNS),
        *map(letters.Letters, get_args(letters.Asked)),
        *map(numerals.Numerals, get_args(numerals.Asked)),
    )
}
OWN: Final = tuple(_OWN)
"""The names of the tasks that come with the project; each can show how its problems are worked."""


def task(name: str, folder: Path | None = None) -> Task:
    """The task of this name. Raises ConfigError where there is none, and what reading a user's own may raise."""
    kind, _, rest = name.partition(":")
    if kind == "gym" and rest:
        return gym_family(rest)
    if kind == "file" and rest:
        return _own(Path(folder or ".") / rest)
    found = _OWN.get(name)
    if not found:
        raise ConfigError(f"There is no task {name}: {', '.join(OWN)}, gym:NAME or file:PATH.", param="task")
    return found


def _own(path: Path) -> Task:
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.", param="task")
    if path.suffix not in {".jsonl", ".py"}:
        raise ConfigError(f"{path.name} is neither .jsonl nor .py.", param="task")
    return code_task(path) if path.suffix == ".py" else written_task(path)
