"""One answer, three formats, any cut: each client assembles the same text, and the digest of the receipt from it."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.api.wire_sdk import EVENTS, Served
from tests.unit.api.wire_streams import (
    REQUEST,
    USAGE,
    chat_bytes,
    cut,
    messages_bytes,
    objects,
    responses_bytes,
    texts,
    tool_deltas,
)

from prsm.agents.answer_digest import AnswerAssembler, output_digest
from prsm.agents.call import Choice, Completion, Delta, Json
from prsm.api.wire import anthropic_messages, openai_chat, openai_responses

ASK: list[Any] = [{"role": "user", "content": "q"}]


def call(name: str, arguments: str) -> Json:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def digest_from_chat(message: Any) -> str:
    calls = [call(one.function.name, one.function.arguments) for one in message.tool_calls or ()]
    return output_digest([Choice(content=message.content, tool_calls=calls)])


def digest_from_responses(response: Any) -> str:
    calls = [call(item.name, item.arguments) for item in response.output if item.type == "function_call"]
    return output_digest([Choice(content=response.output_text, tool_calls=calls)])


def digest_from_messages(message: Any) -> str:
    text = "".join(block.text for block in message.content if block.type == "text")
    calls = [call(block.name, json.dumps(block.input)) for block in message.content if block.type == "tool_use"]
    return output_digest([Choice(content=text, tool_calls=calls)])


@settings(max_examples=30, deadline=None)
@given(texts, texts, st.lists(objects, max_size=2), st.lists(st.integers(0, 99), max_size=8), st.data())
def test_every_client_assembles_the_same_answer(
    content: str, reasoning: str, tools: list[Json], places: list[int], data: st.DataObject
) -> None:
    deltas = [Delta(reasoning=piece) for piece in cut(reasoning, places)]
    deltas += [Delta(content=piece) for piece in cut(content, places)]
    for index, value in enumerate(tools):
        deltas += tool_deltas(index, f"f{index}", cut(json.dumps(value), places))
    deltas.append(Delta(finish_reason="tool_calls" if tools else "stop", usage=USAGE))
    batches: list[list[Delta]] = []
    while deltas:
        size = data.draw(st.integers(1, 4))
        batches.append(deltas[:size])
        deltas = deltas[size:]

    assembler = AnswerAssembler(1 << 20)
    for batch in batches:
        assembler.add(batch)
    whole = assembler.choices()[0]
    assert (whole.content or "") == content
    wanted = output_digest([whole])

    with Served(chat_bytes(batches), headers=EVENTS).openai().chat.completions.stream(model="m", messages=ASK) as chat:
        assert digest_from_chat(chat.get_final_completion().choices[0].message) == wanted
    with Served(responses_bytes(batches), headers=EVENTS).openai().responses.stream(model="m", input="q") as response:
        assert digest_from_responses(response.until_done().get_final_response()) == wanted
    with (
        Served(messages_bytes(batches), headers=EVENTS)
        .anthropic()
        .messages.stream(model="m", max_tokens=9, messages=ASK) as message
    ):
        assert digest_from_messages(message.get_final_message()) == wanted

    answer = Completion([whole], USAGE)
    body = openai_chat.render(answer, answer_id="c", created=1, model="m", prsm={})
    assert (
        digest_from_chat(Served(body).openai().chat.completions.create(model="m", messages=ASK).choices[0].message)
        == wanted
    )
    body = openai_responses.render(answer, answer_id="resp_1", created=1, model="m", prsm={}, request=REQUEST)
    assert digest_from_responses(Served(body).openai().responses.create(model="m", input="q")) == wanted
    body = anthropic_messages.render(answer, answer_id="msg_1", model="m", prsm={})
    assert (
        digest_from_messages(Served(body).anthropic().messages.create(model="m", max_tokens=9, messages=ASK)) == wanted
    )
