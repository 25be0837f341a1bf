"""``prsm ledger verify`` and ``prsm receipt``: nothing has to be believed."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import Progress

from prsm.cli.client import NodeUnreachable
from prsm.cli.context import context
from prsm.core.errors import ConfigError
from prsm.core.verifier_file import verifier_file

EXIT_UNUSABLE, EXIT_NOT_PROVEN = 2, 4
_DISPROVEN = 1
"""The verifier's exit code where a check failed; any other says that it could not be run on what was given."""

_RECEIPT_REMEDY = "Name the file of a receipt, or a receipt's id: prsm receipt list."

ledger_app = typer.Typer(help="The ledger: prove it.", no_args_is_help=True)
receipt_app = typer.Typer(help="Receipts: list, get, verify.", no_args_is_help=True)


@ledger_app.callback()
def _ledger() -> None:
    pass


@ledger_app.command("verify")
def verify_ledger() -> None:
    """Replay every posting and prove the invariants, on the running node or, if none runs, on its database."""
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying the ledger", total=None)
        try:
            proof: dict[str, Any] = context.client.call("GET", "/node/v1/ledger/verify")
        except NodeUnreachable:

            def show(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            # Imported here, for it can start servers: see ``up``.
            from prsm.cli.offline import verify_offline

            proof = verify_offline(context.settings, show)
    for violation in proof["violations"]:
        print(violation)
    counted = ", ".join(f"{proof[name]} {name}" for name in ("holds", "captures", "releases", "expiries", "transfers"))
    if not proof["ok"]:
        print(f"NOT PROVEN: {proof['violation_count']} violations in {proof['head']} positions ({counted})")
        raise typer.Exit(EXIT_NOT_PROVEN)
    print(f"proven: {proof['head']} positions without a gap ({counted}); {proof['open_holds']} holds open")


@receipt_app.command("list")
def list_receipts(limit: Annotated[int, typer.Option(min=1, max=1000)] = 20) -> None:
    """The newest receipts, one a line."""
    for signed in context.client.call("GET", f"/node/v1/receipts?limit={limit}"):
        receipt = signed["receipt"]
        cost = receipt["amounts"]["captured_micro"]
        print(f"{receipt['id']}  {receipt['time']}  {receipt['model']['name']}  {cost} micro-FTNS")


@receipt_app.command("get")
def get_receipt(receipt_id: str) -> None:
    """Print a receipt as it was signed."""
    sys.stdout.write(context.client.read(f"/node/v1/receipts/{receipt_id}").decode() + "\n")


@receipt_app.command("verify")
def verify_receipt(
    receipt: Annotated[str, typer.Argument(help="A receipt's id at the node, a file, or '-'.")],
    node_key: Annotated[str, typer.Option(help="The public key the node must have (hex).")] = "",
    request: Annotated[Path | None, typer.Option(help="The request body as it was sent.")] = None,
    answer: Annotated[Path | None, typer.Option(help="The answer as it was received.")] = None,
) -> None:
    """Verify a receipt with the standalone verifier, the same file that auditors are given."""
    command = [sys.executable, "-I", str(verifier_file()), "/dev/stdin"]
    for option, value in (("--node-key", node_key), ("--request", request), ("--answer", answer)):
        if value:
            command += [option, str(value)]
    done = subprocess.run(command, input=_receipt_bytes(receipt), check=False)  # noqa: S603 - our own file
    if done.returncode:
        raise typer.Exit(EXIT_NOT_PROVEN if done.returncode == _DISPROVEN else EXIT_UNUSABLE)


def _receipt_bytes(receipt: str) -> bytes:
    if receipt == "-":
        return sys.stdin.buffer.read()
    path = Path(receipt)
    if path.is_dir():
        raise ConfigError(f"{receipt} is a folder.", remedy=_RECEIPT_REMEDY)
    return path.read_bytes() if path.exists() else context.client.read(f"/node/v1/receipts/{_receipt_id(receipt)}")


def _receipt_id(given: str) -> UUID:
    try:
        return UUID(given)
    except ValueError:
        raise ConfigError(
            f"There is no file {given}, nor is that the id of a receipt.", remedy=_RECEIPT_REMEDY
        ) from None
