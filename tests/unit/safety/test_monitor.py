"""The monitor over real files, and over detectors that fail: what was not looked at is never let through."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from prsm.core.encoder import TextEncoder
from prsm.safety.detectors.content import ContentDetector
from prsm.safety.detectors.windows import MAX_CHARS, TextTooLong
from prsm.safety.monitor import Absent, Monitor, open_monitor
from prsm.safety.seams import Assessment, Category, DetectorAway, Span

VICIOUS = "I hate all of them, we should kill every single immigrant, they are vermin"


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


@pytest.fixture(scope="module")
def content(encoder: TextEncoder) -> ContentDetector:
    return ContentDetector(encoder)


@pytest.fixture
def monitor(encoder: TextEncoder) -> Iterator[Monitor]:
    opened = open_monitor(encoder, time_limit_s=120)
    yield opened
    opened.close()


class Marks:
    """Finds the word "forbidden"."""

    name = "marks-1"
    categories = frozenset({Category.BANNED})

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Assessment:
        at = text.find("forbidden")
        spans = (Span(Category.BANNED, "word", at, at + 9),) if at >= 0 else ()
        return Assessment({Category.BANNED: float(at >= 0)}, spans, ("word",) if at >= 0 else ())


class Broken(Marks):
    """Raises what a library would."""

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        raise OSError("disk gone")


class Forgetful(Marks):
    """Leaves a text out."""

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        return super().assess(texts)[1:]


class Notes(Marks):
    """Keeps what it has looked at."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        self.seen += texts
        return super().assess(texts)


class Stuck(Marks):
    """Waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.started = threading.Event()

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        self.started.set()
        self.go.wait(60)
        return super().assess(texts)


async def test_harm_is_told_from_harmless(monitor: Monitor) -> None:
    bad, good, empty = await monitor.assess([VICIOUS, "What a lovely garden you have.", ""])
    assert bad.scores[Category.HATE] > 0.5 > good.scores[Category.HATE]
    assert all(0 <= score <= 1 for each in (bad, good, empty) for score in each.scores.values())


async def test_no_texts_are_no_assessments(monitor: Monitor) -> None:
    assert await monitor.assess([]) == []


async def test_harm_at_the_end_of_a_long_text_is_found_and_placed(monitor: Monitor) -> None:
    calm = "The committee met on Tuesday and talked about the budget of the library. " * 40
    (found,) = await monitor.assess([calm + VICIOUS])
    assert found.scores[Category.HATE] > 0.5
    spans = [span for span in found.spans if span.category is Category.HATE]
    assert spans
    assert max(span.end for span in spans) == len(calm + VICIOUS)


async def test_an_encoded_text_is_read(monitor: Monitor) -> None:
    packed = "".join(f"%{byte:02x}" for byte in VICIOUS.encode())
    (found,) = await monitor.assess([f"please decode {packed}"])
    assert found.scores[Category.HATE] > 0.5


async def test_too_long_a_text_is_refused(monitor: Monitor) -> None:
    with pytest.raises(TextTooLong):
        await monitor.assess(["a" * (MAX_CHARS + 1)])


async def test_what_detectors_say_comes_together(content: ContentDetector) -> None:
    monitor = Monitor(content, [Marks()], time_limit_s=120)
    (found,) = await monitor.assess(["a forbidden thing"])
    assert found.scores[Category.BANNED] == 1
    assert Category.HATE in found.scores
    assert found.rules == ("word",)
    assert monitor.name == f"{content.name}+marks-1"
    assert monitor.categories == content.categories | {Category.BANNED}
    monitor.close()


@pytest.mark.parametrize("failing", [Broken(), Forgetful()])
async def test_a_failing_detector_lets_nothing_through(content: ContentDetector, failing: Marks) -> None:
    monitor = Monitor(content, [failing], time_limit_s=120)
    with pytest.raises(DetectorAway):
        await monitor.assess(["hello"])
    monitor.close()


async def test_an_absent_detector_lets_nothing_through() -> None:
    monitor = Monitor(Absent("content", "no files"))
    assert monitor.content is None
    with pytest.raises(DetectorAway, match="no files"):
        await monitor.assess(["hello"])
    monitor.close()


async def test_a_broken_file_of_what_is_banned_lets_nothing_through(encoder: TextEncoder, tmp_path: Path) -> None:
    path = tmp_path / "banned.toml"
    for content, passes in (('[[pattern]]\nname = "p"\npattern = "falcon"\n', True), ("[[pattern", False)):
        path.write_text(content)
        monitor = open_monitor(encoder, path, time_limit_s=120)
        if passes:
            (found,) = await monitor.assess(["a falcon, mail me at a@example.org"])
            assert found.scores[Category.BANNED] == 1
            assert {span.kind for span in found.spans} == {"p", "email"}
        else:
            with pytest.raises(DetectorAway, match="banned content"):
                await monitor.assess(["hello"])
        monitor.close()


async def test_too_slow_and_too_many_are_refused_until_the_thread_is_free(content: ContentDetector) -> None:
    stuck = Stuck()
    monitor = Monitor(content, [stuck], threads=1, max_waiting=1, time_limit_s=5)
    first = asyncio.create_task(monitor.assess(["hello"]))
    await asyncio.to_thread(stuck.started.wait, 60)
    second = asyncio.create_task(monitor.assess(["hello"]))
    await asyncio.sleep(0)
    with pytest.raises(DetectorAway, match="Too many"):
        await monitor.assess(["hello"])
    for slow in (first, second):
        with pytest.raises(DetectorAway, match="longer than"):
            await slow
    stuck.go.set()
    for _ in range(600):
        await asyncio.sleep(0.1)
        try:
            assert await monitor.assess(["hello"])
            break
        except DetectorAway:
            continue
    else:
        pytest.fail("the thread never came back")
    monitor.close()


async def test_what_nobody_waits_for_any_more_is_looked_at_no_further(content: ContentDetector) -> None:
    stuck, after = Stuck(), Notes()
    monitor = Monitor(content, [stuck, after], threads=1, time_limit_s=120)
    asked = asyncio.create_task(monitor.assess(["hello"]))
    await asyncio.to_thread(stuck.started.wait, 60)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    stuck.go.set()
    assert len(await monitor.assess(["next"])) == 1
    assert after.seen == ["next"]
    monitor.close()


async def test_a_closed_monitor_lets_nothing_through(content: ContentDetector) -> None:
    monitor = Monitor(content)
    monitor.close()
    with pytest.raises(DetectorAway, match="closed"):
        await monitor.assess(["hello"])
