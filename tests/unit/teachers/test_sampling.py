"""Many answers at once are the answers that each prompt gets alone."""

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from prsm.teachers.alphabet import END_ID, VOCABULARY  # noqa: E402 - after the skip
from prsm.teachers.networks.decoder import Decoder  # noqa: E402 - needs torch
from prsm.teachers.networks.sampling import sample  # noqa: E402 - needs torch
from prsm.teachers.shape import Shape  # noqa: E402 - after the skip


@pytest.fixture
def network() -> Decoder:
    torch.manual_seed(3)
    shape = Shape(layers=2, width=32, heads=4, kv_heads=2, hidden=48, vocabulary=len(VOCABULARY), context_tokens=64)
    return Decoder(shape)


PROMPTS = [[5, 6, 7], [9], [20, 21, 22, 23, 24], [40, 41], [60] * 12]


def _alone(network: Decoder, prompt: list[int], max_tokens: int) -> list[int]:
    ids = list(prompt)
    for _ in range(max_tokens):
        ids.append(int(network(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == END_ID:
            break
    return ids[len(prompt) :]


def test_greedy_answers_are_those_of_each_prompt_alone(network: Decoder) -> None:
    begun = PROMPTS[1] + _alone(network, PROMPTS[1], 3)
    with torch.no_grad():  # so that sequences end, each at another place: wherever the network is as it is here
        here = network.model(torch.tensor([begun]), None, None, None)[0, -1]
        network.model.embed_tokens.weight[END_ID] = 0.1 * here
    together = [said.ids for said in sample(network, PROMPTS, max_tokens=20)]
    assert together == [_alone(network, prompt, 20) for prompt in PROMPTS]
    assert len({len(ids) for ids in together}) > 1


def test_log_probabilities_are_those_of_a_pass_without_a_cache(network: Decoder) -> None:
    drawn = sample(network, PROMPTS, max_tokens=10, temperature=0.7, generator=torch.Generator().manual_seed(1))
    for prompt, said in zip(PROMPTS, drawn, strict=True):
        likely = (network(torch.tensor([prompt + said.ids]))[0] / 0.7).log_softmax(-1)[len(prompt) - 1 : -1]
        alone = likely.gather(1, torch.tensor(said.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(said.log_probabilities), alone, rtol=1e-3, atol=1e-4)


def test_draws_follow_the_distribution(network: Decoder) -> None:
    drawn = sample(network, [[5]] * 4000, max_tokens=1, temperature=1.0, generator=torch.Generator().manual_seed(2))
    counts = torch.bincount(torch.tensor([said.ids[0] for said in drawn]), minlength=len(VOCABULARY)) / 4000
    expected = network(torch.tensor([[5]]))[0, -1].softmax(-1)
    assert (counts - expected).abs().max() < 0.03


def test_a_seed_gives_the_same_again(network: Decoder) -> None:
    one, two, other = (
        sample(network, PROMPTS, max_tokens=8, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (4, 4, 5)
    )
    assert one == two != other


def test_an_empty_prompt_is_refused(network: Decoder) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        sample(network, [[4], []], max_tokens=3)
