"""The teachers inside this node: the shipped ones, those in the folders that its operator names, and published ones.

A folder that is broken is named in the log and at ``/readyz``, and keeps nobody from answering.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from prsm.core.config import Settings
from prsm.core.errors import ConfigError
from prsm.teachers.arithmetic.teacher import ArithmeticTeacher
from prsm.teachers.runtime.shelf import Shelf
from prsm.teachers.seams import Teacher
from prsm.teachers.teacher_model import FAMILY, FolderTeacher, open_teacher

ARITHMETIC: Final = "arithmetic"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TAKEN: Final = frozenset({ARITHMETIC, "minilm-l6"})
_log: Any = structlog.get_logger("teachers")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the folders held: the operator's teachers and published ones by name, and what is wrong with the others."""

    of_folders: dict[str, FolderTeacher]
    published: dict[str, FolderTeacher]
    broken: dict[str, str]


class Teachers:
    """What answers inside this process, by name.

    ``by_name`` and ``domains`` are read by the executor and the router and change in place. Of ``domains`` is only who
    says which questions are its own: the others are asked by name.
    """

    def __init__(self, shipped: ArithmeticTeacher, folder: Path, shelf: Shelf, published: Path | None = None) -> None:
        """``published`` holds versions that were published here: whoever names an instance of one is answered by it."""
        self.shipped = shipped
        self._shelf = shelf
        self.family = {name: self._shelved(path) for name, path in _sub_folders(FAMILY)}
        self.of_folders: dict[str, FolderTeacher] = {}
        self.published: dict[str, FolderTeacher] = {}
        self._standing: Mapping[str, Teacher] = {ARITHMETIC: shipped, **self.family}
        self.by_name: dict[str, Teacher] = dict(self._standing)
        self.domains: dict[str, Callable[[str], bool]] = {n: each.understands for n, each in self._standing.items()}
        self.broken: Mapping[str, str] = {}
        self._folder = folder
        self._published = published

    @classmethod
    def open(cls, settings: Settings) -> "Teachers":
        """The shipped ones and those in the folder of the settings; blocking. Raises ConfigError for a shipped one."""
        named = settings.teachers_folder
        folder = Path(named) if named else settings.home / "teachers"
        teachers = cls(
            ArithmeticTeacher.load(), folder, Shelf(settings.teachers_memory_bytes), published_folder(settings)
        )
        teachers.take(teachers.look())
        return teachers

    def look(self) -> Seen:
        """What the folders hold now; blocking, as it reads and checks all of it. Changes nothing."""
        broken: dict[str, str] = {}
        of_folders = self._found(self._folder, broken)
        return Seen(of_folders, self._found(self._published, broken) if self._published else {}, broken)

    def take(self, seen: Seen) -> None:
        """Answer with what was seen from now on; where the router runs, for it reads between two steps."""
        for name, reason in seen.broken.items():
            if self.broken.get(name) != reason:
                _log.warning("teacher_broken", teacher=name, reason=reason)
        found = seen.published | seen.of_folders
        for gone in (self.of_folders.keys() | self.published.keys()) - found.keys():
            del self.by_name[gone]
        for name in [name for name in self.domains if name not in self._standing]:
            del self.domains[name]
        self.by_name.update(found)
        self.domains.update({name: each.understands for name, each in found.items() if each.about.questions})
        self.of_folders, self.published, self.broken = seen.of_folders, seen.published, seen.broken

    def of_folder(self, name: str) -> FolderTeacher | None:
        """The teacher of this name, where it is one of the family or of the operator's folders."""
        return self.family.get(name) or self.of_folders.get(name)

    def readiness(self) -> dict[str, Any]:
        """The part of ``/readyz``; not ok while a folder is broken."""
        part: dict[str, Any] = {"ok": not self.broken, "count": len(self.by_name)}
        if self.broken:
            part["error"] = " ".join(f"{name}: {reason}" for name, reason in self.broken.items())
        return part

    def _found(self, folder: Path, broken: dict[str, str]) -> dict[str, FolderTeacher]:
        """The teachers of a folder's sub-folders; why others are none goes into ``broken``."""
        found: dict[str, FolderTeacher] = {}
        for name, path in _sub_folders(folder):
            try:
                found[name] = self._opened(name, path)
            except ConfigError as error:
                broken[name] = str(error)
        return found

    def _opened(self, name: str, path: Path) -> FolderTeacher:
        taken = _TAKEN | self.family.keys()
        if not _NAME.fullmatch(name) or name in taken:
            raise ConfigError(
                "A teacher's folder is named by small letters, digits, dots, hyphens and underscores, "
                f"and not {' or '.join(sorted(taken))}.",
                remedy=f"Rename {path}.",
            )
        return self._shelved(path)

    def _shelved(self, path: Path) -> FolderTeacher:
        model, about = open_teacher(path)
        self._shelf.check(model)
        return FolderTeacher(model, about, lambda: self._shelf.engine(model))


def published_folder(settings: Settings) -> Path:
    """Where published versions stand, each in a sub-folder MODEL-VERSION."""
    return settings.home / "published"


def _sub_folders(folder: Path) -> list[tuple[str, Path]]:
    """Sub-folders by name; one that begins with a dot is being written."""
    if not folder.is_dir():
        return []
    return sorted((p.name, p) for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
