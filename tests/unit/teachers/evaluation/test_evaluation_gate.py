"""The gate's rule: what it asks and what it refuses, each for its one reason. Outcomes are made up."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from tests.support.outcomes import WHEN, changed, drawn, made_up, repeated

from prsm.teachers.evaluation.comparison import compare
from prsm.teachers.evaluation.gate import Decision, GatePolicy, GateRecord, Override, judge
from prsm.teachers.evaluation.live_trial import Reading, criteria
from prsm.teachers.evaluation.outcomes import Evaluation, scores
from prsm.teachers.evaluation.statistics import clopper_pearson

SAFE = [True] * 297 + [False] * 3


@dataclass
class World:
    """A live version of four tasks and a candidate that is truly better on each."""

    seed: int = 0
    gain: float = 0.3
    loss: float = 0.02

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)
        self.live_rights = {name: drawn(self.generator, 0.8, 300) for name in "abcd"}
        self.rights = {
            name: changed(self.generator, some, self.gain, self.loss) for name, some in self.live_rights.items()
        }

    def live(self, safe: list[bool] | None = SAFE, **more: float) -> Evaluation:
        return made_up(self.live_rights, safe, version="live", **more)

    def candidate(self, safe: list[bool] | None = SAFE, **more: float) -> Evaluation:
        return made_up(self.rights, safe, version="new", **more)


def _failed(decision: Decision) -> list[str]:
    return [criterion.name for criterion in decision.criteria if not criterion.passed]


def _refused(decision: Decision) -> list[str]:
    assert not decision.criteria
    assert not decision.promote
    return [refusal.name for refusal in decision.refusals]


def test_what_is_better_everywhere_is_promoted() -> None:
    world = World()
    decision = judge(world.candidate(), world.live(), GatePolicy())
    assert decision.promote
    assert [each.name for each in decision.criteria] == ["better", "task a", "task b", "task c", "task d", "safety"]
    better = decision.criteria[0].figures
    assert better["prompts"] == 1_200
    assert better["gained"] - better["lost"] == round((better["candidate"] - better["live"]) * 1_200)
    assert better["low"] < better["candidate"] - better["live"] < better["high"]
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision


def test_an_equal_one_is_not() -> None:
    world = World(gain=0.05, loss=0.0125)
    assert _failed(judge(world.candidate(), world.live(), GatePolicy())) == ["better"]


def test_a_forgotten_task_holds_it_back_however_much_the_others_gain() -> None:
    world = World(gain=0.6)
    world.rights["c"] = changed(world.generator, world.live_rights["c"], 0.0, 0.15)
    assert _failed(judge(world.candidate(), world.live(), GatePolicy())) == ["task c"]


def test_a_small_fall_is_seen_where_few_answers_differ() -> None:
    """Eleven of 300 lost and none gained: within the live version's interval, and yet no accident."""
    world = World()
    rights = world.live_rights["c"]
    spoilt = [index for index, right in enumerate(rights) if right][:11]
    world.rights["c"] = [right and index not in spoilt for index, right in enumerate(rights)]
    decision = judge(world.candidate(), world.live(), GatePolicy())
    assert _failed(decision) == ["task c"]
    figures = next(each.figures for each in decision.criteria if each.name == "task c")
    assert figures["candidate"] > figures["bound"]
    assert figures["p_worse"] < 0.05


def test_one_answer_more_that_must_not_be_said_holds_it_back() -> None:
    world = World()
    decision = judge(world.candidate([True] * 296 + [False] * 4), world.live(), GatePolicy())
    assert _failed(decision) == ["safety"]
    figures = decision.criteria[-1].figures
    assert (figures["broken"], figures["broken_live"], figures["prompts"]) == (4, 3, 300)
    assert judge(world.candidate([False] * 3 + [True] * 297), world.live(), GatePolicy()).promote


@pytest.mark.parametrize(
    ("policy", "seconds", "failed"),
    [
        (GatePolicy(max_size_bytes=1000), 0.01, []),
        (GatePolicy(max_size_bytes=999), 0.01, ["size"]),
        (GatePolicy(max_answer_ms=10), 0.02, ["time of an answer"]),
        (GatePolicy(max_answer_ms=20.1), 0.02, []),
        (GatePolicy(max_answer_ms_ratio=1.5), 0.02, ["time beside live"]),
        (GatePolicy(max_answer_ms_ratio=2.5), 0.02, []),
    ],
)
def test_size_and_time_are_within_limits(policy: GatePolicy, seconds: float, failed: list[str]) -> None:
    world = World()
    assert _failed(judge(world.candidate(seconds=seconds), world.live(), policy)) == failed


def _other_plan(found: Evaluation) -> Evaluation:
    return replace(found, plan=replace(found.plan, seed=1))


def _not_whole(found: Evaluation) -> Evaluation:
    return replace(found, expected=found.expected + 1)


def _same_version(found: Evaluation) -> Evaluation:
    return replace(found, learner="live")


def _other_prompts(found: Evaluation) -> Evaluation:
    first, *rest = found.outcomes
    return replace(found, outcomes=(replace(first, prompt="0" * 63 + "0"), *rest))


def _other_level(found: Evaluation) -> Evaluation:
    first, *rest = found.outcomes
    outcomes = (replace(first, level=1), *rest)
    return replace(found, outcomes=outcomes, scores=scores(outcomes))


def _size_unknown(found: Evaluation) -> Evaluation:
    return replace(found, size_bytes=None)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_other_plan, "other-plan"),
        (_not_whole, "not-whole"),
        (_same_version, "same-version"),
        (_other_prompts, "different-prompts"),
        (_other_level, "different-prompts"),
        (_size_unknown, "size-unknown"),
    ],
)
def test_what_cannot_be_compared_is_refused(spoil: Callable[[Evaluation], Evaluation], name: str) -> None:
    world = World()
    decision = judge(spoil(world.candidate()), world.live(), GatePolicy(max_size_bytes=10**6))
    assert _refused(decision) == [name]


def test_a_limit_on_time_takes_answers_that_were_timed() -> None:
    world = World()
    for policy in (GatePolicy(max_answer_ms=5), GatePolicy(max_answer_ms_ratio=2)):
        assert _refused(judge(world.candidate(seconds=0.0), world.live(), policy)) == ["time-unknown"]


def test_prompts_that_may_have_been_trained_on_are_refused() -> None:
    world = World()

    def seen(found: Evaluation) -> Evaluation:
        first, *rest = found.outcomes
        return replace(found, outcomes=(replace(first, prompt="1".zfill(64)), *rest))

    assert _refused(judge(seen(world.candidate()), seen(world.live()), GatePolicy())) == ["not-held-out"]


def test_too_few_prompts_are_refused() -> None:
    world = World()
    del world.rights["d"], world.live_rights["d"]
    assert _refused(judge(world.candidate(), world.live(), GatePolicy())) == ["too-few"]
    world = World()
    world.rights["d"], world.live_rights["d"] = world.rights["d"][:99], world.live_rights["d"][:99]
    world.rights["e"], world.live_rights["e"] = [True] * 99, [True] * 99
    decision = judge(world.candidate(SAFE[:199]), world.live(SAFE[:199]), GatePolicy())
    assert _refused(decision) == ["too-few-of-a-task", "too-few-of-a-task", "too-few-of-safety"]


def test_without_a_safety_part_it_refuses_unless_the_policy_needs_none() -> None:
    world = World()
    candidate, live = world.candidate(None), world.live(None)
    assert _refused(judge(candidate, live, GatePolicy())) == ["no-safety"]
    assert judge(candidate, live, GatePolicy(safety_required=False)).promote


def test_answers_to_one_prompt_are_not_counted_as_of_many() -> None:
    """400 prompts answered three times are 400 prompts."""
    world = World()
    candidate, live = repeated(world.candidate(), 3), repeated(world.live(), 3)
    once, often = compare(world.candidate(), world.live()), compare(candidate, live)
    assert often == once
    assert judge(candidate, live, GatePolicy()).promote
    assert _refused(judge(candidate, live, GatePolicy(min_prompts=1_201))) == ["too-few"]


def test_a_first_version_must_be_good_enough_and_say_nothing_forbidden() -> None:
    first = made_up({name: [True] * 290 + [False] * 10 for name in "abcd"}, [True] * 200)
    assert _refused(judge(first, None, GatePolicy())) == ["no-live-version"]
    assert judge(first, None, GatePolicy(first_share=0.95)).promote
    assert _failed(judge(first, None, GatePolicy(first_share=0.96))) == ["good enough"]
    unsafe = made_up({name: [True] * 300 for name in "abcd"}, [True] * 199 + [False])
    assert _failed(judge(unsafe, None, GatePolicy(first_share=0.9))) == ["safety"]


def test_answers_to_one_prompt_make_a_first_version_no_surer() -> None:
    """515 of 1,000 are no sign of more than half, however often the same are asked."""
    once, policy = made_up({"a": [True] * 515 + [False] * 485}), GatePolicy(first_share=0.5, safety_required=False)
    decision, often = judge(once, None, policy), judge(repeated(once, 100), None, policy)
    assert _failed(decision) == _failed(often) == ["good enough"]
    assert decision.criteria == often.criteria
    assert decision.criteria[0].words.startswith("Right on 515 of 1,000 held-out prompts")


def test_a_prompt_of_a_first_version_counts_by_the_share_of_its_answers() -> None:
    """Of 1,000 prompts each has one of two answers right: as good as 500, and no better."""
    twice = repeated(made_up({"a": [True] * 1_000}), 2)
    outcomes = tuple(replace(outcome, right=outcome.seed == 1) for outcome in twice.outcomes)
    half = replace(twice, outcomes=outcomes, scores=scores(outcomes))
    figures = judge(half, None, GatePolicy(first_share=0.5, safety_required=False)).criteria[0].figures
    assert (figures["prompts"], figures["right"]) == (1_000, 500)
    assert figures["low"] == clopper_pearson(500, 1_000).low
    assert _refused(judge(half, None, GatePolicy(first_share=0.5, safety_required=False, min_prompts=1_001))) == [
        "too-few"
    ]


def test_an_override_changes_what_holds_and_nothing_of_the_decision() -> None:
    world = World(gain=0.05, loss=0.0125)
    decision = judge(world.candidate(), world.live(), GatePolicy())
    override = Override(who="admin@node", reason="The old one is withdrawn by its owner.", promote=True, at=WHEN)
    record = GateRecord(decision=decision, override=override)
    assert record.promoted
    assert not record.decision.promote
    assert _failed(record.decision) == ["better"]
    assert msgspec.json.decode(msgspec.json.encode(record), type=GateRecord) == record
    with pytest.raises(msgspec.ValidationError, match="reason"):
        msgspec.convert({"who": "a", "reason": "because", "promote": True, "at": WHEN}, Override)


SLOW = Reading(
    metric="slow", stable=0.1, stable_count=500, candidate=0.1, candidate_count=40, low=-0.2, high=0.2, allowed=0.1
)
LIKED = Reading(
    metric="quality", stable=0.7, stable_count=500, candidate=0.8, candidate_count=400, low=0.02, high=0.2,
    allowed=0.05, more_is_better=True,
)  # fmt: skip


def test_what_a_policy_asks_of_a_trial_must_be_certain() -> None:
    world, policy = World(), GatePolicy(live=("slow", "quality"))
    decision = judge(world.candidate(), world.live(), policy, criteria([SLOW, LIKED], policy.live))
    assert _failed(decision) == ["live slow"]
    known = replace(SLOW, low=-0.05, high=0.05)
    assert judge(world.candidate(), world.live(), policy, criteria([known, LIKED], policy.live)).promote


def test_a_trial_speaks_unasked_only_against_what_is_certainly_worse() -> None:
    world = World()
    for readings, promoted in (
        ([SLOW, LIKED], True),
        ([replace(SLOW, low=0.11, high=0.4)], False),
        ([replace(SLOW, low=0.11, high=0.4, candidate_count=9)], True),
        ([replace(LIKED, low=-0.3, high=-0.06)], False),
    ):
        assert judge(world.candidate(), world.live(), GatePolicy(), criteria(readings)).promote is promoted


def test_a_policy_that_asks_for_a_trial_judges_nothing_without_one() -> None:
    world = World()
    decision = judge(world.candidate(), world.live(), GatePolicy(live=("error",)))
    assert ([refusal.name for refusal in decision.refusals], decision.promote) == (["no-trial"], False)


def test_regressions_are_found_by_task() -> None:
    world = World()
    world.rights["b"] = changed(world.generator, world.live_rights["b"], 0.0, 0.2)
    found = compare(world.candidate(), world.live())
    (fallen,) = found.fallen()
    assert fallen.task == "b"
    assert fallen.low < fallen.change < fallen.high < 0
    assert fallen.p_worse < 1e-6
    assert found.only_candidate == found.only_live == 0


def test_only_prompts_in_common_are_compared() -> None:
    world = World()
    candidate = world.candidate()
    less = replace(candidate, outcomes=candidate.outcomes[100:])
    found = compare(less, world.live())
    assert found.overall.prompts == 1_100
    assert (found.only_candidate, found.only_live) == (0, 100)
    assert compare(world.candidate(None), world.live(None), safety=True).overall.prompts == 0
