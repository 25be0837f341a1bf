"""Preferences and principles: what is read and refused, what a reward model's figures say, and pairs by critique."""

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import ConfigError
from prsm.teachers.feedback.constitution import Constitution, preferences, read_constitution, revised
from prsm.teachers.feedback.preferences import (
    Preference,
    brier,
    halves,
    preference_probabilities,
    reliability,
    split,
    temperature,
    validated,
)
from prsm.teachers.tasks.held_out import is_held_out

WHEN = datetime(2026, 11, 30, tzinfo=UTC)


def _pair(prompt: str, chosen: str, rejected: str) -> Preference:
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, who="judge", when=WHEN)


LIKED = {letter: (-1.0) ** place for place, letter in enumerate("abcdefgh")}


def _generated(count: int) -> list[Preference]:
    """Of two random answers somebody chooses by their letters, alike often each, not by their length."""
    drawn = random.Random(7)
    found: list[Preference] = []
    while len(found) < count:
        one, other = ("".join(drawn.choices(list(LIKED), k=drawn.randint(4, 12))) for _ in range(2))
        margin = sum(map(LIKED.__getitem__, one)) - sum(map(LIKED.__getitem__, other))
        if one != other:
            first = drawn.random() < 1 / (1 + math.exp(-margin))
            found.append(_pair(f"q{len(found)}", *((one, other) if first else (other, one))))
    return found


@given(st.lists(st.text(max_size=8), max_size=40))
def test_no_prompt_stands_on_both_sides(prompts: list[str]) -> None:
    pairs = [_pair(prompt, "a", "b") for prompt in prompts]
    for sides in (split(pairs), halves(pairs)):
        assert not {pair.prompt for pair in sides.train} & {pair.prompt for pair in sides.held_out}
        assert len(sides.train) + len(sides.held_out) == len(pairs)
    assert all(is_held_out(pair.prompt) for pair in split(pairs).held_out)


def test_a_reward_model_is_validated_on_the_other_half_beside_the_longer_answer() -> None:
    """A logistic regression on counts of letters, fitted on one half (Bradley and Terry 1952)."""
    first, second = halves(_generated(1500))
    assert 0.8 < len(first) / len(second) < 1.25

    def counts(answers: Sequence[str]) -> np.ndarray:
        return np.array([[answer.count(letter) for letter in LIKED] for answer in answers], float)

    apart = counts([pair.chosen for pair in first]) - counts([pair.rejected for pair in first])
    weights = np.zeros(len(LIKED))
    for _ in range(300):
        weights += 0.1 * apart.T @ (1 / (1 + np.exp(apart @ weights))) / len(apart)
    chosen, rejected = (
        [float(reward) for reward in counts(answers) @ weights]
        for answers in ([pair.chosen for pair in second], [pair.rejected for pair in second])
    )
    found = validated(second, chosen, rejected)
    assert found.model.pairs == found.longer.pairs == len(second)
    assert found.longer.low < 0.5 < found.longer.high < found.model.low < found.model.share < found.model.high
    assert found.brier < 0.2
    sure = reliability(preference_probabilities(chosen, rejected), bins=4)
    assert all(each.observed == pytest.approx(each.predicted, abs=0.12) for each in sure)


def test_a_boastful_model_is_cooled_and_a_perfect_one_stays_finite() -> None:
    """Margins five times too large are divided by about five, by one half of the pairs, and judged by the other."""
    drawn = random.Random(5)
    pairs, margins = [_pair(f"q{n}", "a", "b") for n in range(4000)], [0.0] * 4000
    for place in range(len(pairs)):
        margin = drawn.gauss(0, 2)
        margins[place] = 5 * (margin if drawn.random() < 1 / (1 + math.exp(-margin)) else -margin)
    found = validated(pairs, margins, [0.0] * len(pairs))
    assert 4.5 < found.temperature < 5.5
    assert found.calibrated < found.brier - 0.01
    perfect = validated(pairs, [3.0] * len(pairs), [0.0] * len(pairs))
    assert 0.1 < perfect.temperature < 1


def test_where_no_pair_says_how_sure_rewards_should_be_they_stay_as_they_are() -> None:
    pairs = [pair for pair in _generated(40) if temperature([pair], [1.0], [0.0]) == 1.0]
    assert 10 < len(pairs) < 30, "one half of the prompts is for it"
    assert validated(pairs[:3], [2.0] * 3, [0.5] * 3).temperature == 1.0
    assert validated(_generated(9), [0.0] * 9, [0.0] * 9).temperature == 1.0


def test_more_pairs_of_the_same_prompts_make_nobody_surer() -> None:
    pairs = _generated(100)
    margins = [float(place % 4 > 0) - 0.5 for place in range(100)]
    once, often = (validated(pairs * times, margins * times, [0.0] * 100 * times) for times in (1, 5))
    assert often.model == once.model._replace(pairs=500)
    assert often.longer == once.longer._replace(pairs=500)


def test_a_model_that_likes_length_is_as_good_as_the_baseline_and_no_better() -> None:
    pairs = [_pair(str(n), "x" * (n % 7 + 1), "y" * (n % 5 + 9 * (n % 2))) for n in range(200)]
    found = validated(pairs, [float(len(p.chosen)) for p in pairs], [float(len(p.rejected)) for p in pairs])
    assert found.model == found.longer
    assert 0 < found.model.share < 1


def test_ties_count_half_and_a_coin_has_a_quarter() -> None:
    pairs = [_pair(str(n), "a", "b") for n in range(10)]
    found = validated(pairs, [0.0] * 10, [0.0] * 10)
    assert (found.model.share, found.longer.share, found.brier) == (0.5, 0.5, 0.25)
    with pytest.raises(ValueError, match="a pair at least"):
        validated([], [], [])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_probabilities_are_of_the_margin_and_add_up(margins: list[float]) -> None:
    zeros = [0.0] * len(margins)
    one, other = preference_probabilities(margins, zeros), preference_probabilities(zeros, margins)
    assert all(math.isclose(p + q, 1) for p, q in zip(one, other, strict=True))
    assert all((p >= 0.5) == (margin >= 0) or p == 0.5 for p, margin in zip(one, margins, strict=True))


def test_a_calibrated_model_lies_on_the_diagonal_and_a_boastful_one_below() -> None:
    drawn = random.Random(1)
    truth = [drawn.random() for _ in range(20_000)]
    outcomes = [p if drawn.random() < p else 1 - p for p in truth]
    for found in reliability(outcomes, bins=5):
        assert found.observed == pytest.approx(found.predicted, abs=0.03)
    boasting = [0.99 if p > 0.5 else 0.01 for p in outcomes]
    assert all(found.observed < found.predicted - 0.1 for found in reliability(boasting))
    assert brier(boasting) > brier(outcomes)
    assert sum(found.pairs for found in reliability(outcomes)) == len(outcomes)


PRINCIPLES = """
[[principles]]
name = "no-shouting"
text = "Answers do not shout."
"""


class Judge:
    """Finds capitals, and writes them small; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answers(self, prompts: Sequence[str], *, seed: int | None = None) -> Sequence[str]:
        self.asked += prompts
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: str) -> str:
        answer = prompt.partition("Answer:\n")[2].partition("\n\nPrinciple")[0]
        if "Critique:" in prompt:
            return answer.lower()
        return "It shouts." if answer != answer.lower() else "None."


def test_an_answer_that_breaks_a_principle_is_revised_and_the_revision_preferred() -> None:
    judge = Judge()
    found = revised(read_constitution(PRINCIPLES), ["q1", "q2"], ["LOUD", "quiet"], judge, seed=1)
    assert [(each.principle, each.revision) for each in found] == [("no-shouting", "loud"), ("no-shouting", "quiet")]
    assert len(judge.asked) == 3
    assert "Answers do not shout." in judge.asked[0]
    assert "It shouts." in judge.asked[2]
    pairs = preferences(found, who="constitution", when=WHEN)
    assert pairs == [Preference(prompt="q1", chosen="loud", rejected="LOUD", who="constitution", when=WHEN)]


def test_what_stands_in_an_answer_is_no_form() -> None:
    judge = Judge()
    revised(read_constitution(PRINCIPLES), ["{answer}"], ["{principle}"], judge, seed=1)
    assert judge.asked[0].startswith("Question:\n{answer}\n\nAnswer:\n{principle}\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "principles = []",
        "[[principles]]\nname = 'A'\ntext = 'x'",
        "[[principles]]\nname = 'a'\ntext = ''",
        PRINCIPLES * 2,
        "critique = 'x'\n" + PRINCIPLES,
        "more = 1\n" + PRINCIPLES,
        "not toml",
    ],
)
def test_principles_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="principles cannot be read"):
        read_constitution(text)


def test_a_constitution_goes_through_json() -> None:
    made = read_constitution(PRINCIPLES)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Constitution) == made


class _Content:
    """A judge that says one thing, whatever is asked."""

    def __init__(self, says: str) -> None:
        self._says = says

    def answers(self, prompts: Sequence[str], *, seed: int | None = None) -> Sequence[str]:
        return [self._says for _ in prompts]


@pytest.mark.parametrize("says", ['"none"', "None.", '"None."', "\u201cnone\u201d", "'none'", "`none`", "**None**"])
def test_a_judge_that_says_none_in_quotation_marks_found_nothing(says: str) -> None:
    rules = read_constitution('[[principles]]\nname = "kind"\ntext = "Be kind."')
    (found,) = revised(rules, ["Hello?"], ["Hello."], _Content(says), seed=1)
    assert found.revision == "Hello."
