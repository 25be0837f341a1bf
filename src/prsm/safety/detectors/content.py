"""Hate, harassment, sexual content, violence, self-harm, crimes, jailbreaks, names: read in one pass of the encoder.

Every character is read: of the text as it is meant to be seen (``normalise``), and of what it hides in an encoding
(``hidden``), window by window. A text is as bad as its worst window.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from prsm.core.encoder import DIMENSION, Branch, TextEncoder
from prsm.core.errors import ConfigError
from prsm.safety.detectors.content_model import (
    CATEGORIES,
    LOGITS,
    OUTPUTS,
    TAG_LOGITS,
    load_content_model,
)
from prsm.safety.detectors.found import Find, longest
from prsm.safety.detectors.hidden import hidden
from prsm.safety.detectors.normalise import Mapped, identity, plain
from prsm.safety.detectors.tagger import TAGS
from prsm.safety.detectors.windows import refuse_too_long, windows
from prsm.safety.seams import Assessment, Category, Span

SPAN_FROM: Final = 0.5
"""The probability from which a window of a text of several is told as a span."""
NAMED: Final = 0.8
"""The score of personal data where a name, place, organisation or address is read: about how often that is right."""

_SAID: Final = {LOGITS: ("batch", str(OUTPUTS)), TAG_LOGITS: ("batch", "tokens", str(TAGS))}
KEPT: Final = 256
"""Assessments of encoded texts that wait to be asked for."""

Vectors = npt.NDArray[np.float32]
Outputs = Mapping[str, Sequence[npt.NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class _Row:
    """One window: which text it is of, its tokens, the view they were read from, and which characters of it.

    ``place`` is set for what was hidden: the stretch of the original where all of it stood.
    """

    text: int
    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]
    view: Mapped
    start: int
    end: int
    place: tuple[int, int] | None = None

    @property
    def words(self) -> str:
        return self.view.text[self.start : self.end]

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the original under characters of this window, of which there are some."""
        return self.place or self.view.original(self.start + start, self.start + end)


class ContentDetector:
    """Scores by category, and spans of names; a session over the encoder's weights holds some 60 MB."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._model = load_content_model()
        if self._model.encoder_sha256 != encoder.sha256:
            raise ConfigError("The screening model was trained on another text encoder.", remedy="Reinstall prsm.")
        self._encoder = encoder
        self.sha256 = encoder.sha256
        self._lock = threading.Lock()
        self._kept: dict[bytes, Assessment] = {}
        self._screen = encoder.branch(self._model.branch, _SAID)
        self.name = f"content-{self._model.version}"
        self.categories = frozenset[Category]({*CATEGORIES, Category.PERSONAL_DATA})

    def assess(self, texts: Sequence[str], go_on: Callable[[], None] = lambda: None) -> list[Assessment]:
        """Raises TextTooLong for a text beyond the limit of ``windows``, and between windows what ``go_on`` raises."""
        with self._lock:
            kept = [self._kept.pop(_digest(text), None) for text in texts]
        new = [text for text, found in zip(texts, kept, strict=True) if found is None]
        rows = [row for number, text in enumerate(new) for row in self._rows(number, text)]
        judged = iter(self._judged(len(new), rows, self._read(rows, go_on)))
        return [found or next(judged) for found in kept]

    def _read(self, rows: Sequence[_Row], go_on: Callable[[], None]) -> Outputs:
        outputs: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in _SAID}
        for row in rows:
            go_on()
            for name, read in self._screen.read([row.ids]).items():
                outputs[name] += read
        return outputs

    def encode(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``TextEncoder.encode``, [len(texts), 384].

        The same pass screens the texts: what it says of each is kept until ``assess`` is asked of it.
        """
        firsts = [self._first(number, text) for number, text in enumerate(texts)]
        rows = [row for number, text in enumerate(texts) for row in self._rows(number, text)]
        # Of a text in disguise the window that is embedded is none of those that are screened.
        shared = [(row.ids, row.words) == (firsts[row.text].ids, firsts[row.text].words) for row in rows]
        read = self._both.read([row.ids for row in firsts])
        more = self._screen.read([row.ids for row, same in zip(rows, shared, strict=True) if not same])
        outputs = {name: _merged(read[name], more[name], rows, shared) for name in more}
        judged = self._judged(len(texts), rows, outputs)
        with self._lock:
            self._kept.update(zip(map(_digest, texts), judged, strict=True))
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        return np.array(read["embedding"], np.float32).reshape(len(texts), DIMENSION)

    @cached_property
    def _both(self) -> Branch:
        """Made when a text is first encoded: 60 MB, a third of a second."""
        return self._encoder.branch(self._model.branch, {**_SAID, "embedding": ("batch", str(DIMENSION))})

    def _first(self, number: int, text: str) -> _Row:
        """The window that the embedding is made of: the first of the text as it stands."""
        refuse_too_long(text)
        return self._windows(number, identity(text), 1)[0]

    def _rows(self, number: int, text: str) -> list[_Row]:
        refuse_too_long(text)
        rows = self._windows(number, plain(text))
        for each in hidden(text):
            rows += self._windows(number, plain(each.text), place=(each.start, each.end))
        return rows

    def _windows(self, number: int, view: Mapped, most: int = -1, place: tuple[int, int] | None = None) -> list[_Row]:
        read = self._encoder.tokens(view.text)
        found: list[_Row] = []
        for each in windows(len(read.ids))[: most if most > 0 else None]:
            start = read.offsets[each.start][0] if each.start else 0
            end = read.offsets[each.end - 1][1] if each.end < len(read.ids) else len(view.text)
            offsets = [(a - start, b - start) for a, b in read.offsets[each.start : each.end]]
            found.append(_Row(number, list(read.ids[each.start : each.end]), offsets, view, start, end, place))
        return found

    def _judged(self, count: int, rows: Sequence[_Row], read: Outputs) -> list[Assessment]:
        if not rows:
            return []
        probabilities = self._model.probabilities(np.stack(read[LOGITS]), [row.words for row in rows])
        by_text: list[list[int]] = [[] for _ in range(count)]
        names: list[list[Find]] = [[] for _ in range(count)]
        for index, (row, logits) in enumerate(zip(rows, read[TAG_LOGITS], strict=True)):
            by_text[row.text].append(index)
            tagged = self._model.tagger.tag(logits, row.words, row.offsets)
            names[row.text] += [Find(t.kind, *row.original(t.start, t.end)) for t in tagged if t.end > t.start]
        return [_together([rows[i] for i in own], probabilities[own], names[n]) for n, own in enumerate(by_text)]


def _together(rows: Sequence[_Row], probabilities: npt.NDArray[np.float32], names: Sequence[Find]) -> Assessment:
    scores = {category: float(p) for category, p in zip(CATEGORIES, probabilities.max(0), strict=True)}
    scores[Category.PERSONAL_DATA] = NAMED if names else 0.0
    passages = _passages(rows, probabilities) if len(rows) > 1 else ()
    told = (Span(Category.PERSONAL_DATA, find.kind, find.start, find.end) for find in longest(names))
    return Assessment(scores, (*passages, *told))


def _passages(rows: Sequence[_Row], probabilities: npt.NDArray[np.float32]) -> tuple[Span, ...]:
    found: set[tuple[Category, int, int]] = set()
    for window, column in zip(*np.nonzero(probabilities >= SPAN_FROM), strict=True):
        row = rows[int(window)]
        if row.end > row.start:
            found.add((CATEGORIES[int(column)], *row.original(0, row.end - row.start)))
    return tuple(Span(category, "passage", start, end) for category, start, end in sorted(found))


def _merged(
    firsts: Sequence[npt.NDArray[np.float32]],
    rest: Sequence[npt.NDArray[np.float32]],
    rows: Sequence[_Row],
    shared: Sequence[bool],
) -> list[npt.NDArray[np.float32]]:
    others = iter(rest)
    return [firsts[row.text] if same else next(others) for row, same in zip(rows, shared, strict=True)]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
