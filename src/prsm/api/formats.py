"""One class for each wire format that asks for text, made for one request: parse, render, stream, refuse."""

import time
from typing import Protocol
from uuid import UUID

from prsm.agents.call import Completion, Delta, Json, Usage
from prsm.api.wire import anthropic_messages, openai_chat, openai_responses
from prsm.api.wire.anthropic_stream import MessagesStream
from prsm.api.wire.errors import anthropic_error, openai_error
from prsm.api.wire.openai_responses_stream import ResponsesStream
from prsm.api.wire.parsed import ParsedCall
from prsm.core.errors import InvalidRequest, PrsmError
from prsm.tokenomics.quotes import estimate_tokens


class StreamFormat(Protocol):
    """Turns deltas into server-sent events."""

    def start(self) -> bytes:
        """The events before the first delta."""
        ...

    def feed(self, deltas: list[Delta]) -> bytes:
        """The events of some deltas."""
        ...

    def finish(self, usage: Usage | None, prsm: Json) -> bytes:
        """The closing events."""
        ...

    def fail(self, error: PrsmError, prsm: Json | None = None) -> bytes:
        """The events of an error after which nothing comes; ``prsm`` says what had come and what it costs."""
        ...


class Format(Protocol):
    """A wire format during one request.

    ``session_id`` is the conversation to continue, ``previous_id`` the request whose answer is continued; with
    ``store`` the turn is kept even if neither is given.
    """

    call: ParsedCall
    store: bool
    session_id: UUID | None
    previous_id: UUID | None

    def __init__(self, request_id: UUID, body: bytes, max_bytes: int) -> None: ...

    def render(self, completion: Completion, model: str, prsm: Json) -> bytes:
        """The whole response."""
        ...

    def open_stream(self, model: str) -> StreamFormat:
        """The streamed response."""
        ...

    @staticmethod
    def error(error: PrsmError, request_id: UUID) -> bytes:
        """The body of a refusal."""
        ...


class ChatFormat:
    """OpenAI Chat Completions."""

    __slots__ = ("_created", "_id", "call", "previous_id", "session_id", "store")

    def __init__(self, request_id: UUID, body: bytes, max_bytes: int) -> None:
        self.call = openai_chat.parse(body, max_bytes=max_bytes)
        self.store = False
        self.session_id = self.call.prsm.session_id
        self.previous_id: UUID | None = None
        self._id = "chatcmpl-" + request_id.hex
        self._created = int(time.time())

    def render(self, completion: Completion, model: str, prsm: Json) -> bytes:
        """A ``chat.completion``."""
        return openai_chat.render(completion, answer_id=self._id, created=self._created, model=model, prsm=prsm)

    def open_stream(self, model: str) -> StreamFormat:
        """``chat.completion.chunk`` events."""
        call = self.call
        return openai_chat.ChatStream(
            answer_id=self._id, created=self._created, model=model, include_usage=call.include_usage, n=call.n
        )

    @staticmethod
    def error(error: PrsmError, request_id: UUID) -> bytes:
        """OpenAI's error body."""
        return openai_error(error)


class ResponsesFormat:
    """OpenAI Responses. A response is stored unless ``store`` is false, and can be continued by its id."""

    __slots__ = ("_created", "_id", "_request", "call", "previous_id", "session_id", "store")

    def __init__(self, request_id: UUID, body: bytes, max_bytes: int) -> None:
        self._request = openai_responses.parse(body, max_bytes=max_bytes)
        self.call = self._request.call
        self.store = self._request.store
        self.session_id = _named(self._request.conversation_id, "conv_", "conversation") or self.call.prsm.session_id
        self.previous_id = _named(self._request.previous_response_id, "resp_", "previous_response_id")
        self._id = "resp_" + request_id.hex
        self._created = int(time.time())

    def render(self, completion: Completion, model: str, prsm: Json) -> bytes:
        """A ``response``."""
        return openai_responses.render(
            completion, answer_id=self._id, created=self._created, model=model, prsm=prsm, request=self._request
        )

    def open_stream(self, model: str) -> StreamFormat:
        """Named ``response.*`` events."""
        return ResponsesStream(self._request, answer_id=self._id, created=self._created, model=model)

    @staticmethod
    def error(error: PrsmError, request_id: UUID) -> bytes:
        """OpenAI's error body."""
        return openai_error(error)


class MessagesFormat:
    """Anthropic Messages."""

    __slots__ = ("_id", "_input_tokens", "call", "previous_id", "session_id", "store")

    def __init__(self, request_id: UUID, body: bytes, max_bytes: int) -> None:
        self.call = anthropic_messages.parse(body, max_bytes=max_bytes)
        self.store = False
        self.session_id = self.call.prsm.session_id
        self.previous_id: UUID | None = None
        self._id = "msg_" + request_id.hex
        self._input_tokens = estimate_tokens(len(body))

    def render(self, completion: Completion, model: str, prsm: Json) -> bytes:
        """A ``message``."""
        return anthropic_messages.render(completion, answer_id=self._id, model=model, prsm=prsm)

    def open_stream(self, model: str) -> StreamFormat:
        """Named message events; ``message_start`` estimates the input tokens, ``message_delta`` meters them."""
        return MessagesStream(answer_id=self._id, model=model, input_tokens=self._input_tokens)

    @staticmethod
    def error(error: PrsmError, request_id: UUID) -> bytes:
        """Anthropic's error body."""
        return anthropic_error(error, str(request_id))


def _named(value: str | None, prefix: str, param: str) -> UUID | None:
    """The id inside ``resp_...`` or ``conv_...``; a plain UUID is taken too."""
    if value is None:
        return None
    try:
        return UUID(value.removeprefix(prefix))
    except ValueError:
        raise InvalidRequest(f"`{param}` is not an id that this node gave out.", param=param) from None
