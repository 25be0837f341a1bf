"""``prsm train``: have the node train a recipe, watch it, see its curves, stop it, let it go on."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.errors import ConfigError, PrsmError
from prsm.core.money import format_ftns, parse_ftns

app = typer.Typer(help="Training: runs of recipes by the node, and what became of them.", no_args_is_help=True)
RUNS = "/node/v1/training/runs"
_POLL_S = 1.0
_TRIED = ("loss", "reward", "accuracy", "held_out")


@app.command("run")
def start(
    recipe: Annotated[Path, typer.Argument(help="A recipe, as TOML; its paths are of the node's machine.")],
    name: Annotated[str, typer.Option(help="What to call the run; default: the file's name.")] = "",
    budget: Annotated[str, typer.Option(help="The most it may cost, in FTNS.")] = "10",
    kind: Annotated[str, typer.Option(help="train, rlvr, distil or evaluate.")] = "train",
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Watch it to its end.")] = True,
) -> None:
    """Have a recipe trained. Ctrl-C ends the watching, not the run.

    Example: prsm train run addition.toml --budget 2
    """
    try:
        text = recipe.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{recipe} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{recipe} cannot be read: {error}.") from None
    wanted = {"kind": kind, "name": name or recipe.stem, "recipe": text, "budget_micro": parse_ftns(budget)}
    run = context.client.call("POST", RUNS, wanted)
    print(f"run {run['id']}")
    if follow:
        follow_run(run["id"])


@app.command("list")
def list_runs(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The runs, the newest first."""
    runs: list[dict[str, Any]] = context.client.call("GET", RUNS)
    if as_json:
        print(json.dumps(runs, indent=2))
        return
    table = Table("run", "name", "state", "step", "last", "FTNS", "since", box=None, pad_edge=False)
    for run in runs:
        report = run["report"]
        step = f"{report['step']}/{report['steps']}" if report else "-"
        charged = format_ftns(run["charged_micro"])
        table.add_row(run["id"], run["name"], run["state"], step, _figures(report), charged, run["created_at"][:19])
    print_table(table)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's id.")],
    plot: Annotated[Path | None, typer.Option(help="Write its curves to this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, its reports included.")] = False,
) -> None:
    """One run: its recipe's facts, its last figures, what it cost, and its curves as a picture."""
    found = find_run(run)
    reports: list[dict[str, Any]] = context.client.call("GET", f"{RUNS}/{found['id']}/reports")
    if plot:
        # Imported here: matplotlib is of the extra ``train``, and takes a second.
        from prsm.teachers.training.curves import draw_reports

        draw_reports(reports, plot, found["name"])
        print(f"wrote {plot}")
        return
    if as_json:
        print(json.dumps(found | {"reports": reports}, indent=2))
        return
    _print(found, reports)


@app.command()
def follow(run: Annotated[str, typer.Argument(help="A run's id.")]) -> None:
    """Watch a run to its end."""
    follow_run(find_run(run)["id"])


@app.command()
def stop(run: Annotated[str, typer.Argument(help="A run's id.")]) -> None:
    """Have a run stop at the update at hand; it leaves a checkpoint."""
    found = context.client.call("POST", f"{RUNS}/{find_run(run)['id']}/stop")
    print(f"{found['name']} is {found['state']}" if found["state"] == "stopped" else f"{found['name']} stops")


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="A run's id.")],
    budget: Annotated[str, typer.Option(help="The most that it may cost in all, in FTNS; default: as before.")] = "",
) -> None:
    """Let a run that was stopped, or has failed, go on from its last checkpoint.

    Example, where its budget is used up: prsm train resume 0195 --budget 20
    """
    how = {"budget_micro": parse_ftns(budget)} if budget else None
    found = context.client.call("POST", f"{RUNS}/{find_run(run)['id']}/resume", how)
    print(f"{found['name']} is {found['state']}")


def find_run(given: str) -> dict[str, Any]:
    """A run by its id, or by the beginning or end of one that is among the newest."""
    if len(given) == 36:
        return context.client.call("GET", f"{RUNS}/{given}")
    newest: list[dict[str, Any]] = context.client.call("GET", RUNS)
    found = [run for run in newest if run["id"].startswith(given) or run["id"].endswith(given)]
    if len(found) != 1:
        raise ConfigError(f"{given!r} is not one run's id.", remedy="See: prsm train list.")
    return found[0]


def follow_run(run_id: str) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("queued", total=None)
        while True:
            run = context.client.call("GET", f"{RUNS}/{run_id}")
            report = run["report"]
            if report:
                progress.update(task, total=report["steps"], completed=report["step"])
            progress.update(task, description=f"{run['state']}  {_figures(report)}")
            if run["state"] not in ("queued", "running"):
                break
            time.sleep(_POLL_S)
    print(f"{run['name']} is {run['state']}; it cost {format_ftns(run['charged_micro'])} FTNS")
    if run["state"] != "done":
        raise PrsmError(run["reason"] or "It says no reason.", remedy=f"See: prsm train show {run_id}.")


def _figures(report: dict[str, Any]) -> str:
    """The figures of a report that most want to be seen."""
    named = [name for name in report if any(part in name for part in _TRIED)]
    shown = [f"{name} {report[name]:.4g}" for name in named[:4] if isinstance(report[name], int | float)]
    return "  ".join(shown) or "-"


def _print(run: dict[str, Any], reports: list[dict[str, Any]]) -> None:
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{run['name']}  {run['id']}\n{run['kind']}, {run['state']}  {run['reason']}".rstrip())
    console.print(f"started {run['starts']} times, since {(run['started_at'] or run['created_at'])[:19]}")
    console.print(f"cost {format_ftns(run['charged_micro'])} of {format_ftns(run['budget_micro'])} FTNS")
    for name in ("code", "parents", "data", "versions"):
        if run["facts"].get(name):
            console.print(f"{name}: {json.dumps(run['facts'][name])}")
    if not reports:
        console.print("no report yet")
        return
    names = [name for name in reports[-1] if isinstance(reports[-1][name], int | float)]
    table = Table(*names, box=None, pad_edge=False)
    every = max(len(reports) // 20, 1)
    for report in [*reports[:-1:every], reports[-1]]:
        table.add_row(*(f"{report[name]:.4g}" if report.get(name) is not None else "" for name in names))
    console.print(table)
