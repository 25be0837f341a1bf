"""The board: rows follow the models, scores and outcomes decide, each prompt is read once, draws are seeded."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from prsm.agents.learning.board import Board
from prsm.agents.learning.exams import Evaluation
from prsm.agents.learning.fitted import learn, nothing
from prsm.agents.learning.outcomes import Evidence
from prsm.agents.learning.prompts import READ_CHARS, PromptReader
from prsm.agents.routers.difficulty import load_reader, read, read_manifest
from prsm.agents.routers.quality import Item
from prsm.agents.seams import QualityBoard
from prsm.core.encoder import DIMENSION, TextEncoder
from prsm.core.errors import ConfigError

AT = datetime(2026, 1, 1, tzinfo=UTC)
READER = load_reader()
MANIFEST = read_manifest()


class CountingEncoder:
    """Gives every text a unit vector of its own, and counts; while ``gate`` is closed it does not answer."""

    sha256 = MANIFEST.encoder_sha256

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts += texts
        assert self.gate.wait(30)
        if self.broken:
            raise RuntimeError("no memory")
        vectors = np.stack([np.random.default_rng(len(text)).standard_normal(DIMENSION) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def encoder() -> CountingEncoder:
    return CountingEncoder()


@pytest_asyncio.fixture
async def prompts(encoder: CountingEncoder) -> AsyncIterator[PromptReader]:
    reader = PromptReader(encoder, READER, MANIFEST, kept=3)
    yield reader
    reader.close()


@pytest.fixture
def board(prompts: PromptReader) -> Board:
    return Board(prompts, seed=3)


ITEM = Item(0.5, 1.0, 2)


def bad(model: str, callers: int) -> list[Evidence]:
    return [Evidence(model, ITEM, caller, 0.0, 1.0) for caller in range(1, callers + 1)]


# -- prompts ----------------------------------------------------------------------------------------------------------


async def test_the_shipped_encoder_is_the_one_of_the_estimate_and_reads_as_its_law_says() -> None:
    encoder = TextEncoder.load()
    prompts = PromptReader(encoder, READER, MANIFEST)
    text = "If x + 3 = 10, what is 2x?"
    reading = await prompts.read(text)
    assert reading.item == read(READER, text, encoder.encode([text])[0])
    prompts.close()


def test_another_encoder_is_refused_at_the_start() -> None:
    other = CountingEncoder()
    other.sha256 = "0" * 64
    with pytest.raises(ConfigError, match="000000000000"):
        PromptReader(other, READER, MANIFEST)


async def test_who_routes_reads_by_an_encoder_of_its_own_and_nobody_reads_again(encoder: CountingEncoder) -> None:
    routing = CountingEncoder()
    prompts = PromptReader(encoder, READER, MANIFEST, router_encoder=routing)
    routed, observed = await prompts.item("routed"), (await prompts.read("observed")).item
    assert (await prompts.read("routed")).item == routed
    assert await prompts.item("observed") == observed
    assert (routing.texts, encoder.texts) == (["routed"], ["observed"])
    prompts.close()


async def test_each_prompt_is_read_once_however_many_ask_and_the_last_ones_are_kept(
    prompts: PromptReader, encoder: CountingEncoder
) -> None:
    encoder.gate.clear()
    asking = [asyncio.create_task(prompts.item("one")) for _ in range(5)]
    while not encoder.texts:
        await asyncio.sleep(0.001)
    asking[0].cancel()
    encoder.gate.set()
    found = await asyncio.gather(*asking[1:])
    assert len(set(found)) == 1
    assert encoder.texts == ["one"]
    for text in ("two", "three", "one", "four"):
        await prompts.item(text)
    assert encoder.texts == ["one", "two", "three", "four"]
    assert prompts.known("one") is not None
    assert prompts.known("two") is None, "three are kept, and two was asked for longest ago"


async def test_of_a_long_prompt_the_beginning_is_read(prompts: PromptReader, encoder: CountingEncoder) -> None:
    long = "a" * READ_CHARS
    assert await prompts.item(long + "b") == await prompts.item(long + "c")
    assert encoder.texts == [long]


async def test_text_that_is_no_unicode_is_read_all_the_same(prompts: PromptReader) -> None:
    item = await prompts.item("half a pair: \ud800")
    assert np.isfinite([item.difficulty, item.discrimination]).all()


async def test_a_reading_that_fails_is_the_error_of_all_who_wait_and_is_tried_again(
    prompts: PromptReader, encoder: CountingEncoder
) -> None:
    encoder.broken = True
    with pytest.raises(RuntimeError):
        await prompts.item("one")
    encoder.broken = False
    assert await prompts.item("one") == await prompts.item("one")
    assert encoder.texts == ["one", "one"]


# -- rows -------------------------------------------------------------------------------------------------------------


def test_it_is_what_the_router_asks_for(board: Board) -> None:
    as_seen: QualityBoard = board
    as_seen.follow(["a"])
    assert as_seen.chances(ITEM, explore=False).shape == (1,)


def test_rows_stand_in_the_order_that_was_asked_for_and_start_from_scores(board: Board) -> None:
    board.rate({"strong": [Evaluation("mmlu", 0.88)], "weak": [Evaluation("mmlu", 0.4)], "odd": [Evaluation("?", 0.9)]})
    board.follow(["weak", "unheard", "strong", "odd"])
    weak, unheard, strong, odd = board.chances(ITEM, explore=False)
    assert weak < unheard == odd < strong
    board.follow(["strong", "weak"])
    assert board.chances(ITEM, explore=False).tolist() == [strong, weak]
    board.follow([])
    assert board.chances(ITEM, explore=True).shape == (0,)


def test_what_was_learnt_stays_with_its_name_while_the_model_is_away(board: Board) -> None:
    board.follow(["a", "b"])
    before = board.chances(ITEM, explore=False)
    board.take(learn(nothing(READER.clusters, AT), bad("a", 30), [], board.prior))
    after = board.chances(ITEM, explore=False)
    assert after[0] < before[0] - 0.1
    assert after[1] == before[1]
    board.follow(["b"])
    board.follow(["b", "a"])
    assert board.chances(ITEM, explore=False).tolist() == after[::-1].tolist()


def test_a_score_that_comes_later_counts_until_outcomes_do(board: Board) -> None:
    board.follow(["a", "b"])
    board.take(learn(nothing(READER.clusters, AT), bad("a", 30), [], board.prior))
    learnt, blank = board.chances(ITEM, explore=False)
    board.rate({name: [Evaluation("mmlu", 0.95)] for name in ("a", "b")})
    assert board.chances(ITEM, explore=False)[0] == learnt
    assert board.chances(ITEM, explore=False)[1] > blank


def test_draws_are_of_the_seed_differ_between_requests_and_are_wider_where_less_is_known(
    prompts: PromptReader,
) -> None:
    boards = [Board(prompts, seed=seed) for seed in (3, 3, 4)]
    for each in boards:
        each.rate({"known": [Evaluation("mmlu", 0.7)]})
        each.follow(["known", "unknown"])
    drawn = [[each.chances(ITEM, explore=True) for _ in range(300)] for each in boards]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    spread = np.std(drawn[0], axis=0)
    assert spread[1] > 1.2 * spread[0] > 0
    np.testing.assert_array_equal(boards[0].chances(ITEM, explore=False), boards[1].chances(ITEM, explore=False))


def test_processes_do_not_draw_alike(prompts: PromptReader) -> None:
    one, other = Board(prompts), Board(prompts)
    for each in (one, other):
        each.follow(["a", "b", "c"])
    assert not np.array_equal(one.chances(ITEM, explore=True), other.chances(ITEM, explore=True))


def test_standings_say_what_is_thought_and_on_what_evidence(board: Board) -> None:
    board.rate({"a": [Evaluation("mmlu", 0.8), Evaluation("gsm8k", 0.8)]})
    board.follow(["a", "b"])
    board.take(learn(nothing(READER.clusters, AT), bad("b", 20), [], board.prior))
    a, b = board.standings()
    assert (a.model, a.scores, a.outcomes, a.evidence, a.clusters) == ("a", 2, 0, 0.0, [])
    assert (b.model, b.scores, b.outcomes) == ("b", 0, 20)
    assert b.evidence > 0
    assert [each.cluster for each in b.clusters] == [ITEM.cluster]
    assert b.clusters[0].ability < b.ability
    for each in (a, b):
        assert 0 < each.chance_low < each.chance < each.chance_high < 1
    assert a.chance > b.chance
