"""The response cache of a started node, as the SDKs meet it: off by default, per account, at its stated price."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from openai import OpenAI
from tests.support.started_node import StartedNode, started_node
from tests.support.upstream import UpstreamServer

EXACT: Any = {"prsm": {"cache": {"mode": "exact"}}}
LIKE: Any = {"prsm": {"cache": {"mode": "semantic", "similarity": 0.93}}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamServer) -> Iterator[StartedNode]:
    folder: Path = tmp_path_factory.mktemp("node")
    with started_node(folder, RESPONSE_CACHE="semantic", RESPONSE_CACHE_PRICE_BPS=2500, HEDGE_SHARE_BPS=500) as node:
        node.add_provider("up", f"{upstream.origin}/v1")
        node.add_model("up/echo", price_in=1_000_000, price_out=4_000_000)
        yield node


def sdk(node: StartedNode, key: str) -> OpenAI:
    return OpenAI(base_url=node.base_url, api_key=key, max_retries=0)


def ask(client: OpenAI, text: str, body: Any = EXACT, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="up/echo", messages=messages, extra_body=body, **options)


def ask_until_cached(client: OpenAI, text: str, body: Any) -> Any:
    """What is kept is kept after the answer has gone out, so that nobody waits for it."""
    deadline = time.monotonic() + 10
    while "cached_from" not in (answer := ask(client, text, body)).prsm:
        assert time.monotonic() < deadline, "it was never kept"
        time.sleep(0.05)
    return answer


def test_the_same_question_again_is_a_quarter_of_the_output_price_and_no_call(
    node: StartedNode, upstream: UpstreamServer
) -> None:
    key = node.new_client()[1]
    client = sdk(node, key)
    first = ask(client, "one two three four")
    assert first.prsm["cost_micro"] == 4 + 4 * 4
    answer = ask_until_cached(client, "one two three four", EXACT)
    asked = upstream.attempts["echo"]
    again = ask(client, "one two three four")
    assert upstream.attempts["echo"] == asked
    assert again.choices[0].message.content == "one two three four"
    assert again.prsm["cost_micro"] == 4 + 4
    assert again.prsm["cached_from"] == answer.prsm["cached_from"]
    assert "answered before" in again.prsm["reason"]
    receipt = node.receipt(again.prsm["receipt_id"], key=key)
    assert receipt["cached_from"] == again.prsm["cached_from"]
    assert receipt["usage"]["cached_input_tokens"] == receipt["usage"]["input_tokens"] == 4
    assert node.receipt(receipt["cached_from"], key=key)["cached_from"] == ""
    # Another account, and a request that does not allow it, are answered by the model.
    assert "cached_from" not in ask(sdk(node, node.new_client()[1]), "one two three four").prsm
    assert "cached_from" not in ask(client, "one two three four", {}).prsm
    assert upstream.attempts["echo"] == asked + 2


def test_it_comes_as_a_stream_too_and_by_the_other_api(node: StartedNode, upstream: UpstreamServer) -> None:
    key = node.new_client()[1]
    client = sdk(node, key)
    ask_until_cached(client, "five six seven", EXACT)
    asked = upstream.attempts["echo"]
    chunks = list(ask(client, "five six seven", stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "five six seven"
    assert chunks[-1].prsm["cached_from"]
    message = anthropic.Anthropic(base_url=node.url, auth_token=key, api_key=None, max_retries=0).messages.create(
        model="up/echo", max_tokens=50, messages=[{"role": "user", "content": "five six seven"}], extra_body=EXACT
    )
    assert message.content[0].type == "text"
    assert message.content[0].text == "five six seven"
    assert upstream.attempts["echo"] == asked + 1  # max_tokens makes it another request


def test_a_question_like_it_is_answered_with_the_answer_to_the_first(node: StartedNode) -> None:
    client = sdk(node, node.new_client()[1])
    ask_until_cached(client, "How do I reset my password?", LIKE)
    answer = ask(client, "How can I reset my password?", LIKE)
    assert answer.choices[0].message.content == "How do I reset my password?"
    assert "a question like it" in answer.prsm["reason"]
    assert "cached_from" not in ask(client, "How can I reset 2 passwords?", LIKE).prsm


def test_a_deterministic_request_need_not_ask_and_can_refuse(node: StartedNode) -> None:
    client = sdk(node, node.new_client()[1])
    deadline = time.monotonic() + 10
    while "cached_from" not in ask(client, "eight nine", {}, temperature=0).prsm:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    off: Any = {"prsm": {"cache": {"mode": "off"}}}
    assert "cached_from" not in ask(client, "eight nine", off, temperature=0).prsm


@pytest.mark.parametrize(
    ("cache", "field"),
    [({"mode": "always"}, "mode"), ({"mode": "semantic", "similarity": 0.5}, "similarity"), ({"mod": "exact"}, "mod")],
)
def test_a_wish_that_is_none_is_refused_by_name(node: StartedNode, cache: Any, field: str) -> None:
    with pytest.raises(openai.BadRequestError, match=field) as refused:
        ask(sdk(node, node.key), "x", {"prsm": {"cache": cache}})
    assert refused.value.param is not None
    assert refused.value.param.startswith("prsm.cache")


def test_a_node_that_does_not_offer_it_asks_its_models(shared_node: StartedNode, upstream: UpstreamServer) -> None:
    client = sdk(shared_node, shared_node.key)
    asked = upstream.attempts.get("echo", 0)
    for _ in range(2):
        assert "cached_from" not in ask(client, "not kept anywhere", temperature=0).prsm
    assert upstream.attempts["echo"] == asked + 2
