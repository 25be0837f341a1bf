"""Writes tokens with a loaded decoder over a KV cache: one answer as it comes, or many at once.

The cache of a run is its own and extended in place; the session is shared, so one engine serves any number of threads.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from prsm.teachers.runtime.choosing import Chooser, Sampling, Tokens, drawn, likeliest
from prsm.teachers.runtime.graph import decoder_model, padded_head_width
from prsm.teachers.runtime.int8 import Array, Matrix
from prsm.teachers.shape import Shape

BATCH_ROWS: Final = 64
BATCH_CACHE_BYTES: Final = 128 * 1024 * 1024
"""Cache of one batch, at most, unless one row alone needs more."""
_KEEP_SHARE: Final = 0.75
"""Rows that have ended are taken out, which copies the cache, once at most this share of a batch goes on."""
_GOING: Final = np.ones(1, bool)
_runtime: Any = onnxruntime  # it ships no types


class Engine:
    """A decoder in memory; ``threads`` are those one run may use."""

    def __init__(self, shape: Shape, weights: Mapping[str, Matrix], *, threads: int = 1) -> None:
        options = _runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.shape = shape
        model = decoder_model(shape, weights)
        self._session = _runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def write(
        self, prompt: Sequence[int], *, max_tokens: int, ends: Collection[int], sampling: Sampling | None = None
    ) -> Iterator[int]:
        """Tokens after ``prompt``, each as soon as it is known, greedy without ``sampling``.

        One of ``ends`` is the last. Nothing is computed before the next token is asked for. Raises ValueError for a
        prompt that is empty, does not fit the context or holds what is no token.
        """
        budget = self._budget(prompt, max_tokens)
        choose = drawn(sampling, [0], budget) if sampling else likeliest

        def tokens() -> Iterator[int]:
            if not budget:
                return
            run = _Run(self._session, self.shape, [prompt], len(prompt) + budget)
            for step in range(budget):
                chosen = choose(run.scores, [0], step)
                yield int(chosen[0])
                if chosen[0] in ends or step + 1 == budget:
                    return
                run.advance(chosen, _GOING)

        return tokens()

    def write_all(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        ends: Collection[int],
        sampling: Sampling | None = None,
    ) -> list[list[int]]:
        """What ``write`` gives for each prompt, in order, many at once; each row draws for itself."""
        budgets = [self._budget(prompt, max_tokens) for prompt in prompts]
        written: list[list[int]] = [[] for _ in prompts]
        order = sorted((row for row, budget in enumerate(budgets) if budget), key=lambda row: len(prompts[row]))
        while order:
            room = min(len(prompts[order[-1]]) + max_tokens, self.shape.context_tokens)
            count = max(1, min(BATCH_ROWS, BATCH_CACHE_BYTES // (room * self._cache_bytes_per_token())))
            rows, order = order[-count:], order[:-count]
            choose = drawn(sampling, rows, max(budgets[row] for row in rows)) if sampling else likeliest
            room = max(len(prompts[row]) + budgets[row] for row in rows)
            run = _Run(self._session, self.shape, [prompts[row] for row in rows], room)
            self._finish(run, rows, budgets, ends, choose, written)
        return written

    def _finish(
        self,
        run: "_Run",
        rows: list[int],
        budgets: Sequence[int],
        ends: Collection[int],
        choose: Chooser,
        written: list[list[int]],
    ) -> None:
        """Write until every row has ended; those that have stand still until enough of them can be taken out."""
        going = np.ones(len(rows), bool)
        for step in itertools.count():
            chosen = choose(run.scores, rows, step)
            for index in np.flatnonzero(going):
                row, token = rows[index], int(chosen[index])
                written[row].append(token)
                going[index] = token not in ends and step + 1 < budgets[row]
            if not going.any():
                return
            if going.mean() <= _KEEP_SHARE:
                run.keep(going)
                rows = [row for row, goes in zip(rows, going, strict=True) if goes]
                chosen, going = chosen[going], going[going]
            run.advance(chosen, going)

    def _budget(self, prompt: Sequence[int], max_tokens: int) -> int:
        room = self.shape.context_tokens - len(prompt)
        if not prompt or room < 0:
            raise ValueError(f"a prompt has 1 to {self.shape.context_tokens} tokens, not {len(prompt)}")
        if not 0 <= min(prompt) <= max(prompt) < self.shape.vocabulary:
            raise ValueError(f"a token is from 0 to {self.shape.vocabulary - 1}")
        return min(max_tokens, room)

    def _cache_bytes_per_token(self) -> int:
        return 2 * 4 * self.shape.layers * self.shape.kv_heads * padded_head_width(self.shape)


class _Run:
    """The state of one generation: its cache, and where each row stands. ``scores`` are those after the last token."""

    def __init__(self, session: Any, shape: Shape, prompts: Sequence[Sequence[int]], room: int) -> None:
        rows, longest = len(prompts), max(map(len, prompts))
        size = (rows, shape.kv_heads, room, padded_head_width(shape))
        self._session = session
        names = [f"{kind}.{layer}" for layer in range(shape.layers) for kind in ("keys", "values")]
        self._caches = {name: np.zeros(size, np.float32) for name in names}
        self._ids = np.zeros((rows, longest), np.int64)
        for row, prompt in enumerate(prompts):
            self._ids[row, : len(prompt)] = prompt
        self._positions = np.array([len(prompt) - 1 for prompt in prompts], np.int32)
        self._total = np.array(longest, np.int32)
        self.scores: Array = np.empty((rows, shape.vocabulary), np.float32)
        self._session.run_with_iobinding(self._bound(self._positions[:, None].astype(np.int64)))
        self._begin_steps()

    def advance(self, tokens: Tokens, going: NDArray[np.bool_]) -> None:
        """Read one more token a row; a row that does not go on reads it in place of its last, and grows no further."""
        self._ids[:, 0] = tokens
        self._positions += going
        self._total[...] = self._positions.max() + 1
        self._session.run_with_iobinding(self._step)

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Go on with these rows only."""
        self._caches = {name: cache[which] for name, cache in self._caches.items()}
        self._positions, self.scores = self._positions[which], self.scores[which]
        self._begin_steps()

    def _begin_steps(self) -> None:
        rows = len(self.scores)
        self._ids = np.zeros((rows, 1), np.int64)
        self._step = self._bound(np.zeros((rows, 1), np.int64))

    def _bound(self, last: NDArray[np.int64]) -> Any:
        """Arrays that the session reads and writes where they are, and which must therefore outlive the binding."""
        binding = self._session.io_binding()
        given = {"ids": self._ids, "last": last, "positions": self._positions, "total": self._total, **self._caches}
        values = {name: _runtime.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._caches:
            binding.bind_ortvalue_output(f"new_{name}", values[name])
        binding.bind_ortvalue_output("scores", _runtime.OrtValue.ortvalue_from_numpy(self.scores))
        self._held = last
        return binding
