"""What a guard looks at of a stream: all of it, in time, each part with what stood before it."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.answering import Recorded

from prsm.agents.call import Delta
from prsm.agents.guard import LOOK_BACK_CHARS, StreamGuard
from prsm.core.clock import uuid7
from prsm.safety.policy import Action, Blocked, Policy, Rule
from prsm.safety.screening import Screening, Subject
from prsm.safety.seams import Assessment, Category

FIELDS = ("content", "reasoning", "refusal")
PIECES = st.lists(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(FIELDS), st.integers(0, 60)), max_size=3),
    max_size=30,
)


class Looks:
    """A detector that keeps what it saw, and finds hate where it sees ``word``."""

    def __init__(self, word: str = "") -> None:
        self.seen: list[str] = []
        self.words = {Category.HATE: word, Category.VIOLENCE: "blow"}

    async def assess(self, texts: Sequence[str]) -> list[Assessment]:
        self.seen += texts
        return [
            Assessment({one: float(bool(word) and word in text) for one, word in self.words.items()}) for text in texts
        ]


def guard_of(looks: Looks, lag_chars: int, *rules: Rule, told: Recorded | None = None) -> StreamGuard:
    told = told or Recorded()
    screening = Screening("looks", looks.assess, told.record, told.note, told.count)
    policy = Policy(rules or (Rule(Category.HATE, "block"),), stream_lag_chars=lag_chars)
    return StreamGuard(screening, [policy], Subject(uuid7(), "principal:x", "up/m"))


def delta(index: int, field: str, text: str) -> Delta:
    return Delta(index=index, **{field: text})  # type: ignore[arg-type]


@given(PIECES, st.integers(0, 100))
def test_all_that_is_shown_was_looked_at_but_for_the_last_characters(pieces: list, lag_chars: int) -> None:  # type: ignore[type-arg]
    async def run() -> None:
        looks = Looks()
        guard = guard_of(looks, lag_chars)
        shown = 0  # no character stands twice
        for piece in pieces:
            deltas: list[Delta] = []
            for index, field, length in piece:
                deltas.append(delta(index, field, "".join(chr(0x4E00 + shown + at) for at in range(length))))
                shown += length
            await guard.look(deltas)
            assert shown - len(set().union(*looks.seen)) <= lag_chars
        await guard.settle()
        assert len(set().union(*looks.seen)) == shown

    asyncio.run(run())


@given(st.integers(0, 900), st.integers(0, 300), st.integers(1, 50))
def test_a_word_is_found_wherever_it_stands_and_however_it_is_cut(before: int, lag_chars: int, step: int) -> None:
    async def run() -> None:
        guard = guard_of(Looks("forbidden"), lag_chars)
        text = "x " * before + "forbidden" + " y" * 200
        shown = 0

        async def say() -> None:
            nonlocal shown
            for at in range(0, len(text), step):
                await guard.look([Delta(content=text[at : at + step])])
                shown = at + step
            await guard.settle()

        with pytest.raises(Blocked):
            await say()
        assert shown <= 2 * before + len("forbidden") + lag_chars

    asyncio.run(run())


async def test_what_stood_before_is_looked_at_again_but_not_all_of_it() -> None:
    looks = Looks()
    guard = guard_of(looks, 99)
    for _ in range(100):
        await guard.look([Delta(content="0123456789" * 10)])
    await guard.settle()
    assert max(map(len, looks.seen)) == LOOK_BACK_CHARS + 100
    assert all(one.startswith("0123456789") or len(one) > LOOK_BACK_CHARS for one in looks.seen)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 7))
def test_what_a_tool_is_asked_is_read_without_its_escapes_however_it_is_cut(before: int, lag: int, step: int) -> None:
    async def run() -> None:
        guard = guard_of(Looks("forbidden"), lag)
        asked = "".join(f"\\u{ord(letter):04x}" for letter in "x " * before + "forbidden")
        pieces = [asked[at : at + step] for at in range(0, len(asked), step)]

        async def say() -> None:
            for piece in pieces:
                await guard.look([Delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}])])
            await guard.settle()

        with pytest.raises(Blocked):
            await say()

    asyncio.run(run())


async def test_what_was_found_stays_found_and_is_told_of_once() -> None:
    told = Recorded()
    rules = (Rule(Category.HATE, "review"), Rule(Category.VIOLENCE, "annotate"))
    guard = guard_of(Looks("hateful"), 0, *rules, told=told)
    for word in ("a ", "hateful ", "word, ", "a ", "blow ", "and more"):
        await guard.look([Delta(content=word)])
    await guard.settle()
    assert guard.verdict.categories == ["hate", "violence"]
    assert guard.verdict.action == Action.REVIEW
    assert [texts for _, _, _, texts in told.incidents] == [("a hateful ",)]
