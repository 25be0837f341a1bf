"""``prsm ask``: a question from the terminal, streamed, with its cost on standard error."""

import json
import sys
from typing import Annotated, Any

import typer

from prsm.cli.context import context
from prsm.core.errors import ConfigError
from prsm.core.money import format_ftns, parse_ftns


def ask(
    question: Annotated[str, typer.Argument(help="The question; '-' reads it from standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A model's name, or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole response as JSON.")] = False,
    session: Annotated[str, typer.Option(help="Continue this conversation (a UUID of your choice begins one).")] = "",
    max_cost: Annotated[str, typer.Option(help="Spend at most this many FTNS.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
) -> None:
    """Ask a model and print its answer as it comes."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": _text(question)}]}
    extension = {"session_id": session or None, "max_cost_micro": parse_ftns(max_cost) if max_cost else None}
    body["prsm"] = {name: value for name, value in extension.items() if value is not None}
    if max_tokens:
        body["max_tokens"] = max_tokens
    if as_json:
        print(json.dumps(context.client.call("POST", "/v1/chat/completions", body), indent=2, ensure_ascii=False))
        return
    bill: dict[str, Any] = {}
    for event in context.client.stream("/v1/chat/completions", {**body, "stream": True}):
        for choice in event.get("choices", ()):
            print(choice["delta"].get("content") or "", end="", flush=True)
        bill = event.get("prsm") or bill
    print()
    if bill:
        cost = format_ftns(bill["cost_micro"])
        print(f"[{bill['model']}, {bill['reason']}; {cost} FTNS; receipt {bill['receipt_id']}]", file=sys.stderr)


def _text(question: str) -> str:
    asked = sys.stdin.read() if question == "-" else question
    if not asked.strip():
        raise ConfigError("The question is empty.")
    return asked
