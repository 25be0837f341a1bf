"""The named events of a streamed Anthropic message: one content block is open at a time, in order.

Upstreams may send the fragments of parallel tool calls in any order; a fragment that belongs to no open block waits
until the open one is known to be complete (its arguments are whole JSON), at the latest until the end.
"""

from io import StringIO

import msgspec

from prsm.agents.call import Delta, Json, Usage
from prsm.agents.seams import UpstreamError
from prsm.api.wire.anthropic_messages import call_id, message_object, stop_reason, usage_object
from prsm.api.wire.errors import anthropic_error
from prsm.core.errors import PrsmError


class MessagesStream:
    """The events of one streamed answer: ``start``, then ``feed`` as deltas come, then ``finish`` or ``fail``."""

    __slots__ = ("_answer_id", "_delta_head", "_events", "_message", "_open", "_place", "_reason", "_tools")

    def __init__(self, *, answer_id: str, model: str, input_tokens: int = 0) -> None:
        self._answer_id = answer_id
        self._message = message_object(answer_id, model)
        self._message["usage"]["input_tokens"] = input_tokens
        self._events: list[bytes] = []
        self._open: str | _Tool | None = None
        self._place = -1
        self._delta_head = b""
        self._tools: dict[int, _Tool] = {}
        self._reason = "stop"

    def start(self) -> bytes:
        """The message begins; a ping follows, as from Anthropic's own service."""
        self._event("message_start", message=self._message)
        self._event("ping")
        return self._take()

    def feed(self, deltas: list[Delta]) -> bytes:
        """The events for the deltas that arrived together."""
        for delta in deltas:
            if delta.reasoning:
                self._grow_prose("thinking", delta.reasoning)
            for piece in delta.pieces or ((delta.content,) if delta.content else ()):
                self._grow_prose("text", piece)
            if delta.refusal:
                self._grow_prose("text", delta.refusal)
            for fragment in delta.tool_calls or ():
                self._grow_tool(fragment)
            if delta.finish_reason is not None:
                self._reason = delta.finish_reason
        return self._take()

    def finish(self, usage: Usage | None, prsm: Json) -> bytes:
        """Close what is open; why it ended, the usage and ``prsm`` stand on ``message_delta``."""
        self._close()
        for tool in self._tools.values():
            if tool.unsent or not tool.was_open:
                self._send(tool)
        self._close()
        ended = {"stop_reason": stop_reason(self._reason, called=bool(self._tools)), "stop_sequence": None}
        self._event("message_delta", delta=ended, usage=usage_object(usage), prsm=prsm)
        self._event("message_stop")
        return self._take()

    def fail(self, error: PrsmError, prsm: Json | None = None) -> bytes:
        """The error as the last event; the SDK raises it."""
        request_id = prsm["request_id"] if prsm else None
        return b"event: error\ndata: " + anthropic_error(error, request_id, prsm) + b"\n\n"

    def _event(self, kind: str, **fields: object) -> None:
        self._events += (b"event: ", kind.encode(), b"\ndata: ", _encode({"type": kind, **fields}), b"\n\n")

    def _take(self) -> bytes:
        taken = b"".join(self._events)
        self._events.clear()
        return taken

    def _begin(self, block: Json, delta_kind: str, field: str) -> None:
        self._close()
        self._place += 1
        self._event("content_block_start", index=self._place, content_block=block)
        self._delta_head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._place, delta_kind.encode(), field.encode())
        )

    def _delta(self, text: str) -> None:
        self._events += (self._delta_head, _encode(text), b"}}\n\n")

    def _close(self) -> None:
        if self._open is not None:
            self._event("content_block_stop", index=self._place)
            self._open = None

    def _grow_prose(self, kind: str, text: str) -> None:
        if self._open != kind:
            if kind == "text":
                self._begin({"type": "text", "text": ""}, "text_delta", "text")
            else:
                self._begin({"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking")
            self._open = kind
        self._delta(text)

    def _grow_tool(self, fragment: Json) -> None:
        place = fragment.get("index", 0)
        tool = self._tools.get(place)
        if tool is None:
            tool = self._tools[place] = _Tool(call_id(fragment, self._answer_id, place))
        function: Json = fragment.get("function") or {}
        tool.name = tool.name or function.get("name") or ""
        tool.take(function.get("arguments") or "")
        current = self._open
        if tool.name and (not isinstance(current, _Tool) or current is tool or current.is_complete()):
            self._send(tool)

    def _send(self, tool: "_Tool") -> None:
        """Send what has come of ``tool`` since the last time, opening its block first."""
        if self._open is not tool:
            if tool.was_open:
                tool.refuse_more()
                return
            block: Json = {"type": "tool_use", "id": tool.id, "name": tool.name, "input": {}}
            self._begin(block, "input_json_delta", "partial_json")
            self._open = tool
            tool.was_open = True
        if tool.unsent:
            self._delta("".join(tool.unsent))
            tool.unsent.clear()


_encode = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder()


class _Tool:
    """A growing tool call."""

    __slots__ = ("_arguments", "_complete", "id", "name", "unsent", "was_open")

    def __init__(self, own_id: str) -> None:
        self.id = own_id
        self.name = ""
        self.unsent: list[str] = []
        self.was_open = False
        self._arguments = StringIO()
        self._complete: bool | None = False

    def take(self, text: str) -> None:
        if text:
            self._arguments.write(text)
            self.unsent.append(text)
            self._complete = None

    def is_complete(self) -> bool:
        """True when the arguments are whole JSON, after which nothing can follow; asked often, worked out once."""
        if self._complete is None:
            try:
                _DECODER.decode(self._arguments.getvalue())
                self._complete = True
            except (ValueError, RecursionError):
                self._complete = False
        return self._complete

    def refuse_more(self) -> None:
        """Only white space can still come for a closed block: it changes nothing and is not sent."""
        if "".join(self.unsent).strip():
            raise UpstreamError("The upstream added to a tool call that had ended.", retryable=False)
        self.unsent.clear()
