"""``prsm doctor``: finds what is wrong and says the command that mends it."""

import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from prsm.cli.client import KEY_FILE
from prsm.cli.context import context
from prsm.core.config import Settings
from prsm.core.embedded.programs import postgres_install, valkey_program
from prsm.core.encoder import TextEncoder
from prsm.core.errors import PrsmError
from prsm.core.keys import NodeKey
from prsm.teachers.arithmetic.teacher import ArithmeticTeacher

_MIN_FREE_BYTES = 1024**3
_MIN_OPEN_FILES = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; ``mend`` is empty where it is well."""

    what: str
    state: str
    mend: str = ""


def examine(settings: Settings) -> bool:
    """Look at everything the node needs, print each finding; False when something must be mended."""
    sick = 0
    for finding in _examine(settings):
        sick += bool(finding.mend)
        print(f"{'FIX ' if finding.mend else 'ok  '} {finding.what}: {finding.state}")
        if finding.mend:
            print(f"       mend it: {finding.mend}")
    return not sick


def _examine(settings: Settings) -> Iterator[Finding]:
    yield _python()
    yield _space(settings)
    yield _open_files()
    yield from _programs(settings)
    yield _checked("text encoder", TextEncoder.load)
    yield _checked("embedded teacher", ArithmeticTeacher.load)
    yield from _node(settings)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", version, "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")


def _space(settings: Settings) -> Finding:
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    mend = "" if free > _MIN_FREE_BYTES else f"free some space, or choose another folder: prsm --home DIR up ({place})"
    return Finding("disk", f"{free // 1024**2} MiB free at {settings.home}", mend)


def _open_files() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the node takes what it may have
    return Finding("open files", f"limit {limit}", "" if limit >= _MIN_OPEN_FILES else "ulimit -Hn 65536, as root")


def _programs(settings: Settings) -> Iterator[Finding]:
    if not settings.database_url:
        yield _checked("embedded PostgreSQL", postgres_install)
    if not settings.redis_url:
        yield _checked("embedded Valkey", valkey_program)


def _checked(what: str, look: object) -> Finding:
    assert callable(look)
    try:
        look()
    except PrsmError as error:
        return Finding(what, error.message, error.remedy or "reinstall the package: make install")
    return Finding(what, "present and whole")


def _node(settings: Settings) -> Iterator[Finding]:
    key = settings.home / "node.key"
    if not key.exists():
        yield Finding("node", f"never started in {settings.home}", "prsm up")
        return
    yield _checked("node key", lambda: NodeKey.load_or_create(key))
    try:
        socket.create_connection((settings.host, settings.port), timeout=2).close()
    except OSError:
        yield Finding("node", f"nothing listens on {settings.address}", "prsm up")
        return
    try:
        parts = context.client.call("GET", "/readyz")
        context.client.call("GET", "/node/v1/wallet")
    except PrsmError as error:
        yield Finding("node", error.message, error.remedy or f"remove {settings.home / KEY_FILE} and restart: prsm up")
        return
    for name, part in parts.items():
        yield Finding(name, "answers" if part["ok"] else part.get("error", "away"), "" if part["ok"] else "prsm up")
