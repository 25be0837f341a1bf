"""Which prompts are kept from training: by the hash of the prompt itself, never by a list of seeds.

Two seeds may give one prompt, and a list of seeds can take a whole level away from training; a hash can do neither.
"""

import hashlib
import itertools
from collections.abc import Iterator

from prsm.teachers.seams import Problem, Task

HELD_OUT_MODULUS = 20
"""One prompt in so many is held out."""


def is_held_out(prompt: str) -> bool:
    """Whether this prompt is kept from training: the SHA-256 of its UTF-8 bytes is 0 mod 20."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest(), "big") % HELD_OUT_MODULUS == 0


def problems(task: Task, level: int, seed: int, *, held_out: bool, seeds: int | None = None) -> Iterator[Problem]:
    """The problems of one level on one side of the split, from the seeds ``seed``, ``seed + 1``, ...

    Of so many ``seeds``, or without end: a level whose prompts all lie on the other side then gives nothing for ever.
    """
    drawn = (task.generate(level, number) for number in itertools.islice(itertools.count(seed), seeds))
    return (problem for problem in drawn if is_held_out(problem.prompt) == held_out)
