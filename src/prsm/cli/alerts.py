"""``prsm alerts``: what fires, who takes it, what is silenced, whether messages arrive; and Prometheus' rules."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.errors import ConfigError, PrsmError
from prsm.monitoring.dashboards import dashboards
from prsm.monitoring.objectives.declared import shipped
from prsm.monitoring.objectives.rule_tests import rule_tests
from prsm.monitoring.objectives.rules import rules, written

app = typer.Typer(no_args_is_help=True, help="Alerts of the node: what fires, who takes it, what is silenced.")
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400}
RULES_FILE = "prsm.rules.yml"


@app.command("list")
def list_alerts(
    recent: Annotated[bool, typer.Option("--recent", help="Those of before, too.")] = False, as_json: _Json = False
) -> None:
    """Show what fires or is about to."""
    found: dict[str, Any] = context.client.call("GET", "/node/v1/alerts")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    shown = found["recent"] if recent and found["recent"] is not None else found["alerts"]
    if shown:
        table = Table("id", "alert", "severity", "state", "since", "taken by", "what", box=None, pad_edge=False)
        for one in shown:
            state = f"{one['state']}, silenced" if one["silenced_by"] else one["state"]
            table.add_row(
                one["id"], one["rule"], one["severity"], state, one["since"][:19], one["acked_by"], one["summary"]
            )
        print_table(table, whole=2)
    else:
        print("Nothing fires.")
    silences: list[dict[str, Any]] = found["silences"] or []
    for each in silences:
        what = each["rule"] or "every alert"
        print(f"Silenced until {each['until'][:19]}: {what}, by {each['by']}: {each['reason']} ({each['id']})")
    for sink, why in found["sinks"].items():
        if why:
            print(f"Messages by {sink} do not go out: {why}.")


@app.command()
def ack(
    alert: Annotated[str, typer.Argument(help="Id of the alert, or its beginning.")],
    note: Annotated[str, typer.Option(help="What the others should know.")] = "",
) -> None:
    """Take an alert: it is neither escalated nor told again."""
    taken = context.client.call("POST", f"/node/v1/alerts/{_whole_id(alert)}/ack", {"note": note})
    print(f"{taken['rule']} is taken by {taken['acked_by']}.")


@app.command()
def silence(
    reason: Annotated[str, typer.Option(help="Why nobody is to be told.")],
    rule: Annotated[str, typer.Argument(help="Name of the alert; without it every one.")] = "",
    for_time: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 7d.")] = "2h",
    label: Annotated[list[str] | None, typer.Option(help="Only with this label, as NAME=VALUE.")] = None,
) -> None:
    """Tell nobody of some alerts for a while; they are still evaluated and shown."""
    labels = dict(_pair(each) for each in label or [])
    body = {"rule": rule, "labels": labels, "reason": reason, "for_s": seconds_of(for_time)}
    made = context.client.call("POST", "/node/v1/alerts/silences", body)
    print(f"Silenced until {made['until'][:19]} UTC ({made['id']}).")


@app.command()
def lift(silence_id: Annotated[str, typer.Argument(help="Id of the silence.")]) -> None:
    """End a silence now."""
    context.client.call("DELETE", f"/node/v1/alerts/silences/{silence_id}")
    print("Lifted.")


@app.command()
def test() -> None:
    """Send a test message every way that is configured; exits 1 where one was not taken."""
    tried: list[dict[str, Any]] = context.client.call("POST", "/node/v1/alerts/test", {})
    for one in tried:
        print(f"{one['sink']}: {'delivered' if one['delivered'] else one['error']}")
    if not all(one["delivered"] for one in tried):
        raise typer.Exit(1)


@app.command("rules")
def show_rules(
    folder: Annotated[Path | None, typer.Option(help="Write them there, with their tests for promtool.")] = None,
) -> None:
    """Print Prometheus' rules, made of the same file of objectives that the node itself evaluates."""
    text = written(rules(shipped()))
    if folder is None:
        print(text, end="")
        return
    burns, levels = rule_tests(shipped(), RULES_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        (RULES_FILE, text), ("prsm.burns.test.yml", written(burns)), ("prsm.levels.test.yml", written(levels))
    ):  # fmt: skip
        (folder / name).write_text(content, encoding="utf-8")
        print(folder / name)


@app.command("dashboards")
def write_dashboards(folder: Annotated[Path, typer.Argument(help="Where to write them.")]) -> None:
    """Write Grafana's dashboards as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, dashboard in dashboards(shipped()).items():
        (folder / name).write_text(json.dumps(dashboard, indent=2) + "\n", encoding="utf-8")
        print(folder / name)


def seconds_of(text: str) -> int:
    """``30m``, ``2h`` or ``7d`` in seconds. Raises ConfigError."""
    number, unit = text[:-1], text[-1:]
    if not number.isdigit() or unit not in _UNITS_S:
        raise ConfigError(f"--for {text!r} is no time like 30m, 2h or 7d.")
    return int(number) * _UNITS_S[unit]


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--label {text!r} is not NAME=VALUE.")
    return name, value


def _whole_id(begun: str) -> str:
    """The id of the one alert that begins so; ids of one minute differ late, so most of it is needed."""
    if len(begun) == 36:
        return begun
    found = {
        one["id"] for one in context.client.call("GET", "/node/v1/alerts")["alerts"] if one["id"].startswith(begun)
    }
    if len(found) != 1:
        raise PrsmError(f"{len(found)} alerts have an id that begins with {begun!r}.", code="unknown_alert")
    return found.pop()
