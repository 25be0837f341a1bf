"""A prompt is read as difficulty and discrimination: the same one by one as in a table, within bounds on any text."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from prsm.agents.routers import difficulty, prompt_features, quality
from prsm.agents.routers.difficulty import TENSORS, Reader, item_law, load_reader, read
from prsm.agents.routers.difficulty_fit import Recipe, Rows, figures, fit, k_means, pick, rows
from prsm.agents.routers.difficulty_recipe import read_tables, write
from prsm.core.encoder import DIMENSION
from prsm.core.errors import ConfigError, InvalidRequest

WORDS = ("river", "prove", "integral", "poem", "contract", "cell", "market", "sum", "why", "list")
SMALL = Recipe(seed=0, landmarks=24, clusters=4, penalties=((3.0, 40.0),))


def generated(count: int, seed: int) -> tuple[list[str], Rows]:
    """Prompts of four topics; where the topic is 0 only the stronger model knows, elsewhere both are alike."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(4, DIMENSION))
    topic = chance.integers(4, size=count)
    points = centres[topic] + chance.normal(size=(count, DIMENSION))
    unit = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    weak = chance.random(count) < np.where(topic == 0, 0.2, 0.75)
    strong = chance.random(count) < np.where(topic == 0, 0.9, 0.77)
    texts = [f"{number}: {' '.join(chance.choice(WORDS, 6))}?" for number in range(count)]
    return texts, rows(texts, unit, weak.astype(int), strong.astype(int), [0] * count)


@pytest.fixture(scope="module")
def learnt() -> Reader:
    return fit(generated(400, 2)[1], SMALL)


@pytest.fixture(scope="module")
def shipped() -> Reader:
    return load_reader()


def test_what_was_learnt_finds_the_topic_on_which_the_models_differ(learnt: Reader) -> None:
    _, fresh = generated(300, 3)
    gap = figures(learnt, fresh)[:, 0]
    centre = np.random.default_rng(1).normal(size=(4, DIMENSION))[0]
    hard = fresh.embedding @ (centre / np.linalg.norm(centre)) > 0.4
    assert 0.15 < hard.mean() < 0.35
    assert gap[hard].mean() > gap[~hard].mean() + 0.3


def test_one_prompt_is_read_as_a_table_is(learnt: Reader) -> None:
    texts, fresh = generated(40, 4)
    expected = item_law(figures(learnt, fresh), learnt.reference)
    for number, text in enumerate(texts):
        item = read(learnt, text, fresh.embedding[number])
        np.testing.assert_allclose([item.difficulty, item.discrimination], expected[number], rtol=1e-3, atol=1e-4)
        assert 0 <= item.cluster < learnt.clusters


def test_the_most_similar_examples_count_though_only_some_are_compared(shipped: Reader) -> None:
    found: list[float] = []
    nothing, share = np.zeros(2, np.float32), difficulty.NEIGHBOUR_SHARE
    for row in range(0, len(shipped.examples), 97):
        point = shipped.examples[row] + np.random.default_rng(row).normal(0, 8, DIMENSION)
        unit = (point / np.linalg.norm(point)).astype(np.float32)
        likeness = shipped.examples @ unit / difficulty.EXAMPLE_SCALE
        exact = np.argsort(-likeness)[: difficulty.NEIGHBOURS]
        if likeness[exact].mean() > 0.45:
            difference = difficulty.with_neighbours(shipped, unit, nothing) / share - shipped.outcomes[exact].mean(0)
            found.append(float(np.abs(difference).max()))
    assert len(found) > 20
    assert np.mean(found) < 0.02


def test_examples_that_are_far_do_not_count(shipped: Reader) -> None:
    regression = np.array([0.3, 0.5], np.float32)
    far = np.random.default_rng(0).normal(size=DIMENSION)
    far = (far / np.linalg.norm(far)).astype(np.float32)
    np.testing.assert_array_equal(difficulty.with_neighbours(shipped, far, regression), regression)
    one = replace(shipped, examples=shipped.examples[:1], outcomes=np.array([[1, 0.5]], np.float32))
    same = (one.examples[0] / difficulty.EXAMPLE_SCALE).astype(np.float32)
    part = 0.3 + difficulty.NEIGHBOUR_SHARE * 0.7
    np.testing.assert_allclose(difficulty.with_neighbours(one, same, regression), [part, 0.5], rtol=1e-5)


def test_rows_held_out_change_nothing_that_is_learnt() -> None:
    _, every = generated(200, 5)
    train = pick(every, every.fold != 0)
    turned = Rows(**{n: getattr(every, n).copy() for n in Rows.__slots__})
    turned.strong[every.fold == 0] = 1 - turned.strong[every.fold == 0]
    turned.embedding[every.fold == 0] *= -1
    first, second = (fit(each, SMALL) for each in (train, pick(turned, turned.fold != 0)))
    for name in TENSORS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_what_is_learnt_is_the_mean_over_the_penalties() -> None:
    train = generated(200, 6)[1]
    pairs = ((1.0, 40.0), (30.0, 200.0))
    both, *each = (fit(train, replace(SMALL, penalties=penalties)) for penalties in (pairs, pairs[:1], pairs[1:]))
    assert not np.allclose(each[0].word_weights, each[1].word_weights)
    np.testing.assert_allclose(both.word_weights, (each[0].word_weights + each[1].word_weights) / 2, atol=1e-6)
    assert np.abs(each[1].word_weights).sum() < np.abs(each[0].word_weights).sum()


@given(st.integers(1, 12), st.integers(0, 5))
def test_clusters_do_not_depend_on_anything_but_points_and_seed(count: int, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(40, 5)).astype(np.float32)
    first = k_means(points, count, seed)
    np.testing.assert_array_equal(first, k_means(points, count, seed))
    chosen = difficulty.nearest(first, points)
    distances = ((points[:, None] - first) ** 2).sum(2)
    assert np.all(distances[np.arange(40), chosen] <= distances.min(1) + 1e-4)


def test_k_means_finds_groups_that_lie_apart() -> None:
    chance = np.random.default_rng(0)
    points = np.concatenate([chance.normal(size=(50, 3)), 100 + chance.normal(size=(50, 3))]).astype(np.float32)
    centres = k_means(points, 2, 3)
    np.testing.assert_allclose(np.sort(centres[:, 0]), [0, 100], atol=0.6)
    assert len(k_means(points[:2], 8, 0)) == 2


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=20))
def test_the_law_gives_back_the_chances_it_was_made_from(pairs: list[tuple[float, float]]) -> None:
    reference = np.array([0.7, 1.4], np.float32)
    law = item_law(np.array(pairs), reference)
    assert np.all(np.isfinite(law))
    assert np.all(law[:, 1] > 0)
    for (gap, mean), (hard, slope) in zip(pairs, law, strict=True):
        weak, strong = (1 / (1 + np.exp(hard - slope * float(each))) for each in reference)
        if 0.2 < gap < 0.5 and 0.3 < mean < 0.7:
            assert strong - weak == pytest.approx(gap, abs=1e-4)
            assert (strong + weak) / 2 == pytest.approx(mean, abs=1e-4)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20, unique=True))
def test_a_larger_gap_is_never_ranked_lower(gaps: list[float]) -> None:
    ordered = np.sort(np.array(gaps))
    law = item_law(np.stack([ordered, np.full(len(ordered), 0.6)], 1), np.array([0.7, 1.4], np.float32))
    bent = [1 / (1 + np.exp(hard - slope * 1.4)) - 1 / (1 + np.exp(hard - slope * 0.7)) for hard, slope in law]
    assert np.all(np.diff(bent) >= -1e-6)


@given(st.text(max_size=400))
def test_any_text_can_be_read(text: str) -> None:
    assert prompt_features.count(text).shape == (len(prompt_features.COUNTED),)
    assert np.all(np.isfinite(prompt_features.count(text)))
    buckets = prompt_features.words(text)
    assert np.all(np.diff(buckets) > 0)
    assert np.all((buckets >= 0) & (buckets < prompt_features.WORD_BUCKETS))


def counted(text: str) -> dict[str, float]:
    return dict(zip(prompt_features.COUNTED, map(float, prompt_features.count(text)), strict=True))


def test_features_say_what_their_names_say() -> None:
    text = "Which of the following is NOT 12?\nA. 3,5\nB. 17\nC. All of the above\nD. $x^2$"
    asked = counted(text)
    assert asked["options"] == 4
    assert asked["numeric_options"] == 0.5
    assert [asked[name] for name in ("which_of", "negation", "question_mark", "compound_option")] == [1, 1, 1, 1]
    assert asked["latex"] == pytest.approx(np.log1p(3))
    assert asked["numbers"] == pytest.approx(np.log1p(4))
    assert asked["digit_share"] == pytest.approx(7 / len(text))
    assert [asked[name] for name in ("code", "blank", "statements", "quotes")] == [0, 0, 0, 0]
    assert counted("def f(x): return x")["code"] == 1
    assert counted("")["options"] == 0


def test_only_the_start_of_a_long_text_is_read() -> None:
    text = "word " * 2_000
    np.testing.assert_array_equal(prompt_features.count(text), prompt_features.count(text + "1 + 1 = 2?"))
    np.testing.assert_array_equal(prompt_features.words(text), prompt_features.words(text + "1 + 1 = 2?"))


def some_point(seed: int) -> npt.NDArray[np.float32]:
    point = np.random.default_rng(seed).normal(size=DIMENSION)
    return (point / np.linalg.norm(point)).astype(np.float32)


@given(st.text(max_size=200), st.integers(0, 1_000))
def test_the_shipped_reader_gives_an_item_for_anything(shipped: Reader, text: str, seed: int) -> None:
    item = read(shipped, text, some_point(seed))
    assert abs(item.difficulty) < 20
    assert 0 < item.discrimination < 12
    assert 0 <= item.cluster < shipped.clusters
    abilities = quality.start([[quality.Score(0.6, 1_000)], [quality.Score(0.9, 1_000)]], shipped.clusters, 0.0)
    weak, strong = quality.quality(abilities, item)
    assert weak <= strong


def test_what_is_written_is_what_is_read(learnt: Reader, tmp_path: Path) -> None:
    write(learnt, "0" * 64, tmp_path)
    again = load_reader(tmp_path)
    for name in TENSORS:
        np.testing.assert_array_equal(getattr(again, name), getattr(learnt, name))


def test_shipped_weights_are_small_and_made_on_the_shipped_encoder() -> None:
    assert (difficulty.ASSETS / "model.safetensors").stat().st_size < difficulty.MAX_FILE_BYTES
    encoder = Path(difficulty.__file__).parents[2] / "core" / "assets" / "encoder" / "manifest.json"
    told = json.loads(encoder.read_text())["sha256"]["model.onnx"]
    assert json.loads((difficulty.ASSETS / "manifest.json").read_text())["encoder_sha256"] == told


@pytest.mark.parametrize(
    "harm", ["missing", "changed", "no manifest", "not safetensors", "wrong tensors", "not finite"]
)
def test_other_weights_than_the_manifest_names_are_refused(harm: str, learnt: Reader, tmp_path: Path) -> None:
    write(learnt, "0" * 64, tmp_path)
    weights = tmp_path / "model.safetensors"
    if harm == "missing":
        weights.unlink()
    elif harm == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    elif harm == "no manifest":
        (tmp_path / "manifest.json").unlink()
    else:
        _replaced(harm, learnt, tmp_path)
    with pytest.raises(ConfigError):
        load_reader(tmp_path)


def _replaced(harm: str, learnt: Reader, folder: Path) -> None:
    """Files whose hashes agree with their manifest, but which are no reader."""

    tensors = {name: getattr(learnt, name).copy() for name in TENSORS}
    if harm == "wrong tensors":
        tensors["word_weights"] = tensors["word_weights"][:-1].copy()
    tensors["intercept"][0] = np.nan if harm == "not finite" else tensors["intercept"][0]
    content = b"nothing of the kind" if harm == "not safetensors" else save(tensors)
    (folder / "model.safetensors").write_bytes(content)
    manifest = {"sha256": hashlib.sha256(content).hexdigest(), "encoder_sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_tables_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,weak_correct,strong_correct\n"one, or\ntwo",0,1\nthree,1,1\n')
    shutil.copy(tmp_path / "a.csv", tmp_path / "b.csv")
    assert list(read_tables([tmp_path / "a.csv"], ["weak_correct=1"]).prompts) == ["one, or\ntwo"]
    assert len(read_tables([tmp_path / "a.csv"], ["subject=law", "prompt=three"]).prompts) == 1
    with pytest.raises(InvalidRequest):
        read_tables([tmp_path / "a.csv"], ["subject"])
    told = read_tables([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert list(told.prompts) == ["one, or\ntwo", "three"] * 2
    assert (list(told.weak), list(told.strong), list(told.table)) == ([0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 1])
