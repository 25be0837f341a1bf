"""The door to a teacher that answers from a folder: what it is for, what it understands, and its answers as they come.

``teacher.json`` says what it is for; the rest of the folder is the model (docs/decisions/0021). No torch here.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from prsm.core.errors import ConfigError, InvalidRequest
from prsm.teachers.alphabet import ANSWER_ID, END_ID, MARKS, VOCABULARY, is_readable, prompt_ids
from prsm.teachers.questions import Questions
from prsm.teachers.runtime.engine import Engine
from prsm.teachers.runtime.folder import ModelFolder, read_json
from prsm.teachers.runtime.learner import EngineLearner
from prsm.teachers.seams import Piece

ABOUT: Final = "teacher.json"
FAMILY: Final = Path(__file__).parent / "assets" / "family"
"""The teachers that come with the node, each in a folder of its name; ``family.py`` makes them."""
_Line = Annotated[str, Meta(pattern=r"^[ -~]{1,200}$")]  # a name or a phrase, in ASCII, as registries take it
_Price = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
_Count = Annotated[int, Meta(ge=0)]


class ExamScore(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``right`` of ``items`` held-out prompts, by the evaluation of this id."""

    evaluation: _Line
    right: _Count
    items: Annotated[int, Meta(ge=1)]


class About(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``teacher.json``: what a teacher is for.

    ``domain`` stands after "answers only". ``questions`` are the forms it was trained for (``questions.py``); with none
    it takes whatever it can read. ``scratchpad`` says that it works before it answers. Prices are micro-FTNS a million
    tokens; without them it costs what the node's settings say.
    """

    title: _Line
    domain: _Line
    tasks: Annotated[tuple[_Line, ...], Meta(min_length=1, max_length=200)]
    licence: _Line
    max_tokens: Annotated[int, Meta(ge=1, le=8_192)]
    questions: tuple[str, ...] = ()
    scratchpad: bool = True
    scores: tuple[ExamScore, ...] = ()
    data: tuple[_Line, ...] = ()
    training_run: Annotated[str, Meta(max_length=200)] = ""
    input_price_micro: _Price | None = None
    output_price_micro: _Price | None = None


def write_about(folder: Path, about: About) -> None:
    """Write ``teacher.json``, in place of what is there."""
    (folder / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n")


class FolderTeacher:
    """A teacher of a checked folder; threads may share it. ``engine`` gives its network, loaded when needed."""

    def __init__(self, model: ModelFolder, about: About, engine: Callable[[], Engine]) -> None:
        """Raises ConfigError where ``about`` lists a question of no known form."""
        self.model = model
        self.about = about
        self._questions = Questions(about.questions)
        self._engine = engine

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1) -> "FolderTeacher":
        """The teacher of a folder, its network in memory. Raises ConfigError naming what is wrong with the folder."""
        model, about = open_teacher(folder)
        engine = Engine(model.shape, model.weights(), threads=threads)
        return cls(model, about, lambda: engine)

    @property
    def version(self) -> str:
        """The start of its weights' SHA-256."""
        return self.model.version

    @property
    def domain(self) -> str:
        """What it answers, to stand after "answers only"."""
        return self.about.domain

    @property
    def max_tokens(self) -> int:
        """The longest answer it gives, its scratchpad included."""
        return self.about.max_tokens

    def understands(self, text: str) -> bool:
        """Whether ``text`` has a form that it was trained for, in its alphabet, and leaves room for an answer."""
        question = text.strip()
        return self._fits(question) and self._questions.include(question)

    def count_tokens(self, text: str) -> int:
        """How many tokens it reads for ``text``; 0 where it does not understand it."""
        return len(text.strip()) + 1 if self.understands(text) else 0

    def room(self, text: str) -> int:
        """The most tokens it writes for ``text``."""
        return min(self.max_tokens, self.model.shape.context_tokens - self.count_tokens(text))

    def answer(self, text: str, max_tokens: int) -> Iterator[Piece]:
        """A piece a token, greedily: the scratchpad, then the answer. Raises InvalidRequest where not understood."""
        if not self.understands(text):
            raise InvalidRequest(f"This teacher answers only {self.domain}.", code="outside_domain")
        return self._pieces(prompt_ids(text.strip()), min(max_tokens, self.max_tokens))

    def answers(self, prompts: Sequence[str], *, seed: int | None = None) -> Sequence[str]:
        """Answers to many prompts as an evaluation asks (``seams.Learner``), whether it was trained for them or not."""
        return EngineLearner(self._engine(), self.max_tokens).answers(prompts, seed=seed)

    def _fits(self, question: str) -> bool:
        return 0 < len(question) < self.model.shape.context_tokens - 1 and is_readable(question)

    def _pieces(self, prompt: list[int], max_tokens: int) -> Iterator[Piece]:
        is_reasoning = True
        for token in self._engine().write(prompt, max_tokens=max_tokens, ends={END_ID}):
            if token == END_ID:
                return
            yield Piece("" if token < len(MARKS) else VOCABULARY[token], is_reasoning)
            is_reasoning = is_reasoning and token != ANSWER_ID


def open_teacher(folder: Path) -> tuple[ModelFolder, About]:
    """Check a teacher's folder and say what it is for. Raises ConfigError naming the file and the field."""
    model = ModelFolder.open(folder)
    about = read_json(folder / ABOUT, About)
    if about.max_tokens >= model.shape.context_tokens:
        raise ConfigError(f"{folder / ABOUT} allows answers longer than the network's context.", param="max_tokens")
    return model, about
