"""The losses are those of plain sums in numpy, and of TRL where it has them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from tests.support.plain_losses import METHODS, batch, plain_total  # noqa: E402 - after the skip

from prsm.teachers.distillation.backends.torch_decoder import tensors  # noqa: E402 - needs torch
from prsm.teachers.distillation.losses import coarse, forward_kl, jensen_shannon, objective  # noqa: E402 - needs torch
from prsm.teachers.distillation.recipe import Logits, Method  # noqa: E402 - after the skip


class Fixed(torch.nn.Module):
    """A network whose logits are its parameters."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.from_numpy(logits))

    def forward(self, ids: torch.Tensor, mask: None) -> torch.Tensor:
        assert mask is None
        assert ids.shape == self.logits.shape[:2]
        return self.logits


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_loss_is_the_plain_sum(method: Method) -> None:
    lessons, logits = batch(method)
    loss = objective(method)(Fixed(logits), tensors(lessons))
    assert loss.count.item() == 7
    assert loss.total.item() == pytest.approx(plain_total(method, logits, lessons), rel=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_gradients_are_those_of_the_loss(method: Method) -> None:
    lessons, logits = batch(method)
    network = Fixed(logits.astype(np.float64))
    wide = tensors(lessons)
    objective(method)(network, wide).total.backward()
    slope = torch.from_numpy(np.random.default_rng(1).normal(size=logits.shape))
    ahead, behind = (
        objective(method)(Fixed(logits + sign * 1e-3 * slope.numpy()), wide).total.item() for sign in (1, -1)
    )
    assert network.logits.grad is not None
    assert (network.logits.grad * slope).sum().item() == pytest.approx((ahead - behind) / 2e-3, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_divergence_is_that_of_trl(beta: float) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd", reason="the extra `train` is not installed")
    torch.manual_seed(2)
    student, teacher = torch.randn(1, 5, 12), torch.randn(1, 5, 12)
    theirs = gkd.GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, reduction="sum")
    ours = jensen_shannon(student[0].log_softmax(-1), teacher[0].log_softmax(-1), beta)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_a_bucket_for_the_rest_loses_no_probability_and_lessens_the_divergence() -> None:
    torch.manual_seed(3)
    student, teacher = (torch.randn(6, 20).log_softmax(-1) for _ in range(2))
    likely = teacher.topk(4).indices
    small, large = coarse(student, likely), coarse(teacher, likely)
    torch.testing.assert_close(small.exp().sum(-1), torch.ones(6))
    assert 0 < forward_kl(small, large) < forward_kl(student, teacher)
    everything = torch.arange(20).expand(6, 20)
    assert torch.equal(coarse(student, everything), student)


def test_equal_distributions_diverge_by_nothing() -> None:
    shares = torch.randn(4, 9).log_softmax(-1)
    for beta in (0.0, 0.3, 1.0):
        assert jensen_shannon(shares, shares, beta).item() == pytest.approx(0, abs=1e-5)


def test_temperature_squared_keeps_the_size_of_gradients() -> None:
    """In the limit of high temperatures the gradient is that of matching logits (Hinton et al. 2015, equation 4)."""
    student, teacher = torch.randn(1, 1, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    hot = 1000.0
    network = Fixed(student.numpy())
    wide = {
        "ids": torch.zeros(1, 1, dtype=torch.int64),
        "targets": torch.zeros(1, 1, dtype=torch.int64),
        "likely": torch.arange(8)[None, None],
        "log_likely": (teacher / hot).log_softmax(-1)[None, None],
    }
    objective(Logits(temperature=hot))(network, wide).total.backward()
    assert network.logits.grad is not None
    matched = (student[0, 0] - student.mean() - teacher + teacher.mean()) / 8
    torch.testing.assert_close(network.logits.grad[0, 0], matched, rtol=1e-2, atol=1e-3)
