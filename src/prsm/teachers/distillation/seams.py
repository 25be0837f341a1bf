"""What distillation asks of networks, whatever they are computed with: arrays of numpy in, arrays of numpy out.

No torch and no TensorFlow here. Tokens are those of the student's vocabulary; teachers that are scored share it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prsm.teachers.distillation.recipe import Method
from prsm.teachers.shape import Shape
from prsm.teachers.training.plan import TrainingPlan

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
NOTHING = -100
"""A target that teaches nothing: what the prompt and the padding have."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """A batch: ``ids`` and ``targets`` (batch, tokens), and what the teachers think comes next.

    Padding is at the ends, where a causal network does not look, so that nobody needs a mask. ``likely`` (batch,
    tokens, k) are the tokens that the teachers find likeliest, ``log_likely`` their log-probabilities, with one more
    for all other tokens together where k is below the vocabulary. Both are None where nobody was asked.
    """

    ids: Ints
    targets: Ints
    likely: Ints | None = None
    log_likely: Floats | None = None


class LessonSource(Protocol):
    """Batches without end; ``state`` and ``restore`` as of ``training.objective.Source``."""

    def draw(self) -> Lessons:
        """The next batch."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the next batches depend on, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        ...


class Writer(Protocol):
    """Whatever writes tokens after prompts."""

    def write(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """What comes after each prompt, up to and with ``<end>`` or ``max_tokens``; greedy at temperature 0."""
        ...


class Teacher(Writer, Protocol):
    """A network that can be asked what it thinks comes next."""

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        ...

    def scores(self, ids: Ints, temperature: float) -> Floats:
        """Log-probabilities (batch, tokens, vocabulary) of what follows each token, softened by ``temperature``."""
        ...


@dataclass(frozen=True, slots=True)
class Learnt:
    """How a training went: updates in all, the last reported loss, if any, and whether ``stop`` ended it early."""

    steps: int
    loss: float | None
    stopped: bool


class Student(Teacher, Protocol):
    """A network that learns; once it has learnt, it may teach."""

    def learn(
        self, source: LessonSource, method: Method, plan: TrainingPlan, folder: Path, stop: Callable[[], bool]
    ) -> Learnt:
        """Train as ``plan`` says, going on from the newest checkpoint in ``folder``.

        ``stop`` is asked after every few steps; when it says yes, a checkpoint is kept and the training returns.
        """
        ...

    def export(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` under the names that transformers gives to the tensors."""
        ...


class Backend(Protocol):
    """Makes students with one library."""

    @property
    def name(self) -> str:
        """What recipes call it."""
        ...

    def build(self, shape: Shape, seed: int) -> Student:
        """A fresh student, the same for the same seed."""
        ...

    def load(self, folder: Path) -> Student:
        """A student from what ``export`` wrote. Raises ConfigError where the folder holds something else."""
        ...
