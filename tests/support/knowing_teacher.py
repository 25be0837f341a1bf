"""A teacher for tests: it knows answers by a rule of Python instead of by weights, and doubts each token a little."""

from collections.abc import Callable, Sequence

import numpy as np

from prsm.teachers.alphabet import ASK_ID, VOCABULARY, answer_ids
from prsm.teachers.distillation.seams import Floats, Ints

_DOUBT = 0.05


class KnowingTeacher:
    """Writes what ``answer`` gives for a question; thinks of every text as far as its prompt asks for it."""

    def __init__(self, answer: Callable[[str], str], parameters: int = 1) -> None:
        self._answer = answer
        self.parameters = parameters

    def write(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        return [self._said(prompt)[:max_tokens] for prompt in prompts]

    def scores(self, ids: Ints, temperature: float) -> Floats:
        shares = np.full((*ids.shape, len(VOCABULARY)), _DOUBT / len(VOCABULARY), np.float32)
        for row, read in enumerate(ids.tolist()):
            asked = read.index(ASK_ID)
            said = self._said(read[: asked + 1])
            for at in range(len(read)):
                shares[row, at, said[min(max(at - asked, 0), len(said) - 1)]] += 1 - _DOUBT
        return np.log(shares)

    def _said(self, prompt: Sequence[int]) -> list[int]:
        return answer_ids("", self._answer("".join(VOCABULARY[token] for token in prompt[:-1])))
