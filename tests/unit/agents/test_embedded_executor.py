"""The embedded executor: a stream equals the whole, leaving stops the work, and limits and refusals are plain."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.small_teachers import small_shape, write_teacher

from prsm.agents.call import ChatCall, Delta, EmbedCall, Target
from prsm.agents.executors.embedded import EmbeddedExecutor, question_of
from prsm.agents.seams import Executor, UpstreamError
from prsm.core.clock import uuid7
from prsm.core.errors import Kind
from prsm.teachers.arithmetic.teacher import ArithmeticTeacher
from prsm.teachers.runtime.shelf import Shelf
from prsm.teachers.seams import Piece
from prsm.teachers.teacher_model import FolderTeacher, open_teacher

TARGET = Target("prsm/arithmetic", "arithmetic", "embedded", "embedded")
LONG_QUESTION = "99999 - 12345 + 54321 - 11111 + 22222 - 33333"


class CountingTeacher(ArithmeticTeacher):
    """The shipped teacher, that also counts what it generates and can be held before the fourth piece."""

    generated = 0
    gate: threading.Event | None = None

    def answer(self, text: str, max_tokens: int = 320) -> Iterator[Piece]:
        for piece in super().answer(text, max_tokens):
            if self.generated == 3 and self.gate is not None:
                self.gate.wait(10)
            self.generated += 1
            yield piece


@pytest.fixture
def teacher() -> CountingTeacher:
    return CountingTeacher.load()  # type: ignore[return-value]


@pytest.fixture
async def executor(teacher: CountingTeacher):
    executor = EmbeddedExecutor({"arithmetic": teacher}, _encode, lambda text: len(text.split()), max_calls=2)
    yield executor
    await executor.aclose()


def _encode(texts: Sequence[str]) -> np.ndarray:
    return np.array([[len(text), len(texts), 0.5] for text in texts], np.float32)


def _call(content: Any, limit: int | None = None, **options: Any) -> ChatCall:
    return ChatCall(uuid7(), [{"role": "user", "content": content}], TARGET.name, True, limit, options)


async def _stream(executor: Executor, call: ChatCall) -> list[Delta]:
    return [delta async for deltas in executor.chat_stream(TARGET, call) for delta in deltas]


async def test_a_stream_equals_the_whole(executor: EmbeddedExecutor) -> None:
    call = _call("What is 120 + 300?")
    deltas = await _stream(executor, call)
    completion = await executor.chat(TARGET, call)
    (choice,) = completion.choices
    assert "".join(delta.content or "" for delta in deltas) == choice.content == "420"
    assert "".join(delta.reasoning or "" for delta in deltas) == choice.reasoning
    assert deltas[-1].finish_reason == choice.finish_reason == "stop"
    assert deltas[-1].usage == completion.usage


async def test_usage_counts_the_tokens_read_and_written(executor: EmbeddedExecutor, teacher: CountingTeacher) -> None:
    completion = await executor.chat(TARGET, _call("What is 12 + 30?"))
    assert completion.usage is not None
    assert completion.usage.input_tokens == len(["<0>", "2", "1", "+", "0", "3", "="])
    assert completion.usage.output_tokens == teacher.generated == 2 * 8 + 9


async def test_a_client_that_leaves_stops_the_generation(executor: EmbeddedExecutor, teacher: CountingTeacher) -> None:
    teacher.gate = threading.Event()
    stream = executor.chat_stream(TARGET, _call(LONG_QUESTION))
    await anext(aiter(stream))
    await stream.aclose()  # type: ignore[attr-defined]
    teacher.gate.set()
    await executor.aclose()
    assert teacher.generated <= 4


async def test_a_cancelled_task_stops_the_generation(executor: EmbeddedExecutor, teacher: CountingTeacher) -> None:
    teacher.gate = threading.Event()
    task = asyncio.create_task(executor.chat(TARGET, _call(LONG_QUESTION)))
    while teacher.generated < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    teacher.gate.set()
    await executor.aclose()
    assert teacher.generated <= 4


async def test_a_call_that_leaves_the_line_never_runs(executor: EmbeddedExecutor, teacher: CountingTeacher) -> None:
    teacher.gate = threading.Event()
    first, second = (asyncio.create_task(executor.chat(TARGET, _call("1 + 1"))) for _ in range(2))
    while teacher.generated < 3:
        await asyncio.sleep(0.001)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    teacher.gate.set()
    assert (await first).choices[0].content == "2"
    await executor.aclose()
    assert teacher.generated == 2 * 8 + 9


async def test_a_full_line_is_refused_and_opens_again(executor: EmbeddedExecutor, teacher: CountingTeacher) -> None:
    teacher.gate = threading.Event()
    waiting = [asyncio.create_task(executor.chat(TARGET, _call("1 + 1"))) for _ in range(2)]
    while teacher.generated < 3:
        await asyncio.sleep(0.001)
    with pytest.raises(UpstreamError) as caught:
        await executor.chat(TARGET, _call("1 + 1"))
    assert (caught.value.retryable, caught.value.code, caught.value.kind) == (True, "overloaded", Kind.UNAVAILABLE)
    teacher.gate.set()
    assert [(await task).choices[0].content for task in waiting] == ["2", "2"]
    assert (await executor.chat(TARGET, _call("1 + 2"))).choices[0].content == "3"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "Write a poem"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}],
        [{"role": "user", "content": [{"type": "text", "text": "1 + 1"}, {"type": "image_url", "image_url": {}}]}],
    ],
)
async def test_what_it_was_not_trained_for_is_refused_in_plain_words(
    executor: EmbeddedExecutor, messages: list[dict[str, Any]]
) -> None:
    with pytest.raises(UpstreamError, match="prsm models add") as caught:
        await executor.chat(TARGET, ChatCall(uuid7(), messages, TARGET.name))
    error = caught.value
    assert (error.retryable, error.blames_caller, error.code) == (False, True, "outside_domain")


@pytest.mark.parametrize(
    "options",
    [{"n": 2}, {"response_format": {"type": "json_object"}}, {"tool_choice": "required"}],
)
async def test_an_option_it_cannot_honour_is_refused(executor: EmbeddedExecutor, options: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError, match=next(iter(options))) as caught:
        await executor.chat(TARGET, _call("1 + 1", **options))
    assert (caught.value.blames_caller, caught.value.code) == (True, "unsupported_option")


async def test_text_parts_and_earlier_turns_are_accepted(executor: EmbeddedExecutor) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "1 + 1?"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert question_of(messages) == "What is\n1 + 1?"
    completion = await executor.chat(TARGET, ChatCall(uuid7(), messages, TARGET.name))
    assert completion.choices[0].content == "2"


async def test_a_token_limit_ends_with_length(executor: EmbeddedExecutor) -> None:
    completion = await executor.chat(TARGET, _call("12 + 30", limit=5))
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.output_tokens == 5


@pytest.mark.parametrize(("stop", "content"), [("2", "1"), (["45", "9"], "123"), ("x", "12345"), ([], "12345")])
async def test_a_stop_sequence_ends_the_content(executor: EmbeddedExecutor, stop: Any, content: str) -> None:
    completion = await executor.chat(TARGET, _call("12000 + 345", stop=stop))
    assert (completion.choices[0].content, completion.choices[0].finish_reason) == (content, "stop")


async def test_embeddings_keep_their_order_over_batches(executor: EmbeddedExecutor) -> None:
    texts = ["x" * length for length in range(1, 71)]
    embeddings = await executor.embed(TARGET, EmbedCall(uuid7(), texts, "prsm/encoder"))
    assert [vector[0] for vector in embeddings.vectors] == list(range(1, 71))
    assert max(vector[1] for vector in embeddings.vectors) == 32
    assert (embeddings.usage.input_tokens, embeddings.usage.output_tokens) == (70, 0)


async def test_leaving_stops_the_encoder_at_the_next_batch(teacher: CountingTeacher) -> None:
    begun, gate, batches = threading.Event(), threading.Event(), []

    def encode(texts: Sequence[str]) -> np.ndarray:
        batches.append(len(texts))
        begun.set()
        gate.wait(10)
        return _encode(texts)

    executor = EmbeddedExecutor({"arithmetic": teacher}, encode, len)
    task = asyncio.create_task(executor.embed(TARGET, EmbedCall(uuid7(), ["x"] * 100, "e")))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    await executor.aclose()
    assert batches == [32]


async def test_embeddings_of_another_width_are_refused(executor: EmbeddedExecutor) -> None:
    assert (await executor.embed(TARGET, EmbedCall(uuid7(), ["x"], "e", dimensions=3))).vectors
    with pytest.raises(UpstreamError, match="3 dimensions") as caught:
        await executor.embed(TARGET, EmbedCall(uuid7(), ["x"], "e", dimensions=2))
    assert caught.value.blames_caller


async def test_several_teachers_answer_by_name(teacher: CountingTeacher, tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "sums")
    executor = EmbeddedExecutor({"arithmetic": teacher, "sums": FolderTeacher.load(folder)}, _encode, len)
    sums = Target("local/sums", "sums", "local", "embedded")
    completion = await executor.chat(sums, _call("12 + 30"))
    assert completion.usage is not None
    assert (completion.usage.input_tokens, teacher.generated) == (8, 0)
    assert completion.usage.output_tokens == len(list(FolderTeacher.load(folder).answer("12 + 30", 20)))
    with pytest.raises(UpstreamError, match="only sums of two numbers") as caught:
        await executor.chat(sums, _call("What is 120 + 300?"))
    assert caught.value.code == "outside_domain"
    with pytest.raises(UpstreamError, match="no longer inside") as caught:
        await executor.chat(Target("local/gone", "gone", "local", "embedded"), _call("12 + 30"))
    assert caught.value.kind == Kind.UNAVAILABLE
    await executor.aclose()


async def test_a_teacher_whose_folder_breaks_says_so(tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "sums")
    model, about = open_teacher(folder)
    executor = EmbeddedExecutor(
        {"sums": FolderTeacher(model, about, lambda: Shelf(1 << 30).engine(model))}, _encode, len
    )
    write_teacher(folder, seed=1)
    with pytest.raises(UpstreamError, match="changed") as caught:
        await executor.chat(Target("local/sums", "sums", "local", "embedded"), _call("12 + 30"))
    assert (caught.value.code, caught.value.kind) == ("teacher_broken", Kind.UNAVAILABLE)
    await executor.aclose()


async def test_an_answer_that_fills_the_networks_context_ends_with_length(tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "any", small_shape(context_tokens=32), questions=[])
    teacher = FolderTeacher.load(folder)
    executor = EmbeddedExecutor({"any": teacher}, _encode, len)
    for question in ("2" * room for room in range(20, 31)):
        pieces = list(teacher.answer(question, 20))
        completion = await executor.chat(Target("local/any", "any", "local", "embedded"), _call(question))
        is_full = len(question) + 1 + len(pieces) == 32
        assert completion.choices[0].finish_reason == ("length" if is_full or len(pieces) == 20 else "stop")
    assert is_full
    await executor.aclose()


async def test_who_waits_when_the_node_ends_is_told_and_not_given_an_empty_answer(
    executor: EmbeddedExecutor, teacher: CountingTeacher
) -> None:
    teacher.gate = threading.Event()
    first, second = (asyncio.create_task(executor.chat(TARGET, _call("1 + 1"))) for _ in range(2))
    while teacher.generated < 3:
        await asyncio.sleep(0.001)
    closing = asyncio.create_task(executor.aclose())
    await asyncio.sleep(0.1)  # the line is closed by another thread
    teacher.gate.set()
    with pytest.raises(UpstreamError) as caught:
        await second
    assert (caught.value.code, caught.value.kind) == ("node_ending", Kind.UNAVAILABLE)
    assert (await first).choices[0].content == "2"
    await closing
    for late in (executor.chat(TARGET, _call("1 + 1")), executor.embed(TARGET, EmbedCall(uuid7(), ["x"], "e"))):
        with pytest.raises(UpstreamError) as caught:
            await late
        assert caught.value.code == "node_ending"
