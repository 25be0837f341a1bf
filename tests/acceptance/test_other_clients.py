"""langchain-openai and curl against a started node."""

import json
import shutil
import subprocess
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr
from tests.support.started_node import StartedNode

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "What is 127 + 385?"}]}


@tool
def weather(city: str, days: int) -> str:
    """Weather of a place."""
    return f"{city}: sun for {days} days"


@pytest.fixture
def model(node: StartedNode) -> ChatOpenAI:
    return ChatOpenAI(model="up/echo", base_url=node.base_url, api_key=SecretStr(node.key), max_retries=0)


def test_langchain_invokes(model: ChatOpenAI) -> None:
    answer = model.invoke("one two three")
    assert answer.content == "one two three"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 3


def test_langchain_streams(model: ChatOpenAI) -> None:
    chunks = list(model.stream("one two three", stream_usage=True))
    assert [c.content for c in chunks if c.content] == ["one ", "two ", "three"]
    whole: Any = sum(chunks[1:], chunks[0])
    assert whole.usage_metadata["output_tokens"] == 3


def test_langchain_calls_tools(model: ChatOpenAI) -> None:
    question = HumanMessage("Weather?")
    asked = model.bind_tools([weather]).invoke([question])
    assert isinstance(asked, AIMessage)
    [call] = asked.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Zürich", "days": 2})
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"] or "")
    assert model.bind_tools([weather]).invoke([question, asked, result]).content == "Zürich: sun for 2 days"


def test_langchain_over_the_responses_api(node: StartedNode) -> None:
    model = ChatOpenAI(
        model="up/echo", base_url=node.base_url, api_key=SecretStr(node.key), use_responses_api=True, max_retries=0
    )
    assert model.invoke("one two").text == "one two"
    assert "".join(chunk.text for chunk in model.stream("one two")) == "one two"


def test_langchain_embeds(node: StartedNode) -> None:
    embedder = OpenAIEmbeddings(
        model="local/minilm-l6",
        base_url=node.base_url,
        api_key=SecretStr(node.key),
        check_embedding_ctx_length=False,  # would send token ids of another model's tokenizer
    )
    assert len(embedder.embed_query("a cat")) == 384


def curl(node: StartedNode, body: Any, *more: str) -> "subprocess.CompletedProcess[str]":
    command = ["curl", "-sS", f"{node.base_url}/chat/completions", "-H", f"authorization: Bearer {node.key}", *more]
    return subprocess.run([*command, "-d", json.dumps(body)], capture_output=True, text=True, timeout=60, check=True)


@needs_curl
def test_curl_as_the_node_announces_it(node: StartedNode) -> None:
    """Without a content-type of JSON: curl's -d says it is a form, and the pasted line must still work."""
    answer = json.loads(curl(node, QUESTION).stdout)
    assert answer["choices"][0]["message"]["content"] == "512"


@needs_curl
def test_curl_streams(node: StartedNode) -> None:
    lines = curl(node, QUESTION | {"stream": True}, "-N", "-i").stdout.splitlines()
    assert lines[0] == "HTTP/1.1 200 OK"
    assert "content-type: text/event-stream; charset=utf-8" in lines
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    said = [json.loads(d)["choices"] for d in data[:-1]]
    assert "".join(c[0]["delta"].get("content") or "" for c in said if c) == "512"


@needs_curl
def test_curl_shows_an_error_with_its_status(node: StartedNode) -> None:
    done = curl(node, {"model": "auto"}, "-w", "\n%{http_code}")
    body, _, status = done.stdout.rpartition("\n")
    assert status == "400"
    assert json.loads(body)["error"]["param"] == "messages"
