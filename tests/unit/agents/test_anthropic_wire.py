"""What is said to Anthropic for an OpenAI chat call, and what its answers mean, without a socket."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.call import ChatCall, Json, Target, Usage
from prsm.agents.executors.anthropic import StreamReader
from prsm.agents.executors.anthropic_wire import (
    WireBlock,
    WireMessage,
    WireUsage,
    completion_of,
    finish_reason,
    request_of,
    usage_of,
)
from prsm.agents.seams import UpstreamError
from prsm.core.clock import uuid7
from prsm.core.errors import InvalidRequest

TARGET = Target("a/claude", "claude-x", "a", "anthropic", max_output_tokens=999)
USER: Json = {"role": "user", "content": "hi"}


def translate(messages: list[Json] | None = None, limit: int | None = None, **options: Any) -> Json:
    call = ChatCall(uuid7(), messages or [USER], "any", max_output_tokens=limit, options=options)
    return request_of(TARGET, call, stream=False)


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def test_the_plain_case() -> None:
    assert translate(temperature=0.5, top_p=0.9, user="u1", seed=7, n=1) == {
        "model": "claude-x",
        "max_tokens": 999,
        "messages": [{"role": "user", "content": [text("hi")]}],
        "stream": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "metadata": {"user_id": "u1"},
    }
    assert translate(limit=5)["max_tokens"] == 5


def test_system_and_developer_messages_become_the_system_prompt() -> None:
    request = translate(
        [
            {"role": "system", "content": "one"},
            USER,
            {"role": "developer", "content": [text("two"), text("three")]},
        ]
    )
    assert request["system"] == "one\n\ntwo\nthree"
    assert len(request["messages"]) == 1


def test_tool_traffic_both_ways() -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    request = translate(
        [
            USER,
            {"role": "assistant", "content": "well", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "r1"},
            {"role": "tool", "tool_call_id": "c2", "content": ""},
            {"role": "user", "content": "and?"},
        ]
    )
    assert request["messages"][1]["content"] == [
        text("well"),
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
    ]
    assert request["messages"][2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": [text("r1")]},
            {"type": "tool_result", "tool_use_id": "c2"},
            text("and?"),
        ],
    }


def test_tools_and_choices() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    bare = {"type": "function", "function": {"name": "g", "strict": True}}
    request = translate(tools=[tool, bare])
    assert request["tools"] == [
        {"name": "f", "description": "d", "input_schema": {"type": "object"}},
        {"name": "g", "strict": True, "input_schema": {"type": "object", "properties": {}}},
    ]
    assert "tool_choice" not in request
    cases: list[tuple[Any, bool, Json]] = [
        ("auto", True, {"type": "auto"}),
        ("required", True, {"type": "any"}),
        ("none", False, {"type": "none"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"type": "function", "function": {"name": "f"}},
            False,
            {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        ),
    ]
    for choice, parallel, expected in cases:
        assert translate(tools=[tool], tool_choice=choice, parallel_tool_calls=parallel)["tool_choice"] == expected


def test_images() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        text(""),
    ]
    assert translate([{"role": "user", "content": parts}])["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
    ]


def test_stop_format_and_effort() -> None:
    schema = {"type": "object"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    request = translate(stop="END", response_format=form, reasoning_effort="minimal")
    assert request["stop_sequences"] == ["END"]
    assert request["output_config"] == {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
    plain = translate(stop=["a", "b"], response_format={"type": "text"}, reasoning_effort="none")
    assert plain["stop_sequences"] == ["a", "b"]
    assert "output_config" not in plain


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"temperature": 1.5}, "temperature"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"made_up": 1}, "made_up"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "maybe"}, "tool_choice"),
    ],
)
def test_what_cannot_be_said_is_named(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translate(**options)
    assert caught.value.param == param
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "name": "f", "content": "x"}, "messages[1].role"),
        ({"role": "user", "content": ""}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[1].content[0].type"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
            "messages[1].content[0].image_url",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "[1]"}}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            {"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]},
            "messages[1].content",
        ),
    ],
)
def test_messages_that_cannot_be_said_are_named(message: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translate([USER, message])
    assert caught.value.param == param


def test_a_system_message_alone_is_no_question() -> None:
    with pytest.raises(InvalidRequest, match="user message"):
        translate([{"role": "system", "content": "x"}])


turns = st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(min_size=1)), max_size=8)


@given(turns)
def test_no_word_is_lost_and_roles_alternate(said: list[tuple[str, str]]) -> None:
    request = translate([USER, *({"role": role, "content": words} for role, words in said)])
    roles = [turn["role"] for turn in request["messages"]]
    assert all(a != b for a, b in itertools.pairwise(roles))
    words = [block["text"] for turn in request["messages"] for block in turn["content"]]
    assert words == ["hi", *(words for role, words in said if role != "system")]
    assert request.get("system", "") == "\n\n".join(words for role, words in said if role == "system")


def test_usage_counts_cached_input_within_the_input() -> None:
    usage = WireUsage(input_tokens=3, output_tokens=4, cache_read_input_tokens=5, cache_creation_input_tokens=6)
    assert usage_of(usage) == Usage(14, 4, 5)


def test_reasons_to_end() -> None:
    assert [finish_reason(r) for r in ("end_turn", "max_tokens", "tool_use", "refusal", "new", None)] == [
        "stop",
        "length",
        "tool_calls",
        "content_filter",
        "stop",
        "stop",
    ]


def test_unknown_events_are_passed_over_and_errors_are_sorted() -> None:
    reader = StreamReader()
    assert reader.feed(b'event: x\ndata: {"type":"from_the_future","index":1}\n\n') == []
    for kind, retryable in (("overloaded_error", True), ("invalid_request_error", False)):
        with pytest.raises(UpstreamError) as caught:
            StreamReader().feed(b'data: {"type":"error","error":{"type":"%b","message":"m"}}\n\n' % kind.encode())
        assert caught.value.retryable is retryable
    with pytest.raises(UpstreamError) as caught:
        reader.feed(b'data: {"type":"message_delta","usage":{"output_tokens":-5}}\n\n')
    assert caught.value.code == "upstream_bad_answer"


def test_who_counts_no_token_at_all_has_not_metered() -> None:
    assert usage_of(WireUsage()) is None
    assert usage_of(WireUsage(input_tokens=0, output_tokens=0)) is None


def test_a_call_without_an_id_gets_one() -> None:
    blocks = [WireBlock("tool_use", name="f"), WireBlock("tool_use", name="g")]
    calls = completion_of(WireMessage(blocks, WireUsage())).choices[0].tool_calls
    start = b'data: {"type":"content_block_start","index":%d,"content_block":{"type":"tool_use","name":"f","input":{}}}'
    streamed = StreamReader().feed(b"".join(start % place + b"\n\n" for place in (0, 1)))
    ids = {call["id"] for call in calls} | {(delta.tool_calls or [{}])[0]["id"] for delta in streamed}
    assert len(ids) == 4
    assert all(ids)
