"""The named events of a streamed response: each output item is opened, grown and closed; the last event has it all.

Reasoning and message items are open one at a time; function calls may grow side by side, as upstreams send them, and
close at the end. Every event carries the next ``sequence_number``.
"""

from io import StringIO
from typing import Literal

import msgspec

from prsm.agents.call import Delta, Json, Usage
from prsm.api.wire.errors import openai_error_object
from prsm.api.wire.openai_responses import (
    INCOMPLETE,
    ParsedResponses,
    call_item,
    end_response,
    item_id,
    message_item,
    reasoning_item,
    response_object,
    text_part,
)
from prsm.core.errors import Kind, PrsmError


class ResponsesStream:
    """The events of one streamed answer: ``start``, then ``feed`` as deltas come, then ``finish`` or ``fail``."""

    __slots__ = ("_answer_id", "_calls", "_events", "_items", "_part", "_prose", "_reason", "_response", "_sequence")

    def __init__(self, request: ParsedResponses, *, answer_id: str, created: int, model: str) -> None:
        self._answer_id = answer_id
        self._response = response_object(request, answer_id=answer_id, created=created, model=model)
        self._sequence = 0
        self._events: list[bytes] = []
        self._items: list[Json] = []
        self._prose: Json | None = None
        self._part: _Part | None = None
        self._calls: dict[int, _Call] = {}
        self._reason = "stop"

    def start(self) -> bytes:
        """The response exists and is being worked on."""
        self._event("response.created", response=self._response)
        self._event("response.in_progress", response=self._response)
        return self._take()

    def feed(self, deltas: list[Delta]) -> bytes:
        """The events for the deltas that arrived together."""
        for delta in deltas:
            if delta.reasoning:
                self._grow("reasoning_text", delta.reasoning, None)
            for piece in delta.pieces or ((delta.content,) if delta.content else ()):
                self._grow("output_text", piece, delta.logprobs)
            if delta.refusal:
                self._grow("refusal", delta.refusal, None)
            for fragment in delta.tool_calls or ():
                self._grow_call(fragment)
            if delta.finish_reason is not None:
                self._reason = delta.finish_reason
        return self._take()

    def finish(self, usage: Usage | None, prsm: Json) -> bytes:
        """Close what is open; the last event repeats the whole response with usage and ``prsm``."""
        if not self._items:
            self._open_part("output_text")
        self._close_all("incomplete" if self._reason in INCOMPLETE else "completed")
        end_response(self._response, self._reason, usage, prsm)
        self._event(f"response.{self._response['status']}", response=self._response)
        return self._take()

    def fail(self, error: PrsmError, prsm: Json | None = None) -> bytes:
        """The response failed; what was said so far stands in it as incomplete."""
        if prsm is not None:
            self._response["prsm"] = prsm
        self._close_all("incomplete")
        self._response["status"] = "failed"
        code = "rate_limit_exceeded" if error.kind is Kind.RATE_LIMITED else "server_error"
        self._response["error"] = {**openai_error_object(error), "code": code}
        self._event("response.failed", response=self._response)
        return self._take()

    def _event(self, kind: str, **fields: object) -> None:
        data = _encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._events += (b"event: ", kind.encode(), b"\ndata: ", data, b"\n\n")
        self._sequence += 1

    def _take(self) -> bytes:
        taken = b"".join(self._events)
        self._events.clear()
        return taken

    def _add_item(self, item: Json) -> int:
        index = len(self._items)
        self._items.append(item)
        self._event("response.output_item.added", output_index=index, item=item)
        return index

    def _grow(self, kind: "_PartKind", text: str, logprobs: Json | None) -> None:
        part = self._part
        if part is None or part.kind != kind:
            part = self._open_part(kind)
        part.text.write(text)
        if logprobs and logprobs.get("content"):
            part.logprobs += logprobs["content"]
            where = part.where(logprobs=logprobs["content"])
            self._event("response.output_text.delta", **where, delta=text)
            return
        self._events += (part.delta_head, b"%d" % self._sequence, b',"delta":', _encode(text), b"}\n\n")
        self._sequence += 1

    def _open_part(self, kind: "_PartKind") -> "_Part":
        """Open a part, in the open item when it is of the same sort, else in a new one."""
        self._close_part()
        sort = "reasoning" if kind == "reasoning_text" else "message"
        if self._prose is None or self._prose["type"] != sort:
            self._close_prose("completed")
            index = len(self._items)
            if sort == "reasoning":
                self._prose = reasoning_item(item_id("rs", self._answer_id, index), [], "in_progress")
            else:
                self._prose = message_item(item_id("msg", self._answer_id, index), [], "in_progress")
            self._add_item(self._prose)
        # The open item of prose is always the newest: a function call that comes later closes it.
        place = len(self._prose["content"])
        self._part = _Part(kind, self._prose["id"], len(self._items) - 1, place)
        self._event("response.content_part.added", **self._part.where(), part=self._part.shown(""))
        return self._part

    def _close_part(self) -> None:
        part = self._part
        if part is None or self._prose is None:
            return
        text = part.text.getvalue()
        done: Json = {"refusal": text} if part.kind == "refusal" else {"text": text}
        if part.kind == "output_text":
            done["logprobs"] = part.logprobs
        self._event(f"response.{part.kind}.done", **part.where(), **done)
        shown = part.shown(text)
        self._event("response.content_part.done", **part.where(), part=shown)
        self._prose["content"].append(shown)
        self._part = None

    def _close_prose(self, status: str) -> None:
        self._close_part()
        if self._prose is not None:
            self._prose["status"] = status
            self._event("response.output_item.done", output_index=len(self._items) - 1, item=self._prose)
            self._prose = None

    def _grow_call(self, fragment: Json) -> None:
        place = fragment.get("index", 0)
        function: Json = fragment.get("function") or {}
        call = self._calls.get(place)
        if call is None:
            self._close_prose("completed")
            index = len(self._items)
            call_id = fragment.get("id") or item_id("call", self._answer_id, index)
            own_id = item_id("fc", self._answer_id, index)
            item = call_item(own_id, call_id, function.get("name") or "", "", "in_progress")
            call = self._calls[place] = _Call(item, self._add_item(item))
        call.item["name"] = call.item["name"] or function.get("name") or ""
        text = function.get("arguments")
        if text:
            call.arguments.write(text)
            self._event(
                "response.function_call_arguments.delta",
                item_id=call.item["id"],
                output_index=call.output_index,
                delta=text,
            )

    def _close_all(self, status: str) -> None:
        self._close_prose(status)
        for call in self._calls.values():
            call.item["arguments"] = call.arguments.getvalue()
            call.item["status"] = status
            self._event(
                "response.function_call_arguments.done",
                item_id=call.item["id"],
                output_index=call.output_index,
                name=call.item["name"],
                arguments=call.item["arguments"],
            )
            self._event("response.output_item.done", output_index=call.output_index, item=call.item)
        self._calls.clear()
        self._response["output"] = self._items


_PartKind = Literal["output_text", "refusal", "reasoning_text"]
_encode = msgspec.json.Encoder().encode


class _Part:
    """A growing part of a message or reasoning item; the bytes before each delta's changing fields are made once."""

    __slots__ = ("content_index", "delta_head", "item_id", "kind", "logprobs", "output_index", "text")

    def __init__(self, kind: _PartKind, own_id: str, output_index: int, content_index: int) -> None:
        self.kind: _PartKind = kind
        self.item_id = own_id
        self.output_index = output_index
        self.content_index = content_index
        self.text = StringIO()
        self.logprobs: list[Json] = []
        event = f"response.{kind}.delta"
        fixed: Json = {"type": event, **(self.where(logprobs=[]) if kind == "output_text" else self.where())}
        self.delta_head = b'event: %b\ndata: %b,"sequence_number":' % (event.encode(), _encode(fixed)[:-1])

    def where(self, **more: object) -> Json:
        return {
            "item_id": self.item_id,
            "output_index": self.output_index,
            "content_index": self.content_index,
            **more,
        }

    def shown(self, text: str) -> Json:
        if self.kind == "output_text":
            return text_part(text, self.logprobs)
        return {"type": self.kind, "refusal" if self.kind == "refusal" else "text": text}


class _Call:
    """A growing function call."""

    __slots__ = ("arguments", "item", "output_index")

    def __init__(self, item: Json, output_index: int) -> None:
        self.item = item
        self.output_index = output_index
        self.arguments = StringIO()
