"""What the teachers teach: what they write and, where asked, what they think comes next. Batches of it for students.

The lessons of a job are made once and kept; which batch comes next depends on a seed and a count alone, so that a
training resumes where it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from prsm.teachers.alphabet import prompt_ids, read
from prsm.teachers.distillation.recipe import Logits, OnPolicy
from prsm.teachers.distillation.routing import Routing
from prsm.teachers.distillation.seams import NOTHING, Floats, Ints, Lessons, Teacher, Writer
from prsm.teachers.seams import Problem, Task

_LEAST_LOG = -30.0
"""Probabilities are kept above e^-30, so that a divergence of two of them is finite."""
AT_ONCE = 256
"""Prompts that a teacher answers in one call."""


class Lesson(Struct, frozen=True, array_like=True):
    """One prompt of a family and what was written after it, as tokens."""

    family: str
    prompt: list[int]
    said: list[int]


class Panel:
    """The teachers of a job, each heard where the routing says."""

    def __init__(self, teachers: Mapping[str, Teacher], routing: Routing) -> None:
        self._teachers = teachers
        self._routing = routing

    def write(self, problems: Sequence[Problem], *, max_tokens: int, seed: int) -> list[Lesson]:
        """What the teachers answer, greedily; each problem goes to a teacher of its family, drawn by their shares."""
        chance = np.random.default_rng(seed)
        drawn = [_drawn(self._routing[problem.task], chance) for problem in problems]
        lessons: list[Lesson | None] = [None] * len(problems)
        for name, teacher in self._teachers.items():
            mine = [row for row, speaker in enumerate(drawn) if speaker == name]
            mine.sort(key=lambda row: len(problems[row].prompt))
            for at in range(0, len(mine), AT_ONCE):
                rows = mine[at : at + AT_ONCE]
                prompts = [prompt_ids(problems[row].prompt) for row in rows]
                written = teacher.write(prompts, max_tokens=max_tokens)
                for row, prompt, said in zip(rows, prompts, written, strict=True):
                    lessons[row] = Lesson(problems[row].task, prompt, said)
        return [lesson for lesson in lessons if lesson is not None]

    def score(self, lessons: Sequence[Lesson], batch: Lessons, temperature: float, top_k: int) -> Lessons:
        """``batch``, made of ``lessons``, with what the teachers of each one's family think, mixed by their shares."""
        mixed: Floats | None = None
        for name, teacher in self._teachers.items():
            shares = np.array([self._routing[lesson.family].get(name, 0.0) for lesson in lessons], np.float32)
            rows = np.flatnonzero(shares)
            if len(rows):
                scores = np.exp(teacher.scores(batch.ids[rows], temperature))
                if mixed is None:
                    mixed = np.zeros((*batch.ids.shape, scores.shape[-1]), np.float32)
                mixed[rows] += shares[rows, None, None] * scores
        assert mixed is not None, "each family is routed to a teacher"
        likely, log_likely = cut(mixed, top_k)
        return Lessons(batch.ids, batch.targets, likely, log_likely)


def cut(shares: Floats, top_k: int) -> tuple[Ints, Floats]:
    """The ``top_k`` likeliest tokens of distributions (..., vocabulary) and log-probabilities; see ``Lessons``.

    All tokens, in order, where ``top_k`` is 0 or not below the vocabulary.
    """
    vocabulary = shares.shape[-1]
    if not 0 < top_k < vocabulary:
        everything: Ints = np.broadcast_to(np.arange(vocabulary, dtype=np.int64), shares.shape)
        return everything, _logs(shares)
    likely = np.argpartition(shares, vocabulary - top_k, -1)[..., vocabulary - top_k :]
    top = np.take_along_axis(shares, likely, -1)
    rest = (1 - top.sum(-1, keepdims=True)).clip(0)
    return likely.astype(np.int64), _logs(np.concatenate([top, rest], -1))


def verified(lessons: Sequence[Lesson], problems: Sequence[Problem], tasks: Mapping[str, Task]) -> list[Lesson]:
    """The lessons that end by themselves in the right answer. A problem whose task is not known is believed."""
    return [
        lesson
        for lesson, problem in zip(lessons, problems, strict=True)
        if problem.task not in tasks or is_right(tasks[problem.task], problem, lesson.said)
    ]


def is_right(task: Task, problem: Problem, said: list[int]) -> bool:
    """Whether what was written is whole and its answer exactly right."""
    written = read(said)
    return written.is_whole and task.verify(problem, written.answer)


def batch_of(lessons: Sequence[Lesson]) -> Lessons:
    """Lessons side by side, padded at their ends."""
    tokens = max(len(lesson.prompt) + len(lesson.said) for lesson in lessons) - 1
    ids = np.zeros((len(lessons), tokens), np.int64)
    targets = np.full((len(lessons), tokens), NOTHING, np.int64)
    for row, lesson in enumerate(lessons):
        whole, first = lesson.prompt + lesson.said, len(lesson.prompt) - 1
        ids[row, : len(whole) - 1] = whole[:-1]
        targets[row, first : len(whole) - 1] = lesson.said
    return Lessons(ids, targets)


class Kept:
    """Batches of lessons that were made before: all of them in a new order in each pass.

    With ``panel`` and ``method`` the teachers' thoughts are added to each batch as it is drawn.
    """

    def __init__(
        self, lessons: Sequence[Lesson], batch: int, seed: int, panel: Panel | None = None, method: Logits | None = None
    ) -> None:
        self._lessons = lessons
        self._batch = min(batch, len(lessons))
        self._seed = seed
        self._panel = panel
        self._method = method or Logits()
        self._drawn = 0

    def draw(self) -> Lessons:
        """The next batch."""
        lessons = self.choose()
        batch = batch_of(lessons)
        if self._panel is None:
            return batch
        return self._panel.score(lessons, batch, self._method.temperature, self._method.top_k)

    def choose(self) -> list[Lesson]:
        """The lessons of the next batch."""
        in_pass = len(self._lessons) // self._batch
        turn, at = divmod(self._drawn, in_pass)
        order = np.random.default_rng([self._seed, turn]).permutation(len(self._lessons))
        self._drawn += 1
        return [self._lessons[row] for row in order[at * self._batch : (at + 1) * self._batch]]

    def state(self) -> dict[str, Any]:
        """How many batches were drawn."""
        return {"drawn": self._drawn}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after so many."""
        self._drawn = state["drawn"]


class OnPolicyLessons:
    """Batches of which a share is written by the student as it is, all of them scored by the teachers."""

    def __init__(
        self, kept: Kept, panel: Panel, student: Writer, method: OnPolicy, *, max_tokens: int, seed: int
    ) -> None:
        self._kept = kept
        self._panel = panel
        self._student = student
        self._method = method
        self._max_tokens = max_tokens
        self._seed = seed

    def draw(self) -> Lessons:
        """The next batch; the student that writes is that of this moment."""
        number = self._kept.state()["drawn"]
        lessons = self._kept.choose()
        if np.random.default_rng([self._seed, number]).random() < self._method.student_share:
            prompts = [lesson.prompt for lesson in lessons]
            written = self._student.write(
                prompts, max_tokens=self._max_tokens, temperature=self._method.temperature, seed=self._seed + number
            )
            lessons = [
                Lesson(lesson.family, lesson.prompt, said) for lesson, said in zip(lessons, written, strict=True)
            ]
        return self._panel.score(lessons, batch_of(lessons), 1.0, self._method.top_k)

    def state(self) -> dict[str, Any]:
        """How many batches were drawn."""
        return self._kept.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after so many."""
        self._kept.restore(state)


def keep_lessons(path: Path, lessons: Sequence[Lesson]) -> None:
    """Keep the lessons in a file, whole or not at all."""
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode(lessons))
    beside.replace(path)


def kept_lessons(path: Path) -> list[Lesson] | None:
    """The lessons in a file; None where there is none."""
    return msgspec.json.decode(path.read_bytes(), type=list[Lesson]) if path.exists() else None


def _drawn(shares: Mapping[str, float], chance: np.random.Generator) -> str:
    names = list(shares)
    return names[0] if len(names) == 1 else names[int(chance.choice(len(names), p=list(shares.values())))]


def _logs(shares: Floats) -> Floats:
    return np.log(shares.clip(np.exp(_LEAST_LOG))).astype(np.float32)
