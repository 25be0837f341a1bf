"""``prsm keys`` and ``prsm wallet``: who may ask, up to which cost, and what is left."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.money import format_ftns, parse_ftns

app = typer.Typer(help="API keys: list, create, rotate, revoke, cap.", no_args_is_help=True)


@app.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List keys; secrets are not kept and cannot be shown."""
    found: list[dict[str, Any]] = context.client.call("GET", "/node/v1/keys")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("id", "name", "prefix", "scopes", "spent FTNS", "cap FTNS", "state", box=None, pad_edge=False)
    for key in found:
        budget: dict[str, Any] = key["budget"] or {}
        cap: int | None = budget.get("cap_micro")
        table.add_row(
            key["id"],
            key["name"],
            key["prefix"],
            " ".join(key["scopes"]),
            format_ftns(budget.get("spent_micro") or 0),
            "none" if cap is None else format_ftns(cap),
            state_of(key, datetime.now(UTC)),
        )
    print_table(table)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="chat, embeddings, read, storage, market, keys, audit, admin.")
    ] = None,
    cap: Annotated[str, typer.Option(help="Spend cap over the key's life, in FTNS.")] = "",
    rate: Annotated[int | None, typer.Option(help="Requests per minute.")] = None,
    expires: Annotated[str, typer.Option(help="When it ends, as 2027-01-31T12:00:00Z.")] = "",
    principal: Annotated[str, typer.Option(help="Whose key (admins only).")] = "",
) -> None:
    """Create a key and print its token, which is shown this once."""
    body: dict[str, Any] = {"name": name}
    if scope:
        body["scopes"] = scope
    for field, value in (("expires_at", expires), ("principal_id", principal), ("rate_limit_per_minute", rate)):
        if value not in ("", None):
            body[field] = value
    if cap:
        body["cap_micro"] = parse_ftns(cap)
    print(context.client.call("POST", "/node/v1/keys", body)["token"])


@app.command()
def rotate(key_id: str, grace: Annotated[int, typer.Option(help="Seconds the old key stays valid.")] = 0) -> None:
    """Replace a key by a new one like it and print the new token."""
    print(context.client.call("POST", f"/node/v1/keys/{key_id}/rotate", {"grace_s": grace})["token"])


@app.command()
def revoke(key_id: str) -> None:
    """Revoke a key, at once and for good."""
    context.client.call("DELETE", f"/node/v1/keys/{key_id}")
    print(f"revoked {key_id}")


@app.command("cap")
def set_cap(key_id: str, amount: Annotated[str, typer.Argument(help="FTNS over the key's life, or 'none'.")]) -> None:
    """Change a key's spend cap."""
    cap = None if amount == "none" else parse_ftns(amount)
    context.client.call("PUT", f"/node/v1/keys/{key_id}/cap", {"cap_micro": cap})
    print(f"capped {key_id} at {amount}")


def state_of(key: dict[str, Any], now: datetime) -> str:
    """Whether a key still opens anything."""
    if key["revoked_at"]:
        return "revoked"
    ends: str | None = key["expires_at"]
    return "expired" if ends and datetime.fromisoformat(ends) <= now else "live"


def wallet(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the balance of the key's owner."""
    found: dict[str, Any] = context.client.call("GET", "/node/v1/wallet")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['available_ftns']} FTNS available, {format_ftns(found['held_micro'])} held  ({found['account']})")
