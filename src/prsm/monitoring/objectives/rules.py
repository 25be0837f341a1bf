"""Prometheus' rules made of the objectives: recording rules of each window, burn-rate alerts, and levels. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from prsm.monitoring.objectives import promql
from prsm.monitoring.objectives.declared import AlertRule, Burn, Objectives, Slo

_ERRORS, _EVENTS, _LEFT = "prsm:slo_errors:share_rate", "prsm:slo_events:increase", "prsm:slo_budget:left"


def rules(objectives: Objectives) -> dict[str, Any]:
    """The whole file of rules: one group for each objective, one for levels, one for the node's being there at all."""
    groups = [_slo_group(slo, objectives) for slo in objectives.slos]
    levels = {"name": "prsm-levels", "rules": [_level(one) for one in objectives.alerts]}
    return {"groups": [*groups, levels, {"name": "prsm-node", "rules": [_NODE_DOWN]}]}


def alert_names(objectives: Objectives) -> set[str]:
    """What everything that the node may tell is called."""
    burns = {alert_name(slo, burn) for slo in objectives.slos for burn in objectives.burns}
    return burns | {rule.name for rule in objectives.alerts}


def alert_name(slo: Slo, burn: Burn) -> str:
    """What a burn-rate alert is called, here and in the node: ``AvailabilityBudgetBurn1h``."""
    words = "".join(word.capitalize() for word in slo.name.split("_"))
    return f"{words}BudgetBurn{promql.duration(burn.long_s)}"


def burn_summary(slo: Slo, burn: Burn) -> str:
    """One sentence of what such an alert means."""
    return (
        f"Over the last {promql.duration(burn.long_s)} and still over {promql.duration(burn.short_s)} the error budget "
        f"of {slo.name} is spent over {burn.factor:g} times too fast ({slo.objective * 100:g} % is to be good)."
    )


def written(document: Mapping[str, Any]) -> str:
    """YAML of what ``rules`` and ``rule_tests`` answer: maps, lists, texts and numbers, and nothing else."""
    return "\n".join(_lines(document, 0)) + "\n"


def _slo_group(slo: Slo, objectives: Objectives) -> dict[str, Any]:
    windows = sorted({window for burn in objectives.burns for window in (burn.long_s, burn.short_s)})
    recorded = [_record(_ERRORS, window, slo, promql.bad_share(slo, promql.duration(window))) for window in windows]
    counted = [
        _record(_EVENTS, window, slo, promql.events(slo, promql.duration(window)))
        for window in sorted({burn.long_s for burn in objectives.burns})
    ]
    spent = promql.bad_share(slo, promql.duration(objectives.budget_s))
    left = {"record": _LEFT, "expr": f"1 - ({spent}) / {slo.allowed:.6g}", "labels": {"slo": slo.name}}
    return {
        "name": f"prsm-slo-{slo.name}",
        "rules": [*recorded, *counted, left, *(_burn(slo, burn) for burn in objectives.burns)],
    }


def _record(name: str, window_s: int, slo: Slo, expression: str) -> dict[str, Any]:
    return {"record": f"{name}{promql.duration(window_s)}", "expr": expression, "labels": {"slo": slo.name}}


def _burn(slo: Slo, burn: Burn) -> dict[str, Any]:
    chosen, limit = f'{{slo="{slo.name}"}}', f"{burn.factor * slo.allowed:.6g}"
    long, short = promql.duration(burn.long_s), promql.duration(burn.short_s)
    return {
        "alert": alert_name(slo, burn),
        "expr": f"{_ERRORS}{long}{chosen} > {limit} and {_ERRORS}{short}{chosen} > {limit} "
        f"and {_EVENTS}{long}{chosen} >= {slo.min_events}",
        "labels": {"severity": burn.severity},
        "annotations": {"summary": burn_summary(slo, burn)},
    }


def _level(rule: AlertRule) -> dict[str, Any]:
    return {
        "alert": rule.name,
        "expr": promql.condition(rule.condition),
        "for": f"{rule.for_s}s",
        "labels": {"severity": rule.severity},
        "annotations": {"summary": rule.summary.replace("{", "{{ $labels.").replace("}", " }}")},
    }


_NODE_DOWN = {
    "alert": "NodeDown",
    "expr": 'up{job="prsm"} == 0',
    "for": "30s",
    "labels": {"severity": "page"},
    "annotations": {"summary": "The node at {{ $labels.instance }} is not there. Only Prometheus can tell."},
}


def _lines(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    lines: list[str] = []
    if isinstance(value, Mapping):
        for name, one in value.items():  # pyright: ignore[reportUnknownVariableType]
            lines += [f"{pad}{name}: {_plain(one)}"] if _is_plain(one) else [f"{pad}{name}:", *_lines(one, depth + 1)]
        return lines
    for one in value:
        if _is_plain(one):
            lines.append(f"{pad}- {_plain(one)}")
        else:
            first, *rest = _lines(one, depth + 1)
            lines += [f"{pad}- {first.lstrip()}", *rest]
    return lines


def _is_plain(value: Any) -> bool:
    return not isinstance(value, (Mapping, list)) or not value


def _plain(value: Any) -> str:
    # JSON's texts and numbers are YAML's too.
    return json.dumps(value)
