"""Texts of many requests go together, everybody gets the findings of its own, and one that fails fails alone."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest
from prsm.safety.gathering import BATCH_CHARS, BATCH_TEXTS, Gathering
from prsm.safety.seams import Assessment, Category, DetectorAway


class Detectors:
    """Scores a text by its length; refuses "bad", stumbles over "odd"."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.at_once = self.most = 0
        self.go = asyncio.Event()
        self.go.set()

    async def assess(self, texts: Sequence[str]) -> list[Assessment]:
        self.calls.append(list(texts))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.go.wait()
            if "bad" in texts:
                raise InvalidRequest("bad")
            if "odd" in texts:
                raise RuntimeError("odd")
            return [Assessment({Category.HATE: float(len(text))}) for text in texts]
        finally:
            self.at_once -= 1


def lengths(found: list[Assessment]) -> list[int]:
    return [int(one.scores[Category.HATE]) for one in found]


@given(st.lists(st.lists(st.text(max_size=9), max_size=4), max_size=40), st.integers(1, 3))
def test_everybody_gets_its_own_in_order_and_never_more_at_once_than_allowed(
    requests: list[list[str]], at_once: int
) -> None:
    async def run() -> None:
        detectors = Detectors()
        gathering = Gathering(detectors.assess, at_once=at_once, time_limit_s=60)
        found = await asyncio.gather(*(gathering.assess(texts) for texts in requests), return_exceptions=True)
        for texts, one in zip(requests, found, strict=True):
            if "bad" in texts:
                assert isinstance(one, InvalidRequest)
            elif "odd" in texts:
                assert isinstance(one, DetectorAway)
            else:
                assert not isinstance(one, BaseException)
                assert lengths(one) == [len(text) for text in texts]
        assert detectors.most <= at_once
        assert all(len(call) <= BATCH_TEXTS or len(call) == max(map(len, requests)) for call in detectors.calls)

    asyncio.run(run())


async def test_what_comes_while_some_are_looked_at_goes_together() -> None:
    detectors = Detectors()
    detectors.go.clear()
    gathering = Gathering(detectors.assess, time_limit_s=60)
    waiting = [asyncio.create_task(gathering.assess([f"text {number}"])) for number in range(20)]
    await asyncio.sleep(0.01)
    detectors.go.set()
    await asyncio.gather(*waiting)
    assert len(detectors.calls) <= 2
    detectors.calls.clear()
    await asyncio.gather(*(gathering.assess(["x" * (BATCH_CHARS - 1)]) for _ in range(3)))
    assert [len(call) for call in detectors.calls] == [1, 1, 1]


async def test_one_that_fails_takes_nobody_with_it() -> None:
    gathering = Gathering(Detectors().assess, time_limit_s=60)
    good, bad, odd = await asyncio.gather(
        gathering.assess(["good"]), gathering.assess(["bad"]), gathering.assess(["odd"]), return_exceptions=True
    )
    assert lengths(good) == [4]  # type: ignore[arg-type]
    assert isinstance(bad, InvalidRequest)
    assert isinstance(odd, DetectorAway)


async def test_who_waits_too_long_or_comes_when_too_much_waits_is_refused() -> None:
    detectors = Detectors()
    detectors.go.clear()
    gathering = Gathering(detectors.assess, time_limit_s=1, max_waiting_chars=10)
    first = asyncio.create_task(gathering.assess(["a"]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.create_task(gathering.assess(["b" * 9]))
    await asyncio.sleep(0)
    with pytest.raises(DetectorAway, match="Too many"):
        await gathering.assess(["c" * 9])
    for each in (first, second):
        with pytest.raises(DetectorAway, match="longer"):
            await each
    detectors.go.set()
    while gathering.is_busy:
        await asyncio.sleep(0.01)
    assert lengths(await gathering.assess(["later"])) == [5]
    assert ["b" * 9] not in detectors.calls  # who has left is not looked at any more


async def test_many_texts_go_in_slices_and_others_come_between() -> None:
    detectors = Detectors()
    detectors.go.clear()
    gathering = Gathering(detectors.assess, time_limit_s=60)
    many = asyncio.create_task(gathering.assess([str(number) * (BATCH_CHARS - 1) for number in range(5)]))
    await asyncio.sleep(0.01)
    few = asyncio.create_task(gathering.assess(["few"]))
    await asyncio.sleep(0.01)
    detectors.go.set()
    assert lengths(await few) == [3]
    assert not many.done()
    assert lengths(await many) == [BATCH_CHARS - 1] * 5
    assert [call[0][0] for call in detectors.calls] == ["0", "f", "1", "2", "3", "4"]


async def test_what_nobody_waits_for_any_more_is_stopped_and_who_comes_next_is_served() -> None:
    detectors = Detectors()
    detectors.go.clear()
    gathering = Gathering(detectors.assess, time_limit_s=60)
    both = [asyncio.create_task(gathering.assess([word * BATCH_CHARS] * 2)) for word in ("a", "b")]
    await asyncio.sleep(0.01)
    for each in both:
        each.cancel()
    await asyncio.wait(both)
    await asyncio.sleep(0.01)
    assert detectors.at_once == 0
    assert not gathering.is_busy
    detectors.go.set()
    assert lengths(await gathering.assess(["next"])) == [4]
    assert [call[0][0] for call in detectors.calls] == ["a", "n"]
