"""What a model is sent of a conversation that goes on: one system prompt, first, and every answer behind its call."""

from prsm.agents.call import Json
from prsm.agents.conversations import joined

FIRST: Json = {"role": "system", "content": "first"}
SECOND: Json = {"role": "system", "content": "second"}
ASKED: Json = {"role": "user", "content": "q"}
CALLED: Json = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT: Json = {"role": "tool", "tool_call_id": "a", "content": "42"}


def test_a_new_system_prompt_stands_first_in_place_of_the_old_one() -> None:
    assert joined([FIRST, ASKED, CALLED], [SECOND, RESULT]) == [SECOND, ASKED, CALLED, RESULT]
    assert joined([ASKED, CALLED], [SECOND, RESULT]) == [SECOND, ASKED, CALLED, RESULT]
    newer = {**SECOND, "role": "developer"}
    assert joined([FIRST, ASKED], [newer, ASKED]) == [newer, ASKED, ASKED]


def test_without_one_the_old_one_holds() -> None:
    assert joined([FIRST, ASKED, CALLED], [RESULT]) == [FIRST, ASKED, CALLED, RESULT]


def test_what_begins_a_conversation_is_sent_as_it_is() -> None:
    assert joined([], [FIRST, ASKED]) == [FIRST, ASKED]
