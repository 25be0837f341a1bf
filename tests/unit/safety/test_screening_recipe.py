"""The recipe of the screening model: the same examples for a seed, none near an evaluation row; fair measures."""

from random import Random

import numpy as np
from bench.safety_sets import area, at_false_rate, average_precision, macro_f1, wilson
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from tools.screening.disguise import disguise
from tools.screening.gather import Example, without_evaluation
from tools.screening.written import NAMES, write

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=4, max_size=40).filter(
    lambda rows: len({truth for truth, _ in rows}) == 2
)


def test_the_same_seed_writes_the_same_examples_of_every_category() -> None:
    first, again, other = list(write(3)), list(write(3)), list(write(4))
    assert first == again != other
    assert len({text for text, _ in first}) > 0.99 * len(first)
    for name in NAMES:
        assert sum(labels[name] == 1 for _, labels in first) > 200
        assert sum(labels[name] == 0 for _, labels in first) > 5_000


def test_nothing_near_an_evaluation_row_is_learnt_from() -> None:
    rows = ["How do I terminate a C program?", "I hate all of those wonderful people over there"]
    texts = [
        "how do i  terminate a c PROGRAM?",
        "I hate all of those wonderful people over here",
        "How do I bake bread?",
    ]
    examples = [Example(text, (0,) * len(NAMES), "written") for text in texts]
    assert [each.text for each in without_evaluation(examples, rows)] == ["How do I bake bread?"]


@given(st.text(st.sampled_from("abcde ünï"), max_size=60), st.integers(0, 10**6))
def test_a_disguise_keeps_most_of_a_text(text: str, seed: int) -> None:
    assert len(disguise(text, Random(seed))) >= len(text.replace(" ", "")) - 2


@given(ROWS)
def test_measures_are_those_of_the_field(rows: list[tuple[bool, int]]) -> None:
    truth, scores = np.array([t for t, _ in rows]), np.array([s / 10 for _, s in rows])
    assert np.isclose(average_precision(truth, scores), average_precision_score(truth, scores))
    assert np.isclose(area(truth, scores), roc_auc_score(truth, scores))
    assert np.isclose(macro_f1(truth, scores), f1_score(truth, scores >= 0.5, average="macro", labels=[False, True]))


def test_recall_at_a_rate_of_false_alarms_counts_no_more_of_them() -> None:
    negative = np.arange(200) / 200
    hits, threshold = at_false_rate(np.array([0.5, 0.999, 1.0]), negative, 0.01)
    assert hits == 2
    assert np.mean(negative > threshold) <= 0.01
    low, high = wilson(8, 10)
    assert 0.44 < low < 0.8 < high < 0.95
