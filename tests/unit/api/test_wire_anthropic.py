"""Anthropic Messages: blocks to chat messages, and that the official SDK reads what is rendered."""

import json
from typing import Any

import anthropic
import msgspec
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from pydantic import TypeAdapter
from tests.unit.api.wire_sdk import EVENTS, Served
from tests.unit.api.wire_streams import PRSM, USAGE, messages_bytes, tool_deltas

from prsm.agents.call import Choice, Completion, Delta, Json
from prsm.agents.seams import UpstreamError
from prsm.api.wire import anthropic_messages
from prsm.api.wire.anthropic_messages import parse, parse_count_tokens
from prsm.api.wire.anthropic_stream import MessagesStream
from prsm.api.wire.parsed import ParsedCall
from prsm.core.errors import InvalidRequest, PrsmError

ASK: list[Any] = [{"role": "user", "content": "q"}]
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
TEXT = {"type": "text", "text": "t"}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "doc"}}
PICTURE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def parsed(**fields: Any) -> ParsedCall:
    return parse(msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": ASK, **fields}), max_bytes=1 << 20)


def events_of(body: bytes) -> list[Json]:
    """The events, each checked: named as its type, valid to the SDK's strict types, blocks one after the other."""
    events: list[Json] = []
    opened = -1
    is_open = False
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "ping":
            EVENT.validate_json(data.removeprefix("data: "), strict=True)
        if event["type"] == "content_block_start":
            assert not is_open
            opened, is_open = opened + 1, True
        if event["type"].startswith("content_block"):
            assert (event["index"], is_open) == (opened, True)
            is_open = event["type"] != "content_block_stop"
        events.append(event)
    assert not is_open
    return events


def test_a_full_conversation_is_translated() -> None:
    call = parsed(
        system=[{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "see"}, PICTURE]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "let me see"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
                    {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "4"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "is_error": True,
                        "content": [{"type": "text", "text": "no "}, {"type": "text", "text": "way"}, PICTURE],
                    },
                    {"type": "text", "text": "go on"},
                ],
            },
            {"role": "system", "content": "now in French"},
            {"role": "assistant", "content": "Oui"},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t3"}]},
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "doc"}},
                    {
                        "type": "document",
                        "title": "a.pdf",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="},
                    },
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                ],
            },
        ],
    )
    assert call.messages == [
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": [{"type": "text", "text": "see"}, PICTURE_PART]},
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
                {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "4"},
        {"role": "tool", "tool_call_id": "t2", "content": "no way"},
        {"role": "user", "content": [PICTURE_PART, {"type": "text", "text": "go on"}]},
        {"role": "system", "content": "now in French"},
        {"role": "assistant", "content": "Oui"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "doc"},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ],
        },
    ]
    assert (call.max_output_tokens, call.options) == (9, {})


def test_a_text_document_is_told_by_its_title() -> None:
    shown = {**DOCUMENT, "title": "Deed", "context": None, "citations": {"enabled": False}}
    assert parsed(messages=[{"role": "user", "content": [shown]}]).messages[0]["content"] == "Deed\n\ndoc"


def test_options_are_translated() -> None:
    call = parsed(
        system="s",
        stream=True,
        stop_sequences=["x"],
        temperature=0.5,
        top_k=4,
        metadata={"user_id": "u"},
        own=1,
        tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 2048},
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
        service_tier="auto",
    )
    assert call.stream is True
    assert call.options == {
        "temperature": 0.5,
        "top_k": 4,
        "own": 1,
        "stop": ["x"],
        "user": "u",
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"type": "object"}, "description": "d", "strict": True},
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
        ({"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
        (
            {"tool_choice": {"type": "tool", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, {"reasoning_effort": "high"}),
    ],
)
def test_choices_and_thinking(fields: dict[str, Any], options: Json) -> None:
    assert parsed(**fields).options == options


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"max_tokens": None}, "max_tokens", "expected integer"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": [1]}, "messages[0]", "expected object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "assistant, system, user"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty"),
        ({"messages": [{"role": "user", "content": [1]}]}, "messages[0].content[0]", "expected object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]},
            "messages[0].content[0].type",
            "tool_use",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "messages[0].content[0].text",
            "got",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image"}]}]},
            "messages[0].content[0].type",
            "Allowed",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}
                ]
            },
            "messages[0].content[0].source.type",
            "expected one of base64, url.",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": "https://x"}}]}
                ]
            },
            "messages[0].content[0].source.type",
            "expected one of base64, text.",
        ),
        ({"system": 1}, "system", "expected string | array"),
        ({"temperature": 1.5}, "temperature", "<= 1"),
        ({"top_k": -1}, "top_k", ">= 0"),
        ({"stop_sequences": "x"}, "stop_sequences", "expected array"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type", "web_search_20250305"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema", "required"),
        (
            {"tools": [{"name": "f", "input_schema": {}, "input_examples": [{"x": 1}]}]},
            "tools[0].input_examples",
            "not passed on",
        ),
        (
            {"messages": [{"role": "user", "content": [DOCUMENT | {"context": "c"}]}]},
            "messages[0].content[0].context",
            "not passed on",
        ),
        (
            {"messages": [{"role": "user", "content": [TEXT, DOCUMENT | {"citations": {"enabled": True}}]}]},
            "messages[0].content[1].citations",
            "not passed on",
        ),
        ({"tools": [{"name": "f", "input_schema": {}}] * 1025}, "tools", "1024"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "required"),
        ({"tool_choice": {"type": "must"}}, "tool_choice.type", "any, auto, none, tool"),
        ({"thinking": {"type": "x"}}, "thinking.type", "adaptive"),
        ({"container": "c"}, "container", "not supported"),
        ({"mcp_servers": [{}]}, "mcp_servers", "not supported"),
        ({"n": 3}, "n", "no field of the Messages API"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param == param
    assert words in str(caught.value)


def test_max_tokens_is_required_but_not_to_count() -> None:
    body = msgspec.json.encode({"model": "m", "messages": ASK, "system": "s"})
    with pytest.raises(InvalidRequest, match="`max_tokens` is required"):
        parse(body, max_bytes=1 << 20)
    counted = parse_count_tokens(body, max_bytes=1 << 20)
    assert (len(counted.messages), counted.max_output_tokens, counted.stream) == (2, None, False)
    MessageTokensCount.model_validate_json(anthropic_messages.render_count(12), strict=True)
    served = Served(anthropic_messages.render_count(12))
    assert served.anthropic().messages.count_tokens(model="m", messages=ASK).input_tokens == 12


def rendered(choice: Choice) -> Message:
    body = anthropic_messages.render(Completion([choice], USAGE), answer_id="msg_1", model="maker/m", prsm=PRSM)
    Message.model_validate_json(body, strict=True)
    return Served(body).anthropic().messages.create(model="m", max_tokens=9, messages=ASK)


def test_the_sdk_reads_a_whole_answer() -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    got = rendered(Choice(content="Hi", reasoning="hm", tool_calls=[call], finish_reason="tool_calls"))
    assert [block.type for block in got.content] == ["thinking", "text", "tool_use"]
    assert got.content[2].to_dict(exclude_none=True) == {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}
    assert got.stop_reason == "tool_use"
    assert (got.usage.input_tokens, got.usage.cache_read_input_tokens, got.usage.output_tokens) == (7, 3, 5)
    assert got.model_extra == {"prsm": PRSM}


@pytest.mark.parametrize(
    ("reason", "stop"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("other", "end_turn")],
)
def test_why_an_answer_ended(reason: str, stop: str) -> None:
    assert rendered(Choice(content="x", finish_reason=reason)).stop_reason == stop
    assert events_of(messages_bytes([[Delta(content="x", finish_reason=reason)]]))[-2]["delta"]["stop_reason"] == stop


def test_odd_answers() -> None:
    assert rendered(Choice(content=None)).content == []
    refused = rendered(Choice(content=None, refusal="No.", finish_reason="content_filter"))
    assert (refused.content[0].to_dict()["text"], refused.stop_reason) == ("No.", "refusal")
    broken = {"id": "", "type": "function", "function": {"name": "f", "arguments": '{"x":'}}
    called = rendered(Choice(tool_calls=[broken], finish_reason="stop"))
    assert (called.content[0].to_dict()["input"], called.stop_reason) == ({"raw_arguments": '{"x":'}, "tool_use")
    assert called.content[0].to_dict()["id"] == "toolu_1_0"


def test_the_sdks_stream_helper_assembles_the_answer() -> None:
    body = messages_bytes(
        [
            [Delta(reasoning="hm")],
            [Delta(content="Hel"), Delta(content="lo")],
            [*tool_deltas(0, "f", ['{"x"', ":1}"]), *tool_deltas(1, "g", ["{}"])],
            [Delta(finish_reason="tool_calls")],
        ]
    )
    events = events_of(body)
    assert [event["type"] for event in events[:3]] == ["message_start", "ping", "content_block_start"]
    assert events[0]["message"]["usage"]["input_tokens"] == 9
    assert events[-2]["prsm"] == PRSM
    with Served(body, headers=EVENTS).anthropic().messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
        assert "".join(stream.text_stream) == "Hello"
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert final.content[2].to_dict()["input"] == {"x": 1}
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("tool_use", 7, 5)


def test_interleaved_calls_wait_for_their_turn() -> None:
    one, two = tool_deltas(0, "f", ['{"x"', ":1}", " "]), tool_deltas(1, "g", ['{"y"', ":2}"])
    mixed = [one[0], two[0], one[1], two[1], one[2], two[2], one[3]]
    body = messages_bytes([[delta] for delta in mixed])
    events_of(body)
    with Served(body, headers=EVENTS).anthropic().messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
        final = stream.get_final_message()
    assert [block.to_dict()["input"] for block in final.content] == [{"x": 1}, {"y": 2}]


def test_a_call_that_is_named_late_has_its_name() -> None:
    late = [Delta(tool_calls=[{"index": 0, "id": "a"}]), *tool_deltas(0, "f", ['{"x":1}'])]
    body = messages_bytes([[delta] for delta in late])
    events_of(body)
    with Served(body, headers=EVENTS).anthropic().messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
        (block,) = [block.to_dict() for block in stream.get_final_message().content]
    assert (block["name"], block["input"]) == ("f", {"x": 1})


def test_more_of_a_call_that_had_ended_is_refused() -> None:
    stream = MessagesStream(answer_id="msg_1", model="m")
    stream.feed(tool_deltas(0, "f", ["{}"]))
    stream.feed([Delta(content="text")])
    with pytest.raises(UpstreamError):
        stream.feed([Delta(tool_calls=[{"index": 0, "function": {"arguments": "more"}}])])


def test_a_failure_in_the_stream_is_raised_by_the_sdk() -> None:
    stream = MessagesStream(answer_id="msg_1", model="m")
    body = (
        stream.start()
        + stream.feed([Delta(content="x")])
        + stream.fail(PrsmError("It broke."), {"request_id": "req_1"})
    )
    served = Served(body, headers=EVENTS)
    with (
        pytest.raises(anthropic.APIStatusError, match="It broke"),
        served.anthropic().messages.stream(model="m", max_tokens=9, messages=ASK) as got,
    ):
        got.until_done()
