"""Screening remembers what it looked at, within bounds, and suspects nobody of what a policy does not mind."""

import asyncio
from collections.abc import Sequence

import pytest
from tests.support.answering import Recorded

from prsm.core.clock import uuid7
from prsm.core.errors import InvalidRequest
from prsm.safety.policy import PRESETS, Blocked, Direction, judge
from prsm.safety.screening import Screening, Subject
from prsm.safety.seams import Assessment, Category
from prsm.safety.threat import Event


class Reads:
    """Scores a text by its length; over "slow" it sits until ``go`` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def assess(self, texts: Sequence[str]) -> list[Assessment]:
        if "slow" in texts:
            await self.go.wait()
        return [Assessment({Category.HATE: len(text) / 1000}) for text in texts]


def screening_of(reads: Reads, told: Recorded, remember: int = 20_000) -> Screening:
    return Screening("reads", reads.assess, told.record, told.note, told.count, remember)


async def test_what_was_known_when_it_was_asked_is_answered_though_others_push_it_out_meanwhile() -> None:
    reads = Reads()
    screening = screening_of(reads, Recorded(), remember=4)
    await screening.assess(["known"])
    waits = asyncio.create_task(screening.assess(["known", "slow", "known"]))
    await asyncio.sleep(0)
    await screening.assess([f"other {number}" for number in range(4)])
    reads.go.set()
    assert [one.scores[Category.HATE] for one in await waits] == [0.005, 0.004, 0.005]


async def test_only_so_much_that_is_new_is_looked_at_in_one_call() -> None:
    screening = screening_of(Reads(), Recorded())
    half = [f"{number:09d} " * 10_000 for number in range(2)]
    other = [f"{number:09d} " * 10_000 for number in range(2, 4)]
    for texts in ([*half, *other, "more"], [*half, *half, *other, "more"]):
        with pytest.raises(InvalidRequest, match=r"400,004 .* 400,000") as refused:
            await screening.assess(texts)
        assert refused.value.code == "too_much_to_screen"
    assert len(await screening.assess([*half, *half, *half])) == 6
    assert len(await screening.assess([*half, *other, "more"])) == 5  # a conversation that has grown


@pytest.mark.parametrize(
    ("category", "score", "events"),
    [
        (Category.PERSONAL_DATA, 0.99, []),  # annotated, whatever its probability
        (Category.SECRETS, 0.99, []),
        (Category.SEXUAL_MINORS, 0.29, []),
        (Category.SEXUAL_MINORS, 0.49, [Event.NEAR]),  # annotated, and just below what is escalated
        (Category.HATE, 0.97, []),  # blocked in answers only
        (Category.BANNED, 0.5, [Event.ESCALATED]),
    ],
)
async def test_only_what_is_just_below_what_would_be_blocked_is_near(
    category: Category, score: float, events: list[Event]
) -> None:
    told = Recorded()
    screening = screening_of(Reads(), told)
    policies, assessments = [PRESETS["standard"]], [Assessment({category: score})]
    verdict = judge(policies, assessments, Direction.INPUT)
    subject = Subject(uuid7(), "principal:x", "up/m")
    try:
        await screening.enforce(verdict, policies, assessments, ["text"], Direction.INPUT, subject)
    except Blocked:
        assert verdict.blocked
    assert [event for _, event in told.events] == events
