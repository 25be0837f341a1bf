"""Answers from what is inside the node: its teachers and the text encoder, no network and no key.

The teachers share one worker thread, the encoder has another, each with a bounded line in front of it; a caller that
leaves stops its work at the next token or batch. What a teacher was not trained for is refused in plain words, never
guessed.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from prsm.agents.call import ChatCall, Choice, Completion, Delta, EmbedCall, Embeddings, Json, Target, Usage
from prsm.agents.seams import UpstreamError
from prsm.core.errors import ConfigError, Kind
from prsm.teachers.seams import Piece, Teacher

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
CountTokens = Callable[[str], int]

_EMBED_BATCH_TEXTS = 32
_Result = TypeVar("_Result")


def question_of(messages: Sequence[Json]) -> str | None:
    """The text of the last message when a user wrote it and it is text only; the teacher reads nothing else."""
    if not messages or messages[-1].get("role") != "user":
        return None
    content: Any = messages[-1].get("content")
    if isinstance(content, str):
        return content
    parts = cast("list[Json]", content or [])
    texts = [str(part["text"]) for part in parts if part.get("type") == "text"]
    return "\n".join(texts) if parts and len(texts) == len(parts) else None


class EmbeddedExecutor:
    """An ``Executor`` over the parts in this process; ``max_calls`` bounds those running and waiting, for each part."""

    def __init__(
        self, teachers: Mapping[str, Teacher], encode: Encode, count_tokens: CountTokens, *, max_calls: int = 64
    ) -> None:
        """``teachers`` by upstream name."""
        self._teachers = teachers
        self._encode = encode
        self._count_tokens = count_tokens
        self._answering = _Line("embedded-teacher", max_calls)
        self._encoding = _Line("embedded-encoder", max_calls)

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        """The whole answer: what the stream gives, joined."""
        content, reasoning, finish_reason, usage = "", "", "stop", None
        async for deltas in self.chat_stream(target, call):
            content += "".join(delta.content or "" for delta in deltas)
            reasoning += "".join(delta.reasoning or "" for delta in deltas)
            finish_reason = deltas[-1].finish_reason or finish_reason
            usage = deltas[-1].usage
        return Completion([Choice(content=content, reasoning=reasoning or None, finish_reason=finish_reason)], usage)

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        """Tokens as the network writes them: the scratchpad as reasoning, the answer as content."""
        teacher = self._teachers.get(target.upstream_name)
        if teacher is None:
            message = f"{target.name} is no longer inside this node."
            raise UpstreamError(message, retryable=False, kind=Kind.UNAVAILABLE, code="teacher_gone")
        question = _question(teacher, call)
        room = teacher.room(question)
        limit = min(call.max_output_tokens or room, target.max_output_tokens, room)
        stops = _StopFilter(_stop_sequences(call.options))
        generation = _Generation(teacher, question, limit)
        future = self._answering.submit(generation.run)
        future.add_done_callback(generation.close)
        tokens = 0
        try:
            while not stops.has_stopped and (pieces := await generation.arrived()):
                tokens += len(pieces)
                if deltas := _deltas(pieces, stops):
                    yield deltas
        finally:
            generation.cancel()
            future.cancel()  # only one that has not begun
        reason = "length" if tokens >= limit and not stops.has_stopped else "stop"
        usage = Usage(teacher.count_tokens(question), tokens)
        yield [Delta(content=stops.rest() or None, finish_reason=reason, usage=usage)]

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        """One vector per text, encoded in batches on the worker thread."""
        has_left = threading.Event()
        future = self._encoding.submit(lambda: self._vectors(call.texts, has_left))
        try:
            vectors = await asyncio.wrap_future(future)
        finally:
            has_left.set()
        width = len(vectors[0]) if vectors else 0
        if call.dimensions not in (None, width):
            raise _refusal(f"{target.name} gives {width} dimensions and cannot shorten them.", "invalid_dimensions")
        return Embeddings(vectors, Usage(sum(map(self._count_tokens, call.texts)), 0))

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        """None: what is in the package is on the node already, and more cannot be added."""
        return []

    async def aclose(self) -> None:
        """Drops what waits, lets the running calls end, and stops the workers."""
        await asyncio.to_thread(self._answering.close)
        await asyncio.to_thread(self._encoding.close)

    def _vectors(self, texts: Sequence[str], has_left: threading.Event) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _EMBED_BATCH_TEXTS):
            if has_left.is_set():
                break
            vectors += self._encode(texts[start : start + _EMBED_BATCH_TEXTS]).tolist()
        return vectors


_ALLOWED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "auto", "none"),
}


def _question(teacher: Teacher, call: ChatCall) -> str:
    question = question_of(call.messages)
    if question is None or not teacher.understands(question):
        raise _refusal(
            f"The embedded teacher answers only {teacher.domain}. "
            "`prsm models add` brings a model for everything else.",
            "outside_domain",
        )
    for option, allowed in _ALLOWED.items():
        if call.options.get(option) not in allowed:
            raise _refusal(f"The embedded teacher cannot honour the option {option!r}.", "unsupported_option")
    return question


class _Line:
    """One worker thread and the bounded line of calls in front of it."""

    def __init__(self, name: str, max_calls: int) -> None:
        self._places = threading.BoundedSemaphore(max_calls)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._is_closed = False

    def submit(self, work: Callable[[], _Result]) -> Future[_Result]:
        """Lines ``work`` up. Raises UpstreamError (retryable) when the line is full or closed."""
        if not self._places.acquire(blocking=False):
            message = "The embedded model has as many calls waiting as it may hold."
            raise UpstreamError(message, retryable=True, kind=Kind.UNAVAILABLE, code="overloaded", retry_after_s=1.0)
        try:
            future = self._worker.submit(self._done, work)
        except RuntimeError:  # it was shut down
            self._places.release()
            raise _ending() from None
        future.add_done_callback(lambda _: self._places.release())
        return future

    def close(self) -> None:
        """Blocks until the running call has ended; those waiting end with an UpstreamError."""
        self._is_closed = True
        self._worker.shutdown()

    def _done(self, work: Callable[[], _Result]) -> _Result:
        if self._is_closed:
            raise _ending()
        return work()


class _Generation:
    """One answer on its way from the worker thread to the event loop."""

    def __init__(self, teacher: Teacher, question: str, limit: int) -> None:
        self._teacher, self._question, self._limit = teacher, question, limit
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue()  # holds at most ``limit`` pieces and the end
        self._cancelled = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Generates until the end or until cancelled; on the worker thread."""
        for piece in self._teacher.answer(self._question, self._limit):
            if self._cancelled.is_set():
                return
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)

    def close(self, future: "Future[None]") -> None:
        """Marks the end, also of a call that failed or never ran."""
        self._failure = None if future.cancelled() else future.exception()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    async def arrived(self) -> list[Piece]:
        """All pieces that are there, at least one; empty at the end."""
        pieces: list[Piece] = []
        item = await self._queue.get()
        while item is not None:
            pieces.append(item)
            if self._queue.empty():
                return pieces
            item = self._queue.get_nowait()
        if pieces:
            self._queue.put_nowait(None)
        elif isinstance(self._failure, ConfigError):  # its folder, which is read when it is first asked
            raise UpstreamError(
                str(self._failure), retryable=False, kind=Kind.UNAVAILABLE, code="teacher_broken"
            ) from self._failure
        elif self._failure is not None:
            raise self._failure
        return pieces

    def cancel(self) -> None:
        """Stops the worker at its next token."""
        self._cancelled.set()


class _StopFilter:
    """Lets content through up to the first stop sequence, holding back what may still become one."""

    def __init__(self, sequences: tuple[str, ...]) -> None:
        self._sequences = sequences
        self._margin = max(map(len, sequences), default=1) - 1
        self._held = ""
        self.has_stopped = False

    def through(self, text: str) -> str:
        """What of ``text``, and of what was held, may be shown now."""
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._sequences) if at >= 0]
        if found:
            self.has_stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        cut = max(len(self._held) - self._margin, 0)
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def rest(self) -> str:
        """What was held back and did not become a stop sequence."""
        held, self._held = self._held, ""
        return held


def _deltas(pieces: list[Piece], stops: _StopFilter) -> list[Delta]:
    reasoning = "".join(piece.text for piece in pieces if piece.is_reasoning)
    content = stops.through("".join(piece.text for piece in pieces if not piece.is_reasoning))
    return [delta for delta in (Delta(reasoning=reasoning), Delta(content=content)) if delta.reasoning or delta.content]


def _stop_sequences(options: Json) -> tuple[str, ...]:
    stop: Any = options.get("stop")
    return tuple(filter(None, [stop] if isinstance(stop, str) else stop or ()))


def _ending() -> UpstreamError:
    return UpstreamError("The node is ending.", retryable=True, kind=Kind.UNAVAILABLE, code="node_ending")


def _refusal(message: str, code: str) -> UpstreamError:
    return UpstreamError(message, retryable=False, blames_caller=True, kind=Kind.UNPROCESSABLE, code=code)
