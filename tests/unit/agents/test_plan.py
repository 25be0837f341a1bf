"""Plans: what a request needs, what each model may cost for it, and that the hold covers whichever answers."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.support.asks import LIMITS, ask, candidates, chat, plan, target, user

from prsm.agents.call import ChatCall, Choice, EmbedCall, Usage
from prsm.agents.plan import PathLimits, estimated_usage, make_plan, question_of
from prsm.core.errors import Kind, PrsmError
from prsm.tokenomics.quotes import IMAGE_TOKENS, Price, Quote, charge_micro

IMAGE = {"type": "image_url", "image_url": {"url": "https://images.example/cat.png"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
EMBED = EmbedCall(UUID(int=1), ["one", "two"], "auto")


def said(*messages: Any) -> ChatCall:
    return replace(chat(), messages=list(messages))


def test_a_question_is_the_last_thing_the_user_said() -> None:
    call = said(
        {"role": "user", "content": "first"},
        {"role": "user", "content": "last"},
        {"role": "assistant", "content": "no"},
        {"role": "tool", "content": "nor this", "tool_call_id": "1"},
    )
    assert question_of(ask(call)).text == "last"


def test_of_parts_the_texts_are_joined() -> None:
    call = said(user([{"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"}]))
    assert question_of(ask(call)).text == "a\nb"


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "x"}], [{"role": "user", "content": None}]])
def test_where_no_user_spoke_the_question_is_empty(messages: list[Any]) -> None:
    assert question_of(ask(said(*messages))).text == ""


def test_needs_follow_from_tools_and_images() -> None:
    assert question_of(ask(chat())).needs == {"chat"}
    assert question_of(ask(chat(tools=[]))).needs == {"chat"}
    assert question_of(ask(chat(tools=[TOOL]))).needs == {"chat", "tools"}
    assert question_of(ask(said(user([IMAGE]), {"role": "user", "content": "x"}))).needs == {"chat", "vision"}


def test_embeddings_need_embeddings_and_write_nothing() -> None:
    question = question_of(ask(EMBED, body_bytes=41))
    assert (question.needs, question.input_tokens, question.output_tokens) == ({"embeddings"}, 11, 0)


def test_expected_tokens_count_history_choices_and_the_callers_limit() -> None:
    question = question_of(ask(chat(limit=10), body_bytes=40, history_bytes=60, choices=3))
    assert (question.input_tokens, question.output_tokens) == (25, 30)
    assert question_of(ask(chat(limit=10**6))).output_tokens == question_of(ask(chat())).output_tokens == 256


def test_what_must_be_read_at_once_is_bounded_by_its_bytes_with_room_for_the_answer() -> None:
    question = question_of(ask(chat(limit=10), body_bytes=801, history_bytes=800, choices=3))
    assert (question.least_tokens, question.most_tokens) == (200, 801 + 10)
    assert question_of(ask(chat(), body_bytes=800)).most_tokens == 400 + 256
    longest = EmbedCall(UUID(int=1), ["a" * 10, "é" * 400], "auto")
    question = question_of(ask(longest, body_bytes=10**6))
    assert (question.least_tokens, question.most_tokens) == (100, 400)


def test_what_is_attached_counts_as_its_bound_and_not_by_its_bytes() -> None:
    data = "A" * 1_000_000
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    call = said(user([{"type": "text", "text": "what is it?"}, picture, sound]))
    question = question_of(ask(call, body_bytes=2_000_200))
    assert question.least_tokens < 200 / 8
    assert IMAGE_TOKENS < question.most_tokens < IMAGE_TOKENS + 256 + 100


def test_the_hold_is_the_worst_case_of_bytes_as_tokens_and_the_limit_of_the_answer() -> None:
    made = plan(target(max_output_tokens=50), asked=ask(body_bytes=40, history_bytes=10))
    assert made.quotes == {"up/m": Quote(50 + 2 * 50, 50, 50)}
    assert made.held_micro == 150


def test_the_answers_limit_is_the_least_of_what_caller_node_and_model_say() -> None:
    roomy = target(max_output_tokens=10**6)
    assert plan(roomy).quotes["up/m"].output_tokens == LIMITS.default_output_tokens
    assert plan(roomy, asked=ask(chat(limit=5000))).quotes["up/m"].output_tokens == 5000
    assert plan(target(max_output_tokens=7), asked=ask(chat(limit=5000))).quotes["up/m"].output_tokens == 7


def test_the_hold_covers_the_dearest_candidate() -> None:
    made = plan(target("a/m", price_out=1_000_000), target("b/m", price_out=9_000_000))
    assert made.held_micro == max(quote.worst_micro for quote in made.quotes.values()) == 40 + 900
    assert [candidate.target.name for candidate in made.candidates] == ["a/m", "b/m"]


def test_all_choices_are_paid_for() -> None:
    assert plan(asked=ask(choices=4)).held_micro == 40 + 2 * 100 * 4


def test_an_image_by_address_counts_as_its_bound() -> None:
    made = plan(asked=ask(said(user([IMAGE, IMAGE]), user([IMAGE]))))
    assert made.quotes["up/m"].input_tokens == 40 + 3 * IMAGE_TOKENS


def test_embeddings_are_held_for_what_is_read() -> None:
    assert plan(target(price_in=3_000_000), asked=ask(EMBED)).quotes["up/m"] == Quote(120, 40, 0)


def test_a_cap_shortens_the_answer_to_exactly_what_fits() -> None:
    made = plan(asked=ask(cap_micro=101, choices=2))
    assert made.quotes["up/m"] == Quote(40 + 2 * 2 * 15, 40, 15)
    assert made.held_micro == 100
    assert made.fitted(target()).max_output_tokens == 15


def test_what_is_sent_is_the_call_with_the_quoted_limit_and_nothing_else_changed() -> None:
    asked = ask(chat("hi", temperature=0.5))
    assert plan(asked=asked).fitted(target()) == replace(chat("hi", temperature=0.5), max_output_tokens=100)


def test_models_that_the_cap_cannot_pay_are_left_out() -> None:
    cheap, dear = target("a/m"), target("b/m", price_in=10**9)
    made = plan(dear, cheap, asked=ask(cap_micro=100))
    assert [candidate.target.name for candidate in made.candidates] == ["a/m"]
    assert set(made.quotes) == {"a/m"}


def test_a_cap_that_pays_for_no_token_is_refused() -> None:
    with pytest.raises(PrsmError) as refused:
        plan(target("a/m"), target("b/m", price_in=10**9), asked=ask(cap_micro=41))
    assert (refused.value.kind, refused.value.code) == (Kind.PAYMENT_REQUIRED, "cost_cap_too_low")
    assert refused.value.param == "prsm.max_cost_micro"
    assert "41 micro-FTNS" in refused.value.message
    assert plan(asked=ask(cap_micro=42)).held_micro == 42


def test_a_cap_of_nothing_leaves_the_free_models() -> None:
    made = plan(target("a/m"), target("b/free", price_in=0, price_out=0), asked=ask(cap_micro=0))
    assert (list(made.quotes), made.held_micro) == (["b/free"], 0)


def test_what_nobody_metered_is_estimated_from_all_that_was_said() -> None:
    arguments = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    quiet = estimated_usage(ask(body_bytes=9), [Choice(content=None)])
    assert quiet == Usage(3, 0)
    for choice in (
        Choice(content="é" * 8),
        Choice(content="", reasoning="x" * 16),
        Choice(content=None, refusal="no" * 8),
        Choice(content="\ud800" * 16),
    ):
        assert estimated_usage(ask(body_bytes=9), [choice]).output_tokens == 4
    assert estimated_usage(ask(), [Choice(tool_calls=[arguments])]).output_tokens > 10
    assert estimated_usage(ask(), [Choice(content="abcd"), Choice(index=1, content="e")]).output_tokens == 2


prices = st.integers(0, 10**10)
targets = st.builds(
    lambda number, price_in, price_out, longest: target(
        f"p{number}/m", price_in=price_in, price_out=price_out, max_output_tokens=longest
    ),
    st.integers(0, 50),
    prices,
    prices,
    st.integers(1, 10_000),
)


@given(
    st.lists(targets, min_size=1, max_size=3, unique_by=lambda one: one.name),
    st.integers(1, 10_000),
    st.none() | st.integers(1, 20_000),
    st.integers(1, 8),
    st.none() | st.integers(0, 10**8),
    st.data(),
)
def test_the_hold_is_within_the_cap_and_covers_whoever_answers(
    models: list[Any], size: int, limit: int | None, n: int, cap: int | None, data: st.DataObject
) -> None:
    asked = ask(chat(limit=limit), body_bytes=size, choices=n, cap_micro=cap)
    if cap is not None and all(
        charge_micro(Price(m.input_price_micro, m.output_price_micro), size, n) > cap for m in models
    ):
        with pytest.raises(PrsmError, match="spend cap"):
            make_plan(asked, candidates(*models), PathLimits(500))
        return
    made = make_plan(asked, candidates(*models), PathLimits(500))
    assert cap is None or made.held_micro <= cap
    answering = data.draw(st.sampled_from(made.candidates)).target
    allowed = made.fitted(answering).max_output_tokens
    assert allowed is not None
    assert allowed <= min(limit or 500, answering.max_output_tokens)
    read, written = data.draw(st.integers(0, size)), data.draw(st.integers(0, allowed * n))
    price = Price(answering.input_price_micro, answering.output_price_micro)
    assert charge_micro(price, read, written) <= made.held_micro


def test_where_nobody_metered_the_bytes_of_an_image_are_no_tokens_beyond_its_bound() -> None:
    large = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4_000_000}}
    text = {"type": "text", "text": "abcd" * 100}
    pictured = estimated_usage(ask(said(user([text, large, IMAGE])), body_bytes=4_000_500), [])
    assert IMAGE_TOKENS + 100 <= pictured.input_tokens <= IMAGE_TOKENS + 200
    assert estimated_usage(ask(said(user([text, IMAGE])), body_bytes=500), []).input_tokens == 125
