"""Routing: a named model is obeyed, ``auto`` picks by stated rules, and every reason it gives is true."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.call import Target
from prsm.agents.routers.model_router import (
    AUTO,
    MAX_CANDIDATES,
    Candidate,
    Domains,
    Health,
    Question,
    rank,
    roster,
)
from prsm.core.errors import Kind, PrsmError

CHAT = Question(frozenset({"chat"}), "write a poem about the sea", 100, 200)
SUM = replace(CHAT, text="what is 2 + 2?")
DOMAINS: Domains = {"arithmetic": lambda text: "+" in text}
WELL: Mapping[str, Health] = {}


def model(name: str, price: int = 1_000_000, *capabilities: str, domain: str | None = None) -> Target:
    provider, _, upstream_name = name.partition("/")
    return Target(
        name=name,
        upstream_name=upstream_name,
        provider=provider,
        kind="vllm",
        capabilities=frozenset(capabilities or ("chat",)),
        domain=domain,
        input_price_micro=price,
        output_price_micro=price,
    )


def ranked(
    asked: str, targets: Sequence[Target], question: Question = CHAT, health: Mapping[str, Health] = WELL
) -> list[Candidate]:
    return rank(asked, question, roster(targets), DOMAINS, lambda name: health.get(name, Health()))


def names(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.target.name for candidate in candidates]


def refusal(call: Callable[[], object]) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        call()
    return raised.value


def test_a_named_model_is_obeyed_however_dear_or_ill_it_is() -> None:
    targets = [model("a/dear", 10**9), model("b/cheap", 1)]
    chosen = ranked("a/dear", targets, health={"a/dear": Health(resting=True, first_token_ms=9e9)})
    assert names(chosen) == ["a/dear"]
    assert chosen[0].reason == "named by the caller"


def test_a_specialist_may_be_named_for_any_question() -> None:
    assert names(ranked("x/sums", [model("x/sums", domain="arithmetic")])) == ["x/sums"]


def test_a_short_name_is_enough() -> None:
    assert names(ranked("m", [model("a/m"), model("a/other")])) == ["a/m"]


def test_a_full_name_wins_over_the_same_text_as_a_short_name() -> None:
    inner = replace(model("hub/a/m", 1), upstream_name="a/m")
    assert names(ranked("a/m", [inner, model("a/m", 5)])) == ["a/m"]


def test_an_ambiguous_short_name_means_all_of_them_the_best_first() -> None:
    targets = [model("a/m", 3), model("b/m", 1), model("c/m", 2), model("d/m", 0), model("e/other", 0)]
    question = replace(CHAT, input_tokens=10**6, output_tokens=0)
    chosen = ranked("m", targets, question, {"d/m": Health(resting=True)})
    assert names(chosen) == ["b/m", "c/m", "a/m"]
    assert {candidate.reason for candidate in chosen} == {"named by the caller"}
    assert [candidate.expected_micro for candidate in chosen] == [1, 2, 3]


def test_of_an_ambiguous_short_name_only_the_able_are_tried() -> None:
    targets = [model("a/m", 1), model("b/m", 2, "chat", "tools")]
    assert names(ranked("m", targets, replace(CHAT, needs=frozenset({"chat", "tools"})))) == ["b/m"]


@pytest.mark.parametrize("asked", ["", "x/none", "AUTO", "auto ", "a/", "/m", "a" * 100_000])
def test_an_unknown_name_is_refused_with_the_command_that_adds_models(asked: str) -> None:
    error = refusal(lambda: ranked(asked, [model("a/m")]))
    assert (error.kind, error.code, error.param) == (Kind.NOT_FOUND, "model_not_found", "model")
    assert "prsm models add" in error.remedy
    assert len(error.message) < 300


def test_a_named_model_that_is_not_able_is_refused_with_what_it_lacks() -> None:
    question = replace(CHAT, needs=frozenset({"chat", "vision", "tools"}))
    error = refusal(lambda: ranked("m", [model("a/m")], question))
    assert (error.kind, error.code) == (Kind.INVALID, "model_not_able")
    assert "(tools, vision)" in error.message


def test_auto_takes_only_who_is_able() -> None:
    targets = [model("a/blind", 1), model("b/seeing", 9, "chat", "vision"), model("c/vectors", 0, "embeddings")]
    assert names(ranked(AUTO, targets, replace(CHAT, needs=frozenset({"chat", "vision"})))) == ["b/seeing"]
    assert names(ranked(AUTO, targets, Question(frozenset({"embeddings"}), "", 5, 0))) == ["c/vectors"]


def test_auto_takes_the_cheaper_by_the_expected_price_of_both_sides() -> None:
    dear_input = replace(model("a/in"), input_price_micro=9_000_000, output_price_micro=1_000_000)
    dear_output = replace(model("b/out"), input_price_micro=1_000_000, output_price_micro=9_000_000)
    long_question = replace(CHAT, input_tokens=1000, output_tokens=10)
    assert names(ranked(AUTO, [dear_input, dear_output], long_question)) == ["b/out", "a/in"]
    long_answer = replace(CHAT, input_tokens=10, output_tokens=1000)
    assert names(ranked(AUTO, [dear_output, dear_input], long_answer)) == ["a/in", "b/out"]


def test_of_equal_prices_the_faster_and_of_equal_speed_the_name_decides() -> None:
    targets = [model("c/m"), model("b/m"), model("a/m")]
    assert names(ranked(AUTO, targets, health={"c/m": Health(first_token_ms=5), "a/m": Health(first_token_ms=5)})) == [
        "b/m",
        "a/m",
        "c/m",
    ]
    for order in itertools.permutations(targets):
        assert names(ranked(AUTO, order)) == ["a/m", "b/m", "c/m"]


def test_a_specialist_comes_first_in_its_domain_and_never_outside_it() -> None:
    targets = [model("a/cheap", 1), model("x/sums", 10**9, domain="arithmetic"), model("y/law", 1, domain="law")]
    chosen = ranked(AUTO, targets, SUM)
    assert names(chosen) == ["x/sums", "a/cheap"]
    assert chosen[0].reason == "specialist for arithmetic"
    assert names(ranked(AUTO, targets, CHAT)) == ["a/cheap"]


def test_a_poem_is_refused_where_only_specialists_stand_and_the_command_is_named() -> None:
    error = refusal(lambda: ranked(AUTO, [model("x/sums", domain="arithmetic"), model("y/law", domain="law")], CHAT))
    assert (error.kind, error.code, error.param) == (Kind.UNPROCESSABLE, "no_able_model", "model")
    assert "only questions of arithmetic, law" in error.message
    assert "prsm models add" in error.remedy


def test_auto_is_refused_where_nobody_is_able() -> None:
    for targets in ([], [model("c/vectors", 0, "embeddings")]):
        error = refusal(lambda targets=targets: ranked(AUTO, targets))
        assert error.code == "no_able_model"
        assert "(chat)" in error.message
        assert "prsm models add" in error.remedy


def test_a_resting_model_is_the_last_resort_and_not_left_out() -> None:
    targets = [model("a/cheap", 1), model("b/dear", 10**9), model("x/sums", 5, domain="arithmetic")]
    health = {"a/cheap": Health(resting=True), "x/sums": Health(resting=True)}
    assert names(ranked(AUTO, targets, SUM, health)) == ["b/dear", "x/sums", "a/cheap"]
    assert names(ranked(AUTO, targets[:1], CHAT, health)) == ["a/cheap"]


def test_a_model_that_comes_first_only_because_another_rests_is_not_called_the_cheapest() -> None:
    targets = [model("a/cheap", 1_000_000), model("b/dear", 2_000_000)]
    chosen = ranked(AUTO, targets, CHAT, {"a/cheap": Health(resting=True)})
    assert [(c.target.name, c.reason) for c in chosen] == [
        ("b/dear", "number 2 by expected price of 2 able models: 0.0006 FTNS"),
        ("a/cheap", "number 1 by expected price of 2 able models: 0.0003 FTNS"),
    ]


def test_a_request_tries_a_bounded_number_of_models() -> None:
    targets = [model(f"p{number}/m", number) for number in range(50)]
    for asked in (AUTO, "m"):
        assert len(ranked(asked, targets)) == MAX_CANDIDATES
    specialists = [model(f"s{number}/s", number, domain="arithmetic") for number in range(50)]
    assert len(ranked(AUTO, [*targets, *specialists], SUM)) == MAX_CANDIDATES


def test_an_awake_model_beyond_the_bound_is_preferred_to_a_resting_one_within_it() -> None:
    targets = [model(f"p{number}/m", number * 10**6) for number in range(6)]
    health = {f"p{number}/m": Health(resting=True) for number in range(3)}
    for asked in (AUTO, "m"):
        assert names(ranked(asked, targets, CHAT, health)) == ["p3/m", "p4/m", "p5/m"]


def test_auto_takes_no_model_whose_context_is_too_small() -> None:
    small, large = replace(model("a/small", 1), context_tokens=1000), replace(model("b/large", 9), context_tokens=9000)
    assert names(ranked(AUTO, [small, large], replace(CHAT, least_tokens=250, most_tokens=1000))) == [
        "a/small",
        "b/large",
    ]
    assert names(ranked(AUTO, [small, large], replace(CHAT, least_tokens=250, most_tokens=1001))) == ["b/large"]
    # Where no context holds the most that it can be, those are tried that may hold it.
    assert names(ranked(AUTO, [small, large], replace(CHAT, least_tokens=9000, most_tokens=36_000))) == ["b/large"]


def test_a_specialist_without_room_is_passed_over() -> None:
    targets = [replace(model("x/sums", 1, domain="arithmetic"), context_tokens=50), model("a/m")]
    chosen = ranked(AUTO, targets, replace(SUM, least_tokens=20, most_tokens=51))
    assert [(c.target.name, c.reason) for c in chosen] == [
        ("a/m", "number 1 by expected price of 1 able models: 0.0003 FTNS")
    ]


@pytest.mark.parametrize("asked", [AUTO, "a/m", "m"])
def test_a_question_that_no_context_holds_is_refused_with_both_lengths(asked: str) -> None:
    targets = [replace(model("a/m"), context_tokens=1000), replace(model("b/m"), context_tokens=1000)]
    fits = replace(CHAT, least_tokens=1000, most_tokens=4000)
    assert "a/m" in names(ranked(asked, targets, fits))
    error = refusal(lambda: ranked(asked, targets, replace(fits, least_tokens=1001)))
    assert (error.kind, error.code, error.param) == (Kind.INVALID, "context_length_exceeded", "model")
    assert "1001" in error.message
    assert "(1000)" in error.message


models = st.lists(
    st.builds(
        model,
        st.sampled_from([f"{p}/{m}" for p in "abcd" for m in "xyz"]),
        st.integers(0, 3).map(lambda price: price * 10**6),
        st.sampled_from(["chat"]),
        domain=st.sampled_from([None, "arithmetic", "law"]),
    ),
    unique_by=lambda target: target.name,
    min_size=1,
)
states = st.dictionaries(
    st.sampled_from([f"{p}/{m}" for p in "abcd" for m in "xyz"]),
    st.builds(Health, st.booleans(), st.sampled_from([0.0, 5.0, 50.0])),
)


@given(models, states, st.sampled_from([CHAT, SUM]), st.randoms(use_true_random=False))
def test_the_laws_of_auto(targets: list[Target], health: dict[str, Health], question: Question, random: object) -> None:
    able = [t for t in targets if t.domain is None or (t.domain == "arithmetic" and question is SUM)]
    if not able:
        assert refusal(lambda: ranked(AUTO, targets, question, health)).code == "no_able_model"
        return
    chosen = ranked(AUTO, targets, question, health)
    random.shuffle(targets)  # type: ignore[attr-defined]
    assert ranked(AUTO, targets, question, health) == chosen
    assert len(chosen) == min(len(able), MAX_CANDIDATES)
    assert len(set(names(chosen))) == len(chosen)

    def key(target: Target) -> tuple[bool, bool, int, float, str]:
        seen = health.get(target.name, Health())
        price = 300 * target.input_price_micro // 10**6
        return seen.resting, target.domain is None, price, seen.first_token_ms, target.name

    # Of those that stand in one row by rest and specialism, each is of another provider while there are such.
    left, expected = sorted(able, key=key), list[Target]()
    while left and len(expected) < MAX_CANDIDATES:
        row = [target for target in left if key(target)[:2] == key(left[0])[:2]]
        taken = {target.provider for target in expected}
        expected.append(next((target for target in row if target.provider not in taken), row[0]))
        left.remove(expected[-1])
    assert names(chosen) == [target.name for target in expected]
    for candidate in chosen:
        if place := re.match(r"number (\d+) by expected price of (\d+)", candidate.reason):
            generalists = [t for t in able if t.domain is None]
            cheaper = [t for t in generalists if t.input_price_micro < candidate.target.input_price_micro]
            assert len(cheaper) < int(place[1]) <= len(generalists) == int(place[2])
        else:
            assert candidate.reason == "specialist for arithmetic"
