"""Grafana's dashboards: Prometheus reads every expression; what they name a node exports (see acceptance)."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from prsm.monitoring.dashboards import dashboards, expressions
from prsm.monitoring.objectives.declared import shipped
from prsm.monitoring.objectives.rules import rules, written

ALL = dashboards(shipped())
PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    recorded = [
        {"record": f"r{number}", "expr": expr}
        for number, expr in enumerate(expr for dashboard in ALL.values() for expr in expressions(dashboard))
    ]
    path = tmp_path / "expressions.yml"
    path.write_text(written({"groups": [{"name": "dashboards", "rules": recorded}]}))
    checked = subprocess.run([PROMTOOL, "check", "rules", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(recorded)} rules found" in checked.stdout


@pytest.mark.parametrize("name", ALL)
def test_a_dashboard_is_json_whose_panels_have_ids_and_places_of_their_own(name: str) -> None:
    dashboard = json.loads(json.dumps(ALL[name]))
    ids = [panel["id"] for panel in dashboard["panels"]]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) == len(set(places))
    assert all(panel["targets"] for panel in dashboard["panels"])


def test_recorded_series_that_they_name_are_recorded() -> None:
    recorded = {rule["record"] for group in rules(shipped())["groups"] for rule in group["rules"] if "record" in rule}
    named = {
        part.split("{")[0]
        for dashboard in ALL.values()
        for expr in expressions(dashboard)
        for part in expr.split()
        if part.startswith("prsm:")
    }
    assert named
    assert named <= recorded
