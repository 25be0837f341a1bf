"""Bodies that break a limit are refused with a sentence that names it; nothing else ever comes out of a parser."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.api.wire import anthropic_messages, limits, openai_chat, openai_embeddings, openai_responses
from prsm.api.wire.parsed import parse_max_cost_micro, parse_session_id
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.money import MAX_AMOUNT_MICRO

MAX = 1 << 20
PARSERS = [
    openai_chat.parse,
    openai_responses.parse,
    openai_embeddings.parse,
    anthropic_messages.parse,
    anthropic_messages.parse_count_tokens,
]


def refusal(body: bytes, max_bytes: int = MAX) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        limits.decode(body, max_bytes)
    return caught.value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b'{"a":', "not valid JSON"),
        (b'{"a":1} x', "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":Infinity}', "not valid JSON"),
        (b'{"a":1e999}', "not valid JSON: number out of range."),
        (b'{"a":' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"a":"\x00"}', "not valid JSON"),
        (b'{"a":"\xff"}', "not UTF-8 (byte 6)"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":"\\ud800x"}', "surrogate"),
        (b'{"a":"\\udc00"}', "surrogate"),
        (b'{"a":"\\ud83d\\ude00 \\uDC00"}', "surrogate"),
        (b'{"\\ud800":1}', "surrogate"),
        (b'{"a":"\\u0000"}', "NUL"),
        (b'{"a\\u0000":1}', "NUL"),
        (b'{"a":' * 64 + b"{}" + b"}" * 64, "64 deep"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "64 deep"),
        (b'{"a":' + b"[" * 100_000, "64 deep"),
    ],
)
def test_a_body_that_breaks_a_limit_is_refused_by_name(body: bytes, words: str) -> None:
    error = refusal(body)
    assert words in str(error)
    assert error.kind is Kind.INVALID


def test_a_body_over_the_limit_of_bytes_is_too_large() -> None:
    error = refusal(b'{"a":"xxxx"}', max_bytes=11)
    assert (error.kind, error.code) == (Kind.TOO_LARGE, "request_too_large")
    assert limits.decode(b'{"a":"xxxx"}', 12) == {"a": "xxxx"}


def test_what_only_looks_like_a_broken_limit_is_accepted() -> None:
    assert limits.decode(b'{"a":"\\\\u0000"}', MAX) == {"a": "\\u0000"}
    assert limits.decode(b'{"a":"\\\\ud800"}', MAX) == {"a": "\\ud800"}
    assert limits.decode(b'{"a":"\\ud83d\\ude00"}', MAX) == {"a": "\U0001f600"}
    assert limits.decode(b'{"a":1,"a":2}', MAX) == {"a": 2}
    deepest = b'{"a":' * 63 + b"{}" + b"}" * 63
    assert limits.decode(deepest, MAX)
    wide = msgspec.json.encode({"a": [[1]] * 5000, "b": "[[[{{{" * 1000})
    assert limits.decode(wide, MAX)


def test_the_place_of_a_nul_is_named() -> None:
    body = json.dumps({"messages": [{"content": "fine"}, {"content": ["x\0"]}]}).encode()
    assert refusal(body).param == "messages[1].content[0]"


@given(
    st.recursive(
        st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    )
)
def test_depth_is_what_recursion_says(value: Any) -> None:
    def depth(item: Any) -> int:
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    actual = depth(value)
    if actual:
        assert not limits.deeper_than(value, actual)
        assert limits.deeper_than(value, actual - 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
words = st.sampled_from(
    [
        *("user", "assistant", "system", "tool", "developer", "text", "image_url", "function", "message", "input_text"),
        *("output_text", "input_image", "function_call", "function_call_output", "reasoning", "item_reference"),
        *("tool_use", "tool_result", "image", "thinking", "document", "base64", "auto", "any", "json_schema", "x"),
    ]
)
names = st.sampled_from(
    [
        *("role", "content", "type", "text", "name", "id", "call_id", "output", "arguments", "input", "source", "data"),
        *("tool_calls", "function", "tool_call_id", "tool_use_id", "media_type", "image_url", "url", "parameters"),
        *("input_schema", "mode", "tools", "format", "schema", "file_data", "refusal", "allowed_tools", "json_schema"),
    ]
)
near_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=20,
)
fields = st.sampled_from(
    [
        *("model", "messages", "input", "system", "instructions", "tools", "tool_choice", "max_tokens", "n", "stop"),
        *("stream", "stream_options", "temperature", "text", "reasoning", "thinking", "output_config", "metadata"),
        *("response_format", "prsm", "previous_response_id", "conversation", "include", "prompt", "dimensions"),
    ]
)


def assert_parsed_or_refused(parse: Any, body: bytes) -> None:
    refused = None
    try:
        parse(body, max_bytes=MAX)
    except PrsmError as error:
        refused = error
    assert refused is None or (refused.kind is Kind.INVALID and refused.message.endswith("."))


@settings(max_examples=60)
@pytest.mark.parametrize("parse", PARSERS)
@given(body=st.binary(max_size=60) | json_values.map(msgspec.json.encode))
def test_arbitrary_bytes_and_json_are_parsed_or_refused(parse: Any, body: bytes) -> None:
    assert_parsed_or_refused(parse, body)


@settings(max_examples=80)
@pytest.mark.parametrize("parse", PARSERS)
@given(extra=st.dictionaries(fields, near_values, max_size=4), items=st.lists(near_values, max_size=3))
def test_bodies_that_are_nearly_right_are_parsed_or_refused(
    parse: Any, extra: dict[str, Any], items: list[Any]
) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": items, "input": items} | extra
    if parse is openai_responses.parse:
        body.pop("messages", None)
        body.pop("max_tokens", None)
    if parse is anthropic_messages.parse or parse is anthropic_messages.parse_count_tokens:
        body.pop("input", None)
    assert_parsed_or_refused(parse, msgspec.json.encode(body))


@pytest.mark.parametrize("parse", PARSERS)
def test_the_extension_is_typed_and_taken_from_the_options(parse: Any) -> None:
    session = "0190a000-0000-7000-8000-000000000001"
    body: dict[str, Any] = {"model": "m", "prsm": {"max_cost_micro": 7, "session_id": session}}
    body |= {"input": "q"} if parse in (openai_responses.parse, openai_embeddings.parse) else {}
    body |= {} if "input" in body else {"messages": [{"role": "user", "content": "q"}], "max_tokens": 5}
    parsed = parse(msgspec.json.encode(body), max_bytes=MAX)
    call = parsed.call if parse is openai_responses.parse else parsed
    assert call.prsm.max_cost_micro == 7
    assert str(call.prsm.session_id) == session
    assert "prsm" not in getattr(call, "options", {})


@pytest.mark.parametrize(
    ("extension", "param"),
    [
        ({"max_cost_micro": -1}, "prsm.max_cost_micro"),
        ({"max_cost_micro": MAX_AMOUNT_MICRO + 1}, "prsm.max_cost_micro"),
        ({"max_cost_micro": 1.5}, "prsm.max_cost_micro"),
        ({"max_cost_micro": True}, "prsm.max_cost_micro"),
        ({"session_id": "x"}, "prsm.session_id"),
        ({"max_cost": 1}, "prsm.max_cost"),
        ([], "prsm"),
    ],
)
def test_a_wrong_extension_is_refused(extension: Any, param: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}], "prsm": extension}
    with pytest.raises(InvalidRequest) as caught:
        openai_chat.parse(msgspec.json.encode(body), max_bytes=MAX)
    assert caught.value.param == param


def test_headers_of_the_extension() -> None:
    assert parse_max_cost_micro("0") == 0
    assert parse_max_cost_micro("9000000000000000") == MAX_AMOUNT_MICRO
    assert str(parse_session_id("0190a000-0000-7000-8000-000000000001")).endswith("1")
    for text in ("", "-1", "+1", "1.5", "1_0", " 1", "9000000000000001", "9" * 5000, "\u0661"):
        with pytest.raises(InvalidRequest):
            parse_max_cost_micro(text)
    for text in ("", "x" * 36, "0190a00000007000800000000000000001", "{0190a000-0000-7000-8000-000000000001}"):
        with pytest.raises(InvalidRequest):
            parse_session_id(text)
