"""A file of principles, and the pairs that come of it: an answer is judged by one of them, revised, and the revision
preferred (Bai et al. 2022, arXiv:2212.08073). Whoever answers prompts can be judge: a node's own model, any executor.
"""

import random
import re
import tomllib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from prsm.core.errors import ConfigError
from prsm.teachers.feedback.preferences import Preference
from prsm.teachers.seams import Learner

Sentence = Annotated[str, Meta(min_length=1, max_length=2_000)]

_AROUND = " .\n\"'`*\u201c\u201d\u2018\u2019"
"""What a judge may put around the word "none"."""

_CRITIQUE = """Question:
{prompt}

Answer:
{answer}

Principle: {principle}

Say in a few words where the answer breaks the principle. Say only "none" where it does not."""

_REVISION = """Question:
{prompt}

Answer:
{answer}

Principle: {principle}

Critique: {critique}

Write the answer again so that it keeps the principle. Write nothing else."""


class Principle(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule for answers, by a name that stands in the record of each pair."""

    name: Annotated[str, Meta(pattern="^[a-z0-9-]{1,64}$")]
    text: Sentence


class Constitution(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules, and how a judge is asked: with ``{prompt}``, ``{answer}``, ``{principle}`` and ``{critique}``."""

    principles: Annotated[list[Principle], Meta(min_length=1, max_length=200)]
    critique: Sentence = _CRITIQUE
    revision: Sentence = _REVISION

    def __post_init__(self) -> None:
        names = [principle.name for principle in self.principles]
        if len(set(names)) < len(names):
            raise ValueError("two principles have one name")
        if "{answer}" not in self.critique or "{critique}" not in self.revision:
            raise ValueError("a critique needs {answer} and a revision {critique}")


class Revised(Struct, frozen=True):
    """What became of one answer: by which principle, what was found, and what was written instead."""

    prompt: str
    answer: str
    principle: str
    critique: str
    revision: str


def read_constitution(text: str) -> Constitution:
    """The constitution of a TOML text (``[[principles]]`` with ``name`` and ``text``). Raises ConfigError."""
    try:
        return msgspec.convert(tomllib.loads(text), Constitution)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"The principles cannot be read: {error}.", param="principles") from error


def revised(
    constitution: Constitution, prompts: Sequence[str], answers: Sequence[str], judge: Learner, *, seed: int
) -> list[Revised]:
    """Each answer under a principle drawn by ``seed``: criticised and, where anything was found, written anew.

    A judge that finds nothing, or says nothing, leaves the answer as it is: its revision is the answer.
    """
    drawn = random.Random(seed)  # noqa: S311 - principles, not secrets
    principles = [drawn.choice(constitution.principles) for _ in prompts]
    asked = [
        {"prompt": prompt, "answer": answer, "principle": principle.text}
        for prompt, answer, principle in zip(prompts, answers, principles, strict=True)
    ]
    critiques = judge.answers([_filled(constitution.critique, each) for each in asked])
    found = [place for place, critique in enumerate(critiques) if critique.strip(_AROUND).lower() not in {"", "none"}]
    again = [_filled(constitution.revision, asked[place] | {"critique": critiques[place]}) for place in found]
    written = dict(zip(found, judge.answers(again) if again else [], strict=True))
    return [
        Revised(prompt, answer, principle.name, critiques[place], written.get(place, "").strip() or answer)
        for place, (prompt, answer, principle) in enumerate(zip(prompts, answers, principles, strict=True))
    ]


def preferences(found: Sequence[Revised], *, who: str, when: datetime) -> list[Preference]:
    """A pair for each answer that was changed: the revision chosen, the answer rejected."""
    return [
        Preference(prompt=each.prompt, chosen=each.revision, rejected=each.answer, who=who, when=when)
        for each in found
        if each.revision != each.answer
    ]


def _filled(form: str, values: dict[str, str]) -> str:
    """The form with its names replaced in one pass: what stands in an answer is never itself a form."""
    return re.sub(r"\{(prompt|answer|principle|critique)\}", lambda name: values.get(name[1], name[0]), form)
