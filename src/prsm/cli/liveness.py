"""``prsm models health``: how the models do now, each with its instances under it."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import budget_left, print_table


def health(
    model: Annotated[str, typer.Argument(help="Only this model; without it all that were asked.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how models do now: answered, time to first token, pace, error budget left, and who is out."""
    found: dict[str, Any] = context.client.call("GET", f"/node/v1/liveness?model={quote(model, safe='')}&limit=1000")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found["models"]:
        who = f"{model} was not" if model else "No model was"
        print(f"{who} asked since the node started.")
        return
    table = Table(
        "model", "state", "answered", "first token p50/p95", "tokens/s", "in flight",
        "budget left", "last call", box=None, pad_edge=False,
    )  # fmt: skip
    for one in found["models"]:
        sla = one["sla"]
        left = min(objective["budget_left"] for objective in sla["objectives"])
        table.add_row(
            one["model"],
            "SLA BREACHED" if sla["breached"] else "",
            *_figures(one, budget_left(left).removesuffix(" left")),
        )
        for instance in one["instances"]:
            table.add_row(f"  {instance['name']}", _state(instance), *_figures(instance, ""))
    print_table(table)
    for one in found["models"]:
        _explain(one)


def _figures(one: dict[str, Any], left: str) -> tuple[str, ...]:
    first, pace = one["first_token_ms"], one["tokens_per_s"]
    return (
        "-" if one["availability"] is None else f"{one['availability']:.1%}",
        f"{first['p50']:.0f}/{first['p95']:.0f} ms" if first else "-",
        f"{pace['p50']:.0f}" if pace else "-",
        str(one["in_flight"]),
        left,
        "never" if one["last_call_s_ago"] is None else f"{_span(one['last_call_s_ago'])} ago",
    )


def _state(instance: dict[str, Any]) -> str:
    if instance["state"] == "ejected":
        return f"ejected for {_span(instance['ejected_for_s'])}"
    return f"ramping {instance['weight']:.0%}" if instance["state"] == "ramping" else str(instance["state"])


def _explain(one: dict[str, Any]) -> None:
    if one["sla"]["breached"]:
        print(one["sla"]["sentence"])
    for instance in one["instances"]:
        if instance["why"]:
            print(f"{instance['name']} is out: it {instance['why']}.")
        errors = ", ".join(f"{name.replace('_', ' ')} {count:.1f}" for name, count in instance["errors"].items())
        if errors:
            print(f"{instance['name']} failed lately: {errors} (each fades by half every two minutes).")


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
