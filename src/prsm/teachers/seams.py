"""What the parts of the room agree on: a problem, a task, who is examined, and who answers requests.

No torch here: the node that only answers imports this too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Struct


class Problem(Struct, frozen=True):
    """One question of a task at one level, with its reference answer and whatever else its verifier needs.

    ``facts`` is JSON: it is stored with evaluations, and a problem read back from it verifies the same.
    """

    task: str
    level: int
    prompt: str
    answer: str
    facts: Mapping[str, Any] = {}


class Task(Protocol):
    """A family of verifiable problems. ``levels`` are counted from 0, each harder than the one before."""

    @property
    def name(self) -> str:
        """The family's name, unique in a curriculum."""
        ...

    @property
    def levels(self) -> int:
        """How many levels there are, at least one."""
        ...

    def generate(self, level: int, seed: int) -> Problem:
        """The problem that this seed gives at this level, always the same one."""
        ...

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether ``answer`` is exactly right. No partial credit: what can be gamed is gamed."""
        ...


class Demonstrated(Task, Protocol):
    """A task that can also show how its problems are worked."""

    def demonstrate(self, problem: Problem) -> str:
        """A scratchpad that leads to the answer, without the answer; empty where none is needed."""
        ...


class Learner(Protocol):
    """Whatever answers prompts: a network here, a model behind an executor, a person. Used by every evaluation."""

    def answers(self, prompts: Sequence[str], *, seed: int | None = None) -> Sequence[str]:
        """One answer a prompt, in order: greedy without a seed, else sampled by it; '' where none was given."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token of an answer adds: text (empty for a mark), and whether it is scratchpad or answer."""

    text: str
    is_reasoning: bool


class Teacher(Protocol):
    """A teacher that answers in this process, one piece a token. Every method may be called by several threads."""

    @property
    def version(self) -> str:
        """The start of its weights' SHA-256."""
        ...

    @property
    def domain(self) -> str:
        """What it answers, to stand after "answers only"."""
        ...

    @property
    def max_tokens(self) -> int:
        """The longest answer it gives, its scratchpad included."""
        ...

    def understands(self, text: str) -> bool:
        """Whether ``text`` asks something of a kind and size it was trained for."""
        ...

    def count_tokens(self, text: str) -> int:
        """How many tokens it reads for ``text``; 0 where it does not understand it."""
        ...

    def room(self, text: str) -> int:
        """The most tokens it writes for ``text``, which it understands; fewer than its limit where its context ends."""
        ...

    def answer(self, text: str, max_tokens: int) -> Iterator[Piece]:
        """A piece a token, as it is written, greedily. Raises InvalidRequest where it does not understand ``text``."""
        ...
