"""Streams as upstreams send them: strategies for deltas, and the rendered bytes of one in each format."""

from itertools import pairwise

from hypothesis import strategies as st

from prsm.agents.call import Delta, Json, Usage
from prsm.api.wire.anthropic_stream import MessagesStream
from prsm.api.wire.openai_chat import ChatStream
from prsm.api.wire.openai_responses import parse
from prsm.api.wire.openai_responses_stream import ResponsesStream

USAGE = Usage(10, 5, 3)
PRSM: Json = {"cost_micro": 5, "model": "maker/m", "reason": "cheapest", "receipt_id": "r1"}
REQUEST = parse(b'{"model":"m","input":"q","tools":[{"type":"function","name":"f"}]}', max_bytes=999)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
objects = st.dictionaries(
    texts,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)


def cut(text: str, places: list[int]) -> list[str]:
    """``text`` in pieces, cut at ``places`` (taken modulo its length)."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


def tool_deltas(index: int, name: str, pieces: list[str]) -> list[Delta]:
    """A tool call in fragments, as OpenAI streams it."""
    head = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    rest: list[Json] = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
    return [Delta(tool_calls=[fragment]) for fragment in [head, *rest]]


def chat_bytes(batches: list[list[Delta]], *, include_usage: bool = False, n: int = 1) -> bytes:
    stream = ChatStream(answer_id="chatcmpl-1", created=1, model="maker/m", include_usage=include_usage, n=n)
    return stream.start() + b"".join(map(stream.feed, batches)) + stream.finish(USAGE, PRSM)


def responses_bytes(batches: list[list[Delta]]) -> bytes:
    stream = ResponsesStream(REQUEST, answer_id="resp_1", created=1, model="maker/m")
    return stream.start() + b"".join(map(stream.feed, batches)) + stream.finish(USAGE, PRSM)


def messages_bytes(batches: list[list[Delta]]) -> bytes:
    stream = MessagesStream(answer_id="msg_1", model="maker/m", input_tokens=9)
    return stream.start() + b"".join(map(stream.feed, batches)) + stream.finish(USAGE, PRSM)
