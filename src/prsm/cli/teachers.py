"""``prsm train evaluate|publish|gate|decisions``: from a run's model to a version that answers and earns."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.cli.train import RUNS, find_run, follow_run
from prsm.core.errors import ConfigError, PrsmError
from prsm.core.money import BASIS_POINTS, parse_ftns

TRAINING = "/node/v1/training"
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def evaluate(
    subject: Annotated[str, typer.Argument(help="A run's id, MODEL@VERSION of a published teacher, or a folder.")],
    plan: Annotated[Path, typer.Option(help="What to ask, as TOML.")],
    budget: Annotated[str, typer.Option(help="The most it may cost, in FTNS.")] = "5",
) -> None:
    """Evaluate a teacher by a plan, as a run of its own; of a published one the result is kept.

    Example: prsm train evaluate RUN --plan plan.toml
    """
    model, _, version = subject.partition("@")
    folder, name = _folder(subject)
    _read(plan)  # what is no TOML is refused here, by its name
    recipe = f"teacher = {json.dumps(folder)}\n{plan.read_text(encoding='utf-8')}"
    wanted = {"kind": "evaluate", "name": name, "recipe": recipe, "budget_micro": parse_ftns(budget)}
    run = context.client.call("POST", RUNS, wanted)
    print(f"run {run['id']}")
    follow_run(run["id"])
    if version:
        kept = context.client.call("POST", f"{TRAINING}/evaluations", {"run": run["id"], "model": model})
        _print_scores(kept["scores"])
    else:
        print(f"publish with it: prsm train publish {subject} --evaluation {run['id']} ...")


def publish(
    run: Annotated[str, typer.Argument(help="The run that made the model.")],
    evaluation: Annotated[str, typer.Option(help="The run that evaluated it.")],
    model: Annotated[str, typer.Option(help="The registered model that it becomes a version of.")],
    purpose: Annotated[str, typer.Option(help="What it is for, in a sentence; found by search.")],
    domain: Annotated[str, typer.Option(help='What it answers, to stand after "answers only".')],
    title: Annotated[str, typer.Option(help="Its name for people; default: the model's.")] = "",
    licence: Annotated[str, typer.Option(help="As SPDX spells it.")] = "MIT",
    question: Annotated[list[str] | None, typer.Option(help='A form, as "What is {integer:3} + {integer:3}?"')] = None,
    parent: Annotated[list[str] | None, typer.Option(help="MODEL@VERSION=PERCENT of what it earns.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="What it cannot do, in a plain sentence.")] = None,
    price_in: Annotated[str, typer.Option(help="FTNS per million input tokens.")] = "20",
    price_out: Annotated[str, typer.Option(help="FTNS per million output tokens.")] = "60",
    as_json: _Json = False,
) -> None:
    """Publish what a run made: card, storage, signed version, instance. It answers once a gate has passed it."""
    wanted = {
        "run": find_run(run)["id"],
        "evaluation_run": find_run(evaluation)["id"],
        "model": model,
        "title": title or model,
        "purpose": purpose,
        "domain": domain,
        "licence": licence,
        "questions": question or [],
        "parents": [_parent(each) for each in parent or []],
        "limits": limit or [],
        "input_price_micro": parse_ftns(price_in),
        "output_price_micro": parse_ftns(price_out),
    }
    made = context.client.call("POST", f"{TRAINING}/publications", wanted)
    if as_json:
        print(json.dumps(made, indent=2))
        return
    print(f"published {made['model']}@{made['version']}, a draft, served as {made['instance']}\nweights {made['cid']}")
    print(f"next: prsm train gate {made['model']}@{made['version']}")


def gate(
    version: Annotated[str, typer.Argument(help="MODEL@VERSION that is to become stable.")],
    policy: Annotated[Path | None, typer.Option(help="A policy as TOML; default: the project's rule.")] = None,
    override: Annotated[str, typer.Option(help="Make it stable whatever is found; the reason is kept.")] = "",
    as_json: _Json = False,
) -> None:
    """Judge a version against the stable one, on the same held-out prompts; it takes its place where it passes.

    Example: prsm train gate sums@VERSION --policy strict.toml, with in it: live = ["error", "quality"]

    A trial of the two on live traffic (prsm rollout start) counts too: against what it certainly shows to be worse, and
    what the policy's "live" names must certainly be within the trial's limits.
    """
    model, _, label = version.partition("@")
    if not label:
        raise ConfigError(f"{version!r} is not MODEL@VERSION.", remedy="See: prsm models versions.")
    asked = {"model": model, "version": label, "policy": _read(policy) if policy else {}, "override_reason": override}
    decided = context.client.call("POST", f"{TRAINING}/gates", asked)
    if as_json:
        print(json.dumps(decided, indent=2))
    else:
        _print_decision(decided)
    if not decided["promoted"]:
        raise PrsmError(f"{version} was not promoted.", remedy=f"See: prsm train decisions {model}.")


def decisions(model: Annotated[str, typer.Argument(help="A model.")], as_json: _Json = False) -> None:
    """What gates decided of a model's versions, the newest first."""
    found = context.client.call("GET", f"{TRAINING}/gates/{quote(model, safe='')}")
    if as_json:
        print(json.dumps(found, indent=2))
    for each in () if as_json else found:
        _print_decision(each)


def _folder(subject: str) -> tuple[str, str]:
    """The folder of a run's model, of a published teacher, or a folder itself; and what to call its evaluation."""
    if Path(subject).is_dir():
        return str(Path(subject).absolute()), Path(subject).name
    home = context.settings.home
    if "@" in subject:
        model, _, version = subject.partition("@")
        return str(home / "published" / f"{model}-{version}"), f"evaluation of {subject}"
    run = find_run(subject)
    return str(home / "training" / run["id"] / "model"), f"evaluation of {run['name']}"


def _parent(given: str) -> dict[str, Any]:
    version, _, share = given.partition("=")
    try:
        return {"version": version, "share_bps": round(float(share or 0) * BASIS_POINTS / 100)}
    except ValueError:
        raise ConfigError(f"{given!r} is not MODEL@VERSION=PERCENT.") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} cannot be used: {error}.") from None


def _print_scores(scores: list[dict[str, Any]]) -> None:
    table = Table("task", "level", "right", "of", box=None, pad_edge=False)
    for score in scores:
        table.add_row(score["task"], str(score["level"]), str(score["right"]), str(score["count"]))
    print_table(table)


def _print_decision(decided: dict[str, Any]) -> None:
    console = Console(markup=False, highlight=False, soft_wrap=True)
    against = f"against {decided['against']}" if decided["against"] else "as the first version"
    word = "promoted" if decided["promoted"] else "refused"
    console.print(f"{decided['model']}@{decided['version']} {against}: {word} ({decided['at'][:19]})")
    for refusal in decided["decision"]["refusals"]:
        console.print(f"  not judged: {refusal['words']}")
    for criterion in decided["decision"]["criteria"]:
        console.print(f"  {'yes' if criterion['passed'] else 'NO '}  {criterion['words']}")
    if decided["override"]:
        console.print(f"  overridden by {decided['override']['who']}: {decided['override']['reason']}")
