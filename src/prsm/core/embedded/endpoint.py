"""Where a server listens: a unix socket in a folder that only it and the node can enter, else a loopback port.

A socket's path must fit the kernel's 107 bytes, so a deep home gets a short private folder under the system's
temporary one. Nothing ever listens on an outside address.
"""

import hashlib
import os
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from prsm.core.embedded.home import Site, reachable
from prsm.core.errors import ConfigError

# 107 bytes on Linux, 103 on macOS.
SOCKET_PATH_LIMIT_BYTES = 103


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A socket folder, or None and a port on 127.0.0.1."""

    folder: Path | None
    port: int


def choose_endpoint(site: Site, name: str, socket_name: str, *, default_port: int, loopback: bool) -> Endpoint:
    """The first place that works: the site's run folder, a short private folder, a loopback port.

    The same call gives the same answer while nothing else changes, so that a running server can be adopted.
    """
    if not loopback:
        for folder in _folders(site, name, socket_name):
            if _can_bind(folder):
                return Endpoint(folder, default_port)
    return Endpoint(None, _own_port(site.home / f"{name}.port"))


def renew_port(site: Site, name: str, endpoint: Endpoint) -> Endpoint:
    """The endpoint, with another port where a stranger took the recorded one; only while no server of ours runs."""
    if endpoint.folder is not None or _port_is_free(endpoint.port):
        return endpoint
    record = site.home / f"{name}.port"
    record.unlink()
    return Endpoint(None, _own_port(record))


def _folders(site: Site, name: str, socket_name: str) -> list[Path]:
    found: list[Path] = []
    run = site.root / name / "run"
    if _fits(run / socket_name):
        found.append(site.servers_folder(run))
    short_name = "prsm-" + hashlib.sha256(os.fsencode(run)).hexdigest()[:12]
    for parent in dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"))):  # noqa: S108 # nosec B108 - checked for ownership
        folder = parent / short_name
        if not found and _fits(folder / socket_name) and parent.is_dir() and reachable(parent, site.uid):
            found.append(_private_folder(site, folder))
    return found


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_LIMIT_BYTES


def _private_folder(site: Site, folder: Path) -> Path:
    """Made, or already there and the server's alone: anyone may have made a folder of that name in /tmp."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        entry = folder.lstat()
        if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != site.uid or entry.st_mode & 0o077:
            raise ConfigError(
                f"{folder} should be a private folder of user id {site.uid}, but it is not.",
                remedy="Find out who made it and remove it, or give the node a home with a shorter path.",
            ) from None
        return folder
    return site.servers_folder(folder)


def _can_bind(folder: Path) -> bool:
    """Some shared and network file systems hold no sockets."""
    probe = folder / ".probe"
    probe.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.bind(str(probe))
        except OSError:
            return False
    probe.unlink()
    return True


def _own_port(record: Path) -> int:
    if record.exists():
        return int(record.read_text())
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
    record.write_text(str(port))
    return port


def _port_is_free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
