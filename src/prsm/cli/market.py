"""``prsm market``: offers and their prices, quotes, earnings, statements, refunds."""

import json
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.errors import ConfigError
from prsm.core.money import format_ftns, parse_ftns

app = typer.Typer(help="The market: offers, prices, quotes, earnings, statements, refunds.", no_args_is_help=True)
refund_app = typer.Typer(help="Refunds: ask, list, grant, refuse.", no_args_is_help=True)
app.add_typer(refund_app, name="refund")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_PERCENT = 100


@app.command("offers")
def list_offers(
    model: Annotated[str, typer.Option(help="Of this model, or this instance.")] = "",
    capability: Annotated[str, typer.Option(help="chat, tools, vision, embeddings.")] = "",
    licence: Annotated[str, typer.Option(help="Under this licence.")] = "",
    owner: Annotated[str, typer.Option(help="Of this account.")] = "",
    max_in: Annotated[str, typer.Option(help="At most so many FTNS per million input tokens.")] = "",
    max_out: Annotated[str, typer.Option(help="At most so many FTNS per million output tokens.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    after: Annotated[str, typer.Option(help="Go on behind this offer's id.")] = "",
    as_json: _Json = False,
) -> None:
    """List what is for sale, at the prices posted now."""
    query = {"model": model, "capability": capability, "licence": licence, "owner": owner, "limit": limit}
    if after:
        query["after"] = after
    for name, amount in (("max_input_price_micro", max_in), ("max_output_price_micro", max_out)):
        if amount:
            query[name] = parse_ftns(amount)
    found: list[dict[str, Any]] = _call("GET", f"offers?{urlencode(query)}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("id", "instance", "in FTNS/M", "cached", "out", "tokens/min", "licence", box=None, pad_edge=False)
    for offer in found:
        capacity = str(offer["terms"]["capacity_tokens_per_minute"])
        table.add_row(offer["id"], offer["instance"], *_prices(offer["posted"]), capacity, offer["licence"])
    print_table(table, whole=2)


@app.command()
def offer(
    instance: Annotated[str, typer.Argument(help="PROVIDER/MODEL, an instance that you own.")],
    price_in: Annotated[str, typer.Option(help="FTNS per million input tokens, to start from.")],
    price_out: Annotated[str, typer.Option(help="FTNS per million output tokens, to start from.")],
    capacity: Annotated[int, typer.Option(help="Tokens per minute; prices rise when more than 80 % are used.")],
    price_cached: Annotated[str, typer.Option(help="FTNS per million cached input tokens; else as any input.")] = "",
    floor: Annotated[int, typer.Option(min=0, max=100, help="Lowest price, in percent of the start.")] = 100,
    ceiling: Annotated[int, typer.Option(min=100, max=10_000, help="Highest price, in percent of the start.")] = 100,
    text: Annotated[str, typer.Option(help="Terms for people to read.")] = "",
    change: Annotated[str, typer.Option(help="Id of an offer to change, instead of making one.")] = "",
) -> None:
    """Offer an instance, or change its offer. With floor and ceiling at 100 the prices are fixed."""
    terms: dict[str, Any] = {
        "input": _band(price_in, floor, ceiling),
        "output": _band(price_out, floor, ceiling),
        "cached_input": _band(price_cached, floor, ceiling) if price_cached else None,
        "capacity_tokens_per_minute": capacity,
        "text": text,
    }
    if change:
        made = _call("PUT", f"offers/{change}", {"terms": terms})
    else:
        made = _call("POST", "offers", {"instance": instance, **terms})
    print(made["id"])


@app.command()
def pause(offer_id: str) -> None:
    """Let an offer's prices stand still, and quote nothing anew."""
    _call("PUT", f"offers/{offer_id}", {"state": "paused"})
    print(f"paused {offer_id}")


@app.command()
def resume(offer_id: str) -> None:
    """Open an offer again."""
    _call("PUT", f"offers/{offer_id}", {"state": "open"})
    print(f"opened {offer_id}")


@app.command()
def withdraw(offer_id: str) -> None:
    """Withdraw an offer, for good; the instance then costs what the registry says."""
    _call("DELETE", f"offers/{offer_id}")
    print(f"withdrew {offer_id}")


@app.command()
def price(offer_id: str, as_json: _Json = False) -> None:
    """Show an offer's posted prices and how they moved, newest first."""
    found: dict[str, Any] = _call("GET", f"offers/{offer_id}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    now = found["offer"]
    table = Table("since", "in FTNS/M", "cached", "out", "tokens of the epoch", box=None, pad_edge=False)
    for move in found["moves"]:
        table.add_row(move["created_at"], *_prices(move["posted"]), str(move["used_tokens"]))
    fresh, cached, written = _prices(now["posted"])
    print(f"{now['instance']} ({now['state']}): {fresh} in, {cached} cached, {written} out, FTNS per million tokens")
    print_table(table)


@app.command()
def quote(
    model: Annotated[str, typer.Argument(help="An instance, a model, or auto.")],
    input_tokens: Annotated[int, typer.Option(help="Input tokens of the request, at most.")],
    output_tokens: Annotated[int, typer.Option(help="Output tokens, at most; 0 for embeddings.")],
    ttl: Annotated[int, typer.Option(help="Seconds for which it binds.")] = 60,
) -> None:
    """Have prices quoted that bind for a time, for one request that has the id as `prsm.quote_id`."""
    wish = {"model": model, "input_tokens": input_tokens, "output_tokens": output_tokens, "ttl_s": ttl}
    print(json.dumps(_call("POST", "quotes", wish), indent=2))


@app.command()
def earnings(account: Annotated[str, typer.Option(help="Whose (admins only).")] = "", as_json: _Json = False) -> None:
    """Show what was earned by requests, and what of it went back."""
    found: dict[str, Any] = _call("GET", f"earnings?{urlencode({'account': account})}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for kind, amount in found["earned_micro"].items():
        print(f"{kind:<10} {format_ftns(amount)}")
    print(f"{'refunded':<10} {format_ftns(-found['refunded_micro'])}")
    print(f"{'net':<10} {format_ftns(found['net_micro'])} FTNS  ({found['account']})")


@app.command()
def statement(
    month: Annotated[str, typer.Argument(help="Like 2026-01 (UTC).")],
    account: Annotated[str, typer.Option(help="Whose (admins only).")] = "",
    as_json: _Json = False,
) -> None:
    """Show a month's statement: opening, every kind of posting, closing."""
    found: dict[str, Any] = _call("GET", f"statements/{month}?{urlencode({'account': account})}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("FTNS", "received", "paid", box=None, pad_edge=False)
    table.add_row("opening", format_ftns(found["opening_micro"]), "")
    for line in found["lines"]:
        table.add_row(line["kind"], format_ftns(line["received_micro"]), format_ftns(line["paid_micro"]))
    table.add_row("closing", format_ftns(found["closing_micro"]), "")
    print(f"{found['account']}, {found['month']}")
    print_table(table)


@refund_app.command("ask")
def ask_refund(
    request_id: Annotated[str, typer.Argument(help="Id of the request, which is that of its receipt.")],
    reason: Annotated[
        str, typer.Option(help="not_delivered, wrong_model, poor_quality, overcharged, duplicate or other.")
    ],
    amount: Annotated[str, typer.Option(help="FTNS; else all of it.")] = "",
    note: Annotated[str, typer.Option(help="For whoever decides.")] = "",
) -> None:
    """Ask for the money of a request back."""
    body: dict[str, Any] = {"request_id": request_id, "reason": reason, "note": note}
    if amount:
        body["amount_micro"] = parse_ftns(amount)
    print(_call("POST", "refunds", body)["id"])


@refund_app.command("list")
def list_refunds(as_json: _Json = False) -> None:
    """List refunds that you asked for or sold (all, for an admin), newest first."""
    found: list[dict[str, Any]] = _call("GET", "refunds?limit=1000")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("id", "request", "state", "asked FTNS", "granted", "paid", "reason", box=None, pad_edge=False)
    for one in found:
        amounts = [format_ftns(one[name]) for name in ("asked_micro", "granted_micro", "paid_micro")]
        table.add_row(one["id"], one["request_id"], one["state"], *amounts, one["reason"])
    print_table(table, whole=2)


@refund_app.command()
def grant(
    refund_id: str,
    amount: Annotated[str, typer.Option(help="FTNS; else what was asked for.")] = "",
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Give money back: a seller its own part, an admin everybody's."""
    micro = parse_ftns(amount) if amount else _call("GET", f"refunds/{refund_id}")["asked_micro"]
    _decide(refund_id, micro, note)


@refund_app.command()
def refuse(refund_id: str, note: Annotated[str, typer.Option(help="Why.")] = "") -> None:
    """Give nothing back."""
    _decide(refund_id, 0, note)


def _decide(refund_id: str, amount_micro: int, note: str) -> None:
    decided = _call("POST", f"refunds/{refund_id}/decisions", {"amount_micro": amount_micro, "note": note})
    print(
        f"{decided['state']}: {format_ftns(decided['paid_micro'])} of {format_ftns(decided['granted_micro'])} FTNS paid"
    )


def _call(method: str, path: str, body: Any = None) -> Any:
    return context.client.call(method, f"/node/v1/market/{path}", body)


def _band(amount: str, floor: int, ceiling: int) -> dict[str, int]:
    base = parse_ftns(amount)
    if not base and ceiling > _PERCENT:
        raise ConfigError("A price of 0 has no percentages; give one to start from.")
    return {
        "base_micro": base,
        "floor_micro": base * floor // _PERCENT,
        "ceiling_micro": base * ceiling // _PERCENT,
    }


def _prices(posted: dict[str, int]) -> tuple[str, str, str]:
    return (
        format_ftns(posted["input_micro"]),
        format_ftns(posted["cached_input_micro"]),
        format_ftns(posted["output_micro"]),
    )
