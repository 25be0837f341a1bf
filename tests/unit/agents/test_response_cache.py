"""Whose answer may be given again to whom: the keys, the limits and the price."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as with_
from tests.support.asks import KEY_ID, ask, candidates, chat, target

from prsm.agents.call import Choice, Completion, Usage
from prsm.agents.plan import Ask, CacheWish, Caller
from prsm.agents.response_cache import (
    Kept,
    exact_key,
    found,
    is_wanted,
    is_whole,
    only_question,
    replay,
    scope_key,
)

MODEL = target("up/m", version="1", model="llm")
EXACT, SEMANTIC, OFF = (CacheWish(mode) for mode in ("exact", "semantic", "off"))  # type: ignore[arg-type]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def asked(text: str = "hello", **values: Any) -> Ask:
    return ask(chat(text, **values.pop("options", {})), **values)


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wish", "wanted"),
    [
        ({}, None, False),
        ({"temperature": 0}, None, True),
        ({"temperature": 0.0}, None, True),
        ({"temperature": 0.1}, None, False),
        ({"temperature": None}, None, False),
        ({"temperature": 0}, OFF, False),
        ({"temperature": 1}, EXACT, True),
        ({}, SEMANTIC, True),
    ],
)
def test_only_what_is_deterministic_or_asks_for_it(options: Any, wish: CacheWish | None, wanted: bool) -> None:
    assert is_wanted(asked(options=options, cache=wish)) is wanted


@pytest.mark.parametrize(
    ("reasons", "whole"), [(["stop"], True), (["tool_calls"], True), (["length"], False), (["stop", "length"], False)]
)
def test_only_what_ended_of_itself_is_kept(reasons: list[str], whole: bool) -> None:
    assert is_whole(Completion([Choice(finish_reason=reason) for reason in reasons], None)) is whole


# -- the exact request -------------------------------------------------------------------------------------------------

BASE = asked("What is 2 + 2?", options={"temperature": 0, "limit": 9})
OTHERS = [
    with_(BASE, caller=Caller(KEY_ID, "principal:somebody-else")),
    asked("What is 2 + 3?", options={"temperature": 0, "limit": 9}),
    asked("What is 2 + 2?", options={"temperature": 0, "limit": 10}),
    asked("What is 2 + 2?", options={"temperature": 0.5, "limit": 9}),
    asked("What is 2 + 2?", options={"temperature": 0, "limit": 9, "tools": [{}]}),
    with_(BASE, choices=2),
]


@pytest.mark.parametrize("other", OTHERS)
def test_another_caller_or_another_request_has_another_key(other: Ask) -> None:
    assert exact_key(BASE, MODEL) != exact_key(other, MODEL)


def test_the_same_request_has_the_same_key_whatever_carries_it() -> None:
    same = asked("What is 2 + 2?", options={"limit": 9, "temperature": 0}, body_bytes=99, cap_micro=5, cache=EXACT)
    streamed = with_(same, call=with_(same.call, stream=True, request_id=UUID(int=5), model="llm"))
    assert exact_key(BASE, MODEL) == exact_key(same, MODEL) == exact_key(streamed, MODEL)


@pytest.mark.parametrize("changed", [{"version": "2"}, {"model": "other"}, {"cid": "b" * 59}])
def test_another_version_of_the_model_has_another_key(changed: dict[str, str]) -> None:
    assert exact_key(BASE, MODEL) != exact_key(BASE, replace(MODEL, **changed))


def test_instances_of_one_version_share_and_those_without_a_version_do_not() -> None:
    there = replace(MODEL, name="there/llm-8b", upstream_name="llm-8b", provider="there")
    assert exact_key(BASE, MODEL) == exact_key(BASE, there)
    assert exact_key(BASE, replace(MODEL, version="")) != exact_key(BASE, replace(there, version=""))


# -- a question like it ------------------------------------------------------------------------------------------------


def test_words_may_differ_and_nothing_else() -> None:
    asks = [asked(text, cache=SEMANTIC) for text in ("What is the sum of 2 + 3?", "Tell me the sum of 2 + 3?")]
    assert scope_key(asks[0], MODEL) == scope_key(asks[1], MODEL)
    for other in (
        asked("What is the sum of 2 + 4?", cache=SEMANTIC),
        asked("What is the sum of 2 - 3?", cache=SEMANTIC),
        asked("What is not the sum of 2 + 3?", cache=SEMANTIC),
        asked("What isn't the sum of 2 + 3?", cache=SEMANTIC),
        asked("What is the sum of 2 + 3?", options={"seed": 1}, cache=SEMANTIC),
        with_(asks[0], caller=Caller(KEY_ID, "principal:somebody-else")),
    ):
        assert scope_key(asks[0], MODEL) != scope_key(other, MODEL)


@given(st.text(max_size=40), st.text(max_size=40))
def test_nobody_shares_a_key_with_another(one: str, other: str) -> None:
    mine, yours = (asked(text, cache=SEMANTIC) for text in (one, other))
    yours = with_(yours, caller=Caller(KEY_ID, "principal:somebody-else"))
    assert exact_key(mine, MODEL) != exact_key(yours, MODEL)
    assert scope_key(mine, MODEL) != scope_key(yours, MODEL)


def test_only_one_question_in_text_is_compared_by_meaning() -> None:
    plain = asked("Why?", cache=SEMANTIC)
    assert only_question(plain) == "Why?"
    system = with_(plain, call=with_(plain.call, messages=[{"role": "system", "content": "Be brief."}, *_user("Why?")]))
    assert only_question(system) == "Why?"
    for messages in (
        [*_user("Who?"), {"role": "assistant", "content": "She."}, *_user("Why?")],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}],
        [*_user("Why?"), {"role": "tool", "tool_call_id": "1", "content": "x"}],
    ):
        assert only_question(with_(plain, call=with_(plain.call, messages=messages))) is None
    assert only_question(with_(plain, history_bytes=1)) is None
    assert only_question(with_(plain, remember=lambda _: ("", ()))) is None
    assert only_question(with_(plain, choices=2)) is None
    assert only_question(asked("Why?", options={"tools": [{}]}, cache=SEMANTIC)) is None


def _user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# -- the price ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**12), st.integers(0, 10_000))
def test_an_answer_given_again_costs_the_stated_share_and_never_more_than_the_first(price: int, share_bps: int) -> None:
    (candidate,) = candidates(replace(MODEL, output_price_micro=price))
    kept = Kept(UUID(int=3), [Choice(content="four")], Usage(10, 20, 4), "upstream")
    again = found(candidate, kept, "exact", share_bps)
    assert again.candidate.target.output_price_micro == -(-price * share_bps // 10_000) <= price
    assert again.candidate.target.input_price_micro == MODEL.input_price_micro
    assert again.completion.usage == Usage(10, 20, 10)
    assert str(UUID(int=3)) in again.candidate.reason


async def test_an_answer_is_streamed_again_as_it_was() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    whole = Completion([Choice(content="so", tool_calls=calls, finish_reason="tool_calls")], Usage(1, 2, 1))
    first, last = [deltas async for deltas in replay(whole)]
    assert (first[0].content, first[0].tool_calls) == ("so", [{"index": 0, **calls[0]}])
    assert first[1].finish_reason == "tool_calls"
    assert last[0].usage == whole.usage
