"""``prsm models``, of registered models: versions, releases, their history, and two of them side by side."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.table import Table
from rich.text import Text

from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.errors import ConfigError, PrsmError
from prsm.core.money import format_ftns

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option(help="Why; it stands in the history.")]
_Reference = Annotated[str, typer.Argument(help="MODEL@VERSION or MODEL@ALIAS; MODEL alone is its stable version.")]
_REGISTRY = "/node/v1/registry"
_PPM = 1_000_000


def register(
    name: Annotated[str, typer.Argument(help="MODEL@VERSION, a label that was never used.")],
    capability: Annotated[list[str] | None, typer.Option(help="chat, tools, vision, embeddings.")] = None,
    context_tokens: Annotated[int, typer.Option(help="Context window.")] = 128_000,
    cid: Annotated[str, typer.Option(help="CID of the weights; none where a provider has them.")] = "",
    parent: Annotated[list[str] | None, typer.Option(help="MODEL@VERSION, or with its royalty: ...=PERCENT.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="What it was trained on: a CID, a URL or a name.")] = None,
    training_run: Annotated[str, typer.Option(help="The run that made it.")] = "",
    licence: Annotated[str, typer.Option(help="As SPDX spells it.")] = "",
    score: Annotated[list[str] | None, typer.Option(help="EVALUATION:METRIC=VALUE or ...=VALUE:ITEMS.")] = None,
    description: Annotated[str, typer.Option(help="What it is good at.")] = "",
    state: Annotated[str, typer.Option(help="draft, candidate or live.")] = "draft",
    reason: Reason = "",
) -> None:
    """Register a version; this node signs it. A version never changes afterwards."""
    model, version = _split(name)
    body = {
        "model": model,
        "version": version,
        "capabilities": capability or ["chat"],
        "context_tokens": context_tokens,
        "weights_cid": cid,
        "parents": [_parent(each) for each in parent or []],
        "data": data or [],
        "training_run": training_run,
        "licence": licence,
        "scores": [_score(each) for each in score or []],
        "description": description,
        "state": state,
        "reason": reason,
    }
    made = context.client.call("POST", f"{_REGISTRY}/versions", body)
    print(f"registered {name} as {made['state']}, digest {made['digest']}")


def show(name: _Reference, as_json: AsJson = False) -> None:
    """Show a version: its statement, where it stands, what it was made from, how it was evaluated.

    Of an instance whose version is not registered: what the node offers it for.
    """
    try:
        found = context.client.call("GET", f"{_REGISTRY}/versions/{_path(name)}")
    except PrsmError as error:
        if error.code != "unknown_version":
            raise
        _show_instance(name, error, as_json)
        return
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = {
        "version": f"{found['model']}@{found['version']}",
        "state": _state(found),
        "called": ", ".join(found["names"]),
        "served by": ", ".join(found["instances"]),
        "weights": found["weights_cid"],
        "licence": found["licence"],
        "can": " ".join(found["capabilities"]),
        "context": f"{found['context_tokens']} tokens",
        "takes, gives": f"{' '.join(found['input_modalities'])}, {' '.join(found['output_modalities'])}",
        "trained on": ", ".join(found["data"]),
        "training run": found["training_run"],
        "made from": ", ".join(f"{a['model']}@{a['version']}" for a in reversed(found["lineage"])),
        "royalties": ", ".join(f"{r['account']} {r['bps'] / 100:g} %" for r in found["royalties"]),
        "owner": found["owner_account"],
        "publisher": found["publisher"],
        "digest": found["digest"],
        "description": found["description"],
    }
    _print({label: value for label, value in rows.items() if value}.items())
    if found["scores"]:
        _print(
            [(s["evaluation"], s["metric"], _value(s["value_ppm"]), str(s["items"] or "")) for s in found["scores"]],
            "evaluation", "metric", "value", "items",
        )  # fmt: skip


def _show_instance(name: str, unknown: PrsmError, as_json: bool) -> None:
    instances = {each["id"]: each for each in context.client.call("GET", "/v1/models")["data"]}
    if name not in instances:
        raise unknown
    more = instances[name]["prsm"]
    if as_json:
        print(json.dumps(instances[name], indent=2))
        return
    version = f"{more['model']}@{more['version'] or 'stable'}"
    rows = {
        "instance": name,
        "serves": version,
        "can": " ".join(more["capabilities"]),
        "licence": more["licence"],
        "region": more["region"],
        "in FTNS/M": format_ftns(more["input_price_micro_per_mtok"]),
        "out FTNS/M": format_ftns(more["output_price_micro_per_mtok"]),
    }
    _print({label: value for label, value in rows.items() if value}.items())


def versions(model: str, as_json: AsJson = False) -> None:
    """List the versions of a model, newest first, with what its names mean."""
    found = context.client.call("GET", f"{_REGISTRY}/models/{_path(model)}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    release = found["release"]
    names = {"stable": release["stable"], "candidate": release["candidate"], **release["aliases"]}
    _print(
        [
            (
                each["version"],
                _state(each),
                " ".join(name for name, meant in names.items() if meant == each["version"]),
                " ".join(each["instances"]),
            )
            for each in found["versions"]
        ],
        "version", "state", "called", "served by",
    )  # fmt: skip


def promote(
    name: Annotated[str, typer.Argument(help="MODEL (its candidate) or MODEL@VERSION.")], reason: Reason = ""
) -> None:
    """Make a version stable: from now on MODEL means it. What was stable answers those who name it."""
    model, _, version = name.partition("@")
    body = {"model": model, "version": version, "reason": reason}
    release = context.client.call("POST", f"{_REGISTRY}/promotions", body)
    before = f" after {release['former'][-1]}; back by: prsm models rollback {model}" if release["former"] else ""
    print(f"{model} is {release['stable']} now{before}")


def rollback(model: str, reason: Reason = "") -> None:
    """Go back to the former stable version, at once; what was stable is deprecated."""
    release = context.client.call("GET", f"{_REGISTRY}/models/{_path(model)}")["release"]
    body = {"model": model, "away_from": release["stable"], "reason": reason}
    after = context.client.call("POST", f"{_REGISTRY}/rollbacks", body)
    print(f"{model} is {after['stable']} again, {release['stable']} is deprecated")


def candidate(name: _Reference, reason: Reason = "") -> None:
    """Make a draft the model's candidate: MODEL@candidate means it; a trial gives it a share (prsm rollout)."""
    _move(name, {"state": "candidate", "reason": reason})


def deprecate(
    name: _Reference,
    until: Annotated[str, typer.Option(help="When it retires by itself, as 2027-01-31 or with a time.")] = "",
    reason: Reason = "",
) -> None:
    """Tell callers that a version ends; it answers on, until its day if it has one."""
    _move(name, {"state": "deprecated", "reason": reason} | ({"retire_at": _day(until)} if until else {}))


def retire(name: _Reference, reason: Reason = "") -> None:
    """End a version that is deprecated (or never went live): it answers nobody any more."""
    _move(name, {"state": "retired", "reason": reason})


def alias(
    name: Annotated[str, typer.Argument(help="MODEL@ALIAS, the new name.")],
    version: Annotated[str, typer.Argument(help="The version that it means; none: take it away.")] = "",
    reason: Reason = "",
) -> None:
    """Let another name mean a version of a model."""
    model, word = _split(name)
    body = {"alias": word, "version": version, "reason": reason}
    context.client.call("PUT", f"{_REGISTRY}/aliases/{_path(model)}", body)
    print(f"{name} means {version}" if version else f"{name} means nothing any more")


def limits(
    name: _Reference,
    availability: Annotated[float | None, typer.Option(min=0, max=100, help="Per cent answered at least.")] = None,
    errors: Annotated[float | None, typer.Option(min=0, max=100, help="Per cent of errors at most.")] = None,
    quality: Annotated[float | None, typer.Option(min=0, max=100, help="Per cent of good ratings at least.")] = None,
    least_requests: Annotated[int, typer.Option(min=1, help="Requests before these are judged.")] = 100,
    reason: Reason = "",
) -> None:
    """Declare what a version is deprecated for breaking; what is not said is not asked."""
    asked = {"availability_bps": availability, "error_bps": errors, "quality_bps": quality}
    body: dict[str, Any] = {"least_requests": least_requests, "reason": reason}
    body |= {field: None if value is None else round(value * 100) for field, value in asked.items()}
    context.client.call("PUT", f"{_REGISTRY}/limits/{_path(name)}", body)
    print(f"limits of {name} are set")


def history(
    model: str,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """What became of a model, newest first: who did what, when and why."""
    found = context.client.call("GET", f"{_REGISTRY}/history/{_path(model)}?limit={limit}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print(f"Nothing ever became of a model {model} here.")
        return
    _print(
        [(each["at"][:19], each["action"], each["version"], each["by"], each["reason"]) for each in found],
        "when (UTC)", "what", "version", "by", "why",
    )  # fmt: skip


def compare(
    left: Annotated[str, typer.Argument(help="MODEL, MODEL@VERSION or PROVIDER/MODEL.")],
    right: Annotated[str, typer.Argument(help="The other.")],
    as_json: AsJson = False,
) -> None:
    """Two models or versions side by side: prices, context, licence, scores, and how they do now."""
    found = context.client.call("GET", f"{_REGISTRY}/compare?{urlencode({'left': left, 'right': right})}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    sides = found["left"], found["right"]
    rows = [
        ("version", *(f"{side['model']}@{side['version']}" for side in sides)),
        ("state", *(side["state"] for side in sides)),
        ("licence", *(side["licence"] or "?" for side in sides)),
        ("context", *(str(side["context_tokens"]) for side in sides)),
        ("can", *(" ".join(side["capabilities"]) for side in sides)),
        ("in, out FTNS/M", *(_offers(side, _prices) for side in sides)),
        ("answers now", *(_offers(side, _health) for side in sides)),
    ]
    scores = [
        (f"{s['evaluation']} {s['metric']}", _value(s["left_ppm"]), _value(s["right_ppm"])) for s in found["scores"]
    ]
    _print([*rows, *scores], "", left, right)


def _move(name: str, body: dict[str, Any]) -> None:
    found = context.client.call("PUT", f"{_REGISTRY}/states/{_path(name)}", body)
    print(f"{found['model']}@{found['version']} is {_state(found)}")


def _split(name: str) -> tuple[str, str]:
    model, _, label = name.partition("@")
    if not model or not label:
        raise ConfigError(f"{name!r} is not MODEL@VERSION.", remedy="Write it like arithmetic@2026-06.")
    return model, label


def _path(name: str) -> str:
    return quote(name, safe="/:@")


def _state(found: dict[str, Any]) -> str:
    return found["state"] + (f" until {found['retire_at'][:16]}" if found["retire_at"] else "")


def _parent(text: str) -> dict[str, Any]:
    name, _, percent = text.partition("=")
    model, version = _split(name)
    return {"model": model, "version": version, "share_bps": round(_number(percent or "0", text) * 100)}


def _score(text: str) -> dict[str, Any]:
    what, separator, value = text.rpartition("=")
    evaluation, colon, metric = what.rpartition(":")
    if not separator or not colon:
        raise ConfigError(
            f"{text!r} is not EVALUATION:METRIC=VALUE.", remedy="Write it like gsm8k:exact_match=0.81:1319."
        )
    number, _, count = value.partition(":")
    value_ppm, items = round(_number(number, text) * _PPM), int(_number(count or "0", text))
    return {"evaluation": evaluation, "metric": metric, "value_ppm": value_ppm, "items": items}


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{text!r} in {what!r} is not a number.") from None


def _day(text: str) -> str:
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a date.", remedy="Write it like 2027-01-31.") from None
    return (day if day.tzinfo else day.replace(tzinfo=UTC)).isoformat()


def _offers(side: dict[str, Any], told: Any) -> str:
    return "\n".join(f"{offer['instance']}: {told(offer)}" for offer in side["instances"]) or "served by nobody"


def _prices(offer: dict[str, Any]) -> str:
    return f"{format_ftns(offer['input_price_micro'])}, {format_ftns(offer['output_price_micro'])}"


def _health(offer: dict[str, Any]) -> str:
    told = ["resting"] if offer["resting"] else []
    told += [] if offer["availability"] is None else [f"{offer['availability'] * 100:.2f} %"]
    told += [] if offer["first_token_ms"] is None else [f"{offer['first_token_ms']:.0f} ms to the first token"]
    told += [] if offer["tokens_per_s"] is None else [f"{offer['tokens_per_s']:.0f} tokens/s"]
    return ", ".join(told) or "not asked lately"


def _value(value_ppm: int | None) -> str:
    return "" if value_ppm is None else f"{value_ppm / _PPM:g}"


def _print(rows: Any, *columns: str) -> None:
    table = Table(*(columns or ("", "")), box=None, pad_edge=False, show_header=bool(columns))
    for row in rows:
        table.add_row(*map(Text, row))  # what others wrote is no markup
    print_table(table)
