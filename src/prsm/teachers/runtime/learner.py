"""A loaded decoder as whoever is examined: prompts in, answers out, as every evaluation asks (``seams.Learner``)."""

import time
from collections.abc import Sequence

from prsm.teachers.alphabet import END_ID, is_readable, prompt_ids, read
from prsm.teachers.replies import Reply
from prsm.teachers.runtime.choosing import Sampling
from prsm.teachers.runtime.engine import Engine


class EngineLearner:
    """Answers of at most ``max_tokens`` tokens, scratchpad included."""

    def __init__(self, engine: Engine, max_tokens: int) -> None:
        self._engine = engine
        self._max_tokens = max_tokens

    def answers(self, prompts: Sequence[str], *, seed: int | None = None) -> Sequence[str]:
        """One answer a prompt, in order: greedy without a seed, else drawn at temperature 1.

        '' for a prompt that cannot be read or leaves no room, and where the answer was not ended properly.
        """
        return [reply.answer for reply in self.replies(prompts, seed=seed)]

    def replies(self, prompts: Sequence[str], *, seed: int | None = None) -> list[Reply]:
        """The same with the scratchpads, and each answer's share of the seconds that all took."""
        began_s = time.perf_counter()
        found = [Reply("", "", 0.0)] * len(prompts)
        room = self._engine.shape.context_tokens
        readable = [row for row, prompt in enumerate(prompts) if len(prompt) + 1 < room and is_readable(prompt)]
        written = self._engine.write_all(
            [prompt_ids(prompts[row]) for row in readable],
            max_tokens=self._max_tokens,
            ends={END_ID},
            sampling=None if seed is None else Sampling(seed),
        )
        each_s = (time.perf_counter() - began_s) / max(len(readable), 1)
        for row, ids in zip(readable, written, strict=True):
            said = read(ids)
            found[row] = Reply(said.answer if said.is_whole else "", f"{said.scratchpad}\n{said.answer}", each_s)
        return found
