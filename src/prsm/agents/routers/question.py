"""What a decision goes on and what comes of it: the question, what was seen of an instance lately, a candidate.

Plain data, shared by the rules of routing and by whoever feeds or uses them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from prsm.agents.call import Target
from prsm.agents.routers.policy import Policy

MAX_CANDIDATES: Final = 3
"""How many instances one request may try, the first one included."""

Domains = Mapping[str, Callable[[str], bool]]
"""For each domain of specialists, whether a text is a question of it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the choice depends on. ``text`` is the last thing the user said; tokens are estimates.

    ``least_tokens`` and ``most_tokens`` bound what a model has to take in at once, its expected answer included in
    the latter. ``cap_micro`` is the most that the caller pays, with ``held_input_tokens`` of input in the worst case
    and an answer of one token to each of ``choices``. ``sticky`` decides who gets a candidate version: the session, or
    the request where there is none.
    """

    needs: frozenset[str]
    text: str
    input_tokens: int
    output_tokens: int
    least_tokens: int = 0
    most_tokens: int = 0
    policy: Policy | None = None
    cap_micro: int | None = None
    held_input_tokens: int = 0
    choices: int = 1
    sticky: UUID | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How an instance did lately: whether its breaker refuses calls, and how fast and how surely it answers.

    ``first_token_ms`` and ``tokens_per_s`` are 0 where nothing was seen; ``availability`` is the share of its calls
    that were answered.
    """

    resting: bool = False
    first_token_ms: float = 0.0
    tokens_per_s: float = 0.0
    availability: float = 1.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance that may answer, and why it stands where it stands."""

    target: Target
    reason: str
    expected_micro: int
