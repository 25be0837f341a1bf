"""Who pays what when something ends early: clients that leave, upstreams that break off, models that rest."""

import http.client
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai
import pytest
from openai import OpenAI
from tests.support.started_node import StartedNode, started_node
from tests.support.upstream import UpstreamServer


def sdk(node: StartedNode) -> OpenAI:
    return OpenAI(base_url=node.base_url, api_key=node.key, max_retries=0)


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def until(holds: Callable[[], Any], timeout_s: float = 15) -> Any:
    """Wait for what follows a client's leaving; answers the first value that is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := holds()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return value


def ask_raw(node: StartedNode, **headers: str) -> http.client.HTTPResponse:
    """Ask the model that never ends for a stream."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
    body = json.dumps({"model": "up/hold", "messages": say("one two three"), "stream": True})
    # ``close``: the response then owns the socket, and closing it closes that.
    sent = {"authorization": f"Bearer {node.key}", "connection": "close", **headers}
    connection.request("POST", "/v1/chat/completions", body, sent)
    return connection.getresponse()


def leave_after_first_piece(node: StartedNode, **headers: str) -> str:
    """Ask, read until the first word, go away; answers the request's id."""
    with ask_raw(node, **headers) as response:
        while b'"content":"one ' not in response.readline():
            pass
        return response.headers["x-request-id"]


def stored(node: StartedNode, receipt_id: str) -> dict[str, Any] | None:
    try:
        return node.receipt(receipt_id)
    except OSError:
        return None


def test_who_leaves_midway_pays_for_what_came(node: StartedNode, upstream: UpstreamServer) -> None:
    before = node.wallet()
    open_before = len(upstream.connections)
    receipt_id = leave_after_first_piece(node)
    receipt = until(lambda: stored(node, receipt_id))
    assert receipt["completed"] is False
    assert receipt["usage"]["metered_by"] == "node"
    cost = receipt["amounts"]["captured_micro"]
    assert 0 < cost < receipt["amounts"]["held_micro"]
    after = node.wallet()
    assert before["balance_micro"] - after["balance_micro"] == cost
    assert after["held_micro"] == 0
    until(lambda: len(upstream.connections) <= open_before)


def test_who_left_midway_gets_no_half_answer_for_a_whole_one(node: StartedNode) -> None:
    """A retry under the same Idempotency-Key must show that the answer is not whole; it pays nothing more."""
    named = {"idempotency-key": f"left-{uuid4()}"}
    receipt_id = leave_after_first_piece(node, **named)
    until(lambda: stored(node, receipt_id))
    before = node.wallet()["balance_micro"]
    with ask_raw(node, **named) as response:
        replayed = response.read().decode()
    assert response.headers["idempotent-replayed"] == "true"
    assert response.headers["x-request-id"] == receipt_id
    assert '"content":"one ' in replayed
    events = [line.removeprefix("data: ") for line in replayed.splitlines() if line]
    assert json.loads(events[-2])["error"]["code"] == "client_left"
    assert 'finish_reason":"' not in replayed
    assert node.wallet()["balance_micro"] == before


def test_who_reads_too_slowly_pays_the_input_too_and_the_model_is_not_blamed(
    tmp_path: Path, upstream: UpstreamServer
) -> None:
    text = " ".join(["a" * 20_000] * 190)
    body = json.dumps({"model": "up/echo", "messages": say(text), "stream": True, "max_tokens": 9})
    with started_node(tmp_path, REQUEST_TIMEOUT_S=2, SCREENING="off") as node:
        node.add_provider("up", f"{upstream.origin}/v1")
        node.add_model("up/echo", price_in=100_000, price_out=0, context_tokens=1_000_000)
        connection = http.client.HTTPConnection("127.0.0.1", node.port)
        connection.sock = socket.socket()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sock.settimeout(60)
        connection.sock.connect(("127.0.0.1", node.port))
        sent = {"authorization": f"Bearer {node.key}", "connection": "close"}
        connection.request("POST", "/v1/chat/completions", body, sent)
        with connection.getresponse() as response:
            assert response.status == 200, response.read()
            time.sleep(3)
            last = [line for line in response.read().splitlines() if line][-2]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "client_too_slow"
        receipt = until(lambda: stored(node, response.headers["x-request-id"]))
        assert (receipt["completed"], receipt["usage"]["input_tokens"]) == (False, -(-len(body) // 4))
        assert receipt["amounts"]["captured_micro"] == -(-len(body) // 40)
        assert node.metric("prsm_upstream_errors_total", model="up/echo") is None
        assert node.metric("prsm_breaker_state", model="up/echo") in (None, 0)


@pytest.mark.parametrize("fault", ["cut-mid-stream", "end-early", "error-mid-stream"])
def test_an_answer_that_breaks_off_costs_what_was_delivered(node: StartedNode, fault: str) -> None:
    """At 900 micro-FTNS a token of output, and nothing for the input; ``error-mid-stream`` delivers nothing."""
    node.add_model(f"up/{fault}", price_in=900_000_000, price_out=900_000_000)
    before = node.wallet()
    text: list[str] = []

    def read() -> None:
        for chunk in sdk(node).chat.completions.create(
            model=f"up/{fault}", messages=say("one two three four five six"), stream=True
        ):
            text.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError):
        read()
    until(lambda: node.wallet()["held_micro"] == 0)
    cost = 900 * -(-len("".join(text)) // 4)
    assert before["balance_micro"] - node.wallet()["balance_micro"] == cost
    assert (cost > 0) == (fault != "error-mid-stream")


def test_the_next_model_steps_in_before_the_first_byte(node: StartedNode, upstream: UpstreamServer) -> None:
    node.add_model("up/garbage", price_in=1, price_out=1)
    try:
        for streamed in (False, True):
            asked = upstream.attempts.get("garbage", 0)
            raw = sdk(node).chat.completions.with_raw_response.create(
                model="auto", messages=say("Write a poem about rain"), max_tokens=20, stream=streamed
            )
            assert raw.headers["x-prsm-model"] == "up/echo"
            assert raw.headers["x-prsm-reason"].startswith("number 2 ")
            assert upstream.attempts["garbage"] > asked
            raw.http_response.close()
    finally:
        node.remove_model("up/garbage")


def test_a_model_that_fails_too_often_rests(node: StartedNode) -> None:
    node.add_model("up/fault-500", price_in=900_000_000, price_out=900_000_000)
    before = node.wallet()["balance_micro"]
    codes: list[str | None] = []
    for _ in range(12):
        with pytest.raises(openai.APIStatusError) as failed:
            sdk(node).chat.completions.create(model="up/fault-500", messages=say("x"))
        codes.append(failed.value.code)
        if failed.value.code == "model_resting":
            break
    assert failed.value.status_code == 503
    assert failed.value.code == "model_resting"
    assert int(failed.value.response.headers["retry-after"]) >= 1
    assert node.metric("prsm_breaker_state", model="up/fault-500") == 2
    assert (node.metric("prsm_upstream_errors_total", model="up/fault-500") or 0) >= 10
    shown: Any = sdk(node).models.retrieve("up/fault-500")
    assert shown.prsm["resting"] is True
    until(lambda: node.wallet()["held_micro"] == 0)
    assert node.wallet()["balance_micro"] == before
    assert node.metric("prsm_instance_down", model="up/fault-500") == 1
    node.remove_model("up/fault-500")
    assert node.metric("prsm_instance_down", model="up/fault-500") is None, "nobody is woken for a model that is gone"
    assert node.metric("prsm_breaker_state", model="up/fault-500") is None


def test_a_provider_that_refuses_the_request_does_not_open_the_breaker(node: StartedNode) -> None:
    node.add_model("up/fault-400", price_in=900_000_000, price_out=900_000_000)
    for _ in range(12):
        with pytest.raises(openai.BadRequestError):
            sdk(node).chat.completions.create(model="up/fault-400", messages=say("x"))
    assert node.metric("prsm_breaker_state", model="up/fault-400") in (None, 0)


def test_metering_is_in_the_metrics(node: StartedNode) -> None:
    cost = node.metric("prsm_cost_micro_ftns_total", model="up/echo") or 0
    sdk(node).chat.completions.create(model="up/echo", messages=say("one two three"))
    assert node.metric("prsm_cost_micro_ftns_total", model="up/echo") == cost + 9
    assert (node.metric("prsm_requests_total", operation="chat", outcome="ok") or 0) > 0
    assert (node.metric("prsm_time_to_first_token_seconds_count", model="up/echo") or 0) > 0


def test_no_secret_and_no_prompt_is_in_the_log(node: StartedNode, upstream: UpstreamServer) -> None:
    node.add_model("up/fault-401", price_in=900_000_000, price_out=900_000_000)
    with pytest.raises(openai.APIStatusError) as failed:
        sdk(node).chat.completions.create(model="up/fault-401", messages=say("the-secret-word"))
    log = node.log_path.read_text()
    assert "the-secret-word" not in log
    assert "sk-upstream-test-key" not in log + str(failed.value)
    assert log.count(node.key) == log.count("API key: prsm_") * 3  # in what `up` announces, nowhere else


def test_a_client_that_leaves_is_no_trouble_in_the_log(node: StartedNode) -> None:
    begun = node.log_path.stat().st_size
    receipt_id = leave_after_first_piece(node)
    until(lambda: stored(node, receipt_id))
    assert "Traceback" not in node.log_path.read_bytes()[begun:].decode()
    assert (node.metric("prsm_requests_total", operation="chat", outcome="client_left") or 0) > 0
