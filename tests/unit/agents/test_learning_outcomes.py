"""What counts as an outcome: verdicts in full, regenerations and silence a little, faults as one witness's word."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.learning.exams import EXAMS, REFERENCE, Evaluation, scores
from prsm.agents.learning.outcomes import (
    CUT_OFF_WEIGHT,
    ERROR_WEIGHT,
    LEFT_WEIGHT,
    MAX_REPEATS,
    REGENERATION_S,
    REGENERATION_WEIGHT,
    SILENCE_WEIGHT,
    Ended,
    Evidence,
    Reason,
    Seen,
    implied,
    settled,
    verdict,
)
from prsm.agents.routers.difficulty import load_reader
from prsm.agents.routers.quality import Item

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ITEM = Item(0.3, 1.1, 4)
CALLER, WITNESS = 7, 1


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def seen(ended: Ended = Ended.WHOLE, *, answered_s: float = 5) -> Seen:
    return Seen(UUID(int=1), "m", ITEM, CALLER, b"p", NOON, after(answered_s), ended)


def said(success: float, weight: float, caller: int = CALLER) -> Evidence:
    return Evidence("m", ITEM, caller, success, weight)


def test_a_verdict_counts_in_full_but_for_what_is_not_about_the_answer() -> None:
    assert verdict(seen(), 0.0, None) == said(0.0, 1.0)
    assert verdict(seen(), 0.75, Reason.WRONG) == said(0.75, 1.0)
    assert verdict(seen(), 0.0, Reason.STYLE) == said(0.0, 0.5)
    assert verdict(seen(), 0.0, Reason.SLOW) is None
    assert verdict(seen(), 0.0, Reason.EXPENSIVE) is None


def test_the_same_question_soon_after_the_answer_speaks_against_it_and_silence_for_it() -> None:
    silence, again = said(1.0, SILENCE_WEIGHT), said(0.0, REGENERATION_WEIGHT)
    assert implied(seen(), [NOON], WITNESS) == silence
    assert implied(seen(), [NOON, after(20)], WITNESS) == again
    assert implied(seen(), [NOON, after(5 + REGENERATION_S)], WITNESS) == again
    assert implied(seen(), [NOON, after(5.1 + REGENERATION_S)], WITNESS) == silence
    # Asked before: it is the earlier answer that this speaks against.
    assert implied(seen(), [after(-60), NOON], WITNESS) == silence
    # A repeat before anybody can have read the answer, or while it is being given, is a program's.
    assert implied(seen(), [NOON, after(5.5)], WITNESS) == silence
    assert implied(seen(), [NOON, after(2)], WITNESS) == silence


def test_who_polls_says_nothing() -> None:
    asks = [after(20 * number) for number in range(MAX_REPEATS + 1)]
    assert implied(seen(), asks, WITNESS) is None
    assert implied(seen(), asks[:-1], WITNESS) == said(0.0, REGENERATION_WEIGHT)


def test_leaving_counts_little_and_regenerating_after_it_more() -> None:
    assert implied(seen(Ended.LEFT), [NOON], WITNESS) == said(0.0, LEFT_WEIGHT)
    assert implied(seen(Ended.LEFT), [NOON, after(20)], WITNESS) == said(0.0, REGENERATION_WEIGHT)


def test_faults_are_the_nodes_word_whoever_asked() -> None:
    assert implied(seen(Ended.CUT_OFF), [NOON], WITNESS) == said(0.0, CUT_OFF_WEIGHT, WITNESS)
    assert implied(seen(Ended.ERROR), [], WITNESS) == said(0.0, ERROR_WEIGHT, WITNESS)


def test_settling_takes_each_answer_by_its_kind() -> None:
    assert settled([seen(), seen(Ended.ERROR)], {b"p": [NOON]}, WITNESS) == [
        said(1.0, SILENCE_WEIGHT),
        said(0.0, ERROR_WEIGHT, WITNESS),
    ]


@given(
    st.sampled_from([Ended.WHOLE, Ended.LEFT, Ended.CUT_OFF, Ended.ERROR]),
    st.lists(st.floats(-1000, 1000), max_size=20),
    st.floats(0, 100),
)
def test_whatever_happens_no_sign_counts_as_much_as_a_word(ended: Ended, asks: list[float], answered_s: float) -> None:
    found = implied(seen(ended, answered_s=answered_s), sorted(map(after, asks)), WITNESS)
    if found is not None:
        assert 0 < found.weight <= REGENERATION_WEIGHT < 1
        assert found.success in (0.0, 1.0)


@pytest.mark.parametrize(("right", "regenerated"), [(0.8, 0.2), (0.5, 0.2), (0.3, 0.2), (0.8, 0.1), (0.5, 0.1)])
def test_signs_alone_leave_a_model_near_what_it_is(right: float, regenerated: float) -> None:
    """Where callers regenerate one wrong answer in five or ten, the two signs balance within 0.25 of the truth."""
    again = (1 - right) * regenerated
    silence = SILENCE_WEIGHT * (1 - again)
    balanced = silence / (silence + REGENERATION_WEIGHT * again)
    assert balanced == pytest.approx(right, abs=0.25)


def test_exams_are_equated_to_the_one_that_the_difficulty_estimate_was_learnt_on() -> None:
    assert load_reader().reference == pytest.approx(REFERENCE, abs=0.001)
    hardness = {name: exam.hardness for name, exam in EXAMS.items()}
    assert hardness["hellaswag"] < hardness["winogrande"] < hardness["mmlu"] < hardness["humaneval"]
    assert hardness["mmlu_pro"] > 1
    assert abs(hardness["gsm8k"]) < 0.05


@pytest.mark.parametrize("name", ["mmlu", "MMLU", "cais/mmlu", "mmlu@5-shot", "mmlu:0", "hendrycks/MMLU@sha"])
def test_an_exam_is_known_by_its_usual_names(name: str) -> None:
    (score,) = scores([Evaluation(name, 0.7, 1_000)])
    assert (score.accuracy, score.items, score.hardness) == (0.7, 1_000, EXAMS["mmlu"].hardness)


def test_unknown_exams_and_impossible_scores_say_nothing_and_the_best_attested_counts() -> None:
    assert scores([Evaluation("our-own-exam", 0.99, 10_000), Evaluation("mmlu", 1.2, 10)]) == []
    (score,) = scores([Evaluation("mmlu", 0.9, 10), Evaluation("mmlu@5", 0.7, 10_000), Evaluation("mmlu", 0.8, 20)])
    assert (score.accuracy, score.items) == (0.7, 10_000)
    (score,) = scores([Evaluation("gsm8k", 0.7, 10**9)])
    assert score.items == EXAMS["gsm8k"].items, "nobody has answered more items than there are"
    (score,) = scores([Evaluation("gsm8k", 0.7)])
    assert score.items == EXAMS["gsm8k"].items


def test_every_exam_names_its_source() -> None:
    assert all(exam.source and exam.items > 0 for exam in EXAMS.values())
