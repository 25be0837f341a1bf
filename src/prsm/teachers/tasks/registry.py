"""Tasks by name, as recipes and evaluations name them.

``addition``, ``subtraction``, ``multiplication`` and each with ``careless-`` before it; ``gym:NAME`` for a family of
reasoning-gym; ``file:PATH`` for a user's own JSONL or Python file, relative to the folder that is given.
"""

from pathlib import Path
from typing import Final

from prsm.core.errors import ConfigError
from prsm.teachers.seams import Task
from prsm.teachers.tasks.columns import Careless, Columns
from prsm.teachers.tasks.gym_families import gym_family
from prsm.teachers.tasks.own_tasks import code_task, written_task

FORGETS: Final = 0.6
"""Of a careless teacher's problems, the share that is worked without carries."""

_WORKED: Final = {task.name: task for task in (Columns("+"), Columns("-"), Columns("*"))}
_CARELESS: Final = {task.name: task for task in (Careless(task, FORGETS) for task in _WORKED.values())}
OWN: Final = (*_WORKED, *_CARELESS)
"""The names of the tasks that come with the project; each can show how its problems are worked."""


def task(name: str, folder: Path | None = None) -> Task:
    """The task of this name. Raises ConfigError where there is none, and what reading a user's own may raise."""
    kind, _, rest = name.partition(":")
    if kind == "gym" and rest:
        return gym_family(rest)
    if kind == "file" and rest:
        return _own(Path(folder or ".") / rest)
    found = _WORKED.get(name) or _CARELESS.get(name)
    if not found:
        raise ConfigError(f"There is no task {name}: {', '.join(OWN)}, gym:NAME or file:PATH.", param="task")
    return found


def _own(path: Path) -> Task:
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.", param="task")
    if path.suffix not in {".jsonl", ".py"}:
        raise ConfigError(f"{path.name} is neither .jsonl nor .py.", param="task")
    return code_task(path) if path.suffix == ".py" else written_task(path)
