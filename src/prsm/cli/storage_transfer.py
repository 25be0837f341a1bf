"""Files and folders between this computer's disk and a node's storage.

What is written here is there whole or not at all, file by file; what cannot be stored is refused before it is sent.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from prsm.cli.client import NodeClient
from prsm.core.errors import ConfigError, Kind, PrsmError

OBJECTS = "/node/v1/storage/objects"
CONTENT = "/node/v1/storage/content"
DIRECTORIES = "/node/v1/storage/directories"
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Walked:
    """What a folder holds: files and empty folders by their paths below it, and how many hidden ones were passed."""

    files: dict[str, Path]
    empty: list[str]
    hidden: int


def walk(folder: Path, *, hidden: bool) -> Walked:
    """Look at all of a folder. Raises ConfigError for what cannot be stored: links, devices, names not in UTF-8."""
    found = Walked({}, [], 0)
    passed = _walk(folder, folder, found, hidden=hidden)
    return Walked(found.files, found.empty, passed)


def add_file(client: NodeClient, path: Path, profile: str, progress: Progress, task: TaskID) -> dict[str, Any]:
    """Send one file; the node's answer."""
    with path.open("rb") as file:
        size_bytes = path.stat().st_size

        def pieces() -> Iterator[bytes]:
            left = size_bytes
            while left:
                piece = file.read(min(left, _PIECE_BYTES))
                if not piece:
                    raise ConfigError(f"{path} became shorter while it was read.", remedy="Add it again.")
                left -= len(piece)
                yield piece
                progress.advance(task, len(piece))

        return client.upload(f"{CONTENT}?profile={quote(profile)}", pieces(), size_bytes)


def add_folder(client: NodeClient, walked: Walked, profile: str, progress: Progress, task: TaskID) -> str:
    """Send a folder; its CID. Its files are kept by the folder only, unless they were kept before."""
    made: list[dict[str, Any]] = []
    entries: list[dict[str, str]] = []
    try:
        for below, path in walked.files.items():
            made.append(add_file(client, path, profile, progress, task))
            entries.append({"path": below, "cid": made[-1]["cid"]})
        if walked.empty:
            made.append(client.call("POST", DIRECTORIES, {"entries": [], "profile": profile}))
            entries += [{"path": below, "cid": made[-1]["cid"]} for below in walked.empty]
        folder: str = client.call("POST", DIRECTORIES, {"entries": entries, "profile": profile})["cid"]
    except BaseException:
        with suppress(PrsmError):
            _keep_no_more(client, made)
        raise
    _keep_no_more(client, [each for each in made if each["cid"] != folder])
    return folder


def fetch(client: NodeClient, cid: str, progress: Progress) -> dict[str, Any]:
    """Have the node fetch an object, showing how far it is; answers what it is."""
    task = progress.add_task(f"fetching {cid[:12]}...{cid[-6:]}", total=None)
    last: dict[str, Any] = {}
    for last in client.stream_lines("POST", f"{OBJECTS}/{quote(cid, safe='')}/fetch"):
        if "done_bytes" in last:
            progress.update(task, completed=last["done_bytes"], total=last["total_bytes"] or None)
    progress.remove_task(task)
    return last


def at_path(client: NodeClient, top: dict[str, Any], below: str) -> dict[str, Any]:
    """The entry that a path below an object ends at: its ``cid``, ``kind`` and ``size_bytes``."""
    entry = top
    for name in filter(None, below.split("/")):
        found = [each for each in _entries(client, entry["cid"]) if each["name"] == name]
        if not found:
            raise PrsmError(f"{below} does not exist below {top['cid']}.", kind=Kind.NOT_FOUND, code="not_found")
        entry = found[0]
    return entry


def write(client: NodeClient, entry: dict[str, Any], target: Path, progress: Progress) -> None:
    """Write an object that the node has: a file, or a folder with all below it."""
    # What a directory holds altogether is not known before it is walked.
    total = entry["size_bytes"] if entry["kind"] == "file" else None
    task = progress.add_task(f"writing {target.name}", total=total)
    left = [(entry, target)]
    while left:
        each, path = left.pop()
        if each["kind"] == "directory":
            path.mkdir(parents=True, exist_ok=True)
            left += [(below, path / _checked(below["name"])) for below in _entries(client, each["cid"])]
        else:
            _write_file(client, each["cid"], path, progress, task)


@contextmanager
def shown() -> Generator[Progress]:
    """Progress bars on standard error while the block runs; nothing of them stays, nor appears where nobody looks."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
        yield progress


@contextmanager
def disk_errors() -> Generator[None]:
    """Say what this computer's disk refuses in a sentence."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PrsmError(f"{error.filename}: {error.strerror}.", kind=Kind.INVALID, code="local_file") from error


def _walk(top: Path, folder: Path, found: Walked, *, hidden: bool) -> int:
    passed, taken = 0, 0
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") and not hidden:
            passed += 1
            continue
        taken += 1
        below = entry.relative_to(top).as_posix()
        if entry.is_symlink():
            raise ConfigError(f"{entry} is a symbolic link.", remedy="Put the file itself there.")
        if any("\ud800" <= char <= "\udfff" for char in entry.name):
            raise ConfigError(f"The name of {str(entry)!a} is not in UTF-8.", remedy="Rename it.")
        if entry.is_dir():
            passed += _walk(top, entry, found, hidden=hidden)
        elif entry.is_file():
            found.files[below] = entry
        else:
            raise ConfigError(f"{entry} is neither a file nor a folder.", remedy="Take it away.")
    if not taken and folder != top:
        found.empty.append(folder.relative_to(top).as_posix())
    return passed


def _keep_no_more(client: NodeClient, made: list[dict[str, Any]]) -> None:
    for each in made:
        if each["newly_kept"]:
            client.call("DELETE", f"{OBJECTS}/{each['cid']}/pin")


def _entries(client: NodeClient, cid: str) -> list[dict[str, Any]]:
    return client.call("GET", f"{OBJECTS}/{quote(cid, safe='')}/entries")


def _checked(name: str) -> str:
    """The node has checked the names; one is checked again before it becomes a path here."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ConfigError(f"The entry {name!r} cannot be a file's name.")
    return name


def _write_file(client: NodeClient, cid: str, target: Path, progress: Progress, task: TaskID) -> None:
    """Beside its place, then moved there."""
    unfinished = target.with_name(f".{uuid4().hex}.unfinished")
    try:
        with unfinished.open("xb") as file:
            for piece in client.download(f"{CONTENT}/{quote(cid, safe='')}"):
                file.write(piece)
                progress.advance(task, len(piece))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
