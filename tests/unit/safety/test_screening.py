"""Screening remembers what it looked at, within bounds, and suspects nobody of what a policy does not mind."""

import asyncio
from collections.abc import Sequence

import pytest
from tests.support.answering import Recorded

from prsm.core.errors import InvalidRequest
from prsm.safety.screening import Screening
from prsm.safety.seams import Assessment, Category


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
