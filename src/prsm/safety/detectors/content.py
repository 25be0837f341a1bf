"""Hate, harassment, sexual content, violence, self-harm, crimes, jailbreaks: read in one pass of the encoder.

Every character is read: of the text as it is meant to be seen (``normalise``), and of what it hides in an encoding
(``hidden``), window by window. A text is as bad as its worst window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from prsm.core.encoder import DIMENSION, TextEncoder
from prsm.core.errors import ConfigError
from prsm.safety.detectors.content_model import BRANCH_OUTPUT, CATEGORIES, OUTPUTS, ContentModel, load_content_model
from prsm.safety.detectors.hidden import hidden
from prsm.safety.detectors.ngrams import buckets
from prsm.safety.detectors.normalise import Mapped, plain
from prsm.safety.detectors.windows import WINDOW_TOKENS, refuse_too_long, windows
from prsm.safety.seams import Assessment, Category, Span

SPAN_FROM: Final = 0.5
"""The probability from which a window of a text of several is told as a span."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Row:
    """One window: which text it is of, its tokens, its words, and the stretch of the original it stands for."""

    text: int
    ids: Sequence[int]
    words: str
    start: int
    end: int


class ContentDetector:
    """Scores by category; holds two sessions over the encoder's weights, some 60 MB each."""

    def __init__(self, encoder: TextEncoder, model: ContentModel | None = None) -> None:
        self._model = model or load_content_model()
        if self._model.encoder_sha256 != encoder.sha256:
            raise ConfigError("The screening model was trained on another text encoder.", remedy="Reinstall prsm.")
        self._encoder = encoder
        outputs = {BRANCH_OUTPUT: ("batch", str(OUTPUTS))}
        self._screen = encoder.branch(self._model.branch, outputs)
        self._both = encoder.branch(self._model.branch, {**outputs, "embedding": ("batch", str(DIMENSION))})
        self.name = f"content-{self._model.version}"
        self.categories = frozenset[Category](CATEGORIES)

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        """Raises TextTooLong for a text beyond the limit of ``windows``."""
        rows = [row for number, text in enumerate(texts) for row in self._rows(number, text)]
        return self._judged(len(texts), rows, self._screen.read([row.ids for row in rows])[BRANCH_OUTPUT])

    def assess_and_embed(self, texts: Sequence[str]) -> tuple[list[Assessment], Vectors]:
        """As ``assess``, and the vectors of ``TextEncoder.encode``, both of one pass over each text's beginning."""
        firsts = [self._first(number, text) for number, text in enumerate(texts)]
        rest = [
            row
            for number, text in enumerate(texts)
            for row in self._rows(number, text)
            if row.ids != firsts[number].ids or row.words != firsts[number].words
        ]
        read = self._both.read([row.ids for row in firsts])
        logits = [*read[BRANCH_OUTPUT], *self._screen.read([row.ids for row in rest])[BRANCH_OUTPUT]]
        vectors = np.array(read["embedding"], np.float32).reshape(len(texts), DIMENSION)
        return self._judged(len(texts), [*firsts, *rest], logits), vectors

    def _first(self, number: int, text: str) -> _Row:
        """The window that the embedding is made of: the first of the text as it stands."""
        refuse_too_long(text)
        read = self._encoder.tokens(text)
        ids = list(read.ids[:WINDOW_TOKENS])
        end = read.offsets[len(ids) - 1][1] if len(ids) < len(read.ids) else len(text)
        return _Row(number, ids, text[:end], 0, max(end, 1))

    def _rows(self, number: int, text: str) -> list[_Row]:
        refuse_too_long(text)
        told = plain(text)
        rows = self._windows(number, told)
        for each in hidden(text):
            said = self._windows(number, plain(each.text))
            rows += [_Row(number, row.ids, row.words, each.start, each.end) for row in said]
        return rows

    def _windows(self, number: int, told: Mapped) -> list[_Row]:
        read = self._encoder.tokens(told.text)
        found: list[_Row] = []
        for each in windows(len(read.ids)):
            start = read.offsets[each.start][0] if each.start else 0
            end = read.offsets[each.end - 1][1] if each.end < len(read.ids) else len(told.text)
            place = told.original(start, end) if end > start else (0, 0)
            found.append(_Row(number, list(read.ids[each.start : each.end]), told.text[start:end], *place))
        return found

    def _judged(self, count: int, rows: Sequence[_Row], logits: Sequence[npt.NDArray[np.float32]]) -> list[Assessment]:
        if not rows:
            return []
        bag = np.stack([self._model.bag_logits(buckets(row.words)) for row in rows])
        probabilities = self._model.probabilities(np.stack(logits), bag)
        by_text: list[list[int]] = [[] for _ in range(count)]
        for index, row in enumerate(rows):
            by_text[row.text].append(index)
        return [_worst([rows[i] for i in own], probabilities[own]) for own in by_text]


def _worst(rows: Sequence[_Row], probabilities: npt.NDArray[np.float32]) -> Assessment:
    scores = {category: float(p) for category, p in zip(CATEGORIES, probabilities.max(0), strict=True)}
    return Assessment(scores, _spans(rows, probabilities) if len(rows) > 1 else ())


def _spans(rows: Sequence[_Row], probabilities: npt.NDArray[np.float32]) -> tuple[Span, ...]:
    found: set[tuple[Category, int, int]] = set()
    for window, column in zip(*np.nonzero(probabilities >= SPAN_FROM), strict=True):
        row = rows[int(window)]
        if row.end > row.start:
            found.add((CATEGORIES[int(column)], row.start, row.end))
    return tuple(Span(category, "passage", start, end) for category, start, end in sorted(found))
