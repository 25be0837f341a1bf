"""``prsm route``: which model would answer a question, and why not another."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.money import format_ftns, parse_ftns

app = typer.Typer(help="Routing: which model would answer, and why.", no_args_is_help=True)

_MAX_ROWS = 20
_Several = list[str] | None


@app.callback()
def about() -> None:
    """A group, though it has one command now."""


@app.command()
def explain(
    question: Annotated[str, typer.Argument(help="The question.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="auto, auto:cheap, auto:best, auto:fast, or a model's name.")
    ] = "auto",
    max_cost: Annotated[str, typer.Option(help="The most that the request may cost, FTNS.")] = "",
    max_expected: Annotated[str, typer.Option(help="The highest expected price of the request, FTNS.")] = "",
    max_price_in: Annotated[str, typer.Option(help="FTNS per million input tokens, at most.")] = "",
    max_price_out: Annotated[str, typer.Option(help="FTNS per million output tokens, at most.")] = "",
    answer_value: Annotated[str, typer.Option(help="What a good answer is worth to you, FTNS.")] = "",
    min_quality: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least chance of a good answer, 0 to 1.")
    ] = None,
    region: Annotated[_Several, typer.Option(help="Where it may run; may be given several times.")] = None,
    licence: Annotated[_Several, typer.Option(help="A licence that the model may have.")] = None,
    allow: Annotated[_Several, typer.Option(help="A provider that may answer; then no other may.")] = None,
    deny: Annotated[_Several, typer.Option(help="A provider that may not answer.")] = None,
    capability: Annotated[_Several, typer.Option(help="What the model must be able to do.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who would answer, with chances, prices and times, and for each other model why not. Nothing is charged."""
    amounts = {
        "max_cost_micro": max_cost,
        "max_expected_micro": max_expected,
        "max_input_price_micro": max_price_in,
        "max_output_price_micro": max_price_out,
        "answer_value_micro": answer_value,
    }
    policy: dict[str, Any] = {
        **{name: parse_ftns(text) for name, text in amounts.items() if text},
        **({} if min_quality is None else {"min_quality": min_quality}),
        "regions": region,
        "licences": licence,
        "allow_providers": allow,
        "deny_providers": deny,
        "capabilities": capability,
    }
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "prsm": {name: value for name, value in policy.items() if value is not None},
    }
    found: dict[str, Any] = context.client.call("POST", "/node/v1/route/explain?limit=1000", body)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    _show(found)


def _show(found: dict[str, Any]) -> None:
    instances: list[dict[str, Any]] = found["instances"]
    table = Table("", "instance", "chance", "price FTNS", "time", "worth FTNS", "why", box=None, pad_edge=False)
    for one in instances[:_MAX_ROWS]:
        excluded = one["place"] is None and not one["reason"]
        table.add_row(
            str(one["place"] or ""),
            one["name"],
            "-" if one["chance"] is None else f"{one['chance']:.2f}",
            format_ftns(one["expected_micro"]),
            f"{one['latency_ms'] / 1000:.1f} s" if one["latency_ms"] else "-",
            "-" if excluded else format_ftns(round(one["utility_micro"])),
            one["reason"] if one["place"] else f"not: {one['why_not']}",
        )
    print_table(table, whole=2)
    if found["total"] > _MAX_ROWS:
        print(f"and {found['total'] - min(len(instances), _MAX_ROWS)} more; --json shows up to 1000")
    asked = f"{found['named']!r}, named" if found["named"] else found["aim"]
    print(
        f"{found['able']} of {found['total']} can answer ({asked}); a good answer counts "
        f"{format_ftns(found['worth_micro'])} FTNS, a second {format_ftns(found['second_micro'])}; "
        f"{format_ftns(found['held_micro'])} FTNS would be held."
    )
    for one in found["excluded"]:
        print(f"{one['condition']} takes away {one['instances']}: {one['why_not']}")
