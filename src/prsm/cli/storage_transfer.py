"""Files and folders between this computer's disk and a node's storage.

What is written here is there whole or not at all, a folder too; what cannot be stored is refused before it is sent.
Many files go over several connections at once; the first failure, or Ctrl-C, ends all of them.
"""

import errno
import os
import shutil
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
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

from prsm.cli.client import Body, BrokeOff, NodeClient, spread
from prsm.core.errors import ConfigError, Kind, PrsmError

OBJECTS = "/node/v1/storage/objects"
CONTENT = "/node/v1/storage/content"
DIRECTORIES = "/node/v1/storage/directories"
STATUS = "/node/v1/storage/status"
MAX_ENTRIES = 100_000
"""As many files and empty folders as the node takes in one folder."""
_PIECE_BYTES = 1024 * 1024
_PAGE = 1000
_UNPINNED = 1000
_NEAR = 16
_STILL_S = 2.0


@dataclass(frozen=True, slots=True)
class Walked:
    """What a folder holds: files and empty folders by their paths below it, and how many hidden ones were passed."""

    files: dict[str, Path]
    empty: list[str]
    hidden: int
    size_bytes: int


def walk(folder: Path, *, hidden: bool) -> Walked:
    """Look at all of a folder. Raises ConfigError for what cannot be stored: links, devices, names not in UTF-8."""
    found = _Walk(folder, hidden)
    found.look(folder)
    if len(found.files) + len(found.empty) > MAX_ENTRIES:
        raise ConfigError(
            f"{folder} holds {len(found.files) + len(found.empty):,} files; a folder may have {MAX_ENTRIES:,}.",
            remedy="Pack them into one file, or add its folders one by one.",
        )
    return Walked(found.files, found.empty, found.passed, found.size_bytes)


def add_file(client: NodeClient, path: Path, profile: str, progress: Progress, task: TaskID) -> dict[str, Any]:
    """Send one file; the node's answer. Raises ConfigError when it changes its size meanwhile."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        sent = 0

        def pieces() -> Iterator[bytes]:
            nonlocal sent
            progress.advance(task, -sent)  # the node was busy, and all is sent again
            file.seek(0)
            sent = 0
            while sent < size_bytes:
                piece = _read(file, min(size_bytes - sent, _PIECE_BYTES), path)
                if not piece:
                    raise ConfigError(f"{path} became shorter while it was read.", remedy="Add it again.")
                yield piece
                sent += len(piece)
                progress.advance(task, len(piece))

        return client.upload(f"{CONTENT}?profile={quote(profile)}", pieces, size_bytes)


def add_folder(client: NodeClient, walked: Walked, profile: str, progress: Progress, task: TaskID) -> str:
    """Send a folder; its CID. Its files are kept by the folder only, unless they were kept before."""
    cids: dict[str, str] = {}
    kept: set[str] = set()  # what is kept by itself now and was not before

    def note(answer: dict[str, Any]) -> str:
        if answer["newly_kept"]:
            kept.add(answer["cid"])
        return answer["cid"]

    def send(lane: NodeClient, below: str) -> tuple[()]:
        cids[below] = note(add_file(lane, walked.files[below], profile, progress, task))
        return ()

    try:
        spread(client, walked.files, send)
        if walked.empty:
            empty = note(client.call("POST", DIRECTORIES, {"entries": [], "profile": profile}))
            cids |= dict.fromkeys(walked.empty, empty)
        entries = [{"path": below, "cid": cid} for below, cid in sorted(cids.items())]
        made: dict[str, Any] = client.call("POST", DIRECTORIES, {"entries": entries, "profile": profile})
        folder = note(made)
        progress.update(task, description="leaving its files to the folder")
        _keep_no_more(client, kept, but=folder)
    except BaseException:
        progress.update(task, description="taking back what was added")
        with suppress(PrsmError):
            _keep_no_more(client, kept)
        raise
    return folder


def fetch(client: NodeClient, cid: str, progress: Progress) -> dict[str, Any]:
    """Have the node fetch an object, showing how far it is; answers what it is."""
    last: dict[str, Any] = {}
    with _task(progress, f"fetching {_short(cid)}", waits=True) as task:
        for last in client.stream_lines("POST", f"{OBJECTS}/{quote(cid, safe='')}/fetch"):
            if "done_bytes" in last:
                progress.update(task, completed=last["done_bytes"], total=last["total_bytes"] or None)
    return last


@contextmanager
def opened(client: NodeClient, cid: str, below: str, progress: Progress) -> Generator[Body]:
    """A file by its CID, or by its path below one, while it comes; what breaks off is fetched whole, and gone on with.

    Raises PrsmError; for a directory one of which ``is_directory`` is true.
    """
    place = f"{CONTENT}/{quote(cid, safe='')}" + (f"/{quote(below)}" if below else "")
    with ExitStack() as stack:
        task = stack.enter_context(_task(progress, f"fetching {below.rpartition('/')[2] or _short(cid)}", waits=True))
        try:
            body = stack.enter_context(client.opened(place))
        except PrsmError as error:
            if error.code != "not_stored":
                raise
            fetch(client, cid, progress)  # which says why it cannot be had: nobody to ask, or a key that may not
            body = stack.enter_context(client.opened(place))
        progress.update(task, total=body.size_bytes)
        yield Body(body.size_bytes, body.etag, _going_on(client, body, progress, task))


def is_directory(error: PrsmError) -> bool:
    """Whether a file was asked for where a directory is."""
    return error.code == "invalid_request" and error.param == "cid"


def at_path(client: NodeClient, top: dict[str, Any], below: str) -> dict[str, Any]:
    """The entry that a path below an object ends at: its ``cid``, ``kind`` and ``size_bytes``."""
    entry = top
    for name in filter(None, below.split("/")):
        found = _entry(client, entry["cid"], name)
        if found is None:
            raise PrsmError(f"There is no entry {name!r} in {entry['cid']}.", kind=Kind.NOT_FOUND, code="no_such_entry")
        entry = found
    return entry


def entries(client: NodeClient, cid: str, *, after: str = "", page: int = _PAGE) -> Iterator[dict[str, Any]]:
    """The entries of a directory by name, those behind ``after``; asked for page by page."""
    while True:
        found = _page(client, cid, after, page)
        yield from found
        if len(found) < page:
            return
        after = found[-1]["name"]


def write_file(body: Body, target: Path) -> None:
    """Write a file beside its place, then move it there; a pipe or device is written to as it is."""
    place = Path(os.path.realpath(target))  # what a link leads to is written, not the link
    unfinished = place.with_name(f".{uuid4().hex}.unfinished")
    with blamed(unfinished, on=target):
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                _write(file, body.pieces)
            return
        try:
            with unfinished.open("xb") as file:
                _write(file, body.pieces)
            unfinished.replace(place)
        finally:
            unfinished.unlink(missing_ok=True)


def check_folder_place(target: Path) -> None:
    """Raises OSError where no folder can be written."""
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "It is there already and is no folder", str(target))
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))


def write_folder(client: NodeClient, cid: str, target: Path, progress: Progress) -> None:
    """Write a directory that the node has, with all below it: into a folder of its own, then moved to its place."""
    # Within a folder that is there, for it may be a file system of its own.
    unfinished = (target if target.is_dir() else target.absolute().parent) / f".{uuid4().hex}.unfinished"
    with _task(progress, f"writing {target.absolute().name}") as task, blamed(unfinished, on=target):
        try:
            unfinished.mkdir()
            spread(client, [_Listing(cid, unfinished, "")], _Writer(progress, task).work)
            if target.is_dir():
                _merge(unfinished, target)
            else:
                unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def explained(client: NodeClient, progress: Progress) -> Generator[None]:
    """While the block runs: when nothing comes for some seconds, say why, as far as the node knows."""
    asking, over = client.another(), threading.Event()
    thread = threading.Thread(target=_explain, args=(asking, progress, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        asking.end()
        thread.join(_STILL_S)


@contextmanager
def shown(*, bars: bool = True) -> Generator[Progress]:
    """Progress bars on standard error while the block runs; nothing of them stays, nor appears where nobody looks."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Where nobody looks not even its end is shown, which is an empty line.
    with Progress(*columns, transient=True, console=console, disable=not (bars and console.is_terminal)) as progress:
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


@contextmanager
def blamed(path: Path, *, on: Path | None = None) -> Generator[None]:
    """What the disk refuses at ``path`` or below is said of it, or of the place ``on`` that the user named."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        name = str(error.filename or path)  # a disk that is full names no file
        raise OSError(error.errno, error.strerror, name.replace(str(path), str(on or path))) from error


class _Walk:
    def __init__(self, top: Path, hidden: bool) -> None:
        self._top = top
        self._hidden = hidden
        self.files: dict[str, Path] = {}
        self.empty: list[str] = []
        self.passed = self.size_bytes = 0

    def look(self, folder: Path) -> None:
        taken = 0
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith(".") and not self._hidden:
                self.passed += 1
                continue
            taken += 1
            self._take(entry)
        if not taken and folder != self._top:
            self.empty.append(folder.relative_to(self._top).as_posix())

    def _take(self, entry: Path) -> None:
        if entry.is_symlink():
            raise ConfigError(f"{entry} is a symbolic link.", remedy="Put the file itself there.")
        if any("\ud800" <= char <= "\udfff" for char in entry.name):
            raise ConfigError(f"The name of {str(entry)!a} is not in UTF-8.", remedy="Rename it.")
        if entry.is_dir():
            self.look(entry)
        elif entry.is_file():
            self.files[entry.relative_to(self._top).as_posix()] = entry
            self.size_bytes += entry.stat().st_size
        else:
            raise ConfigError(f"{entry} is neither a file nor a folder.", remedy="Take it away.")


@dataclass(frozen=True, slots=True)
class _Listing:
    """The entries of a directory that come behind ``after`` are to be written into a folder that is there."""

    cid: str
    folder: Path
    after: str


@dataclass(frozen=True, slots=True)
class _File:
    cid: str
    path: Path


class _Writer:
    """Writes directories and what they hold; how much that is is known when the last of them is listed."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._lock = threading.Lock()
        self._unlisted, self._total_bytes = 1, 0

    def work(self, client: NodeClient, item: _Listing | _File) -> Iterable[_Listing | _File]:
        if isinstance(item, _Listing):
            return self._list(client, item)
        place = f"{CONTENT}/{quote(item.cid, safe='')}"
        with client.opened(place) as body, blamed(item.path), item.path.open("xb") as file:
            _write(file, _counted(body.pieces, self._progress, self._task))
        return ()

    def _list(self, client: NodeClient, listing: _Listing) -> list[_Listing | _File]:
        page = _page(client, listing.cid, listing.after, _PAGE)
        more: list[_Listing | _File] = []
        for entry in page:
            path = listing.folder / _checked(entry["name"])
            if entry["kind"] == "directory":
                path.mkdir()
                more.append(_Listing(entry["cid"], path, ""))
            else:
                more.append(_File(entry["cid"], path))
        # The next page comes last: what is known of is written first, and no more of it is remembered than a page.
        if len(page) == _PAGE:
            more.append(_Listing(listing.cid, listing.folder, page[-1]["name"]))
        with self._lock:
            self._unlisted += sum(isinstance(each, _Listing) for each in more) - 1
            self._total_bytes += sum(entry["size_bytes"] or 0 for entry in page)
            if not self._unlisted:
                self._progress.update(self._task, total=self._total_bytes)
        return more


def _keep_no_more(client: NodeClient, kept: set[str], *, but: str = "") -> None:
    """Give up the pins of what is in ``kept``; what is given up is taken out of it."""

    given_up = sorted(kept - {but})
    for start in range(0, len(given_up), _UNPINNED):
        cids = given_up[start : start + _UNPINNED]
        client.call("POST", "/node/v1/storage/unpin", {"cids": cids})
        kept.difference_update(cids)


def _going_on(client: NodeClient, body: Body, progress: Progress, task: TaskID) -> Iterator[bytes]:
    """The pieces of a file; one that breaks off is fetched whole, which says why it cannot be, and gone on with."""
    taken = 0
    try:
        for piece in _counted(body.pieces, progress, task):
            taken += len(piece)
            yield piece
        return
    except BrokeOff:
        cid = body.etag.strip('"')
        if not cid:
            raise
    fetch(client, cid, progress)
    with client.opened(f"{CONTENT}/{cid}", at=taken) as rest:
        yield from _counted(rest.pieces, progress, task)


def _counted(pieces: Iterator[bytes], progress: Progress, task: TaskID) -> Iterator[bytes]:
    for piece in pieces:
        # While a piece is being used, nothing is waited for.
        progress.update(task, advance=len(piece), waits=False)
        yield piece
        progress.update(task, waits=True)


def _explain(client: NodeClient, progress: Progress, over: threading.Event) -> None:
    said, moved, since_s = "", -1.0, time.monotonic()
    while not over.wait(_STILL_S / 3):
        waiting = [task for task in progress.tasks if task.fields.get("waits")]
        done = sum(task.completed for task in waiting)
        if not waiting or done != moved:
            moved, since_s = done, time.monotonic()
        elif time.monotonic() - since_s >= _STILL_S:
            with suppress(PrsmError):
                said = _say(progress, client.call("GET", STATUS)["offline_reason"], said)


@contextmanager
def _task(progress: Progress, description: str, **fields: Any) -> Generator[TaskID]:
    task = progress.add_task(description, total=None, **fields)
    try:
        yield task
    finally:
        progress.remove_task(task)


def _entry(client: NodeClient, cid: str, name: str) -> dict[str, Any] | None:
    """One entry of a directory: what is asked for begins behind the name without its last letter, so just before it."""
    for each in entries(client, cid, after=name[:-1], page=_NEAR):
        if each["name"] >= name:
            return each if each["name"] == name else None
    return None


def _page(client: NodeClient, cid: str, after: str, limit: int) -> list[dict[str, Any]]:
    behind = f"&after={quote(after, safe='')}" if after else ""
    return client.call("GET", f"{OBJECTS}/{quote(cid, safe='')}/entries?limit={limit}{behind}")


def _checked(name: str) -> str:
    """The node has checked the names; one is checked again before it becomes a path here."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ConfigError(f"The entry {name!r} cannot be a file's name.")
    return name


def _read(file: BinaryIO, size_bytes: int, path: Path) -> bytes:
    try:
        return file.read(size_bytes)
    except OSError as error:
        raise PrsmError(f"{path}: {error.strerror}.", kind=Kind.INVALID, code="local_file") from error


def _write(file: BinaryIO, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        file.write(piece)
    file.flush()


def _merge(made: Path, target: Path) -> None:
    """Move what was made into a folder that is there; nothing is moved when a file stands where a folder must."""
    below = [path.relative_to(made) for path in sorted(made.rglob("*"))]
    for each in below:
        there = target / each
        if there.exists() and there.is_dir() != (made / each).is_dir():
            raise FileExistsError(errno.EEXIST, "It is there already, as something else", str(there))
    for each in below:
        if (made / each).is_dir():
            (target / each).mkdir(exist_ok=True)
        else:
            (made / each).replace(target / each)


def _say(progress: Progress, reason: str, said: str) -> str:
    """Above the bars, or as a line of its own where there are none; each reason once."""
    reason = reason or "Nothing has come for some seconds; the endpoints answer, and are asked again."
    if reason != said:
        progress.console.print(f"waiting: {reason}", markup=False, highlight=False, soft_wrap=True)
    return reason


def _short(cid: str) -> str:
    return f"{cid[:12]}...{cid[-6:]}" if len(cid) > 24 else cid
