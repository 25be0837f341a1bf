"""``prsm storage``: files and folders by content address, kept here and fetched from wherever they are."""

import json
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from uuid import uuid4

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from prsm.cli.client import NodeClient
from prsm.cli.context import context
from prsm.core.errors import ConfigError

app = typer.Typer(help="Content-addressed storage: add, get, pin, verify.", no_args_is_help=True)

EXIT_DAMAGED = 4
_OBJECTS = "/node/v1/storage/objects"
_CONTENT = "/node/v1/storage/content"
_PIECE_BYTES = 1024 * 1024
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A file or a folder.", exists=True)],
    profile: Annotated[str, typer.Option(help="unixfs-v1-2025 or kubo-v1; default: the node's setting.")] = "",
    publish: Annotated[bool, typer.Option(help="Also upload it to the node's own IPFS nodes.")] = False,
    hidden: Annotated[bool, typer.Option(help="Take hidden files of a folder too.")] = False,
) -> None:
    """Add a file or a folder, keep it pinned, and print its CID."""
    client = context.client
    files = [path] if path.is_file() else list(_files_under(path, hidden=hidden))
    with _progress() as progress:
        task = progress.add_task(path.name, total=sum(file.stat().st_size for file in files))
        cids = [_add_file(client, file, profile, progress, task) for file in files]
    cid = cids[0] if path.is_file() else _add_folder(client, path, zip(files, cids, strict=True), profile)
    if publish:
        client.call("POST", f"{_OBJECTS}/{cid}/publish")
    print(cid)


@app.command()
def get(
    what: Annotated[str, typer.Argument(help="CID, or CID/path/below/it.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to; '-' is standard output.")] = None,
) -> None:
    """Fetch an object, verified block by block, and write it as a file or a folder."""
    client = context.client
    cid, _, below = what.strip("/").partition("/")
    with _progress() as progress:
        fetched = _fetch(client, cid, progress)
    if output == Path("-"):
        for piece in client.download(f"{_CONTENT}/{quote(what)}"):
            sys.stdout.buffer.write(piece)
        return
    target = output or Path(Path(below).name or cid)
    if fetched["kind"] == "file" or below:
        _write_file(client, f"{_CONTENT}/{quote(what)}", target)
    else:
        _write_folder(client, cid, target)
    print(target)


@app.command("ls")
def list_objects(
    cid: Annotated[str, typer.Argument(help="A directory, to list its entries; none: all objects.")] = "",
    as_json: _AsJson = False,
) -> None:
    """List the objects pinned here, or the entries of a directory."""
    if cid:
        entries: list[dict[str, Any]] = context.client.call("GET", f"{_OBJECTS}/{quote(cid)}/entries")
        _show(entries, as_json, ("cid", "kind", "size_bytes", "name"))
        return
    found: list[dict[str, Any]] = context.client.call("GET", f"{_OBJECTS}?limit=1000")
    _show(found, as_json, ("cid", "kind", "size_bytes", "profile", "state", "created_at"))


@app.command()
def pin(cid: str) -> None:
    """Keep an object, and everything below it; it is fetched first if it is not here."""
    with _progress() as progress:
        _fetch(context.client, cid, progress)
    context.client.call("PUT", f"{_OBJECTS}/{quote(cid)}/pin")
    print(f"pinned {cid}")


@app.command("rm")
def remove(cid: str) -> None:
    """Keep an object no more; what nobody else keeps is deleted when room is needed, or by `prsm storage gc`."""
    context.client.call("DELETE", f"{_OBJECTS}/{quote(cid)}/pin")
    print(f"unpinned {cid}")


@app.command()
def verify(cid: str, as_json: _AsJson = False) -> None:
    """Read an object whole and check every block of it against its CID."""
    report = context.client.call("POST", f"{_OBJECTS}/{quote(cid)}/verify")
    if as_json:
        print(json.dumps(report, indent=2))
    elif report["whole"]:
        print(f"whole: {report['blocks']} blocks, {report['size_bytes']} bytes, every hash as its CID says")
    else:
        for leaf in report["damaged"]:
            print(f"damaged: {leaf}")
        print(f"DAMAGED: mend it with `prsm storage repair {cid}`")
    if not report["whole"]:
        raise typer.Exit(EXIT_DAMAGED)


@app.command()
def repair(cid: str) -> None:
    """Fetch the damaged blocks of an object anew."""
    report = context.client.call("POST", f"{_OBJECTS}/{quote(cid)}/repair")
    print(f"repaired {cid}: {decimal(report['fetched_bytes'])} fetched anew")


@app.command()
def publish(cid: str) -> None:
    """Upload an object to the node's own IPFS nodes; queued until they have it."""
    for upload in context.client.call("POST", f"{_OBJECTS}/{quote(cid)}/publish"):
        print(f"{upload['state']}  {upload['node']}")


@app.command()
def provenance(
    cid: str,
    licence: Annotated[str, typer.Option(help="State it: an SPDX expression, as Apache-2.0.")] = "",
    title: Annotated[str, typer.Option(help="What it is called.")] = "",
    derived_from: Annotated[list[str] | None, typer.Option(help="RELATION:CID, as fine_tuned_from:bafy...")] = None,
    kind: Annotated[str, typer.Option(help="model, dataset or other.")] = "other",
) -> None:
    """Show who published an object under which licence; with --licence, state it yourself, signed by the node."""
    path = f"{_OBJECTS}/{quote(cid)}/provenance"
    if licence:
        sources = [dict(zip(("relation", "cid"), item.partition(":")[::2], strict=True)) for item in derived_from or ()]
        body = {"licence": licence, "title": title, "derived_from": sources, "kind": kind}
        context.client.call("POST", path, body)
    print(json.dumps(context.client.call("GET", path), indent=2))


@app.command()
def status(as_json: _AsJson = False) -> None:
    """Show what is stored, what moves, and how each endpoint does."""
    found: dict[str, Any] = context.client.call("GET", "/node/v1/storage/status")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{found['objects']} objects, {decimal(found['stored_bytes'])} of {decimal(found['limit_bytes'])}; "
        f"{found['pinned']} pinned; {found['damaged']} damaged; {found['missing']} missing; "
        f"{decimal(found['free_bytes'])} free on the disk"
    )
    print(
        f"{found['uploads_waiting']} uploads waiting, {found['uploads_failed']} failed; "
        f"{found['transfers']} transfers under way"
    )
    if not found["endpoints"]:
        print("offline: no endpoint is configured; set PRSM_STORAGE_GATEWAYS or PRSM_STORAGE_NODES to reach others")
        return
    table = Table("endpoint", "state", "p50", "fetched", "failed", "last trouble", box=None, pad_edge=False)
    for each in found["endpoints"]:
        p50 = "" if each["p50_s"] is None else f"{each['p50_s'] * 1000:.0f} ms"
        table.add_row(
            each["name"], each["state"], p50, decimal(each["fetched_bytes"]), str(each["failed"]), each["last_fault"]
        )
    Console().print(table)


@app.command()
def gc() -> None:
    """Delete every object that nobody keeps."""
    done = context.client.call("POST", "/node/v1/storage/gc")
    print(f"deleted {done['objects']} objects, {decimal(done['freed_bytes'])}; {done['busy']} in use")


def _add_file(client: NodeClient, path: Path, profile: str, progress: Progress, task: TaskID) -> str:
    with path.open("rb") as file:

        def pieces() -> Iterator[bytes]:
            while piece := file.read(_PIECE_BYTES):
                yield piece
                progress.advance(task, len(piece))

        return client.upload(f"{_CONTENT}?profile={quote(profile)}", pieces(), os.fstat(file.fileno()).st_size)["cid"]


def _add_folder(client: NodeClient, folder: Path, files: Iterable[tuple[Path, str]], profile: str) -> str:
    entries = [{"path": file.relative_to(folder).as_posix(), "cid": cid} for file, cid in files]
    return client.call("POST", "/node/v1/storage/directories", {"entries": entries, "profile": profile})["cid"]


def _files_under(folder: Path, *, hidden: bool) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink():
            raise ConfigError(f"{entry} is a symbolic link.", remedy="Put the file itself there.")
        if entry.name.startswith(".") and not hidden:
            continue
        if entry.is_dir():
            yield from _files_under(entry, hidden=hidden)
        else:
            yield entry


def _fetch(client: NodeClient, cid: str, progress: Progress) -> dict[str, Any]:
    """Have the node fetch an object, showing how far it is; answers what it is."""
    task = progress.add_task(f"{cid[:12]}...{cid[-6:]}", total=None)
    last: dict[str, Any] = {}
    for last in client.stream_lines("POST", f"{_OBJECTS}/{quote(cid)}/fetch"):
        if "done_bytes" in last:
            progress.update(task, completed=last["done_bytes"], total=last["total_bytes"] or None)
    return last


def _write_folder(client: NodeClient, cid: str, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in client.call("GET", f"{_OBJECTS}/{quote(cid)}/entries"):
        # The node has checked the names; one is checked again before it becomes a path here.
        if entry["name"] in ("", ".", "..") or "/" in entry["name"] or "\0" in entry["name"]:
            raise ConfigError(f"The entry {entry['name']!r} cannot be a file's name.")
        if entry["kind"] == "directory":
            _write_folder(client, entry["cid"], target / entry["name"])
        else:
            _write_file(client, f"{_CONTENT}/{quote(entry['cid'])}", target / entry["name"])


def _write_file(client: NodeClient, path: str, target: Path) -> None:
    """All of it or nothing: written beside its place, then moved there."""
    unfinished = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        with unfinished.open("xb") as file:
            for piece in client.download(path):
                file.write(piece)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _progress() -> Generator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
        yield progress


def _show(rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...]) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(*(name.removesuffix("_bytes").removesuffix("_at") for name in columns), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in columns))
    # A CID is of use only when whole.
    Console(width=max(Console().width, 200) if not sys.stdout.isatty() else None).print(table, soft_wrap=True)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "not here"
    if name.endswith("_bytes"):
        return decimal(value)
    if name.endswith("_at"):
        return datetime.fromisoformat(value).strftime("%Y-%m-%d %H:%M")
    return str(value)
