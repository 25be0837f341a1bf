"""How models do, as an operator sees it: over HTTP, in the metrics, by the command; and a stop that lets calls end."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tests.support.started_node import StartedNode, started_node, upstream_server
from tests.support.upstream import UpstreamServer

SETTINGS: dict[str, str | int] = {
    "SLA_FIRST_TOKEN_MS": 5000,
    "SLA_MODELS": "slow-first-byte=9900/1/0",
    "PROBE_IDLE_S": 1,
    "PROBE_PER_MINUTE": 600,
    "RETRY_ATTEMPTS": 1,
    "SHUTDOWN_GRACE_S": 20,
}


@pytest.fixture(scope="module")
def up() -> Iterator[UpstreamServer]:
    with upstream_server() as server:
        yield server


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, up: UpstreamServer) -> Iterator[StartedNode]:
    with started_node(tmp_path_factory.mktemp("watched"), **SETTINGS) as node:
        node.add_provider("up", f"{up.origin}/v1")
        node.add_provider("gone", "http://127.0.0.1:9/v1")
        for model in ("up/instant-50", "up/fault-503", "up/slow-first-byte", "gone/nobody"):
            node.add_model(model)
        yield node


def ask(node: StartedNode, model: str, *, stream: bool = False) -> str:
    """The raw answer."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "one two three"}]}
    headers = {"authorization": f"Bearer {node.key}", "content-type": "application/json"}
    request = Request(f"{node.url}/v1/chat/completions", json.dumps(body).encode(), headers, method="POST")
    with urlopen(request, timeout=60) as response:
        return response.read().decode()


def liveness(node: StartedNode, model: str) -> dict[str, Any]:
    (found,) = node.call("GET", f"/node/v1/liveness?model={model}")["models"]
    return found


def test_what_was_asked_is_shown_with_its_figures_and_what_was_not_is_not(watched: StartedNode) -> None:
    for _ in range(3):
        ask(watched, "up/instant-50", stream=True)
        ask(watched, "up/instant-50")
    found = liveness(watched, "instant-50")
    (instance,) = found["instances"]
    for each in (found, instance):
        assert each["availability"] == 1
        assert 5.5 < each["calls"] <= 6
        assert each["in_flight"] == 0
        assert each["first_token_ms"]["p50"] <= each["first_token_ms"]["p99"]
        assert each["tokens_per_s"]["p50"] > 0
        assert each["last_call_s_ago"] < 60
    assert (instance["name"], instance["state"], instance["weight"]) == ("up/instant-50", "live", 1)
    assert [each["name"] for each in found["sla"]["objectives"]] == ["availability", "first token"]
    assert (found["sla"]["breached"], found["sla"]["objectives"][0]["budget_left"]) == (False, 1)
    assert watched.call("GET", "/node/v1/liveness?model=never-asked")["models"] == []


def test_failures_are_shown_by_class_and_a_breach_says_why(watched: StartedNode) -> None:
    for _ in range(4):
        with pytest.raises(HTTPError):
            ask(watched, "up/fault-503")
    found = liveness(watched, "fault-503")
    assert found["availability"] == 0
    assert list(found["errors"]) == ["server_error"]
    assert found["last_error"] == "server_error"
    assert found["last_answer_s_ago"] is None
    for _ in range(20):
        ask(watched, "up/slow-first-byte", stream=True)
    sla = liveness(watched, "slow-first-byte")["sla"]
    assert (sla["breached"], sla["urgent"]) == (True, True)
    assert sla["sentence"].startswith("Of slow-first-byte's answers 0.0% begin within 1 ms, 95.0% are to")


def test_the_metrics_have_it(watched: StartedNode) -> None:
    ask(watched, "up/instant-50")
    assert watched.metric("prsm_instance_in_flight", model="up/instant-50") == 0
    assert watched.metric("prsm_instance_availability", model="up/instant-50") == 1
    assert watched.metric("prsm_instance_ejected", model="up/instant-50") == 0


def test_the_command_shows_a_table_that_a_person_can_read(watched: StartedNode) -> None:
    ask(watched, "up/instant-50", stream=True)
    shown = watched.cli("models", "health")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split() == [
        "model", "state", "answered", "first", "token", "p50/p95", "tokens/s", "in", "flight", "budget", "left",
        "last", "call",
    ]  # fmt: skip
    row = next(line for line in lines if line.startswith("  up/instant-50"))
    assert row.split()[1:3] == ["live", "100.0%"]
    one = watched.cli("models", "health", "instant-50", "--json")
    assert [model["model"] for model in json.loads(one.stdout)["models"]] == ["instant-50"]
    assert "never-asked was not asked" in watched.cli("models", "health", "never-asked").stdout


def test_calls_are_spread_over_the_instances_of_a_model_and_one_that_is_away_costs_no_request(
    watched: StartedNode, up: UpstreamServer
) -> None:
    for provider in ("one", "two"):
        watched.add_provider(provider, f"{up.origin}/v1")
        watched.add_model(f"{provider}/instant")
    watched.add_model("gone/instant")
    for _ in range(60):
        assert "forty-two" in ask(watched, "instant")
    found = {each["name"]: each for each in liveness(watched, "instant")["instances"]}
    assert min(found[name]["calls"] for name in ("one/instant", "two/instant")) > 5
    assert found["gone/instant"]["calls"] < 30
    assert found["gone/instant"]["state"] in ("ejected", "resting", "live")
    assert all(found[name]["availability"] == 1 for name in ("one/instant", "two/instant"))


def test_a_provider_that_is_away_is_found_by_probes_that_nobody_pays(watched: StartedNode, up: UpstreamServer) -> None:
    before = watched.wallet()
    wait = threading.Event()
    for _ in range(200):
        models = {one["model"]: one for one in watched.call("GET", "/node/v1/liveness")["models"]}
        if "nobody" in models and any(path.endswith("/models") for path in up.paths):
            break
        wait.wait(0.1)
    found = models["nobody"]
    assert list(found["errors"]) == ["unreachable"]
    assert found["sla"]["objectives"][0]["events"] == 0
    probes = watched.call("GET", "/node/v1/liveness")["probes"]
    assert (probes["per_minute"], probes["chat"]) == (600, False)
    assert probes["answered"] > 0
    assert probes["failed"] > 0
    assert watched.wallet() == before


def test_a_stop_lets_a_call_under_way_end_and_takes_no_new_one(tmp_path: Path) -> None:
    with upstream_server() as up, started_node(tmp_path, **SETTINGS | {"PROBE_PER_MINUTE": 0}) as node:
        node.add_provider("up", f"{up.origin}/v1")
        node.add_model("up/slow-first-byte")
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(ask(node, "up/slow-first-byte")))
        asking.start()
        wait = threading.Event()
        while not up.requests:
            wait.wait(0.001)
        assert node.stop(signal.SIGTERM) == 0
        asking.join(30)
        assert [json.loads(answer)["choices"][0]["message"]["content"] for answer in answers] == ["one two three"]
        assert len(up.requests) == 1
        with pytest.raises(OSError):
            ask(node, "up/slow-first-byte")
