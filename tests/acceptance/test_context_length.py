"""A question that no context holds is refused in the client's own error shape before anything is held or sent."""

import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from tests.support.started_node import StartedNode
from tests.support.upstream import UpstreamServer

LONG = "word " * 400


def refusal(node: StartedNode, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    with pytest.raises(HTTPError) as raised:
        node.call("POST", path, body, key=key)
    assert raised.value.code == 400
    return json.loads(raised.value.read())


def test_a_model_that_is_too_small_is_refused_and_auto_passes_it_over(
    node: StartedNode, upstream: UpstreamServer
) -> None:
    _, key = node.new_client("long")
    node.add_model("up/narrow", price_in=0, price_out=0, context_tokens=100)
    try:
        begun = node.wallet(key)
        sent = len(upstream.requests)
        message = {"role": "user", "content": LONG}
        chat = refusal(node, "/v1/chat/completions", {"model": "up/narrow", "messages": [message]}, key)
        assert (chat["error"]["code"], chat["error"]["param"]) == ("context_length_exceeded", "model")
        assert "up/narrow takes in (100)" in chat["error"]["message"]
        body = {"model": "up/narrow", "max_tokens": 9, "messages": [message]}
        anthropic = refusal(node, "/v1/messages", body, key)
        assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "invalid_request_error")
        embed = refusal(node, "/v1/embeddings", {"model": "local/minilm-l6", "input": ["short", LONG * 2]}, key)
        assert embed["error"]["code"] == "context_length_exceeded"
        assert node.wallet(key) == begun
        assert len(upstream.requests) == sent

        answer = node.call("POST", "/v1/chat/completions", {"model": "auto", "messages": [message]}, key=key)
        assert answer["prsm"]["model"] != "up/narrow", "cheapest, and too small"
        short = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}
        assert node.call("POST", "/v1/chat/completions", short, key=key)["prsm"]["model"] == "up/narrow"
    finally:
        node.remove_model("up/narrow")


def left_after_the_first_piece(node: StartedNode, body: dict[str, Any], key: str) -> dict[str, Any]:
    """The receipt of a stream whose client goes as soon as it has come."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urlopen(Request(f"{node.url}/v1/chat/completions", json.dumps(body).encode(), headers), timeout=60) as stream:
        receipt_id = stream.headers["x-request-id"]
        stream.readline()
    until_s = time.monotonic() + 30
    while True:
        try:
            return node.receipt(receipt_id, key=key)
        except HTTPError:
            assert time.monotonic() < until_s
            time.sleep(0.05)


def test_what_a_session_adds_counts_by_its_bytes(node: StartedNode) -> None:
    (_, key), session = node.new_client("remembers"), str(uuid4())
    begun = {"messages": [{"role": "user", "content": LONG}], "prsm": {"session_id": session}}
    node.call("POST", "/v1/chat/completions", begun | {"model": "up/echo"}, key=key)
    history = node.call("GET", f"/node/v1/sessions/{session}", key=key)["messages"]
    goes_on = {"messages": [{"role": "user", "content": "And now?"}], "prsm": begun["prsm"], "max_tokens": 9}
    sizes = [len(json.dumps(one, separators=(",", ":"))) for one in history]
    sizes.append(len(json.dumps(goes_on | {"model": "up/hold", "stream": True})))
    node.add_model("up/roomy", price_out=0, context_tokens=sum(sizes) // 8 + 50)
    try:
        usage = left_after_the_first_piece(node, goes_on | {"model": "up/hold", "stream": True}, key)["usage"]
        assert (usage["input_tokens"], usage["metered_by"]) == (-(-sum(sizes) // 4), "node")
        told = node.call("POST", "/node/v1/route/explain", goes_on | {"model": "up/roomy"}, key=key)
        sizes[-1] = len(json.dumps(goes_on | {"model": "up/roomy"}))
        assert told["held_micro"] == sum(sizes), "a token of each byte"
        node.call("POST", "/v1/chat/completions", goes_on | {"model": "up/roomy"}, key=key)
    finally:
        node.remove_model("up/roomy")
