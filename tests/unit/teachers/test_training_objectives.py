"""What is made small is what the literature says, computed a second time plainly; sources share and resume exactly."""

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from prsm.core.errors import ConfigError  # noqa: E402 - after the skip
from prsm.teachers.networks.decoder import Decoder  # noqa: E402 - needs torch
from prsm.teachers.shape import Shape  # noqa: E402 - after the skip
from prsm.teachers.training.language import next_token  # noqa: E402 - needs torch
from prsm.teachers.training.parallel import Group  # noqa: E402 - needs torch
from prsm.teachers.training.preference import (  # noqa: E402 - needs torch
    Preference,
    RewardModel,
    answer_log_probabilities,
    bradley_terry,
    dpo,
    preferred,
    with_reference,
)
from prsm.teachers.training.small_teacher import Vectors  # noqa: E402 - needs torch
from prsm.teachers.training.sources import (  # noqa: E402 - needs torch
    Batches,
    Packed,
    Pair,
    continued,
    packed,
    padded,
    shuffled,
    windows,
)

SHAPE = Shape(layers=2, width=32, heads=4, kv_heads=2, hidden=48, vocabulary=50, context_tokens=64)
PAIRS = [Pair([5, 6, 7], [8, 9, 3]), Pair([10], [11, 3]), Pair([12, 13], [14, 15, 16, 3]), Pair([9, 9, 9, 9], [3])]
PREFERENCES = [
    Preference([5, 6], [7, 3], [8, 9, 3]),
    Preference([10, 11, 12], [13, 14, 15, 3], [3]),
    Preference([20], [21, 22, 3], [21, 23, 3]),
]


def _network(seed: int) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(SHAPE)


def _log_probability(network: Any, prompt: Any, answer: Any) -> float:
    """Token by token, each from a pass of its own."""
    total, ids = 0.0, list(prompt)
    for token in answer:
        total += float(network(torch.tensor([ids]))[0, -1].log_softmax(-1)[token])
        ids.append(token)
    return total


def test_the_loss_of_pairs_is_that_of_each_answer_token_by_token() -> None:
    network = _network(1)
    loss = next_token(network, padded(PAIRS))
    expected = -sum(_log_probability(network, pair.prompt, pair.answer) for pair in PAIRS)
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)
    assert int(loss.count) == sum(len(pair.answer) for pair in PAIRS)


def test_packed_pairs_do_not_see_each_other() -> None:
    network = _network(1)
    apart, together = next_token(network, padded(PAIRS)), next_token(network, packed([PAIRS[:3], PAIRS[3:]], 14))
    torch.testing.assert_close(together.total, apart.total)
    assert int(together.count) == int(apart.count)
    grads = [torch.autograd.grad(loss.total, list(network.parameters())) for loss in (apart, together)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (0.5, 0.2)])
def test_dpo_is_the_papers_equation(beta: float, smoothing: float) -> None:
    policy, reference = _network(1), _network(2)
    loss = dpo(beta=beta, label_smoothing=smoothing)(policy, preferred(with_reference(reference, PREFERENCES)))
    assert float(loss.total / loss.count) == pytest.approx(_dpo(policy, reference, beta, smoothing), rel=1e-4)
    frozen = dpo(beta=beta, label_smoothing=smoothing, reference=reference)(policy, preferred(PREFERENCES))
    torch.testing.assert_close(frozen.total, loss.total, rtol=1e-5, atol=1e-6)


def _dpo(policy: Any, reference: Any, beta: float, smoothing: float) -> float:
    """Rafailov et al., equation 7, and its smoothed form, from log-probabilities of single passes."""
    losses: list[float] = []
    for pair in PREFERENCES:
        chosen, rejected = (
            _log_probability(policy, pair.prompt, answer) - _log_probability(reference, pair.prompt, answer)
            for answer in (pair.chosen, pair.rejected)
        )
        margin = beta * (chosen - rejected)
        losses.append((1 - smoothing) * math.log1p(math.exp(-margin)) + smoothing * math.log1p(math.exp(margin)))
    return sum(losses) / len(losses)


def test_a_policy_that_is_its_reference_loses_log_2() -> None:
    network = _network(3)
    loss = dpo()(network, preferred(with_reference(network, PREFERENCES)))
    assert float(loss.total) == pytest.approx(3 * math.log(2), rel=1e-5)


def test_rewards_are_read_at_the_last_token_and_compared_by_bradley_and_terry() -> None:
    decoder = _network(1)
    network = RewardModel(Vectors(decoder), SHAPE.width)
    rewards: list[float] = []
    for pair in PREFERENCES:
        for answer in (pair.chosen, pair.rejected):
            vectors = decoder.model(torch.tensor([[*pair.prompt, *answer]]), None, None, None)[0, -1]
            rewards.append(float(vectors @ network.score.weight[0]))
    wins = [1 / (1 + math.exp(worse - better)) for better, worse in zip(rewards[::2], rewards[1::2], strict=True)]
    loss = bradley_terry(network, preferred(PREFERENCES))
    assert float(loss.total) == pytest.approx(-sum(map(math.log, wins)), rel=1e-4)
    assert int(loss.count) == 3
    assert int(loss.metrics["accuracy"]) == sum(win > 0.5 for win in wins)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_what_one_would_draw(world: int) -> None:
    def source(kind: str, rows: int, group: Group) -> Any:
        if kind == "packed":
            return Packed(shuffled(PAIRS, 1), 14, rows, group)
        if kind == "text":
            return Batches(windows(torch.arange(40), 6, 1), continued, rows, group)
        return Batches(shuffled(PAIRS, 1), padded, rows, group)

    for kind in ("packed", "text", "pairs"):
        alone = source(kind, 2 * world, Group())
        shares = [source(kind, 2, Group(rank, world)) for rank in range(world)]
        for _ in range(4):
            whole, parts = alone.draw(), [share.draw() for share in shares]
            for rank, part in enumerate(parts):
                for name, tensor in part.items():
                    cut = tuple(slice(size) for size in tensor.shape[1:])
                    assert torch.equal(tensor, whole[name][(slice(rank, None, world), *cut)])
        assert {str(share.state()) for share in shares} == {str(alone.state())}


def test_a_source_goes_on_from_its_state() -> None:
    for make in (lambda: Packed(shuffled(PAIRS, 1), 14, 2), lambda: Batches(shuffled(PAIRS, 1), padded, 3)):
        one, other = make(), make()
        for _ in range(3):
            one.draw()
        other.restore(one.state())
        assert all(torch.equal(a, b) for a, b in zip(one.draw().values(), other.draw().values(), strict=True))


def test_each_time_through_has_every_example_once_in_another_order() -> None:
    example = shuffled(range(30), 4)
    first, second = [example(n) for n in range(30)], [example(n) for n in range(30, 60)]
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second


def test_what_cannot_be_learnt_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 tokens and a row has 4"):
        Packed(lambda _: PAIRS[2], 4, 1).draw()
    with pytest.raises(ConfigError, match="no examples"):
        shuffled([], 0)
    with pytest.raises(ConfigError, match="needs 7"):
        windows(torch.arange(6), 6, 0)


def test_log_probabilities_are_of_answers_only() -> None:
    network = _network(1)
    found = answer_log_probabilities(network, preferred(PREFERENCES))
    expected = [_log_probability(network, pair.prompt, pair.chosen) for pair in PREFERENCES]
    expected += [_log_probability(network, pair.prompt, pair.rejected) for pair in PREFERENCES]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)
