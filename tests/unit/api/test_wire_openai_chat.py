"""Chat Completions: what is parsed, and that the official SDK reads what is rendered."""

import json
from typing import Any

import msgspec
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.unit.api.wire_sdk import EVENTS, Served
from tests.unit.api.wire_streams import PRSM, USAGE, chat_bytes, tool_deltas

from prsm.agents.call import Choice, Completion, Delta
from prsm.api.wire import openai_chat
from prsm.api.wire.openai_chat import ChatStream, ParsedCall, parse
from prsm.core.errors import InvalidRequest, PrsmError

ASK: list[Any] = [{"role": "user", "content": "q"}]
CALL = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}


def parsed(**fields: Any) -> ParsedCall:
    return parse(msgspec.json.encode({"model": "m", "messages": ASK, **fields}), max_bytes=1 << 20)


def test_a_full_conversation_passes_unchanged() -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": [{"type": "text", "text": "d"}]},
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "text", "text": "what is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_0", "content": "4"},
        {"role": "assistant", "content": "four", "own_field": {"kept": True}},
    ]
    call = parsed(messages=messages, temperature=1, top_p=0.5, stop=["a"], upstream_only={"x": [1]}, seed=None)
    assert call.messages == messages
    assert call.options == {"temperature": 1, "top_p": 0.5, "stop": ["a"], "upstream_only": {"x": [1]}, "seed": None}
    assert (call.model, call.stream, call.include_usage, call.max_output_tokens, call.n) == ("m", False, False, None, 1)


def test_the_fields_that_are_taken_out() -> None:
    call = parsed(stream=True, stream_options={"include_usage": True}, max_tokens=9, n=3)
    assert (call.stream, call.include_usage, call.max_output_tokens, call.n) == (True, True, 9, 3)
    assert call.options == {"n": 3}
    assert parsed(max_completion_tokens=8).max_output_tokens == 8
    assert parsed(stream=None, stream_options=None, n=None, temperature=None).n == 1


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": 1}, "model", "expected string, got integer"),
        ({"model": ""}, "model", "length >= 1"),
        ({"model": None}, "model", "expected string"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": {}}, "messages", "expected array"),
        ({"messages": ["x"]}, "messages[0]", "expected object"),
        ({"messages": ASK * 4097}, "messages", "length <= 4096"),
        (
            {"messages": [*ASK, {"role": "king", "content": "x"}]},
            "messages[1].role",
            "assistant, developer, system, tool",
        ),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "required"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "expected string | array"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type", "image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "required"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "required"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content", "no tool calls"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
            "messages[0].tool_calls[0].function",
            "req",
        ),
        ({"stream": "yes"}, "stream", "expected boolean"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed when"),
        ({"temperature": 2.1}, "temperature", "<= 2"),
        ({"temperature": "1"}, "temperature", "expected number"),
        ({"top_p": -0.1}, "top_p", ">= 0"),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 17}, "n", "<= 16"),
        ({"n": True}, "n", "got boolean"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "expected integer"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "the same limit"),
        ({"stop": ["a"] * 17}, "stop", "length <= 16"),
        ({"stop": [1]}, "stop[0]", "expected string"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "one of function"),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools[0].type", "one of function"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 1025}, "tools", "length <= 1024"),
        ({"tool_choice": "must"}, "tool_choice", "one of auto, none, required"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "required"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_object, json_schema, text"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        ({"metadata": {"k": 1}}, "metadata[...]", "expected string"),
        ({"metadata": {str(key): "" for key in range(17)}}, "metadata", "length <= 16"),
        ({"metadata": {"k" * 65: ""}}, "metadata", "for each key"),
        ({"functions": []}, "functions", "Use `tools`"),
        ({"function_call": "auto"}, "function_call", "Use `tool_choice`"),
        ({"modalities": ["text", "audio"]}, "modalities", "only"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param == param
    assert words in str(caught.value)
    assert f"`{param}`" in str(caught.value)


def test_a_refusal_never_repeats_the_callers_text() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(messages=[{"role": "secret" * 1000, "content": "x"}])
    assert "secret" not in str(caught.value)


def test_the_sdk_reads_a_whole_answer() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}], "refusal": None}
    answer = Completion(
        [
            Choice(index=0, content="Hi", reasoning="thought", logprobs=logprobs),
            Choice(index=1, tool_calls=[CALL], finish_reason="tool_calls"),
            Choice(index=2, content=None, refusal="No.", finish_reason="content_filter"),
            Choice(index=3, content="cut", finish_reason="stop_sequence"),
        ],
        USAGE,
    )
    body = openai_chat.render(answer, answer_id="chatcmpl-1", created=7, model="maker/m", prsm=PRSM)
    ChatCompletion.model_validate_json(body, strict=True)
    got = Served(body).openai().chat.completions.create(model="m", messages=ASK)
    first, second, third, fourth = got.choices
    assert (first.message.content, first.finish_reason) == ("Hi", "stop")
    assert first.message.model_extra == {"reasoning_content": "thought"}
    assert first.logprobs is not None
    assert second.message.tool_calls
    assert second.message.tool_calls[0].model_dump(exclude_none=True) == CALL
    assert (third.message.refusal, third.finish_reason, fourth.finish_reason) == ("No.", "content_filter", "stop")
    assert got.usage
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (10, 5, 15)
    assert got.usage.prompt_tokens_details
    assert got.usage.prompt_tokens_details.cached_tokens == 3
    assert got.model_extra == {"prsm": PRSM}
    unmetered = openai_chat.render(Completion([Choice(content="")], None), answer_id="a", created=1, model="m", prsm={})
    assert ChatCompletion.model_validate_json(unmetered, strict=True).usage is None


BATCHES = [
    [Delta(reasoning="hm")],
    [Delta(content="Hel"), Delta(content="lo")],
    tool_deltas(0, "f", ['{"x"', ":1}"]),
    [Delta(finish_reason="tool_calls", usage=USAGE)],
]


@pytest.mark.parametrize("include_usage", [False, True])
def test_the_sdk_reads_the_chunks(include_usage: bool) -> None:
    body = chat_bytes(BATCHES, include_usage=include_usage)
    assert body.endswith(b"data: [DONE]\n\n")
    served = Served(body, headers=EVENTS)
    chunks = list(served.openai().chat.completions.create(model="m", messages=ASK, stream=True))
    for line in body.decode().split("\n\n")[:-2]:
        ChatCompletionChunk.model_validate_json(line.removeprefix("data: "), strict=True)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls"]
    assert [bool(chunk.model_extra) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].model_extra == {"prsm": PRSM}
    if include_usage:
        assert chunks[-1].choices == []
        assert chunks[-1].usage
        assert chunks[-1].usage.total_tokens == 15
        assert body.count(b'"usage":null') == len(chunks) - 1
    else:
        assert b'"usage"' not in body


def test_the_sdks_stream_helper_assembles_the_answer() -> None:
    served = Served(chat_bytes(BATCHES, include_usage=True), headers=EVENTS)
    with served.openai().chat.completions.stream(model="m", messages=ASK) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"content.delta", "content.done", "tool_calls.function.arguments.done"} <= kinds
    message = final.choices[0].message
    assert message.content == "Hello"
    assert message.tool_calls
    assert message.tool_calls[0].function.arguments == '{"x":1}'
    assert final.usage
    assert final.usage.total_tokens == 15


def test_several_choices_and_logprobs_are_streamed() -> None:
    logprobs = {"content": [{"token": "b", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}
    batches = [
        [Delta(index=1, content="b", logprobs=logprobs), Delta(index=0, content="a")],
        [Delta(index=0, refusal="no", finish_reason="stop"), Delta(index=1, finish_reason="stop")],
    ]
    with (
        Served(chat_bytes(batches, n=2), headers=EVENTS)
        .openai()
        .chat.completions.stream(model="m", messages=ASK) as stream
    ):
        first, second = stream.until_done().get_final_completion().choices
    assert (first.message.content, first.message.refusal, first.finish_reason) == ("a", "no", "stop")
    assert (second.message.content, second.finish_reason) == ("b", "stop")
    assert second.logprobs
    assert second.logprobs.content
    assert second.logprobs.content[0].logprob == -1.0


def test_a_failure_in_the_stream_is_raised_by_the_sdk() -> None:
    stream = ChatStream(answer_id="a", created=1, model="m")
    body = stream.start() + stream.feed([Delta(content="x")]) + stream.fail(PrsmError("It broke.", remedy="Again."))
    with pytest.raises(openai.APIError, match=r"It broke\. Again\."):
        list(Served(body, headers=EVENTS).openai().chat.completions.create(model="m", messages=ASK, stream=True))


def test_what_shows_nothing_makes_no_chunk() -> None:
    stream = ChatStream(answer_id="a", created=1, model="m")
    assert stream.feed([Delta(), Delta(content=""), Delta(usage=USAGE), Delta(index=1)]) == b""
    assert json.loads(stream.feed([Delta(content='"\n')]).removeprefix(b"data: "))["choices"][0]["delta"] == {
        "content": '"\n'
    }
