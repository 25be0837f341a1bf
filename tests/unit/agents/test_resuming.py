"""Going on with a broken answer: who may, with what, and what the caller sees and pays at the seam."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.asks import ask, candidates, chat, plan, target

from prsm.agents.call import Choice, Delta, Target, Usage
from prsm.agents.resuming import (
    Chain,
    Seam,
    continued,
    delivered_usage,
    heirs,
    is_of_use_in_part,
    joined_usage,
    may_be_resumed,
    said_tokens,
    same_model_first,
)
from prsm.agents.seams import UpstreamError

ABLE = frozenset({"chat", "prefill"})


def instance(name: str, **values: Any) -> Target:
    return replace(target(name), **({"kind": "vllm", "capabilities": ABLE, "version": "1"} | values))


A = instance("a/m")
texts = st.text(st.sampled_from("ab. \n\t"), max_size=30)


# -- who ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "goes_on"),
    [
        (instance("b/m"), True),
        (instance("b/m", kind="anthropic"), True),
        (instance("b/x"), False),
        (instance("b/x", model="llm"), False),
        (instance("b/m", model="llm"), False),
        (instance("b/m", version="2"), False),
        (instance("b/m", capabilities=frozenset({"chat"})), False),
        (instance("b/m", kind="openai"), False),
        (instance("b/m", kind="huggingface"), False),
        (instance("b/m", kind="embedded"), False),
    ],
)
def test_only_an_instance_of_the_same_version_that_declares_it_goes_on(other: Target, goes_on: bool) -> None:
    assert [heir.target for heir in heirs(plan(A, other), [A])] == ([other] if goes_on else [])


def test_instances_of_one_registered_model_may_have_names_of_their_own() -> None:
    here, there = instance("a/llm-8b", model="llm"), instance("b/LLM8", model="llm")
    assert [heir.target for heir in heirs(plan(here, there), [here])] == [there]


def test_who_has_broken_off_is_not_asked_again() -> None:
    b, c = instance("b/m"), instance("c/m")
    assert [heir.target for heir in heirs(plan(A, b, c), [A, b])] == [c]


def test_other_instances_of_the_model_come_before_other_models_and_keep_their_order() -> None:
    others = [instance("x/other"), instance("b/m"), instance("y/other"), instance("c/m")]
    names = [one.target.name for one in same_model_first(A, candidates(*others))]
    assert names == ["b/m", "c/m", "x/other", "y/other"]


# -- what --------------------------------------------------------------------------------------------------------------

PLAIN = [Choice(content="so far")]


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [{}]},
        {"stop": "END"},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"thinking": {"type": "enabled"}},
        {"reasoning_effort": "high"},
        {"modalities": ["text", "audio"]},
        {"min_tokens": 5},
        {"anything_new": 1},
    ],
)
def test_what_is_more_than_plain_text_is_not_gone_on_with(options: dict[str, Any]) -> None:
    assert not may_be_resumed(ask(chat(**options)), PLAIN)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.2, "seed": 1}, {"response_format": {"type": "text"}, "logprobs": False}, {"stop": None}],
)
def test_plain_text_is(options: dict[str, Any]) -> None:
    assert may_be_resumed(ask(chat(**options)), PLAIN)


@pytest.mark.parametrize(
    "said",
    [
        [],
        [Choice(content="")],
        [Choice(content=" \n")],
        [Choice(content="a", reasoning="hm")],
        [Choice(content="a", refusal="no")],
        [Choice(content="a", tool_calls=[{"id": "1"}])],
        [Choice(content="a"), Choice(index=1, content="b")],
    ],
)
def test_it_must_have_said_one_plain_text(said: list[Choice]) -> None:
    assert not may_be_resumed(ask(), said)


def test_the_callers_own_beginning_of_an_answer_is_not_mixed_with_ours() -> None:
    call = chat()
    call.messages.append({"role": "assistant", "content": "Sure"})
    assert not may_be_resumed(ask(call), PLAIN)


def test_several_choices_are_not_gone_on_with() -> None:
    assert not may_be_resumed(ask(choices=2), PLAIN)


def test_the_call_that_goes_on_ends_with_what_was_said_without_white_space_and_asks_for_the_rest() -> None:
    call = continued(chat("q", limit=10, temperature=0), A, "one two \n", 3)
    assert call is not None
    assert call.messages == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "one two"}]
    assert call.max_output_tokens == 7
    assert call.options == {"temperature": 0, "continue_final_message": True, "add_generation_prompt": False}


def test_other_kinds_are_told_by_the_message_alone() -> None:
    call = continued(chat("q"), instance("a/m", kind="anthropic"), "one", 1)
    assert call is not None
    assert (call.options, call.max_output_tokens) == ({}, None)


def test_an_answer_at_its_limit_is_not_gone_on_with() -> None:
    assert continued(chat("q", limit=3), A, "one two", 3) is None


@pytest.mark.parametrize(
    ("options", "said", "useful"),
    [
        ({}, [Choice(content="half")], True),
        ({}, [Choice(content=None, reasoning="half a thought")], True),
        ({}, [Choice(content="")], False),
        ({}, [Choice(content="calling", tool_calls=[{"id": "1"}])], False),
        ({"response_format": {"type": "json_object"}}, [Choice(content='{"a":')], False),
        ({"response_format": {"type": "text"}}, [Choice(content="half")], True),
    ],
)
def test_half_of_what_only_the_whole_is_worth_is_worth_nothing(
    options: dict[str, Any], said: list[Choice], useful: bool
) -> None:
    assert is_of_use_in_part(ask(chat(**options)), said) is useful


# -- the seam ----------------------------------------------------------------------------------------------------------


@given(st.lists(texts, min_size=1, max_size=4), st.lists(st.integers(1, 6), min_size=1, max_size=30))
def test_no_text_is_lost_or_said_twice_at_any_seam(parts: list[str], sizes: list[int]) -> None:
    """A model goes on exactly behind what it was sent, in pieces of any size, and is cut off anywhere, repeatedly."""
    whole, seen, turn = "".join(parts), "", 0
    ends = [len("".join(parts[: n + 1])) for n in range(len(parts))]
    for end in ends:
        sent = seen.rstrip()
        seam, rest = Seam(seen), whole[len(sent) : end]
        while rest:
            size = sizes[turn % len(sizes)]
            turn += 1
            seen += "".join(delta.content or "" for delta in seam.join([Delta(content=rest[:size])]))
            rest = rest[size:]
    assert seen == whole[: ends[-1]]


def test_who_strips_the_white_space_that_was_shown_loses_none() -> None:
    assert Seam("one ").join([Delta(content="two")])[0].content == "two"
    assert Seam("one\n\n").join([Delta(content="\n- two")])[0].content == "- two"


@pytest.mark.parametrize(
    "odd",
    [Delta(tool_calls=[{"index": 0}]), Delta(reasoning="hm"), Delta(refusal="no"), Delta(index=1, content="b")],
)
def test_something_else_than_text_behind_the_seam_is_refused(odd: Delta) -> None:
    with pytest.raises(UpstreamError, match="something else"):
        Seam("one").join([odd])


# -- the price ---------------------------------------------------------------------------------------------------------


@given(texts, texts, st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_what_was_metered_in_all_is_charged_once(first: str, rest: str, read: int, cached: int, said: int) -> None:
    usage = Usage(read, said, min(cached, read))
    joined = joined_usage(ask(), [Choice(content=first + rest)], usage, first)
    assert joined.input_tokens + joined.output_tokens == read + said
    assert joined.output_tokens == said + min(said_tokens(first), read)
    assert 0 <= joined.cached_input_tokens <= joined.input_tokens


def test_where_nobody_metered_the_input_is_estimated_once_and_all_that_was_said() -> None:
    assert joined_usage(ask(), [Choice(content="x" * 12)], None, "x" * 8) == Usage(10, 3)


def test_half_an_answer_costs_what_was_delivered_and_no_input() -> None:
    assert delivered_usage(ask(), [Choice(content="x" * 12)]) == Usage(0, 3)


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4), st.integers(0, 60))
def test_the_parts_of_an_answer_sum_to_it(parts: list[str], output_tokens: int) -> None:
    chain, said = Chain(A), ""
    for number, part in enumerate(parts):
        said += part
        chain.pass_on(said, instance(f"b{number}/m"))
    segments = chain.segments(output_tokens)
    assert sum(segment.output_tokens for segment in segments) == output_tokens
    assert all(segment.output_tokens >= 0 for segment in segments)
    assert [segment.model for segment in segments] == ["a/m", *[f"b{n}/m" for n in range(len(parts))]]
