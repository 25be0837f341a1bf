"""``prsm models import``: a model from a hub, a folder of this computer, or a CID becomes a registered version."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prsm.cli.client import NodeClient
from prsm.cli.context import context
from prsm.cli.screen import screen
from prsm.cli.storage_transfer import Walked, add_file, add_folder, disk_errors, shown
from prsm.core.errors import ConfigError, PrsmError
from prsm.data_layer.formats.model_selection import select_model

IMPORTS = "/node/v1/registry/imports"
_FROM_HUB = "hf:"


def import_model(
    source: Annotated[str, typer.Argument(help="hf:ORG/NAME, hf:ORG/NAME@REVISION, a folder or file, or a CID.")],
    model: Annotated[str, typer.Option(help="Its name here; default: its name on the hub, or the folder's.")] = "",
    version: Annotated[str, typer.Option(help="The version's label; default: after its commit or its CID.")] = "",
    capability: Annotated[list[str] | None, typer.Option(help="chat, tools, vision, embeddings.")] = None,
    context_tokens: Annotated[int | None, typer.Option(help="Context window, where its files do not say it.")] = None,
    licence: Annotated[str, typer.Option(help="Its licence, where its source does not name it.")] = "",
    description: Annotated[str, typer.Option(help="What it is good at.")] = "",
    state: Annotated[str, typer.Option(help="draft, candidate or live.")] = "draft",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Import a model: configuration, tokenizer, safetensors and card only, checked, stored by content address.

    Example: prsm models import hf:HuggingFaceTB/SmolLM2-135M-Instruct
    """
    wish: dict[str, Any] = {
        "source": source,
        "model": model or None,
        "version": version or None,
        "capabilities": capability or [],
        "context_tokens": context_tokens,
        "licence": licence,
        "description": description,
        "state": state,
    }
    path = Path(source)
    with disk_errors():
        if not source.startswith(_FROM_HUB) and path.exists():
            wish |= {"source": _send(context.client, path), "model": model or path.absolute().name}
        elif not source.startswith(_FROM_HUB) and "/" in source:
            raise ConfigError(f"There is no folder or file {source}.", remedy=f"From a hub: {_FROM_HUB}{source}.")
    try:
        done = _follow(context.client, wish)
    except PrsmError:
        if wish["source"] != source:
            print(f"what was sent stays in storage: prsm models import {wish['source']}", file=sys.stderr)
        raise
    if as_json:
        print(json.dumps(done, indent=2))
        return
    made = done["version"]
    screen().print(
        f"registered {made['model']}@{made['version']} ({made['state']}), {made['licence']}, "
        f"{made['context_tokens']:,} tokens of context\nweights {made['weights_cid']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if done["left_out_count"]:
        print(f"left out {done['left_out_count']} files, as {', '.join(done['left_out'][:3])}")


def _send(client: NodeClient, path: Path) -> str:
    """Put a folder's model, or one file, into the node's storage; its CID."""
    with shown() as progress:
        task = progress.add_task(f"sending {path.absolute().name}", total=None)
        if path.is_file():
            return add_file(client, path, "", progress, task)["cid"]
        # Its top only, and through links: this is how the hub's own client keeps what it has downloaded.
        found = {entry.name: entry for entry in path.iterdir() if entry.is_file()}
        selection = select_model(found)
        if not selection.weights:
            raise ConfigError(f"{path} holds no safetensors file.", remedy="Convert its weights to safetensors first.")
        files = {name: found[name] for name in selection.wanted}
        size_bytes = sum(each.stat().st_size for each in files.values())
        progress.update(task, total=size_bytes)
        return add_folder(client, Walked(files, [], 0, size_bytes), "", progress, task)


def _follow(client: NodeClient, wish: dict[str, Any]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    with shown() as progress:
        task = progress.add_task("looking", total=None)
        for last in client.stream_lines("POST", IMPORTS, wish):
            if "phase" in last:
                progress.update(
                    task,
                    description=last["phase"],
                    completed=last["done_bytes"],
                    total=last["total_bytes"] or None,
                )
    return last
