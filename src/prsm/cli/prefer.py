"""``prsm prefer``: say which of two answers is better; what is collected so trains reward models and DPO."""

import json
import random
import sys
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.panel import Panel

from prsm.cli.context import context
from prsm.cli.screen import screen
from prsm.core.errors import ConfigError

app = typer.Typer(help="Preferences: which of two answers is better.", no_args_is_help=True)
PREFERENCES = "/node/v1/preferences"
_PAGE = 1000


@app.command()
def add(
    collection: Annotated[str, typer.Argument(help="What the preferences are collected for.")],
    prompt: Annotated[str, typer.Option(help="What was asked.")],
    chosen: Annotated[str, typer.Option(help="The better answer.")],
    rejected: Annotated[str, typer.Option(help="The other one.")],
) -> None:
    """Add a preference."""
    body = {"collection": collection, "prompt": prompt, "chosen": chosen, "rejected": rejected}
    print(context.client.call("POST", PREFERENCES, body)["id"])


@app.command()
def ask(
    collection: Annotated[str, typer.Argument(help="What the preferences are collected for.")],
    question: Annotated[str, typer.Argument(help="The question that two models are asked.")],
    model: Annotated[list[str], typer.Option("--model", "-m", help="Twice: the models; once: one model twice.")],
) -> None:
    """Ask a question twice, see both answers without knowing whose they are, and say which is better."""
    if len(model) > 2:
        raise ConfigError("Two models at most are compared.")
    asked = [model[0], model[-1]]
    random.shuffle(asked)
    answers = [_answer(name, question) for name in asked]
    console = screen()
    for number, answer in enumerate(answers, 1):
        console.print(Panel.fit(answer or "(nothing)", title=str(number), title_align="left"))
    if answers[0] == answers[1]:
        print("both say the same; nothing is kept")
        return
    better = ""
    while better not in ("0", "1", "2"):
        better = input("which is better: 1, 2, or 0 for neither: ").strip()  # see ``privacy.erase``
    if better == "0":
        print("nothing is kept")
        return
    chosen, rejected = answers if better == "1" else answers[::-1]
    body = {"collection": collection, "prompt": question, "chosen": chosen, "rejected": rejected}
    context.client.call("POST", PREFERENCES, body)
    print(f"kept: {asked[int(better) - 1]} was better")


@app.command()
def export(collection: Annotated[str, typer.Argument(help="A collection.")]) -> None:
    """Print a collection, a JSON object a line, as recipes read preferences."""
    is_empty = True
    for each in _all(collection):
        is_empty = False
        print(json.dumps(each, ensure_ascii=False))
    if is_empty:
        print(f"Nothing is collected as {collection}.", file=sys.stderr)


@app.command()
def remove(preference: Annotated[str, typer.Argument(help="A preference's id.")]) -> None:
    """Take a preference back."""
    context.client.call("DELETE", f"{PREFERENCES}/{quote(preference, safe='')}")
    print("taken back", file=sys.stderr)


def _answer(model: str, question: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    return context.client.call("POST", "/v1/chat/completions", body)["choices"][0]["message"]["content"] or ""


def _all(collection: str) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page = context.client.call("GET", f"{PREFERENCES}?collection={quote(collection)}&limit={_PAGE}{after}")
        yield from page
        if len(page) < _PAGE:
            return
        after = f"&after={page[-1]['id']}"
