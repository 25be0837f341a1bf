"""``prsm privacy``: what the node holds of a person: shown, erased, agreed to, kept how long, and on record."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prsm.cli.context import context
from prsm.core.errors import InvalidRequest

_PRIVACY = "/node/v1/privacy"
_YES = ("y", "yes")

app = typer.Typer(help="Personal data: export, erase, consent, retention, records.", no_args_is_help=True)


@app.command()
def export(
    principal: Annotated[str, typer.Option(help="Whose data (admins only); else your own.")] = "",
    out: Annotated[Path | None, typer.Option(help="A file to write; else it is printed.")] = None,
) -> None:
    """All that the node holds of a person, as JSON."""
    path = f"{_PRIVACY}/principals/{principal}/export" if principal else f"{_PRIVACY}/export"
    text = json.dumps(context.client.call("GET", path), indent=2, ensure_ascii=False)
    if out is None:
        print(text)
        return
    _made(out).write_text(text + "\n", encoding="utf-8")
    print(f"written to {out}")


@app.command()
def erase(
    principal: Annotated[str, typer.Argument(help="The id of the principal: your own.")],
    other: Annotated[bool, typer.Option("--other", help="It is somebody else's (admins only).")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    out: Annotated[Path | None, typer.Option(help="A file for the certificate; else it is printed.")] = None,
) -> None:
    """Erase a person for good: the key to all they said is destroyed, their API keys end, their account has no name."""
    # Asked by Python itself: typer's question takes Ctrl-C for a failure.
    if not yes and input(f"Erase {principal} for good? It cannot be undone [y/N]: ").strip().lower() not in _YES:
        raise InvalidRequest("Nothing was erased.")
    file = _made(out) if out else None  # a certificate that finds no place afterwards would be lost
    if other:
        certificate = context.client.call("POST", f"{_PRIVACY}/principals/{principal}/erase")
    else:
        certificate = context.client.call("POST", f"{_PRIVACY}/erase", {"principal_id": principal})
    text = json.dumps(certificate, indent=2, ensure_ascii=False)
    if file is None:
        print(text)
    else:
        file.write_text(text + "\n", encoding="utf-8")
    deleted = sum(certificate["certificate"]["deleted_rows"].values())
    print(f"erased: {deleted} rows deleted, the key destroyed", file=sys.stderr)


@app.command()
def consent(
    purpose: Annotated[str, typer.Argument(help="training or sharing; none: show all.")] = "",
    word: Annotated[str, typer.Argument(help="yes or no.")] = "",
) -> None:
    """Show what you agree to, or say yes or no to a purpose."""
    if purpose:
        if word not in ("yes", "no"):
            raise InvalidRequest("Say yes or no: prsm privacy consent training no.")
        found = context.client.call("PUT", f"{_PRIVACY}/consents/{purpose}", {"granted": word == "yes"})
    else:
        found = context.client.call("GET", f"{_PRIVACY}/consents")
    for each in found:
        since = f"since {each['since']}" if each["since"] else "by default"
        print(f"{each['purpose']:10} {'yes' if each['granted'] else 'no':4} {since}\n           {each['says']}")


@app.command()
def retention(enforce: Annotated[bool, typer.Option("--enforce", help="Do now what is due (admins).")] = False) -> None:
    """How long what is kept, by the settings that say so."""
    kept: dict[str, str] = context.client.call("GET", f"{_PRIVACY}/retention")
    for name, value in kept.items():
        print(f"{name:26} {value}{' (until taken away)' if value == '0' else ''}")
    if enforce:
        done: dict[str, Any] = context.client.call("POST", f"{_PRIVACY}/retention")
        print(f"{done['rows']} rows taken away or sealed")


@app.command()
def records() -> None:
    """Print the record of processing activities (GDPR Art. 30), generated from the register."""
    sys.stdout.write(context.client.read(f"{_PRIVACY}/records").decode())


def _made(path: Path) -> Path:
    path.touch(mode=0o600)
    return path
