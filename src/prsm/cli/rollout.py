"""``prsm rollout``: try a candidate version on a share of a model's sessions, and read out what it shows."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.errors import ConfigError

app = typer.Typer(help="Trials of a candidate version: start, show, stop.", no_args_is_help=True)


@app.command()
def start(
    name: Annotated[str, typer.Argument(help="MODEL@VERSION, a registered version that some instance serves.")],
    share: Annotated[float, typer.Option(min=0, max=100, help="Per cent of the sessions that get it.")] = 5,
    shadow: Annotated[float, typer.Option(min=0, max=100, help="Per cent of requests copied to it, unseen.")] = 0,
    max_errors: Annotated[float, typer.Option(min=0, max=99, help="Points of per cent that errors may rise.")] = 2,
    max_slow: Annotated[float, typer.Option(min=0, max=99, help="Points that slow answers may rise.")] = 10,
    max_drop: Annotated[float, typer.Option(min=0, max=99, help="Points that ratings may fall.")] = 5,
    slow_ms: Annotated[int, typer.Option(min=1, max=600_000, help="An answer is slow from here on.")] = 5000,
) -> None:
    """Try a version on a share of the sessions; it is withdrawn by itself when it is certainly worse than allowed."""
    model, separator, version = name.rpartition("@")
    if not separator or not model or not version:
        raise ConfigError(f"{name!r} is not MODEL@VERSION.", remedy="See what is registered: prsm models show MODEL.")
    wanted = {
        "candidate": version,
        "share_bps": round(share * 100),
        "shadow_bps": round(shadow * 100),
        "error_increase": max_errors / 100,
        "slow_increase": max_slow / 100,
        "quality_drop": max_drop / 100,
        "slow_ms": slow_ms,
    }
    trial = context.client.call("PUT", _path(model), wanted)
    print(f"{share:g} % of the sessions of {model} get {version}; the others stay with {trial['stable']}")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="A model; none: all trials that run.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a trial shows so far, or showed: each metric of both versions, and the interval of their difference."""
    trials = context.client.call("GET", _path(model) if model else "/node/v1/rollouts")
    if as_json:
        print(json.dumps(trials, indent=2))
    elif not trials:
        print(f"no trial of {model} yet" if model else "no trial runs")
    for trial in () if as_json else trials:
        _print(trial)


@app.command()
def stop(model: str) -> None:
    """End a trial: every session gets the stable version again."""
    context.client.call("DELETE", _path(model))
    print(f"ended the trial of {model}")


def _path(model: str) -> str:
    return f"/node/v1/rollouts/{quote(model, safe='/:')}"


def _print(trial: dict[str, Any]) -> None:
    state = f"ended {trial['ended_at'][:19]}" if trial["ended_at"] else f"{trial['share_bps'] / 100:g} % of sessions"
    print(f"{trial['model']}: {trial['candidate']} beside {trial['stable']}, {state}")
    table = Table("metric", "stable", "of", "tried", "of", "difference, 95 %", box=None, pad_edge=False)
    for found in trial["comparisons"]:
        stable, tried = found["stable"], found["tried"]
        label = found["metric"] if found["arm"] == "candidate" else f"{found['metric']} ({found['arm']})"
        known = stable["count"] and tried["count"]
        between = f"{found['difference_low']:+.1%} to {found['difference_high']:+.1%}" if known else "not known yet"
        table.add_row(label, _share(stable), str(stable["count"]), _share(tried), str(tried["count"]), between)
    print_table(table)
    print(trial["verdict"])
    if preferred := trial["preferred"]:
        between = f"{preferred['low']:.1%} to {preferred['high']:.1%}, 95 %"
        print(f"A judge prefers the candidate in {_share(preferred)} of {preferred['count']} comparisons ({between}).")
    elif trial["judge"]:
        print(f"{trial['judge']} has compared no answers yet; it compares those of copies (--shadow).")
    elif not trial["ended_at"]:
        print("No judge is named: answers are not compared (set PRSM_JUDGE_MODEL to an instance).")


def _share(mean: dict[str, Any]) -> str:
    return f"{mean['mean']:.1%}" if mean["count"] else "-"
