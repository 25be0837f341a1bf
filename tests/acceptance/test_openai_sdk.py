"""The official OpenAI SDK against a started node: nothing but ``base_url`` and ``api_key`` is special."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx2
import openai
import pytest
from openai import OpenAI
from tests.support.started_node import StartedNode
from tests.support.upstream import UpstreamServer

SUM = [{"role": "user", "content": "What is 127 + 385?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a place",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@pytest.fixture
def client(node: StartedNode) -> Iterator[OpenAI]:
    with OpenAI(base_url=node.base_url, api_key=node.key, max_retries=0) as made:
        yield made


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_an_answer_says_what_it_cost_and_who_gave_it(client: OpenAI, node: StartedNode) -> None:
    before = node.wallet()["available_micro"]
    raw = client.chat.completions.with_raw_response.create(model="up/echo", messages=say("one two three"))
    answer = raw.parse()
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "up/echo"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3, 6)
    # 3 tokens at 1 FTNS per million and 3 at 2: nine micro-FTNS.
    assert raw.headers["x-prsm-cost-micro"] == "9"
    assert raw.headers["x-prsm-model"] == "up/echo"
    assert raw.headers["x-request-id"] == raw.headers["x-prsm-receipt"] == str(UUID(raw.headers["x-request-id"]))
    assert int(raw.headers["x-ratelimit-remaining-requests"]) < int(raw.headers["x-ratelimit-limit-requests"])
    assert raw.headers["x-ratelimit-reset-requests"]
    assert answer.prsm == {  # type: ignore[attr-defined]  # extra fields of a response are kept by the SDK
        "cost_micro": 9,
        "model": "up/echo",
        "provider": "up",
        "reason": "named by the caller",
        "receipt_id": raw.headers["x-prsm-receipt"],
    }
    # The operator owns no part of the split, so the whole cost has left its account.
    assert before - node.wallet()["available_micro"] == 9
    assert node.receipt(raw.headers["x-prsm-receipt"])["amounts"]["captured_micro"] == 9


def test_auto_gives_arithmetic_to_the_teacher_and_says_why(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="auto", messages=SUM)
    assert answer.choices[0].message.content == "512"
    assert answer.model == "local/arithmetic"
    assert answer.prsm["reason"] == "specialist for arithmetic"  # type: ignore[attr-defined]


def test_auto_gives_a_poem_to_a_generalist(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="auto", messages=say("Write a poem about the sea"), max_tokens=20)
    assert answer.model.startswith("up/")
    assert "by expected price" in answer.prsm["reason"]  # type: ignore[attr-defined]


def test_a_stream_comes_in_pieces_and_ends_with_usage(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="up/echo", messages=say("one two three"), stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert pieces == ["one ", "two ", "three"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert len({c.id for c in chunks}) == 1
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 3)
    assert last.prsm["cost_micro"] == 9  # type: ignore[attr-defined]


def test_without_include_usage_no_chunk_has_usage(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="up/echo", messages=say("a b"), stream=True))
    assert all(c.usage is None for c in chunks)
    assert any(getattr(c, "prsm", None) for c in chunks)


def test_the_stream_helper_assembles_the_answer(client: OpenAI) -> None:
    with client.chat.completions.stream(model="up/echo", messages=say("one two three")) as stream:
        kinds = [event.type for event in stream]
    assert "content.delta" in kinds
    assert "content.done" in kinds
    assert stream.get_final_completion().choices[0].message.content == "one two three"


def test_tools_go_through_in_both_directions(client: OpenAI, upstream: UpstreamServer) -> None:
    asked = say("Weather in Zürich?")
    answer = client.chat.completions.create(
        model="up/echo", messages=asked, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=False
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.id, call.function.name) == ("call_1", "weather")
    assert json.loads(call.function.arguments) == {"city": "Zürich", "days": 2}
    assert upstream.requests[-1]["tools"] == [WEATHER]
    assert upstream.requests[-1]["parallel_tool_calls"] is False

    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"}
    reply = choice.message.model_dump(exclude_none=True)
    final = client.chat.completions.create(model="up/echo", messages=[*asked, reply, result], tools=[WEATHER])
    assert final.choices[0].message.content == "sunny, 21 degrees"
    assert upstream.requests[-1]["messages"][1]["tool_calls"][0]["id"] == "call_1"
    assert upstream.requests[-1]["messages"][2] == result


def test_streamed_tool_calls_are_assembled_by_the_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model="up/echo", messages=say("Weather?"), tools=[WEATHER]) as stream:
        for _ in stream:
            pass
    [call] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Zürich", "days": 2}


def test_embeddings_as_floats_and_as_base64(client: OpenAI) -> None:
    texts = ["a cat", "a kitten", "the stock exchange"]
    # The SDK asks for base64 by itself and decodes it; floats must be the same numbers.
    packed = client.embeddings.create(model="local/minilm-l6", input=texts)
    floats = client.embeddings.create(model="local/minilm-l6", input=texts, encoding_format="float")
    assert [d.index for d in packed.data] == [0, 1, 2]
    assert [len(d.embedding) for d in packed.data] == [384] * 3
    for a, b in zip(packed.data, floats.data, strict=True):
        assert a.embedding == pytest.approx(b.embedding, abs=1e-6)
    cat, kitten, stocks = (d.embedding for d in floats.data)

    def alike(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert alike(cat, kitten) > 0.6 > 0.4 > alike(cat, stocks)
    assert packed.usage.prompt_tokens > 0
    assert packed.prsm["cost_micro"] > 0  # type: ignore[attr-defined]


def test_embeddings_of_a_provider_keep_their_order(client: OpenAI) -> None:
    answer = client.embeddings.create(model="up/embed", input=["a", "bb"], encoding_format="float")
    # The upstream sends its rows backwards, and makes each vector from the text's length.
    assert [round(d.embedding[0] * 7) for d in answer.data] == [1, 2]


def test_a_response_is_made_and_continued_by_its_id(client: OpenAI, upstream: UpstreamServer) -> None:
    first = client.responses.create(model="up/echo", input="My name is Ada", instructions="Be short.")
    assert first.output_text == "My name is Ada"
    assert first.status == "completed"
    assert first.usage is not None
    assert first.usage.output_tokens == 4
    second = client.responses.create(model="up/echo", input="What is my name?", previous_response_id=first.id)
    assert second.output_text == "What is my name?"
    assert second.previous_response_id == first.id
    told = upstream.requests[-1]["messages"]
    # As OpenAI documents it: the instructions of a response are not carried over to the next one.
    assert [m["role"] for m in told] == ["user", "assistant", "user"]
    assert "My name is Ada" in str(told[0]["content"])
    with pytest.raises(openai.ConflictError) as refused:
        client.responses.create(model="up/echo", input="again", previous_response_id=first.id)
    assert refused.value.code == "previous_response_continued"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="up/echo", input="x", previous_response_id=f"resp_{uuid4().hex}")


def test_a_response_is_streamed_and_can_be_continued(client: OpenAI, upstream: UpstreamServer) -> None:
    with client.responses.stream(model="up/echo", input="one two three") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") == 3
    assert final.output_text == "one two three"
    client.responses.create(model="up/echo", input="more", previous_response_id=final.id)
    assert [m["role"] for m in upstream.requests[-1]["messages"]] == ["user", "assistant", "user"]


def test_tools_over_the_responses_api(client: OpenAI, upstream: UpstreamServer) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": False}
    first = client.responses.create(model="up/echo", input="Weather?", tools=[tool], instructions="Be short.")
    [call] = [item for item in first.output if item.type == "function_call"]
    assert call.name == "weather"
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    second = client.responses.create(
        model="up/echo", input=output, tools=[tool], previous_response_id=first.id, instructions="Be long."
    )
    assert second.output_text == "rain"
    told = upstream.requests[-1]["messages"]
    assert [m["role"] for m in told] == ["system", "user", "assistant", "tool"]
    assert told[0]["content"] == "Be long."


def test_a_response_that_is_not_stored_cannot_be_continued(client: OpenAI) -> None:
    first = client.responses.create(model="up/echo", input="x", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="up/echo", input="y", previous_response_id=first.id)


def test_models_are_listed_and_found(client: OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"local/arithmetic", "local/minilm-l6", "up/echo"} <= names
    found = client.models.retrieve("up/echo")
    assert found.owned_by == "up"
    assert found.prsm["input_price_micro_per_mtok"] == 1_000_000  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("up/none")


@pytest.mark.parametrize("key", ["sk-nonsense", "prsm_AAAAAAAA_" + "A" * 43])
def test_a_wrong_key_is_an_authentication_error(node: StartedNode, key: str) -> None:
    client = OpenAI(base_url=node.base_url, api_key=key, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        client.chat.completions.create(model="up/echo", messages=say("x"))
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    with pytest.raises(openai.AuthenticationError):
        client.embeddings.create(model="up/embed", input="x")


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="no/such", messages=say("x"))
    assert refused.value.code == "model_not_found"
    assert "prsm models add" in refused.value.message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prsm": {"max_cost_micro": -1}}, "prsm.max_cost_micro"),
        ({"prsm": {"max_cots": 1}}, "prsm"),
    ],
)
def test_bad_requests_name_the_field(client: OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="up/echo", messages=say("x"), extra_body=change)
    assert (refused.value.param or "").startswith(param)


def test_a_key_over_its_cap_is_refused_with_402(node: StartedNode) -> None:
    before = node.wallet()
    _, token = node.new_key("capped", cap_micro=5)
    client = OpenAI(base_url=node.base_url, api_key=token, max_retries=0)
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="up/echo", messages=say("one two three"))
    assert refused.value.status_code == 402
    assert refused.value.code == "key_cap_exceeded"
    assert (node.wallet()["balance_micro"], node.wallet()["held_micro"]) == (before["balance_micro"], 0)


def test_a_key_over_its_rate_is_told_when_to_come_back(node: StartedNode) -> None:
    _, token = node.new_key("slow", rate_limit_per_minute=1)
    client = OpenAI(base_url=node.base_url, api_key=token, max_retries=0)
    client.chat.completions.create(model="up/echo", messages=say("x"))
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="up/echo", messages=say("x"))
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_a_spend_cap_shortens_the_answer(client: OpenAI, node: StartedNode, upstream: UpstreamServer) -> None:
    free = client.chat.completions.create(model="up/echo", messages=say("a b c"), max_tokens=1000)
    cap = {"prsm": {"max_cost_micro": 600}}
    capped = client.chat.completions.create(model="up/echo", messages=say("a b c"), max_tokens=1000, extra_body=cap)
    asked = upstream.requests[-1]
    limit = asked.get("max_tokens") or asked.get("max_completion_tokens")
    assert 0 < limit < 300
    assert free.choices[0].message.content == capped.choices[0].message.content
    held = [node.receipt(a.prsm["receipt_id"])["amounts"]["held_micro"] for a in (free, capped)]  # type: ignore[attr-defined]
    assert held[1] <= 600 < held[0]


def test_a_spend_cap_below_one_token_is_refused_in_body_or_header(client: OpenAI) -> None:
    for how in ({"extra_body": {"prsm": {"max_cost_micro": 3}}}, {"extra_headers": {"x-prsm-max-cost-micro": "3"}}):
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model="up/echo", messages=say("a b c"), **how)  # type: ignore[arg-type]
        assert refused.value.status_code == 402
        assert refused.value.code == "cost_cap_too_low"


def test_a_session_goes_on_by_its_id(client: OpenAI, node: StartedNode, upstream: UpstreamServer) -> None:
    session = str(uuid4())
    for text in ("My name is Ada", "What is my name?"):
        answer = client.chat.completions.create(
            model="up/echo", messages=say(text), extra_body={"prsm": {"session_id": session}}
        )
        assert answer.prsm["session_id"] == session  # type: ignore[attr-defined]
    list(
        client.chat.completions.create(
            model="up/echo", messages=say("And now?"), stream=True, extra_headers={"x-prsm-session": session}
        )
    )
    assert [m["role"] for m in upstream.requests[-1]["messages"]] == ["user", "assistant"] * 2 + ["user"]
    messages = node.call("GET", f"/node/v1/sessions/{session}")["messages"]
    assert [m["content"] for m in messages[::2]] == ["My name is Ada", "What is my name?", "And now?"]
    _, stranger = node.new_client()
    with pytest.raises(openai.NotFoundError):
        OpenAI(base_url=node.base_url, api_key=stranger).chat.completions.create(
            model="up/echo", messages=say("x"), extra_headers={"x-prsm-session": session}
        )


def test_the_last_system_prompt_of_a_session_is_the_one_that_counts(client: OpenAI, upstream: UpstreamServer) -> None:
    session = {"prsm": {"session_id": str(uuid4())}}
    for prompt in ("Be short.", "Be long.", None):
        system: Any = [{"role": "system", "content": prompt}] if prompt else []
        client.chat.completions.create(model="up/echo", messages=[*system, *say("Hello")], extra_body=session)
    told = upstream.requests[-1]["messages"]
    assert [m["role"] for m in told] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert told[0]["content"] == "Be long."


def test_an_idempotency_key_replays_the_same_bytes_and_pays_once(client: OpenAI, node: StartedNode) -> None:
    named = {"Idempotency-Key": f"order-{uuid4()}"}
    before = node.wallet()["balance_micro"]
    calls = [
        client.chat.completions.with_raw_response.create(model="up/echo", messages=say("a b"), extra_headers=named)
        for _ in range(3)
    ]
    assert calls[0].content == calls[1].content == calls[2].content
    assert "idempotent-replayed" not in calls[0].headers
    assert calls[1].headers["idempotent-replayed"] == "true"
    for name in ("x-request-id", "x-prsm-model", "x-prsm-reason", "x-prsm-cost-micro", "x-prsm-receipt"):
        assert calls[1].headers[name] == calls[0].headers[name]
    assert before - node.wallet()["balance_micro"] == 6
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(model="up/echo", messages=say("other"), extra_headers=named)
    assert refused.value.code == "idempotency_key_reused"


def test_a_stream_is_replayed_as_a_stream(client: OpenAI, node: StartedNode) -> None:
    named = {"Idempotency-Key": f"stream-{uuid4()}"}
    before = node.wallet()["balance_micro"]

    def ask() -> list[dict[str, Any]]:
        stream = client.chat.completions.create(
            model="up/echo", messages=say("a b c"), stream=True, stream_options={"include_usage": True},
            extra_headers=named,
        )  # fmt: skip
        return [chunk.model_dump() for chunk in stream]

    assert ask() == ask()
    assert before - node.wallet()["balance_micro"] == 9


def test_embeddings_are_replayed_too(client: OpenAI, node: StartedNode) -> None:
    named = {"Idempotency-Key": f"embed-{uuid4()}"}
    before = node.wallet()["balance_micro"]
    calls = [
        client.embeddings.with_raw_response.create(model="up/embed", input=["a b c"], extra_headers=named)
        for _ in range(2)
    ]
    assert calls[0].content == calls[1].content
    assert before - node.wallet()["balance_micro"] == 3


def test_an_idempotency_key_of_one_endpoint_is_no_answer_at_another(node: StartedNode) -> None:
    headers = {"authorization": f"Bearer {node.key}", "idempotency-key": f"both-{uuid4()}"}
    body = {"model": "up/embed", "input": "a b c"}
    embedded, asked = (
        httpx2.post(f"{node.base_url}/{path}", json=body, headers=headers) for path in ("embeddings", "responses")
    )
    assert (embedded.status_code, asked.status_code) == (200, 422)
    assert asked.json()["error"]["code"] == "idempotency_key_reused"


def test_a_refused_request_frees_its_idempotency_key(node: StartedNode) -> None:
    key_id, token = node.new_key("capped", cap_micro=5)
    client = OpenAI(base_url=node.base_url, api_key=token, max_retries=0)
    named = {"Idempotency-Key": "again"}
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(model="up/echo", messages=say("a b"), extra_headers=named)
    node.call("PUT", f"/node/v1/keys/{key_id}/cap", {"cap_micro": 1_000_000})
    answer = client.chat.completions.create(model="up/echo", messages=say("a b"), extra_headers=named)
    assert answer.choices[0].message.content == "a b"


async def test_the_async_client_streams(node: StartedNode) -> None:
    async with openai.AsyncOpenAI(base_url=node.base_url, api_key=node.key) as client:
        stream = await client.chat.completions.create(model="up/echo", messages=say("one two"), stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices]) == "one two"
