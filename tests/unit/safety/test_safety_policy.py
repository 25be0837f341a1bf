"""The laws of policies: what is met decides, the strictest wins, more policies never let more through."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest
from prsm.safety.policy import (
    CLEAR,
    PRESETS,
    Action,
    Direction,
    Policy,
    Rule,
    digest,
    judge,
    read_policy,
    redacted,
    redacts,
    refusal,
    stream_lag_chars,
)
from prsm.safety.seams import Assessment, Category, Span

HATE, MAIL = Category.HATE, Category.PERSONAL_DATA
SCORES = st.dictionaries(st.sampled_from(Category), st.floats(0, 1))
RULES = st.builds(
    Rule,
    st.sampled_from(Category),
    st.sampled_from(["annotate", "redact", "review", "block", "escalate"]),
    st.floats(0.01, 1),
    st.sampled_from(["input", "output", "both"]),
)
POLICIES = st.builds(Policy, st.lists(RULES, max_size=6).map(tuple))
ASSESSED = st.lists(
    st.builds(
        Assessment,
        SCORES,
        st.lists(st.builds(Span, st.sampled_from(Category), st.just("word"), st.integers(0, 5), st.integers(6, 9))).map(
            tuple
        ),
    ),
    max_size=3,
)


def test_a_score_that_reaches_the_threshold_is_met() -> None:
    policy = Policy((Rule(HATE, "block", 0.5),))
    assert judge([policy], [Assessment({HATE: 0.49})], Direction.INPUT) is CLEAR
    verdict = judge([policy], [Assessment({}), Assessment({HATE: 0.5})], Direction.INPUT)
    assert verdict.blocked
    assert verdict.categories == ["hate"]
    assert "hate" in str(refusal(verdict, Direction.INPUT))


def test_a_rule_of_one_direction_says_nothing_of_the_other() -> None:
    policy = Policy((Rule(HATE, "block", 0.5, "output"),))
    assert judge([policy], [Assessment({HATE: 1.0})], Direction.INPUT) is CLEAR
    assert judge([policy], [Assessment({HATE: 1.0})], Direction.OUTPUT).blocked


def test_what_is_redacted_is_cut_out_and_what_cannot_be_is_blocked() -> None:
    policy = Policy((Rule(MAIL, "redact"),))
    span = Span(MAIL, "email", 9, 14)
    verdict = judge([policy], [Assessment({MAIL: 1.0}, (span, Span(HATE, "word", 0, 2)))], Direction.INPUT)
    assert (verdict.action, verdict.cuts) == (Action.REDACT, ((span,),))
    assert redacted("write to a@b.c now", verdict.cuts[0]) == "write to [email] now"
    assert judge([policy], [Assessment({MAIL: 1.0})], Direction.INPUT).blocked


def test_spans_that_overlap_are_cut_as_one() -> None:
    spans = [Span(MAIL, "b", 2, 6), Span(MAIL, "a", 1, 4), Span(MAIL, "c", 6, 7)]
    assert redacted("01234567", spans) == "0[a][c]7"


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5))
def test_no_character_of_a_span_is_left_and_all_others_are(text: str, pairs: list[tuple[int, int]]) -> None:
    spans = [Span(MAIL, "X", min(pair), max(pair)) for pair in pairs if min(pair) < max(pair) <= len(text)]
    kept = "".join(c for at, c in enumerate(text) if not any(span.start <= at < span.end for span in spans))
    assert redacted(text, spans).replace("[X]", "") == kept.replace("[X]", "")


@given(POLICIES, POLICIES, ASSESSED, st.sampled_from(Direction))
def test_a_policy_more_never_lets_more_through(
    one: Policy, more: Policy, assessed: list[Assessment], side: Direction
) -> None:
    alone, together = judge([one], assessed, side), judge([one, more], assessed, side)
    assert together.action >= alone.action
    assert set(together.categories) >= set(alone.categories)
    for before, after in zip(alone.cuts, together.cuts, strict=False):
        assert set(before) <= set(after)
    assert together.action == judge([more, one], assessed, side).action


@given(st.lists(POLICIES, max_size=3))
def test_digests_tell_policies_apart_and_policies_can_be_read_again(policies: list[Policy]) -> None:
    assert digest(policies) == digest(list(policies))
    assert digest([*policies, Policy(())]) != digest(policies)
    for policy in policies:
        assert read_policy(_json(policy).encode()) == policy


def _json(policy: Policy) -> str:
    rules = [
        {"category": r.category.value, "action": r.action, "threshold": r.threshold, "direction": r.direction}
        for r in policy.rules
    ]
    return json.dumps({"rules": rules, "stream_lag_chars": policy.stream_lag_chars})


@pytest.mark.parametrize(
    "document",
    [
        b"{",
        b"[]",
        b'{"rules": [{"category": "rain", "action": "block"}]}',
        b'{"rules": [{"category": "hate", "action": "shout"}]}',
        b'{"rules": [{"category": "hate", "action": "block", "threshold": 0}]}',
        b'{"rules": [], "more": 1}',
        b"\xff",
    ],
)
def test_a_policy_that_is_none_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidRequest, match="policy"):
        read_policy(document)


def test_every_preset_stops_what_must_never_pass() -> None:
    for policy in PRESETS.values():
        for never in (Category.BANNED, Category.SEXUAL_MINORS):
            for side in Direction:
                assert judge([policy], [Assessment({never: 1.0})], side).action is Action.ESCALATE
        assert judge([policy], [Assessment(dict.fromkeys(Category, 0.0))], Direction.INPUT) is CLEAR


def test_the_strictest_policy_says_how_much_of_a_stream_is_shown_before_it_is_looked_at() -> None:
    assert stream_lag_chars([Policy(()), Policy((), stream_lag_chars=9)]) == 9
    assert redacts([Policy((Rule(MAIL, "redact", direction="output"),))], Direction.OUTPUT)
    assert not redacts([Policy((Rule(MAIL, "redact", direction="output"),))], Direction.INPUT)
