"""The tests that are made for ``promtool test rules``, shown to the node's own evaluation: both must say the same."""

import re
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from prsm.monitoring.alerting.states import Alert, AlertPolicy, key_of, step
from prsm.monitoring.objectives.declared import Objectives
from prsm.monitoring.objectives.evaluation import findings
from prsm.monitoring.objectives.history import History
from prsm.monitoring.objectives.selector import Sample, Selector

BEGUN_S = 1_800_000_000.0
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NUMBER = r"-?\d[\d.]*(?:e[+-]?\d+)?"
_RUN = re.compile(rf"({_NUMBER})([+-])({_NUMBER})x(\d+)")


def seconds(text: str) -> int:
    return int(text[:-1]) * _UNITS_S[text[-1]]


def values(notation: str) -> list[float]:
    """promtool's ``a+bxn``: a, then n more, each b on."""
    found: list[float] = []
    for part in notation.split():
        match = _RUN.fullmatch(part)
        assert match, part
        start, by = float(match[1]), float(match[3]) * (1 if match[2] == "+" else -1)
        found += [start + by * turn for turn in range(int(match[4]) + 1)]
    return found


def shown(objectives: Objectives, test: dict[str, Any]) -> Iterator[tuple[str, int, int, int]]:
    """Of each expectation: the alert, when, how many should fire, and how many do in the node."""
    every_s = seconds(test["interval"])
    series = [(Selector.parse(each["series"]), values(each["values"])) for each in test["input_series"]]
    wanted = sorted(test["promql_expr_test"], key=lambda each: seconds(each["eval_time"]))
    history, alerts = History(objectives, BEGUN_S), dict[str, Alert]()
    turns = max(len(points) for _, points in series)
    for turn in range(turns):
        at_s = turn * every_s
        samples = [_sample(of, points[turn]) for of, points in series if turn < len(points)]
        history.add(samples, BEGUN_S + at_s)
        due = [each for each in wanted if seconds(each["eval_time"]) == at_s]
        if due or every_s < 60:
            alerts = _step(objectives, alerts, samples, history, BEGUN_S + at_s)
        for each in due:
            name = re.findall(r'alertname="(\w+)"', each["expr"])[0]
            firing = sum(one.state == "firing" and one.rule == name for one in alerts.values())
            yield name, at_s, each["exp_samples"][0]["value"] if each["exp_samples"] else 0, firing


def _step(
    objectives: Objectives, alerts: dict[str, Alert], samples: Sequence[Sample], history: History, now_s: float
) -> dict[str, Alert]:
    found = findings(objectives, samples, history, now_s)
    ids = {key_of(one.rule, one.labels): UUID(int=number) for number, one in enumerate(found)}
    after = step(alerts, found, ids, now_s, AlertPolicy())
    return {key: alert for key, alert in after.items() if alert.state != "resolved"}


def _sample(of: Selector, value: float) -> Sample:
    labels = {each.label: each.value for each in of.matchers if each.label not in ("instance", "job")}
    return Sample(of.metric, labels, value)
