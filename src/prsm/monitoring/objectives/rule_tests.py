"""Tests of Prometheus' rules, for ``promtool test rules``: each rule shown what must fire it and what must not. Pure.

The series are made of the rules' own limits, so that a rule that is added is tested too.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from prsm.monitoring.objectives import promql
from prsm.monitoring.objectives.declared import (
    AlertRule,
    Burn,
    Condition,
    Forecast,
    Level,
    Objectives,
    Rate,
    Share,
    Slo,
)
from prsm.monitoring.objectives.rules import alert_name
from prsm.monitoring.objectives.selector import Selector

_STEP_S = 60
_SCRAPE_S = 15
_PER_STEP = 100
_MOST_SHOWN_S = 8 * 3600


def rule_tests(objectives: Objectives, rule_file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two files of tests: those of error budgets, over hours and so evaluated seldom, and those of levels."""
    burns = [test for slo in objectives.slos for test in _of_slo(slo, objectives.burns)]
    levels = [test for rule in objectives.alerts for test in _of_level(rule)]
    return (
        {"rule_files": [rule_file], "evaluation_interval": "5m", "tests": burns},
        {"rule_files": [rule_file], "evaluation_interval": f"{_SCRAPE_S}s", "tests": [*levels, _NODE_DOWN]},
    )


def _of_slo(slo: Slo, burns: Sequence[Burn]) -> list[dict[str, Any]]:
    tests = [_healthy(slo, burns)]
    for burn in burns:
        # Days are shown as hours: a share is the same over what there is. Then more of it must be bad, to outweigh
        # the time after it.
        shown_s = min(burn.long_s, _MOST_SHOWN_S)
        steps = shown_s // _STEP_S + 10
        begun, over = steps * _STEP_S, (steps + burn.short_s // _STEP_S + 10) * _STEP_S
        share = min(burn.factor * slo.allowed * (1.2 if shown_s == burn.long_s else 3), 1.0)
        series = _burning(slo, share, steps, (over - begun) // _STEP_S)
        name = alert_name(slo, burn)
        gentle = _burning(slo, burn.factor * slo.allowed * 0.8, steps, 0)
        tests += [
            {
                "name": f"{name}: burning, then mended",
                "interval": "1m",
                "input_series": series,
                # Mended: the long window still has all that was bad, the short one nothing.
                "promql_expr_test": [_fires(name, begun, 1), _fires(name, over, 0)],
            },
            {
                "name": f"{name}: below its factor",
                "interval": "1m",
                "input_series": gentle,
                "promql_expr_test": [_fires(name, begun, 0)],
            },
        ]
    return tests


def _healthy(slo: Slo, burns: Sequence[Burn]) -> dict[str, Any]:
    steps = burns[0].long_s // _STEP_S * 2
    return {
        "name": f"{slo.name}: nothing bad",
        "interval": "1m",
        "input_series": _burning(slo, 0, steps, 0),
        "promql_expr_test": [_fires(alert_name(slo, burn), steps * _STEP_S, 0) for burn in burns],
    }


def _burning(slo: Slo, share: float, steps: int, after: int) -> list[dict[str, Any]]:
    """``share`` of the events bad for so many steps, then none for ``after`` more."""
    bad = _PER_STEP * share
    parts = {str(each) for each in slo.part}
    rest = [each for each in slo.total if str(each) not in parts]
    series: list[dict[str, Any]] = []
    for number, each in enumerate(slo.part):
        per = (bad if slo.bad else _PER_STEP - bad) if number == 0 else 0.0
        later = 0.0 if slo.bad or number else float(_PER_STEP)
        series.append(_counter(each, per, steps, later, after))
    # What is among the parts counts already.
    missing = _PER_STEP - (bad if len(rest) < len(slo.total) else 0.0)
    series += [
        _counter(each, missing if number == 0 else 0.0, steps, float(_PER_STEP) if number == 0 else 0.0, after)
        for number, each in enumerate(rest)
    ]
    return series


def _counter(selector: Selector, per_step: float, steps: int, later: float, after: int) -> dict[str, Any]:
    values = f"0+{per_step:g}x{steps}"
    if after:
        start = per_step * steps + later
        values += f" {start:g}+{later:g}x{after - 1}"
    return {"series": _series(selector), "values": values}


def _of_level(rule: AlertRule) -> list[dict[str, Any]]:
    held = rule.for_s + 2 * _window_s(rule.condition)
    at_s = -(-(held + 120) // _SCRAPE_S) * _SCRAPE_S
    steps = at_s // _SCRAPE_S + 8
    return [
        {
            "name": f"{rule.name}: {'beyond its limit' if fires else 'within its limit'}",
            "interval": f"{_SCRAPE_S}s",
            "input_series": list(_levels(rule.condition, steps, fires=fires)),
            "promql_expr_test": [_fires(rule.name, at_s, int(fires))],
        }
        for fires in (True, False)
    ]


def _window_s(condition: Condition) -> int:
    return condition.window_s if isinstance(condition, Rate | Forecast) else 0


def _levels(condition: Condition, steps: int, *, fires: bool) -> Iterable[dict[str, Any]]:
    match condition:
        case Level():
            yield _flat(condition.value, _beyond(condition, 1, fires=fires), steps)
        case Share():
            yield _flat(condition.part, 1000 * _beyond(condition, 0.01, fires=fires), steps)
            yield _flat(condition.whole, 1000, steps)
        case Rate():
            per_step = condition.above * _SCRAPE_S * (2 if fires else 0.5)
            for each in condition.value:
                yield {"series": _series(each), "values": f"0+{per_step:g}x{steps}"}
            for each in condition.of:
                yield {"series": _series(each), "values": f"0+{per_step:g}x{steps}"}
        case Forecast():
            # From a tenth of the whole, down to nothing in half of the time that is looked ahead; or not at all.
            start, slope = 1e9, (1e9 / (condition.ahead_s / 2) * _SCRAPE_S if fires else 0.0)
            yield {"series": _series(condition.value), "values": f"{start:.0f}-{slope:.0f}x{steps}"}
            yield _flat(condition.whole, 1e10, steps)


def _beyond(condition: Level | Share, by: float, *, fires: bool) -> float:
    limit = condition.above if condition.above is not None else condition.below
    assert limit is not None
    outward = by if condition.above is not None else -by
    return limit + outward if fires else limit - (outward if isinstance(condition, Share) else 0)


def _flat(selector: Selector, value: float, steps: int) -> dict[str, Any]:
    return {"series": _series(selector), "values": f"{value:.6g}+0x{steps}"}


def _series(selector: Selector) -> str:
    """One series that the selector selects; of a regular expression's choices the first."""
    given = [f'{each.label}="{each.value.split("|")[0]}"' for each in selector.matchers]
    inside = ",".join([*given, 'instance="node"', 'job="prsm"'])
    return f"{selector.metric}{{{inside}}}"


def _fires(name: str, at_s: int, count: int) -> dict[str, Any]:
    chosen = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    samples = [{"labels": "{}", "value": count}] if count else []
    return {"expr": f"count({chosen})", "eval_time": promql.duration(at_s), "exp_samples": samples}


_NODE_DOWN = {
    "name": "NodeDown: not there for a minute",
    "interval": "15s",
    "input_series": [{"series": 'up{job="prsm",instance="node"}', "values": "1+0x4 0+0x12"}],
    "promql_expr_test": [_fires("NodeDown", 60, 0), _fires("NodeDown", 180, 1)],
}
