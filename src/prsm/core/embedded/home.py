"""A node's home folder, held by one process at a time, and the site its embedded servers live in.

A site exists only for a process that holds the home, so two nodes can never run servers on one data folder.
When the node is root its servers are not: they get an account of their own and, where that account cannot reach
the home, a folder outside it. No permission of an existing folder is ever widened.
"""

import fcntl
import hashlib
import json
import os
import pwd
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from prsm.core.embedded.process import UNPRIVILEGED_REMEDY, Account
from prsm.core.errors import ConfigError, Kind, PrsmError

OUTSIDE = Path("/var/lib")
# Free in the uid tables of Debian, Fedora and systemd, and below 65,536 so that rootless containers map it.
_UID_RANGE = range(60890, 60950)


class HomeInUse(PrsmError):
    """Another process holds this home or the site of its servers."""

    kind = Kind.CONFLICT
    code = "home_in_use"


@dataclass(frozen=True, slots=True)
class Site:
    """Where the servers of one home live. ``account`` is None when they run as the node's own user."""

    home: Path
    root: Path
    account: Account | None

    @property
    def uid(self) -> int:
        """The user id that the servers run as."""
        return self.account.uid if self.account else os.geteuid()

    def folder(self, name: str) -> Path:
        """A folder that the servers can enter and only the node can write."""
        path = self.root / name
        path.mkdir(mode=0o700, exist_ok=True)
        _let_in(path, self.account)
        return path

    def servers_folder(self, path: Path) -> Path:
        """A folder that belongs to the servers alone (mode 0700)."""
        path.mkdir(mode=0o700, exist_ok=True)
        if self.account:
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)
        return path

    def readable_file(self, path: Path, text: str) -> None:
        """Write a file that the servers can read and nobody else; only ever inside ``folder()``."""
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            if self.account:
                os.fchown(fd, 0, self.account.gid)
                os.fchmod(fd, 0o640)
        partial.replace(path)

    def secret(self, name: str) -> str:
        """The random password kept in the home's 0600 file ``name``, made on first use."""
        path = self.home / name
        if not path.exists():
            _write_durably(path, secrets.token_urlsafe(32))
        return path.read_text().strip()


class NodeHome:
    """A home folder that this process holds until ``release()``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks: dict[Path, int] = {}

    @classmethod
    def claim(cls, path: Path) -> Self:
        """Make the folder (mode 0700) where missing and hold it; raises HomeInUse naming the process that has it."""
        home = cls(path.absolute())
        try:
            home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            home._hold(home.path / "node.lock")
        except OSError as error:
            raise ConfigError(
                f"The node home {home.path} cannot be used: {error}.", remedy="Name another home folder."
            ) from error
        return home

    def release(self) -> None:
        """Let another process have the home. Lock files stay: removing one would let two holders in."""
        for fd in self._locks.values():
            os.close(fd)
        self._locks.clear()

    def server_site(self, *, outside: Path = OUTSIDE) -> Site:
        """The site of this home's servers: the recorded one, or a new one that is recorded for good.

        ``outside`` is the parent of the site when root's servers cannot reach the home.
        """
        record = self.path / "servers.json"
        if not record.exists():
            _write_durably(record, json.dumps(_choose_site(self.path, outside)))
        site = _read_site(self.path, record)
        if site.root == self.path / "servers":
            site.root.mkdir(mode=0o700, exist_ok=True)
        elif not site.root.is_dir():
            raise ConfigError(
                f"The servers' data of {self.path} should be in {site.root}, which is gone.",
                remedy=f"Restore that folder, or delete {record} to begin with an empty database.",
            )
        _let_in(site.root, site.account)
        # A copied home names the same site: holding the home alone would not keep two nodes apart.
        self._hold(site.root / "node.lock")
        return site

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _hold(self, lock: Path) -> None:
        if lock in self._locks:
            return
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
            os.close(fd)
            raise HomeInUse(
                f"The node home {self.path} is in use by process {holder or '(unknown)'}.",
                remedy="Stop that node, or start this one with another home folder.",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._locks[lock] = fd


def reachable(path: Path, uid: int) -> bool:
    """Whether ``uid``, in no group that matters, may pass through ``path`` and every folder above it."""
    for folder in (path, *path.parents):
        entry = folder.stat()
        needed = 0o100 if entry.st_uid == uid else 0o001
        if not entry.st_mode & needed:
            return False
    return True


class _Record(msgspec.Struct, frozen=True):
    uid: int
    outside: str | None


def _choose_site(home: Path, outside: Path) -> dict[str, object]:
    if os.geteuid() != 0:
        return {"uid": os.geteuid(), "outside": None}
    if home.stat().st_uid != 0:
        raise ConfigError(
            f"The node runs as root, but its home {home} belongs to user id {home.stat().st_uid}.",
            remedy="Start the node as that user, or give it a home of its own.",
        )
    uid = _free_uid()
    if reachable(home, uid):
        return {"uid": uid, "outside": None}
    # The random ending keeps a new home apart from the data that a deleted home of the same path left behind.
    prefix = f"prsm-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}-"
    try:
        outside.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not reachable(outside, uid):
            raise PermissionError(f"user id {uid} cannot reach it")
        root = tempfile.mkdtemp(prefix=prefix, dir=outside)
    except OSError as error:
        raise ConfigError(
            f"The servers of a node that runs as root need a folder in {outside}, which cannot be used: {error}.",
            remedy=UNPRIVILEGED_REMEDY,
        ) from error
    return {"uid": uid, "outside": root}


def _free_uid() -> int:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in _UID_RANGE if uid not in taken)


def _read_site(home: Path, record: Path) -> Site:
    try:
        stored = msgspec.json.decode(record.read_bytes(), type=_Record)
    except (msgspec.DecodeError, PermissionError) as error:
        raise ConfigError(f"{record} cannot be read: {error}.", remedy="Restore it from a backup.") from error
    root = Path(stored.outside) if stored.outside else home / "servers"
    if os.geteuid() == stored.uid:
        return Site(home, root, None)
    if os.geteuid() == 0 and stored.uid in _UID_RANGE:
        return Site(home, root, Account(stored.uid, stored.uid))
    raise ConfigError(
        f"The servers of {home} belong to user id {stored.uid}, and this node runs as user id {os.geteuid()}.",
        remedy="Start the node as the user that made the home, or choose another home.",
    )


def _let_in(path: Path, account: Account | None) -> None:
    if account:
        os.chown(path, 0, account.gid, follow_symlinks=False)
        path.chmod(0o710)


def _write_durably(path: Path, text: str) -> None:
    """All or nothing, mode 0600, on disk before it has its name."""
    fd, partial = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    Path(partial).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
