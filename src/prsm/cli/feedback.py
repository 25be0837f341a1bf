"""``prsm feedback``: say how good an answer was; and ``prsm models quality``: what the node thinks of its models."""

import json
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table


class Rating(StrEnum):
    """What one can say in a word."""

    GOOD = "good"
    BAD = "bad"


def feedback(
    request_id: Annotated[str, typer.Argument(help="The id of a response: chatcmpl-..., or its receipt's id.")],
    rating: Annotated[Rating, typer.Argument(help="good or bad.")],
    reason: Annotated[
        str, typer.Option(help="wrong, incomplete, off_topic, refused, unsafe, format, style, slow, expensive, other.")
    ] = "",
    comment: Annotated[str, typer.Option(help="For the node's operator.")] = "",
) -> None:
    """Say how good an answer was, so that the node chooses better; saying it again replaces it.

    Example: prsm feedback chatcmpl-0190... bad --reason wrong
    """
    word = {"request_id": request_id, "rating": rating.value, "comment": comment} | (
        {"reason": reason} if reason else {}
    )
    taken = context.client.call("POST", "/v1/feedback", word)
    print(f"noted: {rating.value}, answered by {taken['model']}")


def quality(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, domain clusters too.")] = False) -> None:
    """Show how well each model is thought to answer, and on what evidence."""
    found = context.client.call("GET", "/node/v1/quality")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("model", "good answers", "95 % between", "evaluations", "outcomes", box=None, pad_edge=False)
    for model in sorted(found["models"], key=lambda each: -each["chance"]):
        between = f"{model['chance_low']:.0%} and {model['chance_high']:.0%}"
        table.add_row(model["model"], f"{model['chance']:.0%}", between, str(model["scores"]), str(model["outcomes"]))
    print_table(table)
    if not found["learning"]:
        print("learning is off: what is said of answers is stored only (learning_enabled)")
