"""The Responses API: items to chat messages, and that the official SDK reads what is rendered."""

import json
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from tests.unit.api.wire_sdk import EVENTS, Served
from tests.unit.api.wire_streams import PRSM, REQUEST, USAGE, responses_bytes, tool_deltas

from prsm.agents.call import Choice, Completion, Delta, Json
from prsm.api.wire import openai_responses
from prsm.api.wire.openai_responses import ParsedResponses, parse
from prsm.api.wire.openai_responses_stream import ResponsesStream
from prsm.core.errors import InvalidRequest, Kind, PrsmError

TOOL = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def parsed(**fields: Any) -> ParsedResponses:
    return parse(msgspec.json.encode({"model": "m", **fields}), max_bytes=1 << 20)


def messages(*items: Any) -> list[Json]:
    return parsed(input=list(items)).call.messages


def events_of(body: bytes) -> list[Json]:
    """The events, each checked: named as its type, numbered in order, valid to the SDK's strict types."""
    events: list[Json] = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(events)
        EVENT.validate_python(event, strict=True)
        events.append(event)
    return events


def test_text_and_instructions_become_messages() -> None:
    call = parsed(input="hi", instructions="be kind").call
    assert call.messages == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    assert call.options == {}


def test_items_of_one_turn_become_one_message() -> None:
    call_1 = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    call_2 = {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}}
    assert messages(
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "zzz"},
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "let me ", "annotations": []},
                {"type": "output_text", "text": "see"},
            ],
        },
        {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f", "arguments": '{"x":1}'},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "4"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "5"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ) == [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "let me see", "tool_calls": [call_1, call_2]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "tool", "tool_call_id": "c2", "content": "5"},
        {"role": "assistant", "content": "", "refusal": "no"},
    ]


def test_words_after_a_call_join_its_message() -> None:
    (message,) = messages(
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"role": "assistant", "content": "ok"},
    )
    assert (message["content"], len(message["tool_calls"])) == ("ok", 1)


def test_pictures_files_and_sound() -> None:
    assert messages(
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
                {"type": "input_file", "file_data": "data:x", "filename": "a.pdf"},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}},
            ],
        }
    )[0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "auto"}},
        {"type": "file", "file": {"file_data": "data:x", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}},
    ]


def test_options_are_translated() -> None:
    schema = {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True, "description": "d"}
    request = parsed(
        input="q",
        max_output_tokens=9,
        temperature=0.5,
        tools=[TOOL],
        tool_choice={"type": "function", "name": "f"},
        text={"format": schema, "verbosity": "low"},
        reasoning={"effort": "high", "summary": "auto"},
        top_logprobs=2,
        metadata={"k": "v"},
        store=False,
        stream=True,
        parallel_tool_calls=False,
        own=1,
        include=["reasoning.encrypted_content"],
        stream_options={"include_obfuscation": False},
        truncation="disabled",
    )
    assert request.call.options == {
        "temperature": 0.5,
        "tools": [{"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {k: v for k, v in schema.items() if k != "type"}},
        "verbosity": "low",
        "reasoning_effort": "high",
        "top_logprobs": 2,
        "logprobs": True,
        "parallel_tool_calls": False,
        "own": 1,
    }
    assert (request.call.max_output_tokens, request.call.stream, request.store) == (9, True, False)
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
    assert parsed(input="q", tool_choice=allowed).call.options["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
    }
    assert parsed(input="q", text={"format": {"type": "json_object"}}).call.options["response_format"] == {
        "type": "json_object"
    }


def test_what_is_continued_is_told() -> None:
    assert parsed(previous_response_id="resp_0").previous_response_id == "resp_0"
    assert parsed(conversation="conv_1", input="q").conversation_id == "conv_1"
    assert parsed(conversation={"id": "conv_1"}).conversation_id == "conv_1"
    assert parsed(previous_response_id="resp_0").call.messages == []
    assert parsed(input="q").store is True


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "input", "required"),
        ({"input": 1}, "input", "expected string | array"),
        ({"input": [1]}, "input[0]", "expected object"),
        ({"input": [{}]}, "input[0].type", "expected string"),
        ({"input": [{"type": 1}]}, "input[0].type", "expected string"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role", "assistant, developer, system, user"),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input[0].content[0].type", "input_text"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
            "not kept",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "f"}]}]},
            "input[0].content[0].file_data",
            "fetched",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "refusal", "refusal": "f"}]}]},
            "input[0].content[0]",
            "assist",
        ),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image"}]}]}, "input[0].content[0]", "only text"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "previous_response_id"),
        ({"input": [{"id": "x"}]}, "input[0]", "previous_response_id"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "web_search_call"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name", "required"),
        ({"input": [{"role": "user", "content": "x"}] * 4097}, "input", "4096"),
        ({"input": "q", "tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"input": "q", "tools": [1]}, "tools[0].type", "expected string"),
        ({"input": "q", "tools": [{"type": "function"}]}, "tools[0].name", "required"),
        ({"input": "q", "tool_choice": "must"}, "tool_choice", "auto, none, required"),
        ({"input": "q", "tool_choice": {"type": "mcp"}}, "tool_choice.type", "function or allowed_tools"),
        ({"input": "q", "tool_choice": {"type": "function"}}, "tool_choice.name", "required"),
        ({"input": "q", "text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "required"),
        ({"input": "q", "text": {"format": {"type": "xml"}}}, "text.format.type", "json_object"),
        ({"input": "q", "background": True}, "background", "not supported"),
        ({"input": "q", "prompt": {"id": "p"}}, "prompt", "templates"),
        ({"input": "q", "truncation": "auto"}, "truncation", "disabled"),
        ({"previous_response_id": "a", "conversation": "b"}, "previous_response_id", "exclude"),
        ({"input": "q", "max_output_tokens": 0}, "max_output_tokens", ">= 1"),
        ({"input": "q", "messages": []}, "messages", "no field of the Responses API"),
        ({"input": "q", "n": 5}, "n", "no field"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param == param
    assert words in str(caught.value)


def rendered(choice: Choice, request: ParsedResponses = REQUEST) -> Response:
    answer = Completion([choice], USAGE)
    body = openai_responses.render(answer, answer_id="resp_1", created=7, model="maker/m", prsm=PRSM, request=request)
    Response.model_validate_json(body, strict=True)
    return Served(body).openai().responses.create(model="m", input="q")


def test_the_sdk_reads_a_whole_answer() -> None:
    call = {"id": "call_9", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    got = rendered(Choice(content="Hi", reasoning="hm", tool_calls=[call], finish_reason="tool_calls"))
    assert [item.type for item in got.output] == ["reasoning", "message", "function_call"]
    assert (got.output_text, got.status) == ("Hi", "completed")
    assert got.output[2].to_dict() | {"id": ""} == {
        "id": "",
        "type": "function_call",
        "call_id": "call_9",
        "name": "f",
        "arguments": '{"x":1}',
        "status": "completed",
    }
    assert got.usage
    assert (got.usage.input_tokens, got.usage.input_tokens_details.cached_tokens, got.usage.total_tokens) == (10, 3, 15)
    assert got.model_extra
    assert got.model_extra["prsm"] == PRSM


def test_a_cut_refused_or_empty_answer() -> None:
    cut = rendered(Choice(content="Hi", finish_reason="length"))
    assert cut.status == "incomplete"
    assert cut.incomplete_details
    assert cut.incomplete_details.reason == "max_output_tokens"
    refused = rendered(Choice(content=None, refusal="No."))
    assert refused.output[0].to_dict()["content"] == [{"type": "refusal", "refusal": "No."}]
    assert rendered(Choice(content=None)).output_text == ""
    nameless = {"id": "", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert rendered(Choice(tool_calls=[nameless])).output[0].to_dict()["call_id"] == "call_1_0"


def test_the_answer_repeats_the_request() -> None:
    request = parsed(
        input="q",
        instructions="i",
        tools=[TOOL],
        temperature=0.5,
        metadata={"k": "v"},
        conversation="conv_1",
        store=False,
        text={"format": {"type": "json_object"}},
        reasoning={"effort": "low"},
        tool_choice="required",
        max_output_tokens=5,
    )
    got = rendered(Choice(content="{}"), request).to_dict()
    for name, value in (
        ("instructions", "i"),
        ("temperature", 0.5),
        ("metadata", {"k": "v"}),
        ("store", False),
        ("conversation", {"id": "conv_1"}),
        ("text", {"format": {"type": "json_object"}}),
        ("tool_choice", "required"),
        ("max_output_tokens", 5),
    ):
        assert got[name] == value
    assert got["tools"] == [TOOL]


def test_the_sdks_stream_helper_assembles_the_answer() -> None:
    batches = [
        [Delta(reasoning="hm")],
        [Delta(content="Hel"), Delta(content="lo")],
        [
            *tool_deltas(0, "f", ['{"x"']),
            *tool_deltas(1, "g", ["{}"]),
            Delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        ],
        [Delta(finish_reason="tool_calls")],
    ]
    body = responses_bytes(batches)
    events = events_of(body)
    assert [event["type"].removeprefix("response.") for event in events[:4]] == [
        *("created", "in_progress", "output_item.added", "content_part.added")
    ]
    with Served(body, headers=EVENTS).openai().responses.stream(model="m", input="q") as stream:
        final = stream.until_done().get_final_response()
    assert final.output_text == "Hello"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert [item.to_dict().get("arguments") for item in final.output[2:]] == ['{"x":1}', "{}"]
    assert final.usage
    assert final.usage.total_tokens == 15
    assert final.model_extra
    assert final.model_extra["prsm"] == PRSM


def test_a_call_that_is_named_late_has_its_name() -> None:
    late = [Delta(tool_calls=[{"index": 0, "id": "a"}]), *tool_deltas(0, "f", ['{"x":1}'])]
    events = events_of(responses_bytes([[delta] for delta in late]))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [(item["name"], item["arguments"]) for item in done] == [("f", '{"x":1}')]


def test_items_open_grow_and_close_in_order() -> None:
    logprobs = {"content": [{"token": "b", "logprob": -1.0, "bytes": [98], "top_logprobs": []}]}
    events = events_of(
        responses_bytes(
            [
                [Delta(content="a"), Delta(content="b", logprobs=logprobs), Delta(refusal="no")],
                tool_deltas(0, "f", ["{}"]),
                [Delta(content="after"), Delta(reasoning="late")],
            ]
        )
    )
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert sorted(added) == sorted(item["id"] for item in done)
    final = events[-1]["response"]["output"]
    assert [item["id"] for item in final] == added
    assert sorted(done, key=lambda item: item["id"]) == sorted(final, key=lambda item: item["id"])
    assert [part["type"] for part in final[0]["content"]] == ["output_text", "refusal"]
    assert final[0]["content"][0]["logprobs"] == logprobs["content"]
    assert all(item["status"] == "completed" for item in final)


def test_an_empty_and_a_cut_stream() -> None:
    empty = events_of(responses_bytes([]))
    assert empty[-1]["type"] == "response.completed"
    assert empty[-1]["response"]["output"][0]["content"][0]["text"] == ""
    cut = events_of(responses_bytes([[Delta(content="x", finish_reason="length")]]))
    assert cut[-1]["type"] == "response.incomplete"
    assert cut[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert cut[-1]["response"]["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("kind", "code"), [(Kind.RATE_LIMITED, "rate_limit_exceeded"), (Kind.UPSTREAM, "server_error")]
)
def test_a_failure_ends_the_stream(kind: Kind, code: str) -> None:
    stream = ResponsesStream(REQUEST, answer_id="resp_1", created=1, model="m")
    body = stream.start() + stream.feed([Delta(content="x")]) + stream.fail(PrsmError("It broke.", kind=kind))
    last = events_of(body)[-1]
    assert last["type"] == "response.failed"
    assert (last["response"]["status"], last["response"]["error"]["code"]) == ("failed", code)
    assert last["response"]["error"]["message"] == "It broke."
    with Served(body, headers=EVENTS).openai().responses.stream(model="m", input="q") as got:
        assert [event.type for event in got][-1] == "response.failed"
