"""One file of objectives, two evaluations: Prometheus' own program and the node judge the same shows alike."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.rule_shows import shown, values

from prsm.monitoring.objectives import promql
from prsm.monitoring.objectives.declared import Level, of_condition, shipped
from prsm.monitoring.objectives.rule_tests import rule_tests
from prsm.monitoring.objectives.rules import alert_name, rules, written
from prsm.monitoring.objectives.selector import Selector

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=280)


def files(folder: Path) -> tuple[Path, Path, Path]:
    """The rules, and the tests of budgets and of levels."""
    burns, levels = rule_tests(shipped(), "rules.yml")
    for name, document in (("rules", rules(shipped())), ("burns", burns), ("levels", levels)):
        (folder / f"{name}.yml").write_text(written(document), encoding="utf-8")
    return folder / "rules.yml", folder / "burns.yml", folder / "levels.yml"


@needs_promtool
def test_prometheus_takes_the_rules_and_they_pass_their_tests(tmp_path: Path) -> None:
    made, burns, levels = files(tmp_path)
    checked = run("check", "rules", made)
    assert checked.returncode == 0, checked.stderr
    tested = run("test", "rules", burns, levels)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ("PostgresDown", "prsm_postgres_up < 1", "prsm_postgres_up < 0"),
        ("OutboxLag", 'for: "30s"', 'for: "90m"'),
        ("DiskFilling", "prsm_disk_free_bytes[1h], 14400) < 0", "prsm_disk_free_bytes[1h], 14400) > 0"),
        ("ErrorFlood", "> 0.2", "> 20"),
    ],
)
def test_a_rule_that_is_wrong_fails_them(tmp_path: Path, rule: str, right: str, wrong: str) -> None:
    made, *_ = files(tmp_path)
    _, levels = rule_tests(shipped(), "rules.yml")
    levels["tests"] = [test for test in levels["tests"] if test["name"].startswith(f"{rule}:")]
    own = tmp_path / "own.yml"
    own.write_text(written(levels), encoding="utf-8")
    text = made.read_text()
    assert right in text
    for rules_text, passes in ((text, True), (text.replace(right, wrong), False)):
        made.write_text(rules_text)
        assert (run("test", "rules", own).returncode == 0) is passes


def test_every_rule_and_every_objective_is_shown_what_fires_it_and_what_does_not() -> None:
    burns, levels = rule_tests(shipped(), "rules.yml")
    wanted: dict[str, set[int]] = {}
    for test in [*burns["tests"], *levels["tests"]]:
        for each in test["promql_expr_test"]:
            name = each["expr"].split('"')[1]
            wanted.setdefault(name, set()).add(len(each["exp_samples"]))
    names = {alert_name(slo, burn) for slo in shipped().slos for burn in shipped().burns}
    names |= {rule.name for rule in shipped().alerts} | {"NodeDown"}
    assert wanted == {name: {0, 1} for name in names}


@pytest.mark.parametrize("test", rule_tests(shipped(), "r")[0]["tests"], ids=lambda test: test["name"])
def test_the_node_judges_budgets_as_prometheus_does(test: dict[str, object]) -> None:
    found = list(shown(shipped(), test))
    assert found
    assert [each for each in found if each[2] != each[3]] == []


@pytest.mark.parametrize("test", rule_tests(shipped(), "r")[1]["tests"][:-1], ids=lambda test: test["name"])
def test_the_node_judges_levels_as_prometheus_does(test: dict[str, object]) -> None:
    found = list(shown(shipped(), test))
    assert found
    assert [each for each in found if each[2] != each[3]] == []


def test_the_notation_of_series_is_read_as_promtool_reads_it() -> None:
    assert values("0+10x2 5+0x1") == [0, 10, 20, 5, 5]
    assert values("1e+09-5x2") == [1e9, 1e9 - 5, 1e9 - 10]


def test_durations_and_sums_are_written_as_prometheus_reads_them() -> None:
    assert [promql.duration(each) for each in (5, 60, 90, 3600, 5400, 259_200)] == [
        "5s",
        "1m",
        "90s",
        "1h",
        "90m",
        "3d",
    ]
    assert promql.condition(Level(Selector.parse('a{b="c"}'), above=2)) == 'a{b="c"} > 2'


def test_what_was_never_counted_is_zero_and_not_nothing() -> None:
    availability = shipped().slos[0]
    assert "or 0 * sum by (instance) (rate(prsm_requests_total[5m]))" in promql.bad_share(availability, "5m")


def test_every_selector_of_a_condition_is_among_those_that_are_read() -> None:
    read = set(shipped().selectors())
    assert all(each in read for rule in shipped().alerts for each in of_condition(rule.condition))
