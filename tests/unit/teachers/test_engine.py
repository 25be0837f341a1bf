"""The torch-free engine writes what transformers writes with the same weights, alone and many at once."""

import threading
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
from tests.support.small_teachers import random_weights, small_shape

from prsm.teachers.alphabet import END_ID
from prsm.teachers.runtime.choosing import Sampling, drawn
from prsm.teachers.runtime.engine import Engine
from prsm.teachers.runtime.int8 import Int8Matrix, Matrix, quantised
from prsm.teachers.shape import Shape

SHAPES = {
    "plain": small_shape(kv_heads=2),
    "fewer key heads": small_shape(heads=4, kv_heads=2, width=64),
    "heads that are padded": small_shape(heads=4, kv_heads=2, width=96),
    "a head of its own": small_shape(tied=False),
    "other positions": small_shape(rope_theta=100.0, norm_epsilon=1e-3, layers=1),
}
TIE = 1e-4
"""Two scores so near may change places: sums are taken in another order."""


def _prompts(count: int, seed: int = 0, longest: int = 20) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 100, rng.integers(1, longest)).tolist() for _ in range(count)]


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]


@pytest.fixture
def engine() -> Engine:
    return Engine(small_shape(), random_weights(small_shape()))


def _eight(weights: dict[str, Matrix]) -> dict[str, Matrix]:
    return {n: quantised(m) if isinstance(m, np.ndarray) and m.ndim > 1 else m for n, m in weights.items()}


def test_it_writes_what_transformers_writes(shape: Shape) -> None:
    torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `train` is not installed")
    weights: dict[str, Any] = random_weights(shape)
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape.config())).eval()
    tensors = {name: torch.from_numpy(matrix) for name, matrix in weights.items()}
    peer.load_state_dict({"lm_head.weight": tensors["model.embed_tokens.weight"]} | tensors)
    engine = Engine(shape, weights)
    lengths = set[int]()
    for prompt in _prompts(25):
        ours = list(engine.write(prompt, max_tokens=16, ends={END_ID}))
        output = peer.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=16,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        theirs = output.sequences[0, len(prompt) :].tolist()
        for at, (our, their) in enumerate(zip(ours, theirs, strict=False)):
            if our != their:
                scores = output.logits[at][0]
                assert scores[their] - scores[our] < TIE
                break
        else:
            assert ours == theirs
        lengths.add(len(ours))
    assert len(lengths) > 1, "some answers end by themselves"


@pytest.mark.parametrize("int8", [False, True])
def test_many_at_once_are_each_alone(shape: Shape, int8: bool) -> None:
    weights = random_weights(shape)
    engine = Engine(shape, _eight(weights) if int8 else weights)
    prompts = _prompts(150, seed=1)
    together = engine.write_all(prompts, max_tokens=12, ends={END_ID})
    alone = [list(engine.write(prompt, max_tokens=12, ends={END_ID})) for prompt in prompts]
    same = sum(one == other for one, other in zip(together, alone, strict=True))
    assert same >= (145 if int8 else 149)  # rounding: eight bits of an activation may fall to another side
    assert len(set(map(len, alone))) > 3


def test_eight_bits_move_scores_little(shape: Shape) -> None:
    weights = random_weights(shape)
    eight = _eight(weights)
    restored = {name: m.restored() if isinstance(m, Int8Matrix) else m for name, m in eight.items()}
    prompts = _prompts(100, seed=2)
    exact = Engine(shape, restored).write_all(prompts, max_tokens=1, ends=())
    quick = Engine(shape, eight).write_all(prompts, max_tokens=1, ends=())
    assert sum(one == other for one, other in zip(exact, quick, strict=True)) >= 90


def test_a_context_ends_what_is_written(engine: Engine) -> None:
    prompts = [[5] * 60, [6] * 64, [7, 8]]
    alone = [list(engine.write(prompt, max_tokens=100, ends=())) for prompt in prompts]
    assert [len(ids) for ids in alone] == [4, 0, 62]
    assert engine.write_all(prompts, max_tokens=100, ends=()) == alone
    assert engine.write_all([], max_tokens=5, ends=()) == []
    assert engine.write_all([[5]], max_tokens=0, ends=()) == [[]]


def test_a_row_that_has_ended_stays_within_its_context(engine: Engine) -> None:
    prompts = [[5] * 62, *([number] for number in range(7, 20))]
    alone = [list(engine.write(prompt, max_tokens=63, ends=())) for prompt in prompts]
    assert engine.write_all(prompts, max_tokens=63, ends=()) == alone
    assert {len(ids) for ids in alone} == {2, 63}


@pytest.mark.parametrize("prompt", [[], [5] * 65, [100], [-1]])
def test_a_prompt_that_cannot_be_read_is_refused(engine: Engine, prompt: list[int]) -> None:
    with pytest.raises(ValueError):
        engine.write(prompt, max_tokens=5, ends=())
    with pytest.raises(ValueError):
        engine.write_all([[5], prompt], max_tokens=5, ends=())


def test_a_seed_gives_the_same_again_whatever_stands_beside_it(engine: Engine) -> None:
    prompts = _prompts(70, seed=3)
    one = engine.write_all(prompts, max_tokens=8, ends={END_ID}, sampling=Sampling(7))
    assert one == engine.write_all(prompts, max_tokens=8, ends={END_ID}, sampling=Sampling(7))
    assert one[:3] == engine.write_all(prompts[:3], max_tokens=8, ends={END_ID}, sampling=Sampling(7))
    assert one[0] == list(engine.write(prompts[0], max_tokens=8, ends={END_ID}, sampling=Sampling(7)))
    assert one != engine.write_all(prompts, max_tokens=8, ends={END_ID}, sampling=Sampling(8))


def test_draws_follow_the_distribution() -> None:
    scores = np.log(np.array([[0.5, 0.3, 0.15, 0.05]] * 4000, np.float32))
    rows = range(4000)

    def shares(**options: float) -> list[float]:
        counts = Counter(drawn(Sampling(1, **options), rows, 1)(scores, rows, 0).tolist())
        return [counts[token] / 4000 for token in range(4)]

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert shares(temperature=0.5) == pytest.approx([0.685, 0.247, 0.062, 0.007], abs=0.03)
    assert shares(top_p=0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(top_p=0.01) == [1, 0, 0, 0]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_p": 0}, {"top_p": 1.1}, {"seed": -1}])
def test_a_way_to_draw_out_of_bounds_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Sampling(**{"seed": 0} | options)


def test_nothing_is_computed_before_it_is_asked_for(engine: Engine) -> None:
    answer = engine.write([5, 6, 7], max_tokens=40, ends=())
    begun = list(islice(answer, 3))
    other = list(engine.write([9], max_tokens=10, ends=()))
    assert begun + list(answer) == list(engine.write([5, 6, 7], max_tokens=40, ends=()))
    assert other == list(engine.write([9], max_tokens=10, ends=()))


def test_threads_share_one_engine(engine: Engine) -> None:
    prompts = _prompts(40, seed=4)
    alone = [list(engine.write(prompt, max_tokens=20, ends=())) for prompt in prompts]
    found: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        found[number] = [list(engine.write(prompt, max_tokens=20, ends=())) for prompt in prompts]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), alone)
