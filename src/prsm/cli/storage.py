"""``prsm storage``: files and folders by content address, kept here and fetched from wherever they are."""

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote

import typer
from rich.filesize import decimal
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from prsm.cli.client import Body, NodeClient
from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.cli.storage_transfer import (
    OBJECTS,
    STATUS,
    add_file,
    add_folder,
    at_path,
    blamed,
    check_folder_place,
    disk_errors,
    entries,
    explained,
    fetch,
    is_directory,
    opened,
    shown,
    walk,
    write_file,
    write_folder,
)
from prsm.core.errors import ConfigError, PrsmError

app = typer.Typer(help="Content-addressed storage: add, get, pin, verify.", no_args_is_help=True)

EXIT_DAMAGED = 4
_Cid = Annotated[str, typer.Argument(help="A CID, alone or as ipfs://CID.")]
_PAGE = 1000
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(short_help="Add a file or a folder, and print its CID.")
def add(
    path: Annotated[Path, typer.Argument(help="A file or a folder.", exists=True)],
    profile: Annotated[str, typer.Option(help="unixfs-v1-2025 or kubo-v1; default: the node's setting.")] = "",
    publish: Annotated[bool, typer.Option(help="Also upload it to the node's own IPFS nodes.")] = False,
    hidden: Annotated[bool, typer.Option(help="Take hidden files of a folder too.")] = False,
) -> None:
    """Add a file or a folder, keep it pinned, and print its CID."""
    client = context.client
    with disk_errors(), shown() as progress:
        if path.is_dir():
            walked = walk(path, hidden=hidden)
            if walked.hidden:
                print(f"{walked.hidden} hidden entries are left out; --hidden takes them too", file=sys.stderr)
            task = progress.add_task(path.absolute().name, total=walked.size_bytes)
            cid = add_folder(client, walked, profile, progress, task)
        elif path.is_file():
            task = progress.add_task(path.name, total=path.stat().st_size)
            cid = add_file(client, path, profile, progress, task)["cid"]
        else:
            raise ConfigError(f"{path} is neither a file nor a folder.")
    print(cid)
    if publish:
        _publish(client, cid, to=sys.stderr)


@app.command(short_help="Fetch an object and write it.")
def get(
    what: Annotated[str, typer.Argument(help="CID, or CID/path/below/it.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to; '-' is standard output.")] = None,
) -> None:
    """Fetch an object, verified block by block, and write it as a file or a folder."""
    client = context.client
    cid, below = _address(what)
    to_stdout = output == Path("-")
    # A bar would be written over what a terminal shows of the file.
    with shown(bars=not (to_stdout and sys.stdout.isatty())) as progress, disk_errors(), explained(client, progress):
        try:
            with opened(client, cid, below, progress) as body:
                if to_stdout:
                    _write_out(body)
                    return
                name = below.rpartition("/")[2] or cid
                target = output or Path(name)
                if target.is_dir():
                    target /= name
                write_file(body, target)
        except PrsmError as error:
            if not is_directory(error):
                raise
            target = _get_folder(client, cid, below, output, progress)
    print(target)


@app.command("ls", short_help="List what is pinned, or the entries of a directory.")
def list_objects(
    cid: Annotated[str, typer.Argument(help="A directory's CID, or CID/path/below/it; none: what is pinned.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Also what is here without a pin of its own.")] = False,
    as_json: _AsJson = False,
) -> None:
    """List the objects pinned here, or the entries of a directory."""
    if cid:
        top, below = _address(cid)
        found = entries(context.client, at_path(context.client, {"cid": top}, below)["cid"])
        _show(list(found), as_json, ("cid", "kind", "size_bytes", "name"))
        return
    found = [each for each in _all_objects(context.client) if everything or each["pinned"]]
    if not (found or everything or as_json):
        print("nothing is pinned here; --all shows what is here without a pin", file=sys.stderr)
        return
    _show(found, as_json, ("cid", "kind", "size_bytes", "profile", "state", "created_at"))


@app.command(short_help="Keep an object; it is fetched if it is not here.")
def pin(cid: _Cid) -> None:
    """Keep an object, and everything below it; it is fetched first if it is not here."""
    with shown() as progress, explained(context.client, progress):
        fetch(context.client, _plain(cid), progress)
    context.client.call("PUT", f"{_object(cid)}/pin")
    print(f"pinned {cid}")


@app.command("rm", short_help="Keep an object no more.")
def remove(cid: _Cid) -> None:
    """Keep an object no more; what nobody else keeps is deleted when room is needed, or by `prsm storage gc`."""
    context.client.call("DELETE", f"{_object(cid)}/pin")
    print(f"unpinned {cid}")


@app.command(short_help="Check every block of an object.")
def verify(cid: _Cid, as_json: _AsJson = False) -> None:
    """Read an object, and all that stands in it, whole and check every block of it against its CID."""
    report = context.client.call("POST", f"{_object(cid)}/verify")
    if as_json:
        print(json.dumps(report, indent=2))
    elif report["whole"]:
        print(f"whole: {report['blocks']} blocks, {report['size_bytes']} bytes, every hash as its CID says")
    else:
        for each in report["damaged"]:
            for block in each["blocks"]:
                print(f"damaged: {block}")
            print(f"DAMAGED: {each['cid']}")
        print(f"mend it with `prsm storage repair {cid}`")
    if not report["whole"]:
        raise typer.Exit(EXIT_DAMAGED)


@app.command(short_help="Fetch anew what is damaged or missing.")
def repair(cid: _Cid) -> None:
    """Verify an object, and all that stands in it, and fetch what is damaged or missing, only that, anew."""
    report = context.client.call("POST", f"{_object(cid)}/repair")
    if report["repaired"]:
        print(f"repaired {len(report['repaired'])} objects: {decimal(report['fetched_bytes'])} fetched anew")
    else:
        print("whole: there was nothing to repair")


@app.command(short_help="Upload an object to the node's own IPFS nodes.")
def publish(cid: _Cid) -> None:
    """Upload an object to the node's own IPFS nodes; queued until they have it."""
    _publish(context.client, cid, to=sys.stdout)


@app.command(short_help="Show or state who published an object.")
def provenance(
    cid: _Cid,
    licence: Annotated[str, typer.Option(help="State it: an SPDX expression, as Apache-2.0.")] = "",
    title: Annotated[str, typer.Option(help="What it is called.")] = "",
    derived_from: Annotated[list[str] | None, typer.Option(help="RELATION:CID, as fine_tuned_from:bafy...")] = None,
    kind: Annotated[str, typer.Option(help="model, dataset or other.")] = "other",
) -> None:
    """Show who published an object, under which licence; with --licence and --title state it, signed by the node."""
    path = f"{_object(cid)}/provenance"
    if bool(licence) != bool(title) or (derived_from and not licence):
        raise ConfigError("A statement needs a licence and a title.", remedy="Give --licence SPDX and --title TEXT.")
    if licence:
        sources = [dict(zip(("relation", "cid"), item.partition(":")[::2], strict=True)) for item in derived_from or ()]
        body = {"licence": licence, "title": title, "derived_from": sources, "kind": kind}
        context.client.call("POST", path, body)
    print(json.dumps(context.client.call("GET", path), indent=2))


@app.command()
def status(as_json: _AsJson = False) -> None:
    """Show what is stored, what moves, and how each endpoint does."""
    found: dict[str, Any] = context.client.call("GET", STATUS)
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
    if found["offline"]:
        print(f"offline: {found['offline_reason']} What is stored here is served all the same.")
    if found["endpoints"]:
        table = Table("endpoint", "state", "p50", "fetched", "failed", "last trouble", box=None, pad_edge=False)
        for each in found["endpoints"]:
            p50 = "" if each["p50_s"] is None else f"{each['p50_s'] * 1000:.0f} ms"
            row = (
                each["name"],
                each["state"],
                p50,
                decimal(each["fetched_bytes"]),
                str(each["failed"]),
                each["last_fault"],
            )
            table.add_row(*map(Text, row))
        print_table(table, whole=len(table.columns))


@app.command()
def gc() -> None:
    """Delete every object that nobody keeps."""
    done = context.client.call("POST", "/node/v1/storage/gc")
    if done["elsewhere"]:
        print("another worker collects just now; this call deleted nothing")
        return
    later = "; those of the last minute may go with the next call" if done["busy"] else ""
    print(f"deleted {done['objects']} objects, {decimal(done['freed_bytes'])}; {done['busy']} in use{later}")


def _object(cid: str) -> str:
    return f"{OBJECTS}/{quote(_plain(cid), safe='')}"


def _address(what: str) -> tuple[str, str]:
    """The CID and the path below it, as they stand alone, in an ``ipfs://`` URL or in an ``/ipfs/`` path."""
    path = unquote(what.removeprefix("ipfs://")) if what.startswith("ipfs://") else what.removeprefix("/ipfs/")
    cid, _, below = path.strip("/").partition("/")
    return cid, below.strip("/")


def _plain(what: str) -> str:
    cid, below = _address(what)
    if below:
        raise ConfigError(f"{what} has a path below its CID, which this command does not take.", remedy="Give the CID.")
    return cid


def _publish(client: NodeClient, cid: str, to: Any) -> None:
    for upload in client.call("POST", f"{_object(cid)}/publish"):
        print(f"{upload['state']}  {upload['node']}", file=to)


def _get_folder(client: NodeClient, cid: str, below: str, output: Path | None, progress: Progress) -> Path:
    target = output or Path(below.rpartition("/")[2] or cid)
    if output == Path("-"):
        raise ConfigError(
            f"{f'{cid}/{below}' if below else cid} is a folder; standard output takes a file.",
            remedy="Name a file below it, or a place.",
        )
    check_folder_place(target)
    entry = at_path(client, fetch(client, cid, progress), below)
    write_folder(client, entry["cid"], target, progress)
    return target


def _write_out(body: Body) -> None:
    with blamed(Path("standard output")):
        for piece in body.pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def _all_objects(client: NodeClient) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page: list[dict[str, Any]] = client.call("GET", f"{OBJECTS}?limit={_PAGE}&after={after}")
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]["cid"]


def _show(rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...]) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(*(name.removesuffix("_bytes").removesuffix("_at") for name in columns), box=None, pad_edge=False)
    for row in rows:
        # A directory is no bytes of content; what stands in it is said of each of that.
        table.add_row(
            *(
                Text("" if name == "size_bytes" and row["kind"] == "directory" else _cell(name, row[name]))
                for name in columns
            )
        )
    print_table(table, whole=len(table.columns))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "not here"
    if name.endswith("_bytes"):
        return decimal(value)
    if name.endswith("_at"):
        return datetime.fromisoformat(value).strftime("%Y-%m-%d %H:%M")
    # A name may hold anything; what a terminal would obey is shown as what it is.
    return value if value.isprintable() else ascii(value)[1:-1]
