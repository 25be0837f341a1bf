"""``prsm safety`` and ``prsm breakers``: policies, incidents and appeals, suspicious accounts, what is open."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.errors import ConfigError

app = typer.Typer(help="Screening: policies, incidents, appeals, suspicious accounts.", no_args_is_help=True)
breakers_app = typer.Typer(help="Circuit breakers: list, trip, reset.", no_args_is_help=True)

_SAFETY = "/node/v1/safety"
_MODEL = "model:"
_AS_JSON = typer.Option("--json", help="Print JSON.")


@app.command()
def policy(
    scope: Annotated[str, typer.Argument(help="node, key:UUID or model:NAME; none: show all.")] = "",
    preset: Annotated[str, typer.Option(help="Put a preset in force: standard, strict, observe.")] = "",
    file: Annotated[Path | None, typer.Option(help="Put a policy in force: JSON of rules.")] = None,
    remove: Annotated[bool, typer.Option(help="Take the scope's policy away.")] = False,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the change.")] = "by hand",
) -> None:
    """Show the policies in force, or change one."""
    path = f"{_SAFETY}/policies/{quote(scope, safe='/:')}"
    if remove:
        context.client.call("DELETE", f"{path}?{urlencode({'reason': reason})}")
        print(f"took the policy of {scope} away")
    elif file or preset:
        wanted: dict[str, Any] = {"preset": preset} if preset else {"policy": _read(file)}
        context.client.call("PUT", path, wanted | {"reason": reason})
        print(f"in force for {scope}")
        if scope.startswith(_MODEL) and (name := scope.removeprefix(_MODEL)) not in _model_names():
            _waits(f"No model {name} is here: the policy waits for one.")
    else:
        print(json.dumps(_shown(context.client.call("GET", f"{_SAFETY}/policies"), scope), indent=2))


@app.command()
def incidents(
    status: Annotated[str, typer.Option(help="recorded, open, upheld or overturned.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: Annotated[bool, _AS_JSON] = False,
) -> None:
    """Texts that policies blocked or put before a person: your own, or as admin all."""
    query = urlencode({"limit": limit} | ({"status": status} if status else {}))
    found = context.client.call("GET", f"{_SAFETY}/incidents?{query}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("incident", "request", "when", "side", "done", "for", "status", box=None, pad_edge=False)
    for one in found:
        seen = ", ".join(f"{each['category']} {each['score']:.2f}" for each in one["findings"])
        when = one["created_at"][:19]
        table.add_row(one["id"], one["request_id"], when, one["direction"], one["action"], seen, one["status"])
    if found:
        print_table(table, whole=2)
    else:
        print("no incidents")


@app.command()
def incident(incident_id: str) -> None:
    """One incident with its texts (admin)."""
    print(json.dumps(context.client.call("GET", f"{_SAFETY}/incidents/{quote(incident_id)}"), indent=2))


@app.command()
def appeal(
    request_id: Annotated[str, typer.Argument(help="The x-request-id of a request that was blocked.")],
    words: Annotated[str, typer.Option(help="Why it was harmless.")] = "It was harmless.",
) -> None:
    """Ask for a person to look at a request of yours that was blocked."""
    made = context.client.call("POST", f"{_SAFETY}/appeals", {"request_id": request_id, "words": words})
    print(f"{made['waiting']} of its texts wait for a reviewer")


@app.command()
def decide(
    incident_id: str,
    decision: Annotated[str, typer.Argument(help="upheld or overturned.")],
    note: Annotated[str, typer.Option(help="For the record.")] = "",
) -> None:
    """Decide an incident (admin)."""
    path = f"{_SAFETY}/incidents/{quote(incident_id)}/decision"
    made = context.client.call("POST", path, {"decision": decision, "note": note})
    print(f"{made['id']} is {made['status']}")


@app.command()
def examples(limit: Annotated[int, typer.Option(min=1, max=1000)] = 1000) -> None:
    """What reviewers decided, one JSON object a line: examples to evaluate detectors on (admin)."""
    for one in context.client.call("GET", f"{_SAFETY}/examples?limit={limit}"):
        flagged = [each["category"] for each in one["findings"]]
        right = one["status"] == "upheld"
        print(json.dumps({"texts": one["texts"], "categories": flagged, "right": right}, ensure_ascii=False))


@app.command()
def moderate(
    text: Annotated[str, typer.Argument(help="A text; -: standard input.")],
    as_json: Annotated[bool, _AS_JSON] = False,
) -> None:
    """What the detectors find in a text."""
    given = sys.stdin.read() if text == "-" else text
    result = context.client.call("POST", "/v1/moderations", {"input": given})["results"][0]
    if as_json:
        print(json.dumps(result, indent=2))
        return
    scores = [(score, category) for category, score in result["category_scores"].items() if score is not None]
    for score, category in sorted(scores, reverse=True):
        print(f"{score:6.3f}  {category}{'  flagged' if result['categories'][category] else ''}")
    for span in result["prsm"]["spans"]:
        print(f"        {span['kind']} ({span['category']}): {given[span['start'] : span['end']]!r}")


@app.command()
def threats(as_json: Annotated[bool, _AS_JSON] = False) -> None:
    """The most suspicious accounts (admin)."""
    found = context.client.call("GET", f"{_SAFETY}/threats")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("account", "score", "slowed until", "suspended until", "times", "why", box=None, pad_edge=False)
    for one in found:
        until = [(one[name] or "")[:19] for name in ("throttled_until", "suspended_until")]
        table.add_row(one["account"], f"{one['score']:.2f}", *until, str(one["suspensions"]), one["reason"])
    if found:
        print_table(table)
    else:
        print("nobody is suspicious")


@app.command()
def lift(account: str) -> None:
    """Clear an account, and lift what binds it (admin)."""
    context.client.call("DELETE", f"{_SAFETY}/threats/{quote(account, safe='')}")
    print(f"nothing is held against {account}")


@breakers_app.command("list")
def list_breakers(as_json: Annotated[bool, _AS_JSON] = False) -> None:
    """Breakers that are known, those that are not closed first."""
    found = context.client.call("GET", "/node/v1/breakers")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("board", "name", "state", "failed", "of", "again in", "why", box=None, pad_edge=False)
    for one in sorted(found, key=lambda one: one["state"] == "closed"):
        again = f"{one['retry_in_s']:.0f} s" if one["retry_in_s"] else ""
        table.add_row(
            one["board"], one["name"], one["state"], str(one["failures"]), str(one["calls"]), again, one["reason"]
        )
    if found:
        print_table(table, whole=2)
    else:
        print("no breakers yet")


@breakers_app.command()
def trip(
    board: Annotated[str, typer.Argument(help="models, providers, storage, callers or node.")],
    name: Annotated[str, typer.Argument(help="What to stop; of the board node: halt.")],
    reason: Annotated[str, typer.Option(help="Why; callers are told, and it is kept.")],
) -> None:
    """Open a breaker, on all workers and over restarts, until it is reset."""
    context.client.call("PUT", _breaker(board, name), {"reason": reason})
    print(f"{name} of {board} is open")
    if (board == "models" and name not in _instances()) or (board == "providers" and name not in _providers()):
        _waits(f"None of the {board} has that name: the breaker waits for one. See: prsm models list.")


@breakers_app.command()
def reset(board: str, name: str) -> None:
    """Close a breaker."""
    context.client.call("DELETE", _breaker(board, name))
    print(f"{name} of {board} is closed")


def _breaker(board: str, name: str) -> str:
    return f"/node/v1/breakers/{quote(board, safe='')}/{quote(name, safe='/:')}"


def _instances() -> dict[str, Any]:
    """The instances by their names, each with what it serves."""
    return {model["id"]: model["prsm"]["model"] for model in context.client.call("GET", "/v1/models")["data"]}


def _model_names() -> set[str]:
    return {name for pair in _instances().items() for name in pair}


def _providers() -> set[str]:
    return {provider["name"] for provider in context.client.call("GET", "/node/v1/providers")}


def _waits(note: str) -> None:
    """What is written in advance is in force, and may be a typing error."""
    print(note, file=sys.stderr)


def _read(file: Path | None) -> Any:
    try:
        return json.loads(file.read_text()) if file else None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}.") from error


def _shown(policies: dict[str, Any], scope: str) -> Any:
    if not scope:
        return policies
    return [each for each in policies["written"] if each["scope"] == scope]
