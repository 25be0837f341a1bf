"""``prsm discovery``: sources of models, what they list, and adopting a listing as an instance."""

import json
import time
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.errors import ConfigError, PrsmError
from prsm.core.money import format_ftns, parse_ftns

app = typer.Typer(help="Models elsewhere: sources, search, adopting one.", no_args_is_help=True)

_PATH = "/node/v1/discovery"
_POLL_S = 0.5
_SHOWN_CHARS = 70
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def sources(as_json: _Json = False) -> None:
    """List the sources: how many models each lists, how old that is, and what went wrong."""
    found: list[dict[str, Any]] = context.client.call("GET", f"{_PATH}/sources")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("source", "kind", "models", "read", "state", "address", box=None, pad_edge=False)
    for each in found:
        table.add_row(
            each["name"], each["kind"], str(each["listings"]), _age(each["age_s"]), _state(each), each["address"]
        )
    print_table(table)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the source is called here.")],
    kind: Annotated[str, typer.Option(help="huggingface, openrouter, openai, vllm, ollama or prsm.")],
    address: Annotated[str, typer.Option(help="Where it is; known for huggingface and openrouter.")] = "",
    secret: Annotated[
        str, typer.Option(envvar="SOURCE_SECRET", help="Its token, if it wants one; better given as SOURCE_SECRET.")
    ] = "",
    every: Annotated[int, typer.Option(help="Seconds from one reading to the next.")] = 3_600,
    query: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, for huggingface: author, search...")] = None,
) -> None:
    """Add a source or change it; it is read at once.

    Example: prsm discovery add hub --kind huggingface --query pipeline_tag=text-generation
    """
    asked = dict(_pair(given) for given in query or [])
    change = {"kind": kind, "address": address, "secret": secret, "every_s": every, "query": asked}
    context.client.call("PUT", f"{_PATH}/sources/{quote(name, safe='')}", change)
    print(f"added {name}")


@app.command()
def remove(name: str) -> None:
    """Remove a source and all that it lists."""
    context.client.call("DELETE", f"{_PATH}/sources/{quote(name, safe='')}")
    print(f"removed {name}")


@app.command()
def sync(
    source: Annotated[str, typer.Argument(help="Which source; all of them where none is named.")] = "",
    wait: Annotated[int, typer.Option(min=0, help="Seconds to wait for the readings to end.")] = 300,
) -> None:
    """Read a source, or all of them, now, and wait for it. Exits 1 where one cannot be read."""
    asked: list[dict[str, Any]] = context.client.call("POST", f"{_PATH}/sync{_query(source=source)}")
    begun, until_s = {each["name"]: _outcome(each) for each in asked}, time.monotonic() + wait
    failed = False
    while begun and time.monotonic() < until_s:
        for each in context.client.call("GET", f"{_PATH}/sources"):
            if each["name"] in begun and not each["reading"] and _outcome(each) != begun[each["name"]]:
                del begun[each["name"]]
                failed = failed or bool(each["last_error"])
                print(f"{each['name']}: {each['last_error'] or str(each['listings']) + ' models'}")
        time.sleep(_POLL_S if begun else 0)
    if begun and wait:
        raise PrsmError(f"Not read yet: {', '.join(begun)}.", remedy="See `prsm discovery sources`.")
    if failed:
        raise typer.Exit(1)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="A name, or what the model should be good at.")] = "",
    capability: Annotated[list[str] | None, typer.Option(help="chat, tools, vision, embeddings.")] = None,
    max_price_in: Annotated[str, typer.Option(help="Most per million input tokens, in --currency.")] = "",
    max_price_out: Annotated[str, typer.Option(help="Most per million output tokens.")] = "",
    currency: Annotated[str, typer.Option(help="USD or FTNS.")] = "USD",
    min_context: Annotated[int | None, typer.Option(help="Tokens of context, at least.")] = None,
    licence: Annotated[list[str] | None, typer.Option(help="As the source writes it: apache-2.0, mit...")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only of these sources.")] = None,
    ungated: Annotated[bool, typer.Option("--ungated", help="Only what anybody may have.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=50)] = 10,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    as_json: _Json = False,
) -> None:
    """Find models that sources list. What a source does not state passes no condition: a price, a licence."""
    asked = _query(
        q=text,
        capability=capability,
        max_input_price=max_price_in,
        max_output_price=max_price_out,
        currency=currency,
        min_context_tokens=min_context,
        licence=licence,
        source=source,
        ungated="true" if ungated else "",
        limit=limit,
        offset=offset,
    )
    found: dict[str, Any] = context.client.call("GET", f"{_PATH}/listings{asked}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("source", "model", "in/M", "out/M", "context", "licence", "read", "", box=None, pad_edge=False)
    for each in found["listings"]:
        price: dict[str, Any] = each["price"] or {}
        table.add_row(
            each["source"],
            each["name"],
            _price(price, "input"),
            _price(price, "output"),
            str(each["context_tokens"] or "?"),
            each["licence"] or "?",
            f"{_age(each['age_s'])}{' (stale)' if each['stale'] else ''}",
            each["description"].replace("\n", " ")[:_SHOWN_CHARS],
        )
    print_table(table, whole=2)
    if found["pending"]:
        print(f"{found['pending']} listings are not found by meaning yet.")


@app.command()
def adopt(
    source: str,
    name: str,
    price_in: Annotated[str, typer.Option(help="FTNS per million input tokens; default: the listed price.")] = "",
    price_out: Annotated[str, typer.Option(help="FTNS per million output tokens.")] = "",
    provider: Annotated[str, typer.Option(help="What the provider is called; default: as the source.")] = "",
    base_url: Annotated[str, typer.Option(help="Where it is asked, if not where it is listed.")] = "",
    capability: Annotated[list[str] | None, typer.Option(help="chat, tools, vision, embeddings.")] = None,
    context_tokens: Annotated[int | None, typer.Option(help="Context window, where the listing does not say.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
) -> None:
    """Add a listing as an instance that callers can ask, at prices in FTNS.

    A listed price in USD is taken only where the setting usd_price_micro_ftns gives the rate.
    """
    wish = {
        "source": source,
        "name": name,
        "provider": provider,
        "base_url": base_url,
        "input_price_micro": parse_ftns(price_in) if price_in else None,
        "output_price_micro": parse_ftns(price_out) if price_out else None,
        "capabilities": capability or [],
        "context_tokens": context_tokens,
        "max_output_tokens": max_output_tokens,
    }
    added: dict[str, Any] = context.client.call("POST", f"{_PATH}/adopt", wish)
    prices = " and ".join(format_ftns(added[f"{way}_price_micro"]) for way in ("input", "output"))
    print(f"added {added['name']} at {prices} FTNS per million tokens in and out")


def _pair(given: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    if not separator:
        raise ConfigError(f"--query {given!r} is not NAME=VALUE.")
    return name, value


def _query(**asked: Any) -> str:
    given = {name: value for name, value in asked.items() if value not in ("", None)}
    return f"?{urlencode(given, doseq=True)}" if given else ""


def _outcome(source: dict[str, Any]) -> tuple[Any, ...]:
    return source["last_read_at"], source["last_failed_at"]


def _state(source: dict[str, Any]) -> str:
    if source["removing"]:
        return "being removed"
    if source["reading"]:
        return "reading"
    if source["last_error"]:
        return f"failing ({source['last_error']})"
    return "stale" if source["stale"] else "ok"


def _price(price: dict[str, Any], way: str) -> str:
    return "?" if price.get(way) is None else f"{price[way]} {price['currency']}"


def _age(age_s: int | None) -> str:
    if age_s is None:
        return "never"
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if age_s >= unit_s:
            return f"{age_s // unit_s} {unit} ago"
    return "just now"
