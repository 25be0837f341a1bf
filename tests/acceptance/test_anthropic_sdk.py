"""The official Anthropic SDK against a started node."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import anthropic
import pytest
from anthropic import Anthropic
from tests.support.started_node import StartedNode
from tests.support.upstream import UpstreamServer

WEATHER: Any = {
    "name": "weather",
    "description": "Weather of a place",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}


@pytest.fixture
def client(node: StartedNode) -> Iterator[Anthropic]:
    with Anthropic(base_url=node.url, api_key=node.key, max_retries=0) as made:
        yield made


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_a_message_says_what_it_cost(client: Anthropic) -> None:
    raw = client.messages.with_raw_response.create(
        model="up/echo", max_tokens=100, messages=say("one two three"), system="Be short."
    )
    message = raw.parse()
    assert [block.text for block in message.content if block.type == "text"] == ["one two three"]
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 3
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == 5
    assert raw.headers["x-prsm-cost-micro"] == "11"
    assert message.prsm["receipt_id"] == raw.headers["x-prsm-receipt"]  # type: ignore[attr-defined]


def test_auto_gives_arithmetic_to_the_teacher(client: Anthropic) -> None:
    message = client.messages.create(model="auto", max_tokens=100, messages=say("What is 127 + 385?"))
    assert [block.text for block in message.content if block.type == "text"] == ["512"]
    assert message.model == "local/arithmetic"


def test_the_stream_helper_assembles_the_message(client: Anthropic) -> None:
    with client.messages.stream(model="up/echo", max_tokens=100, messages=say("one two three")) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert pieces == ["one ", "two ", "three"]
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 3


def test_stream_events_come_by_their_names(client: Anthropic) -> None:
    events = list(client.messages.create(model="up/echo", max_tokens=100, messages=say("a b"), stream=True))
    kinds = [event.type for event in events if event.type != "ping"]
    assert kinds == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_go_through_in_both_directions(client: Anthropic, upstream: UpstreamServer, streamed: bool) -> None:
    asked = say("Weather in Zürich?")
    if streamed:
        with client.messages.stream(model="up/echo", max_tokens=100, messages=asked, tools=[WEATHER]) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(model="up/echo", max_tokens=100, messages=asked, tools=[WEATHER])
    [call] = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert (call.id, call.name, call.input) == ("call_1", "weather", {"city": "Zürich", "days": 2})
    assert upstream.requests[-1]["tools"][0]["function"]["parameters"] == WEATHER["input_schema"]

    result = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]
    history: Any = [*asked, {"role": "assistant", "content": message.content}, {"role": "user", "content": result}]
    final = client.messages.create(model="up/echo", max_tokens=100, messages=history, tools=[WEATHER])
    assert [block.text for block in final.content if block.type == "text"] == ["sunny"]


def test_errors_are_the_sdks_own(client: Anthropic, node: StartedNode) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(model="no/such", max_tokens=5, messages=say("x"))
    assert "prsm models add" in str(unknown.value)
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="up/echo", max_tokens=5, messages=[])
    with pytest.raises(anthropic.AuthenticationError) as wrong:
        Anthropic(base_url=node.url, api_key="sk-ant-nonsense").messages.create(
            model="up/echo", max_tokens=5, messages=say("x")
        )
    body: Any = wrong.value.body
    assert body["error"]["type"] == "authentication_error"
    assert body["request_id"] == wrong.value.response.headers["x-request-id"]
    _, token = node.new_key("capped", cap_micro=1)
    with pytest.raises(anthropic.APIStatusError) as poor:
        Anthropic(base_url=node.url, api_key=token).messages.create(model="up/echo", max_tokens=5, messages=say("x"))
    assert poor.value.status_code == 402
    _, token = node.new_key("slow", rate_limit_per_minute=1)
    slow = Anthropic(base_url=node.url, api_key=token, max_retries=0)
    slow.messages.create(model="up/echo", max_tokens=5, messages=say("x"))
    with pytest.raises(anthropic.RateLimitError) as limited:
        slow.messages.create(model="up/echo", max_tokens=5, messages=say("x"))
    assert int(limited.value.response.headers["retry-after"]) >= 1


def test_tokens_are_counted_before_asking_and_cost_nothing(client: Anthropic, node: StartedNode) -> None:
    before = node.wallet()["balance_micro"]
    short = client.messages.count_tokens(model="up/echo", messages=say("hello"))
    raw = client.messages.with_raw_response.count_tokens(model="up/echo", messages=say("hello " * 400), tools=[WEATHER])
    assert 0 < short.input_tokens < 400 < raw.parse().input_tokens
    assert raw.headers["x-prsm-estimate"] == "bytes/4"
    assert node.wallet()["balance_micro"] == before
    with pytest.raises(anthropic.BadRequestError):
        client.messages.count_tokens(model="up/echo", messages=[])
    with pytest.raises(anthropic.AuthenticationError):
        Anthropic(base_url=node.url, api_key="x").messages.count_tokens(model="up/echo", messages=say("x"))


def test_models_are_listed_page_by_page(client: Anthropic) -> None:
    names = [model.id for model in client.models.list(limit=2)]
    assert {"local/arithmetic", "up/echo"} <= set(names)
    assert len(names) == len(set(names)) > 2
    found = client.models.retrieve("up/echo")
    assert (found.type, found.id, found.created_at.year) == ("model", "up/echo", 1970)
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("no/such")


def test_a_message_is_replayed_by_its_idempotency_key(client: Anthropic, node: StartedNode) -> None:
    named = {"Idempotency-Key": f"message-{uuid4()}"}
    before = node.wallet()["balance_micro"]
    calls = [
        client.messages.with_raw_response.create(
            model="up/echo", max_tokens=9, messages=say("a b"), extra_headers=named
        )
        for _ in range(2)
    ]
    assert calls[0].read() == calls[1].read()
    assert before - node.wallet()["balance_micro"] == 6
