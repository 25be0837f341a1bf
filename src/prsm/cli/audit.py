"""``prsm audit``: the log of every change of the node's state, verified, exported, proven and witnessed."""

import base64
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from prsm.cli.client import NodeClient, NodeUnreachable
from prsm.cli.context import context
from prsm.cli.proofs import EXIT_NOT_PROVEN
from prsm.core.errors import InvalidRequest
from prsm.core.keys import NodeKey
from prsm.core.merkle import tiles
from prsm.core.merkle.notes import Checkpoint, MalformedNote, Note, VerifierKey, cosign, parse_key
from prsm.core.merkle.tree import includes, leaf_hash
from prsm.core.verifier_file import audit_verifier_files
from prsm.safety.audit.witness import check_growth, read_signed, witness_key

_AUDIT = "/node/v1/audit"
_PAGE = 1000

app = typer.Typer(help="The audit log: verify, export, prove, witness.", no_args_is_help=True)


@app.command("list")
def list_entries(
    first: Annotated[int, typer.Option(min=0, help="The position to begin at.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print whole entries, one a line.")] = False,
) -> None:
    """Show entries: position, time, who, what, and how many rows it is about."""
    for found in context.client.call("GET", f"{_AUDIT}/entries?first={first}&limit={limit}"):
        entry = found["entry"]
        if as_json:
            print(json.dumps(found))
        else:
            print(f"{found['position']:>8}  {entry['at']}  {entry['actor']}  {entry['op']} {entry['what']}"
                  f" ({len(entry['rows'])})")  # fmt: skip


@app.command()
def verify(
    witnessed: Annotated[list[Path] | None, typer.Option(help="A checkpoint that was kept elsewhere.")] = None,
    witness: Annotated[str, typer.Option(help="The key that must have cosigned it, as NAME+ID+KEY.")] = "",
) -> None:
    """Replay the log, the ledger and the tables against what was signed, on the node or, if none runs, its database."""
    notes = [path.read_text(encoding="utf-8") for path in witnessed or []]
    try:
        verdict: dict[str, Any] = context.client.call(
            "POST", f"{_AUDIT}/verify", {"witnessed": notes, "witness_key": witness}
        )
    except NodeUnreachable:
        # Imported here, for it can start servers: see ``main.up``.
        from prsm.cli.offline import verify_audit_offline

        verdict = verify_audit_offline(context.settings, notes, witness)
    for finding in verdict["findings"]:
        print(finding)
    counted = ", ".join(f"{verdict[name]} {name}" for name in ("entries", "checkpoints", "ledger_positions", "tables"))
    if verdict["finding_count"]:
        print(f"NOT WHOLE: {verdict['finding_count']} findings ({counted})")
        raise typer.Exit(EXIT_NOT_PROVEN)
    print(f"whole: {counted}; {verdict['pending']} changes wait; {verdict['witnessed']} witnessed checkpoints")
    if not notes:
        print("A rewrite with the node's own key shows only against a checkpoint kept elsewhere: prsm audit witness.")


@app.command()
def prove(
    entry: Annotated[int, typer.Argument(min=0, help="The entry's position.")],
    size: Annotated[int | None, typer.Option(min=1, help="Under the checkpoint of this size; else the newest.")] = None,
) -> None:
    """Show an entry and check that it is under a signed checkpoint."""
    query = "" if size is None else f"?size={size}"
    proven: dict[str, Any] = context.client.call("GET", f"{_AUDIT}/entries/{entry}/proof{query}")
    body, path = base64.b64decode(proven["body"]), [base64.b64decode(step) for step in proven["proof"]]
    _, checkpoint = read_signed(proven["checkpoint"], _log_key(""))
    print(body.decode())
    if not includes(leaf_hash(body), entry, checkpoint.size, path, checkpoint.root):
        print(f"NOT PROVEN: the path of {len(path)} hashes does not lead to the signed root")
        raise typer.Exit(EXIT_NOT_PROVEN)
    print(f"proven by {len(path)} hashes to be entry {entry} of {checkpoint.size}, signed by {checkpoint.origin}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A folder to make; `python FOLDER/verify.py` checks it by itself.")],
) -> None:
    """Write the whole log into a folder, with the verifier that needs nothing else."""
    if folder.exists():
        raise InvalidRequest(f"{folder} exists already; name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as drafts:
        draft = Path(drafts) / folder.name
        draft.mkdir(mode=0o700)
        checkpoint = _write_log(draft)
        draft.rename(folder)
    print(f"{checkpoint.size} entries of {checkpoint.origin} in {folder}; check them: python {folder / 'verify.py'}")


@app.command()
def witness(
    file: Annotated[Path, typer.Argument(help="Where the checkpoint is kept, best on another machine.")],
    log_key: Annotated[str, typer.Option(help="The log's key as you know it; else the node is asked, once.")] = "",
) -> None:
    """Keep and cosign the node's newest checkpoint, if its log is the one kept before, grown."""
    kept_text = file.read_text(encoding="utf-8") if file.exists() else None
    key = _log_key(log_key)
    note, offered = read_signed(_text(f"{_AUDIT}/checkpoint"), key)
    if kept_text is not None:
        _, kept = read_signed(kept_text, key)
        proof: list[bytes] = []
        if kept.size < offered.size:
            sizes = f"first={kept.size}&second={offered.size}"
            answer = _public().call("GET", f"{_AUDIT}/consistency?{sizes}")
            proof = [base64.b64decode(step) for step in answer["proof"]]
        check_growth(kept, offered, proof)
    mine = NodeKey.load_or_create(context.settings.home / "node.key")
    name = witness_key(mine.node_id, mine.public_key_hex)
    signed = Note(note.text, (*note.signatures, cosign(note, name, mine.sign, int(time.time()))))
    _replace(file, str(signed))
    print(f"kept {offered.size} entries of {offered.origin} in {file}, cosigned by {name}")
    if mine.public_key_hex == key.public_key_hex:
        print("This home's key is the log's own: keep the file where the node's operator cannot write, "
              "or witness from another node's home: prsm --home DIR audit witness.")  # fmt: skip


def _write_log(folder: Path) -> Checkpoint:
    _, checkpoint = read_signed(_text(f"{_AUDIT}/checkpoint"), _log_key(""))
    level, count = 0, checkpoint.size
    while count:
        for number in range(-(-count // tiles.WIDTH)):
            width = min(tiles.WIDTH, count - number * tiles.WIDTH)
            for kind in (None, 0) if level == 0 else (level,):
                _save(folder, tiles.path_of(kind, number, width))
        level, count = level + 1, count // tiles.WIDTH
    _save_checkpoints(folder / "checkpoints.jsonl", checkpoint.size)
    (folder / "log.key").write_text(f"{_log_key('')}\n", encoding="utf-8")
    for name, content in audit_verifier_files().items():
        (folder / name).write_bytes(content)
    return checkpoint


def _log_key(given: str) -> VerifierKey:
    try:
        return parse_key(given or _text(f"{_AUDIT}/key"))
    except MalformedNote as error:
        raise InvalidRequest(f"The log's key cannot be read: {error}.") from error


def _text(path: str) -> str:
    return _public().read(path).decode()


def _public() -> NodeClient:
    """For what needs no key: a witness has none of the node's."""
    return NodeClient(context.settings.address, context.settings.api_key)


def _save(folder: Path, path: str) -> None:
    file = folder / "tile" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(context.client.read(f"{_AUDIT}/tile/{path}"))


def _save_checkpoints(file: Path, size: int) -> None:
    after = 0
    with file.open("w", encoding="utf-8") as lines:
        while page := context.client.call("GET", f"{_AUDIT}/checkpoints?after={after}&limit={_PAGE}"):
            for each in page:
                if each["size"] <= size:
                    lines.write(json.dumps(each) + "\n")
            after = page[-1]["size"]


def _replace(file: Path, text: str) -> None:
    """All or nothing: a half-written checkpoint would be one lost."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
