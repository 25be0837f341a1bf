"""A question that no context holds is refused in the client's own error shape before anything is held or sent."""

import json
from typing import Any
from urllib.error import HTTPError

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
