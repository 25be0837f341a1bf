"""The teachers inside this node: the shipped one, and those in the folders that its operator names.

A folder that is broken is named in the log and at ``/readyz``, and keeps nobody from answering.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from prsm.core.config import Settings
from prsm.core.errors import ConfigError
from prsm.teachers.arithmetic.teacher import ArithmeticTeacher
from prsm.teachers.runtime.shelf import Shelf
from prsm.teachers.seams import Teacher
from prsm.teachers.teacher_model import FolderTeacher, open_teacher

ARITHMETIC: Final = "arithmetic"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TAKEN: Final = frozenset({ARITHMETIC, "minilm-l6"})
_log: Any = structlog.get_logger("teachers")


class Teachers:
    """What answers inside this process, by name.

    ``by_name`` and ``domains`` are read by the executor and the router and change in place. Of ``domains`` is only who
    says which questions are its own: the others are asked by name.
    """

    def __init__(self, shipped: ArithmeticTeacher, folder: Path, shelf: Shelf) -> None:
        self.shipped = shipped
        self.of_folders: dict[str, FolderTeacher] = {}
        self.by_name: dict[str, Teacher] = {ARITHMETIC: shipped}
        self.domains: dict[str, Callable[[str], bool]] = {ARITHMETIC: shipped.understands}
        self.broken: Mapping[str, str] = {}
        self._folder = folder
        self._shelf = shelf

    @classmethod
    def open(cls, settings: Settings) -> "Teachers":
        """The shipped teacher and those in the folder of the settings; blocking. Raises ConfigError for the shipped."""
        named = settings.teachers_folder
        folder = Path(named).expanduser() if named else settings.home / "teachers"
        teachers = cls(ArithmeticTeacher.load(), folder, Shelf(settings.teachers_memory_bytes))
        teachers.refresh()
        return teachers

    def refresh(self) -> None:
        """Look again at what the folder holds; blocking, as it reads and checks all of it."""
        found: dict[str, FolderTeacher] = {}
        broken: dict[str, str] = {}
        for name, path in self._folders():
            try:
                found[name] = self._opened(name, path)
            except ConfigError as error:
                broken[name] = str(error)
                if self.broken.get(name) != broken[name]:
                    _log.warning("teacher_broken", teacher=name, reason=str(error))
        for gone in self.of_folders.keys() - found.keys():
            del self.by_name[gone]
            self.domains.pop(gone, None)
        self.by_name.update(found)
        self.domains.update({name: each.understands for name, each in found.items() if each.about.questions})
        self.of_folders, self.broken = found, broken

    def readiness(self) -> dict[str, Any]:
        """The part of ``/readyz``; not ok while a folder is broken."""
        part: dict[str, Any] = {"ok": not self.broken, "count": len(self.by_name)}
        if self.broken:
            part["error"] = " ".join(f"{name}: {reason}" for name, reason in self.broken.items())
        return part

    def _folders(self) -> list[tuple[str, Path]]:
        """Sub-folders by name; one that begins with a dot is being written."""
        if not self._folder.is_dir():
            return []
        return sorted((p.name, p) for p in self._folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    def _opened(self, name: str, path: Path) -> FolderTeacher:
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise ConfigError(
                "A teacher's folder is named by small letters, digits, dots, hyphens and underscores, "
                f"and not {' or '.join(sorted(_TAKEN))}.",
                remedy=f"Rename {path}.",
            )
        model, about = open_teacher(path)
        self._shelf.check(model)
        return FolderTeacher(model, about, lambda: self._shelf.engine(model))
