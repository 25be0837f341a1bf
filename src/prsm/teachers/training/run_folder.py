"""A training run as a folder: what it is, how it goes, where it can go on, and how it ended. No torch, no database.

One process writes, by a lock; any number read at any moment, also after a kill: a checkpoint has its name only when it
is whole and on the disk, and a last line of metrics that was torn is not there.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec
from msgspec import Struct

from prsm.core.clock import now
from prsm.core.errors import ConfigError, Kind, PrsmError

STATE_FILE: Final = "state.json"
"""What every whole checkpoint holds beside its tensors."""

_FORMER: Final = ".former-"
"""What the name of a checkpoint begins with while another takes its place."""

_FIXED: Final = ("recipe", "plan")
"""What of ``run.json`` may not change while a run goes on."""


class RunInUse(PrsmError):
    """Another process trains in this folder."""

    kind = Kind.CONFLICT
    code = "run_in_use"


class Ended(Struct, frozen=True, kw_only=True):
    """How a run ended; ``reason`` is a sentence, empty where it did all its steps.

    One that was stopped goes on by itself, unless it stopped of its own accord (``by_choice``).
    """

    state: Literal["done", "stopped", "failed"]
    reason: str = ""
    step: int = 0
    by_choice: bool = False

    @property
    def is_interrupted(self) -> bool:
        """Whether only a signal ended it: the node's end, or somebody's wish."""
        return self.state == "stopped" and not self.by_choice


class RunFolder:
    """One run's folder (docs/decisions/0021)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model"
        self._checkpoints = path / "checkpoints"

    @contextmanager
    def held(self) -> Generator[None]:
        """Be the one process that writes here, and sweep what a killed one left half. Raises RunInUse."""
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take(fd)
            self._mend()
            yield
        finally:
            os.close(fd)

    def begin(self, record: Mapping[str, Any]) -> None:
        """Write ``run.json``, or go on with a run that was begun alike. Raises ConfigError naming what differs.

        What is written says besides which code began it, and when.
        """
        stated: dict[str, Any] = json.loads(json.dumps(record))
        begun = self.record()
        for part in _FIXED if begun else ():
            different = _difference(part, begun.get(part), stated.get(part))
            if different:
                raise ConfigError(
                    f"The run in {self.path} was begun with another {different}.",
                    remedy="Train into another folder, or go on with the recipe in its run.json.",
                    param=different,
                )
        if not begun:
            code = {"version": version("prsm"), "sha256": _code_sha256()} | stated.get("code", {})
            write_durably(self.path / "run.json", stated | {"code": code, "begun_at": now().isoformat()})
        self.reopen()

    def reopen(self) -> None:
        """Forget how the run ended, as it is to go on; one that is done stays so."""
        ended = self.ended()
        if ended and ended.state != "done":
            (self.path / "ended.json").unlink()

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says; empty where no run was begun."""
        return _read(self.path / "run.json")

    def report(self, values: Mapping[str, Any]) -> None:
        """Append one line of metrics."""
        with self.metrics.open("ab") as file:
            file.write(json.dumps(values).encode() + b"\n")

    def reports(self) -> list[dict[str, Any]]:
        """All whole lines of metrics, in order."""
        return [json.loads(line) for line in self._metrics().split(b"\n")[:-1]]

    def last_loss(self) -> float | None:
        """The loss of the last line of metrics; None where none has one."""
        return next((line["loss"] for line in reversed(self.reports()) if "loss" in line), None)

    def metrics_bytes(self) -> int:
        """How long the metrics are: kept with a checkpoint."""
        return len(self._metrics())

    def cut_metrics(self, size: int) -> None:
        """Forget the lines after ``size`` bytes: a resumed run says them again."""
        if self.metrics.exists():
            os.truncate(self.metrics, min(size, self.metrics_bytes()))

    @contextmanager
    def checkpoint(self, step: int) -> Generator[Path]:
        """A folder to fill; once left it is on the disk and has its name, or nothing of it is there."""
        partial, whole = self.partial(step), self._checkpoints / f"step-{step}"
        former = self._checkpoints / f"{_FORMER}{whole.name}"
        partial.mkdir(exist_ok=True)
        try:
            yield partial
            _flush(partial)
            if whole.exists():
                whole.rename(former)
            partial.rename(whole)
            _flush_folder(self._checkpoints)
            shutil.rmtree(former, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def partial(self, step: int) -> Path:
        """Where the checkpoint of a step is being written."""
        return self._checkpoints / f".step-{step}"

    def checkpoints(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        found = [path for path in self._checkpoints.glob("step-*") if (path / STATE_FILE).exists()]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return (self.checkpoints() or [None])[-1]

    def prune(self, keep: int) -> None:
        """Take away all whole checkpoints but the newest ``keep``."""
        for path in self.checkpoints()[:-keep]:
            shutil.rmtree(path)

    def keep_model(self, write: Callable[[Path], None]) -> None:
        """Have the result written under a name of its own, then named ``model``, once: who sees it sees all of it."""
        if self.model.exists():
            return
        partial = self.path / f".model-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        write(partial)
        partial.rename(self.model)

    def end(self, ended: Ended) -> None:
        """Say how the run ended."""
        write_durably(self.path / "ended.json", msgspec.to_builtins(ended))

    def refuse(self, error: PrsmError) -> None:
        """Say why nothing can be begun here, unless something was: whoever watches need not try again."""
        if error.kind is Kind.INVALID and not self.record():
            self.path.mkdir(parents=True, exist_ok=True)
            self.end(Ended(state="failed", reason=str(error)))

    def ended(self) -> Ended | None:
        """How the run ended; None while it goes on, or where it was killed."""
        said = _read(self.path / "ended.json")
        return msgspec.convert(said, Ended) if said else None

    def _mend(self) -> None:
        """Give a checkpoint its name back whose successor has none yet, and take away all else that is half."""
        for former in self._checkpoints.glob(f"{_FORMER}*"):
            whole = former.with_name(former.name.removeprefix(_FORMER))
            if not whole.exists():
                former.rename(whole)
        for partial in [*self._checkpoints.glob(".*"), *self.path.glob(".model-*")]:
            shutil.rmtree(partial)

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace") or "(unknown)"
            raise RunInUse(
                f"The run in {self.path} is being trained by process {holder}.",
                remedy="Wait for it, stop it, or train into another folder.",
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)

    def _metrics(self) -> bytes:
        data = self.metrics.read_bytes() if self.metrics.exists() else b""
        return data[: data.rfind(b"\n") + 1]


def _code_sha256() -> str:
    """One digest of all code of this room: exact where a revision is not known, as in an installed package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_durably(path: Path, value: object) -> None:
    """Write JSON all or nothing, on the disk before it has its name."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _flush_folder(path.parent)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _difference(name: str, old: Any, new: Any) -> str:
    """The dotted name of the first thing that differs; empty where nothing does."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return "" if old == new else name
    was, now_is = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
    parts = sorted({*was, *now_is})
    return next(filter(None, (_difference(f"{name}.{part}", was.get(part), now_is.get(part)) for part in parts)), "")


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush_folder(path)


def _flush_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
