"""Students in torch: the small decoder of ``networks/``, trained by the room's one loop. It teaches, too."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prsm.core.errors import Kind, PrsmError
from prsm.teachers.distillation.losses import objective
from prsm.teachers.distillation.recipe import Method
from prsm.teachers.distillation.seams import Floats, Ints, Learnt, Lessons, LessonSource
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.networks.sampling import sample
from prsm.teachers.shape import Shape
from prsm.teachers.training.loop import train
from prsm.teachers.training.objective import Batch
from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.training.run_folder import RunFolder
from prsm.teachers.training.small_teacher import load_teacher, save_teacher


class TrainingFailed(PrsmError):
    """The training cannot go on: its loss or gradient is no number any more."""

    kind = Kind.UNPROCESSABLE
    code = "training_failed"


def best_device() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TorchDecoder:
    """The back end ``torch``."""

    name = "torch"

    def build(self, shape: Shape, seed: int) -> "DecoderStudent":
        """A fresh decoder."""
        torch.manual_seed(seed)
        return DecoderStudent(Decoder(shape).to(best_device()))

    def load(self, folder: Path) -> "DecoderStudent":
        """The decoder in a teacher's folder."""
        return DecoderStudent(load_teacher(folder).to(best_device()))


class DecoderStudent:
    """A decoder that writes, is scored and learns."""

    def __init__(self, network: Decoder) -> None:
        self.network = network

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return self.network.shape.parameters()

    def write(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """What it writes after each prompt."""
        device = next(self.network.parameters()).device
        drawing = torch.Generator(device).manual_seed(seed)
        said = sample(self.network, prompts, max_tokens=max_tokens, temperature=temperature, generator=drawing)
        return [each.ids for each in said]

    def scores(self, ids: Ints, temperature: float) -> Floats:
        """What it thinks comes next."""
        return scored(self.network, ids, temperature)

    def learn(
        self, source: LessonSource, method: Method, plan: TrainingPlan, folder: Path, stop: Callable[[], bool]
    ) -> Learnt:
        """Train by the room's loop."""
        return learnt(self.network, source, method, plan, folder, stop)

    def export(self, folder: Path) -> None:
        """Write the teacher's folder."""
        save_teacher(folder, self.network.shape, self.network.weights())


@torch.no_grad()
def scored(network: nn.Module, ids: Ints, temperature: float) -> Floats:
    """Log-probabilities after each token, of any network that is called as ``training.objective`` says."""
    device = next(network.parameters()).device
    logits = network(torch.from_numpy(ids).to(device), None).float()
    return (logits / temperature).log_softmax(-1).cpu().numpy()


def learnt(
    network: nn.Module,
    source: LessonSource,
    method: Method,
    plan: TrainingPlan,
    folder: Path,
    stop: Callable[[], bool],
) -> Learnt:
    """Train any network by the room's loop on lessons."""

    def watch(_metrics: Any) -> str | None:
        return "The job asked to stop." if stop() else None

    end = train(network, TensorSource(source), objective(method), plan, folder, watch=watch)
    if end.state == "failed":
        raise TrainingFailed(end.reason)
    return Learnt(end.step, RunFolder(folder).last_loss(), end.state == "stopped")


class TensorSource:
    """A source of lessons as one of tensors."""

    def __init__(self, source: LessonSource) -> None:
        self._source = source
        self.state, self.restore = source.state, source.restore

    def draw(self) -> Batch:
        """The next batch."""
        return tensors(self._source.draw())


def tensors(lessons: Lessons) -> Batch:
    """A batch as the objectives read it."""
    batch = {"ids": torch.from_numpy(lessons.ids), "targets": torch.from_numpy(lessons.targets)}
    if lessons.likely is not None and lessons.log_likely is not None:
        batch["likely"] = torch.tensor(lessons.likely)
        batch["log_likely"] = torch.from_numpy(lessons.log_likely)
    return batch
