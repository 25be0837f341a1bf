"""APGR on tables made by hand, and the routing bench on a table whose answer is known."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from bench import routing
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.routers.difficulty_fit import SHARES, Recipe, apgr, gap_recovered, rows
from prsm.core.encoder import DIMENSION, TextEncoder
from prsm.core.errors import InvalidRequest


def test_a_router_that_knows_recovers_the_gap_at_once() -> None:
    weak, strong = [0, 1, 1, 1], [1, 1, 1, 1]
    curve = gap_recovered([9, 1, 2, 3], weak, strong)
    np.testing.assert_allclose(curve, np.minimum(SHARES * 4, 1))
    assert curve[np.argmax(curve >= 0.8)] == pytest.approx(0.8)
    # 0, .04, ..., 1 over the first 26 shares, then 75 times 1.
    assert apgr([9, 1, 2, 3], weak, strong) == pytest.approx((13 + 75) / 101)
    assert apgr([-9, 1, 2, 3], weak, strong) == pytest.approx(1 - (13 + 75) / 101)


def test_what_only_the_weaker_knows_is_lost_when_it_is_sent_up() -> None:
    weak, strong = [0, 0, 1, 1], [1, 1, 0, 1]
    curve = gap_recovered([4, 3, 1, 2], weak, strong)
    assert curve[50] == pytest.approx(2)
    assert curve[75] == pytest.approx(2)
    assert curve[100] == pytest.approx(1)
    assert gap_recovered([1, 2, 4, 3], weak, strong)[25] == pytest.approx(-1)


marks = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=40)


@given(marks)
def test_a_blind_router_has_one_half_whatever_the_table(table: list[tuple[int, int, int]]) -> None:
    weak, strong, score = np.array([*table, (0, 1, 0)] + [(0, 1, 0)] * 40).T
    assert apgr(np.zeros(len(weak)), weak, strong) == pytest.approx(0.5)
    assert apgr(score, weak, strong) + apgr(-score, weak, strong) == pytest.approx(1)
    order = np.random.default_rng(0).permutation(len(weak))
    assert apgr(score[order], weak[order], strong[order]) == pytest.approx(apgr(score, weak, strong))


def test_where_there_is_no_gap_none_is_recovered() -> None:
    with pytest.raises(InvalidRequest):
        apgr([1, 2], [1, 1], [1, 0])


def made(count: int) -> tuple[routing.Rows, np.ndarray]:
    """Two tables; along one direction the stronger model gains, and longer prompts gain a little."""
    chance = np.random.default_rng(3)
    point = chance.normal(size=(count, DIMENSION))
    easy = chance.integers(2, size=count)
    point[:, 0] += 25 * easy
    unit = (point / np.linalg.norm(point, axis=1, keepdims=True)).astype(np.float32)
    weak = chance.random(count) < np.where(easy, 0.9, 0.3)
    strong = chance.random(count) < 0.9
    texts = [f"{number} " + "word " * int(n) for number, n in enumerate(chance.integers(1, 40, size=count))]
    every = rows(texts, unit, weak.astype(int), strong.astype(int), list(chance.integers(2, size=count)))
    return every, np.array([len(text) for text in texts], np.float64)


def test_the_bench_ranks_ours_above_blind_routers_where_there_is_something_to_learn() -> None:
    every, length = made(1_000)
    scores = routing.scored(every, length, Recipe(landmarks=16, clusters=2, penalties=((3.0, 40.0),)))
    for table in (0, 1):
        here = routing.pick(every, every.table == table)
        found = {figure.router: figure for figure in routing.compare(here, scores[table], seed=0, draws=20)}
        ours, blind = found["ours"], found["random"]
        assert blind.apgr == pytest.approx(0.5)
        assert ours.apgr > 0.62
        assert ours.low <= ours.apgr <= ours.high
        assert blind.ahead[0] > 0
        assert ours.share_80 < blind.share_80 <= blind.share_95
        longer, shorter = found["longer to strong"], found["shorter to strong"]
        assert longer.pooled + shorter.pooled == pytest.approx(1)
        text = routing.table_text("made", here, list(found.values()))
        assert all(name in text for name in found)


def test_folds_follow_the_hash_of_the_prompt() -> None:
    prompt = "What is 60% of 30?"
    every = rows([prompt], np.zeros((1, DIMENSION), np.float32), [0], [1], [0])
    assert every.fold[0] == int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 5


def test_absent_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"mmlu\.csv is not there"):
        routing.read_rows(tmp_path, TextEncoder.load(), tmp_path)


def test_embeddings_are_kept_by_encoder_and_prompts(tmp_path: Path) -> None:
    encoder = TextEncoder.load()
    first = routing.embed(["one", "two"], encoder, tmp_path)
    kept = next(tmp_path.iterdir())
    np.save(kept, first * 2)
    np.testing.assert_array_equal(routing.embed(["one", "two"], encoder, tmp_path), first * 2)
    np.testing.assert_array_equal(routing.embed(["two", "one"], encoder, tmp_path), first[::-1])
