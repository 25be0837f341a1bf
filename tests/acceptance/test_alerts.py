"""A started node whose parts are really taken away: it tells of each, and that it is over; people answer by command."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import psutil
import pytest
from tests.support.outages import OUTAGES, Outage, World, outage_world, suffer, until_quiet
from tests.support.started_node import StartedNode, started_node

from prsm.monitoring.dashboards import dashboards, expressions
from prsm.monitoring.objectives.declared import shipped


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with outage_world(tmp_path_factory.mktemp("outages")) as made:
        yield made


@pytest.mark.timeout(900)
@pytest.mark.parametrize("outage", OUTAGES, ids=lambda one: one.what)
def test_each_outage_is_told_of_and_so_is_its_end(world: World, outage: Outage) -> None:
    if outage.rule == "DiskAlmostFull" and world.disk is None:
        pytest.skip("this process may not mount a disk in memory")
    suffer(world, outage, 200)


@pytest.mark.timeout(600)
def test_people_take_silence_and_try_by_command(world: World) -> None:
    node = world.node
    for rule in ("ErrorFlood", "UpstreamDown"):
        until_quiet(world, rule)
    silenced = node.cli("alerts", "silence", "ErrorFlood", "--reason", "a drill", "--for", "30m")
    assert silenced.returncode == 0, silenced.stderr
    with world.asking("up/fault-500"):
        deadline = time.monotonic() + 120
        while not {"ErrorFlood", "UpstreamDown"} <= {one["rule"] for one in firing(node)}:
            assert time.monotonic() < deadline, node.call("GET", "/node/v1/alerts")
            time.sleep(0.5)
        flood = next(one for one in firing(node) if one["rule"] == "ErrorFlood")
        assert flood["silenced_by"] == "operator: a drill"
        down = next(one for one in firing(node) if one["rule"] == "UpstreamDown")
        taken = node.cli("alerts", "ack", down["id"], "--note", "on it")
        assert "taken by operator" in taken.stdout, taken.stderr
        shown = node.cli("alerts", "list")
        assert "UpstreamDown" in shown.stdout
        assert "a drill" in shown.stdout
        status = node.cli("status", "--once")
        assert "firing" in status.stdout, status.stderr
    tried = node.cli("alerts", "test")
    assert (tried.returncode, tried.stdout) == (0, "log: delivered\n")
    silence = re.findall(r"\(([0-9a-f-]{36})\)", silenced.stdout)[0]
    assert node.cli("alerts", "lift", silence).returncode == 0
    assert node.cli("alerts", "ack", "no-such").returncode == 1
    assert node.cli("alerts", "silence", "--reason", "r", "--for", "soon").returncode == 2


def test_status_and_capacity_tell_users_less_than_admins(world: World) -> None:
    node = world.node
    _, user = node.new_client("reader")
    own = node.call("GET", "/node/v1/status", key=user)
    assert own["alerts"] is None
    assert own["money"]["node_balance_micro"] is None
    admins = node.call("GET", "/node/v1/status")
    assert admins["money"]["treasury_balance_micro"] is not None
    assert [each["name"] for each in admins["budgets"]] == [slo.name for slo in shipped().slos]
    room = node.call("GET", "/node/v1/capacity", key=user)
    assert {"disk of home", "memory", "database pool", "open files"} <= set(room["levels"])
    shown = json.loads(node.cli("status", "--json").stdout)
    assert shown["capacity"]["levels"].keys() >= room["levels"].keys()
    with pytest.raises(HTTPError, match="403"):
        node.call("GET", "/node/v1/alerts", key=user)


def test_everything_that_rules_and_dashboards_name_is_exported(world: World) -> None:
    exported = set(re.findall(r"^# TYPE (\w+) ", world.node.call("GET", "/metrics"), re.MULTILINE))
    exported = {re.sub(r"_total$", "", name) for name in exported}
    named = {each.family for each in shipped().selectors()}
    for dashboard in dashboards(shipped()).values():
        for expression in expressions(dashboard):
            found = re.findall(r"\bprsm_\w+", expression)
            named |= {re.sub(r"_(total|bucket|sum)$", "", name) for name in found}
    assert named - exported == set()


@pytest.mark.timeout(400)
def test_of_several_workers_one_evaluates_for_all_and_is_replaced(tmp_path: Path) -> None:
    with started_node(tmp_path, WORKERS=2) as node:
        until(lambda: all(node.call("GET", "/node/v1/alerts")["evaluated_at"] for _ in range(20)))
        assert all(node.call("GET", "/node/v1/status")["budgets"] for _ in range(20))
        until(lambda: node.metric("prsm_database_pool_max") == 20)
        leader = leading(node)
        psutil.Process(leader).send_signal(signal.SIGKILL)
        until(lambda: leading(node) not in (0, leader))
        before = node.call("GET", "/node/v1/alerts")["evaluated_at"]
        until(lambda: node.call("GET", "/node/v1/alerts")["evaluated_at"] > before)
        until(lambda: node.metric("prsm_database_pool_max") == 20)


def leading(node: StartedNode) -> int:
    """The pid of the worker that has the lock; 0 for none."""
    inode = (node.home / "monitoring" / "lock").stat().st_ino
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    children = {child.pid for child in psutil.Process(node.pid).children()}
    return next((int(p[4]) for p in held if p[5].endswith(f":{inode}") and int(p[4]) in children), 0)


def firing(node: StartedNode) -> list[dict[str, str]]:
    return [one for one in node.call("GET", "/node/v1/alerts")["alerts"] if one["state"] == "firing"]


def until(holds: object, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.3)
