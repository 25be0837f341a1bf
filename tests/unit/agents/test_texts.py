"""What is screened of a call and of an answer: all that a model reads and writes, as it stands there."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.support.asks import chat

from prsm.agents.call import NOT_READ, ChatCall, Choice, EmbedCall
from prsm.agents.texts import choices_without, read_texts, said_texts, tools_offered, unescaped
from prsm.safety.seams import Category, Span

HUMAN = {"role": "user", "content": "hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,Zm9yYmlkZGVu"}}
CALLED = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
TEXTS = st.text(st.characters(exclude_categories=("Cs",)))


def said(*messages: Any) -> ChatCall:
    return replace(chat(), messages=list(messages))


def test_everything_that_a_model_will_read() -> None:
    call = said(
        {"role": "system", "content": "rules"},
        HUMAN | {"content": [{"type": "text", "text": "see"}, IMAGE]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": None, "refusal": "never", "name": "eve", "tool_calls": [CALLED]},
        {"role": "tool", "content": "found", "tool_call_id": "1"},
    )
    assert read_texts(call) == ["rules", "see", "found", '{"a":1}', "never\neve\nf"]
    assert read_texts(EmbedCall(UUID(int=1), ["one", "two"], "auto")) == ["one", "two"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "marked"}]},
        {"role": "assistant", "content": "so", "reasoning_content": "marked"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "marked"}},
        {"role": "user", "content": [{"type": "text", "text": "so", "more": {"deep": ["marked"]}}]},
        {"role": "assistant", "content": None, "tool_calls": [CALLED | {"custom": {"input": "marked"}}]},
        {"role": "tool", "content": "so", "tool_call_id": "no id, but marked"},
    ],
)
def test_fields_of_a_message_that_nobody_knows_are_read_too(message: Any) -> None:
    assert any("marked" in text for text in read_texts(said(message)))


def test_options_are_read_with_the_names_of_their_fields_but_for_what_no_model_reads() -> None:
    schema = {"name": "n1", "description": "n2", "schema": {"properties": {"n3": {"enum": ["n4"]}}}}
    options: dict[str, Any] = {
        "response_format": {"type": "json_schema", "json_schema": schema},
        "tools": [{"type": "function", "function": {"name": "n5", "description": 'n6 "quoted"\nnext line'}}],
        "prediction": {"content": [{"text": "n7"}]},
        "stop": ["n8"],
        "temperature": 0.5,
    }
    read = read_texts(replace(said(HUMAN), options=options | dict.fromkeys(NOT_READ, "unread")))[-1]
    assert {f"n{number}" for number in range(1, 9)} <= set(read.split())
    assert 'n6 "quoted"\nnext line' in read
    assert "unread" not in read
    assert read_texts(replace(said(HUMAN), options={"temperature": 0.5, "n": 2})) == ["hi"]


def test_everything_that_a_model_wrote() -> None:
    choices = [Choice(content="said", reasoning="thought"), Choice(index=1, refusal="no", tool_calls=[CALLED])]
    assert said_texts(choices) == ["said", "thought", "no", "f", '{"a":1}']
    offered = tools_offered(
        replace(said(HUMAN), options={"tools": [{"type": "function", "function": CALLED["function"]}]})
    )
    assert said_texts(choices, offered) == ["said", "thought", "no", '{"a":1}'], "it was screened when it was offered"
    cut = choices_without(choices, [(), (), (), (Span(Category.HATE, "hate", 2, 3),)], offered)
    assert cut[1].tool_calls[0]["function"] == {"name": "f", "arguments": '{"[hate]":1}'}
    cut = choices_without(choices, [(), (), (), (Span(Category.HATE, "hate", 0, 1),), ()])
    assert cut[1].tool_calls[0]["function"] == {"name": "[hate]", "arguments": '{"a":1}'}


@given(TEXTS, st.booleans())
def test_escapes_of_json_hide_nothing(text: str, ascii_only: bool) -> None:
    assert unescaped(json.dumps({"q": text}, ensure_ascii=ascii_only)) == f'{{"q": "{text}"}}'


@pytest.mark.parametrize(
    ("given", "read"),
    [("\\u00", "\\u00"), ("\\", "\\"), ("\\ud800 x", "\ufffd x"), ("\\u0068\\u006F", "ho"), ("\\q", "q")],
)
def test_what_is_no_whole_escape_stays(given: str, read: str) -> None:
    assert unescaped(given) == read


@given(TEXTS, TEXTS, st.booleans())
def test_what_was_found_without_escapes_is_cut_out_with_them(before: str, after: str, ascii_only: bool) -> None:
    arguments = json.dumps({"q": f"{before}\x00{after}"}, ensure_ascii=ascii_only)
    choice = Choice(tool_calls=[{"function": {"name": "", "arguments": arguments}}])
    (read,) = said_texts([choice])
    at = read.index("\x00", len('{"q": "') + len(before))
    cuts: Sequence[Sequence[Span]] = [(Span(Category.HATE, "cut", at, at + 1),)]
    (left,) = choices_without([choice], cuts)
    assert json.loads(left.tool_calls[0]["function"]["arguments"]) == {"q": f"{before}[cut]{after}"}
