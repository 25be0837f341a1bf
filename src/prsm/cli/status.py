"""``prsm status``: the node at a glance, once or live."""

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from prsm.cli.client import NodeUnreachable
from prsm.cli.context import context
from prsm.cli.screen import budget_left, screen
from prsm.core.money import format_ftns

_EVERY_S = 2.0
_MOST_MODELS = 12
_SPANS = ((86_400, "d"), (3600, "h"), (60, "min"))


def status(
    once: Annotated[bool, typer.Option("--once", help="Show it once.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, once.")] = False,
) -> None:
    """Show parts, traffic, latency, models, money, alerts, error budgets and what is used up when; ends with Ctrl-C."""
    console = screen()
    if as_json:
        print(json.dumps(_read(), indent=2))
    elif once or not console.is_terminal:
        console.print(_screen(_read()))
    else:
        _live(console)


def _live(console: Console) -> None:
    found = _read()
    with Live(_screen(found), console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(_EVERY_S)
            try:
                found = _read()
                live.update(_screen(found), refresh=True)
            except NodeUnreachable as error:
                live.update(Group(Text(str(error), style="bold red"), _screen(found)), refresh=True)


def _read() -> dict[str, Any]:
    client = context.client
    return {**client.call("GET", "/node/v1/status"), "capacity": client.call("GET", "/node/v1/capacity")}


def _screen(found: dict[str, Any]) -> RenderableType:
    shown: list[RenderableType] = [_head(found), _parts(found["parts"])]
    if found["alerts"]:
        shown += [Text("\nAlerts", style="bold"), _alerts(found["alerts"])]
    elif found["alerts"] is None and found["firing"]:
        shown.append(Text(f"\n{found['firing']} alerts fire; a key of an admin sees which.", style="bold red"))
    shown += [Text("\nTraffic", style="bold"), _traffic(found["traffic"])]
    shown += [Text("\nModels", style="bold"), _models(found)]
    shown += [Text("\nMoney", style="bold"), _money(found["money"])]
    shown += [Text("\nError budgets (30 days)", style="bold"), _budgets(found["budgets"])]
    return Group(*shown, Text("\nCapacity", style="bold"), _capacity(found["capacity"]))


def _head(found: dict[str, Any]) -> Text:
    firing = found["firing"]
    word, style = ("ready", "bold green") if found["ready"] else ("NOT READY", "bold red")
    text = Text.assemble((f"{word}", style), f"   node {found['node'][:12]}   prsm {found['version']}   ")
    text.append(
        "no alert fires" if not firing else f"{firing} alert{'s' * (firing > 1)} firing", "red" if firing else ""
    )
    if not found["evaluated_at"]:
        text.append("   nothing was evaluated yet")
    return text


def _parts(parts: dict[str, Any]) -> Text:
    text = Text()
    for name, part in parts.items():
        text.append(f"{name} ")
        text.append("ok" if part["ok"] else f"AWAY: {part.get('error', '')}", "green" if part["ok"] else "red")
        latency = part.get("latency_ms")
        text.append(f" {latency:.1f} ms   " if latency else "   ")
    return text


def _alerts(alerts: list[dict[str, Any]]) -> Table:
    table = _table()
    table.add_column(no_wrap=True)
    for one in alerts:
        style = "red" if one["state"] == "firing" and one["severity"] == "page" else "yellow"
        note = f"taken by {one['acked_by']}" if one["acked_by"] else "silenced" if one["silenced_by"] else ""
        table.add_row(Text(one["rule"], style=style), one["state"], _ago(one["since"]), note, one["summary"])
    return table


def _traffic(now: dict[str, Any]) -> Table:
    table = _table()
    requests, failed, in_work = now["requests_per_s"], now["failed_per_s"], now["in_work"]
    table.add_row(
        f"{requests:.2f} requests/s",
        f"{failed:.2f} failed/s",
        f"{in_work:.1f} in work",
        f"{now['tokens_per_s']:.0f} tokens/s",
    )
    for name, label in (("duration_ms", "whole answers"), ("first_token_ms", "first token")):
        if now[name]:
            quantiles = "   ".join(f"{share} {value:.0f} ms" for share, value in now[name].items())
            table.add_row(label, quantiles)
    return table


def _models(found: dict[str, Any]) -> Table:
    table = _table()
    for one in found["models"][:_MOST_MODELS]:
        answered = "" if one["availability"] is None else f"{one['availability']:.1%} answered"
        state = Text("resting", style="red") if one["resting"] else Text("")
        table.add_row(one["model"], answered, f"{one['tokens_per_s']:.0f} tokens/s", state)
    more = found["model_count"] - min(len(found["models"]), _MOST_MODELS)
    if more > 0:
        table.add_row(f"and {more} more: prsm models health")
    return table


def _money(money: dict[str, Any] | None) -> Text:
    if money is None:
        return Text("not known while PostgreSQL is away", style="red")
    text = Text(f"yours {format_ftns(money['balance_micro'])}, held {format_ftns(money['held_micro'])}")
    if money["node_balance_micro"] is not None:
        text.append(f"   node {format_ftns(money['node_balance_micro'])}")
        text.append(f"   treasury {format_ftns(money['treasury_balance_micro'])}")
    return text


def _budgets(budgets: list[dict[str, Any]]) -> Table:
    table = _table()
    for one in budgets:
        style = "red" if one["left"] < 0 else "yellow" if one["burn_1h"] > 1 else ""
        left = Text(budget_left(one["left"]) if one["events"] else "nothing counted", style=style)
        table.add_row(one["name"], f"{one['objective']:.2%}", left, f"burns {one['burn_1h']:.1f}x now")
    return table


def _capacity(found: dict[str, Any]) -> Table:
    table = _table()
    law = found["scaling"]
    if law is None:
        table.add_row("throughput", found["why_not"])
    else:
        peak = law["peak_per_s"]
        most = "no limit seen" if peak["value"] is None else f"at most {_estimate(peak)} requests/s"
        table.add_row("throughput", f"{most}; R² {law['fit']:.2f} of {law['points']} minutes")
    for name, level in found["levels"].items():
        share = level["used"] / level["limit"] if level["limit"] else 0.0
        table.add_row(name, f"{share:.0%} used", _hit(level))
    return table


def _estimate(one: dict[str, Any]) -> str:
    low, high = ("?" if one[end] is None else f"{one[end]:.1f}" for end in ("low", "high"))
    return f"{one['value']:.1f} ({low} to {high})"


def _hit(level: dict[str, Any]) -> str:
    if level["hit_in_s"] is None:
        return "does not grow for sure"
    return f"full in {_span(level['hit_in_s'])} ({_span(level['hit_earliest_s'])} to {_span(level['hit_latest_s'])})"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return next((f"{seconds / unit:.0f} {name}" for unit, name in _SPANS if seconds >= 2 * unit), f"{seconds:.0f} s")


def _ago(at: str) -> str:
    return f"{_span((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())} ago"


def _table() -> Table:
    return Table(box=None, pad_edge=False, show_header=False)
