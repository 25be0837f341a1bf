"""The routes that ask models, for every wire format: admit, parse, answer, respond. The hot path of the node.

An error before the answer begins has its status; after that it is an event of the stream. A client that goes away is
noticed, and what it was sent is charged.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from prsm.agents.answer_stream import AnswerStream, ClientTooSlow
from prsm.agents.billing import Bill
from prsm.agents.call import ChatCall, Completion, EmbedCall, Embeddings, Json
from prsm.agents.conversations import joined, size_bytes, turn
from prsm.agents.plan import Ask, Caller
from prsm.api.door import Door
from prsm.api.formats import ChatFormat, Format, MessagesFormat, StreamFormat
from prsm.api.incoming import EVENT_STREAM, JSON, Headers, Incoming
from prsm.api.wire import anthropic_messages, openai_embeddings
from prsm.api.wire.parsed import parse_max_cost_micro, parse_session_id, policy_of
from prsm.core.clock import uuid7
from prsm.core.database import unreachable
from prsm.core.errors import FAULTS, Kind, PrsmError
from prsm.core.identity import ApiKey
from prsm.core.subject_keys import SubjectKey, are_sealed
from prsm.node import Node, bind
from prsm.tokenomics.enrolment import account_of
from prsm.tokenomics.orders import Statement
from prsm.tokenomics.quotes import estimate_tokens

Handling = Coroutine[Any, Any, None]
"""A request being handled; each open stream holds every coroutine of it, so none is made that only awaits another."""

Keep = Callable[[bytes], bytes]
"""What is stored of a response that may be asked for again."""

_log: Any = structlog.get_logger("edge")


@dataclass(frozen=True, slots=True)
class _Session:
    """The conversation of a request: what was said before, and what this request adds to it."""

    id: UUID
    history: list[Json]
    added: list[Json]
    key: SubjectKey


class Answers:
    """Handlers over one node."""

    def __init__(self, node: Node, door: Door) -> None:
        self._node = node
        self._door = door
        self.in_flight = 0
        """Requests being answered now."""

    def text(self, incoming: Incoming, make: type[Format]) -> Handling:
        """Answer in text, in any wire format."""
        return self._guarded(incoming, "chat", make.error, self._text, make)

    def embeddings(self, incoming: Incoming) -> Handling:
        """Embed texts."""
        return self._guarded(incoming, "embeddings", ChatFormat.error, self._embed)

    def count_tokens(self, incoming: Incoming) -> Handling:
        """Estimate what a message would have as input; free of charge, and says in a header that it is an estimate."""
        return self._guarded(incoming, "count_tokens", MessagesFormat.error, self._count)

    async def _guarded(
        self,
        incoming: Incoming,
        operation: str,
        write: Callable[[PrsmError, UUID], bytes],
        work: Callable[..., Handling],
        *given: Any,
    ) -> None:
        """Run ``work``; whatever it raises becomes a response in the caller's own error shape."""
        metrics = self._node.metrics
        started_s = time.monotonic()
        outcome = "ok"
        self.in_flight += 1
        try:
            if self.in_flight > self._node.settings.max_inflight_requests:
                raise _busy()
            await work(incoming, *given)
        except PrsmError as error:
            outcome = error.code
            if error.kind in FAULTS:
                metrics.request_failed(operation)
            incoming.refuse(error, write(error, incoming.id))
        except asyncio.CancelledError:
            # By the client's leaving or the node's stopping: the server cuts the connection.
            outcome = "client_left"
            raise
        except Exception as error:  # noqa: BLE001 - the last door: the caller gets an answer, the operator a trace
            refusal = unreachable(error)
            if refusal is None:
                _log.exception("request failed", request_id=str(incoming.id))
                refusal = PrsmError(f"The node failed at this request ({type(error).__name__}); its log says more.")
            outcome = refusal.code
            metrics.request_failed(operation)
            incoming.refuse(refusal, write(refusal, incoming.id))
        finally:
            self.in_flight -= 1
            metrics.request_ended(operation, outcome, time.monotonic() - started_s)

    async def _text(self, incoming: Incoming, make: type[Format]) -> None:
        node = self._node
        key = await self._door.admit(incoming.token(), "chat", incoming.extra)
        body = await incoming.body(node.settings.body_limit_bytes, node.settings.body_timeout_s)
        fmt = make(incoming.id, body, node.settings.body_limit_bytes)
        digest, body_bytes = hashlib.sha256(body).digest(), len(body)
        del body  # what follows may last long
        await self._once(incoming, key, digest, partial(self._answer, incoming, fmt, key, digest.hex(), body_bytes))

    async def _answer(
        self, incoming: Incoming, fmt: Format, key: ApiKey, digest: str, body_bytes: int, keep: Keep | None
    ) -> None:
        session = await self._session(incoming, fmt, key)
        ask = _ask(incoming, fmt, key, session, digest, body_bytes)
        if fmt.call.prsm.quote_id:
            ask = await bind(self._node.market, ask, fmt.call.prsm.quote_id)
        respond = self._stream if fmt.call.stream else self._whole
        await respond(incoming, fmt, ask, session, keep)

    async def _whole(
        self, incoming: Incoming, fmt: Format, ask: Ask, session: _Session | None, keep: Keep | None
    ) -> None:
        def render(completion: Completion, bill: Bill) -> bytes:
            return fmt.render(completion, bill.model, _prsm(bill, session))

        if keep:
            ask = replace(ask, keep=keep)
        response, bill = await self._node.path.chat(ask, render)
        incoming.respond(200, [JSON, *_bill_headers(bill)], response)

    async def _stream(
        self, incoming: Incoming, fmt: Format, ask: Ask, session: _Session | None, keep: Keep | None
    ) -> None:
        sending = _Sending(incoming, session, keep)
        if keep:
            ask = replace(ask, keep=sending.transcript)
        incoming.exchange.watch(cast("asyncio.Task[Any]", asyncio.current_task()).cancel)
        try:
            stream = await self._node.path.chat_stream(ask)
            out = fmt.open_stream(stream.candidate.target.name)
            try:
                await sending.run(stream, out)
            except BaseException:
                await stream.leave(lambda _completion, bill: out.fail(_left(), _partial(incoming.id, bill)))
                raise
        finally:
            incoming.exchange.watch(None)

    async def _embed(self, incoming: Incoming) -> None:
        node = self._node
        key = await self._door.admit(incoming.token(), "embeddings", incoming.extra)
        body = await incoming.body(node.settings.body_limit_bytes, node.settings.body_timeout_s)
        parsed = openai_embeddings.parse(body, max_bytes=node.settings.body_limit_bytes)
        digest = hashlib.sha256(body).digest()

        def render(embeddings: Embeddings, bill: Bill) -> bytes:
            return openai_embeddings.render(embeddings, model=bill.model, prsm=_prsm(bill, None), base64=parsed.base64)

        async def answer(keep: Keep | None) -> None:
            ask = Ask(
                caller=Caller(key.id, account_of(key.principal_id)),
                call=EmbedCall(incoming.id, parsed.texts, parsed.model, parsed.dimensions),
                request_digest=digest.hex(),
                body_bytes=len(body),
                cap_micro=_cap(incoming, parsed.prsm.max_cost_micro),
                policy=policy_of(parsed.prsm, incoming.header("x-prsm-policy")),
                keep=keep,
            )
            if parsed.prsm.quote_id:
                ask = await bind(node.market, ask, parsed.prsm.quote_id)
            response, bill = await node.path.embed(ask, render)
            incoming.respond(200, [JSON, *_bill_headers(bill)], response)

        await self._once(incoming, key, digest, answer)

    async def _count(self, incoming: Incoming) -> None:
        await self._door.admit(incoming.token(), "chat", incoming.extra)
        limit = self._node.settings.body_limit_bytes
        body = await incoming.body(limit, self._node.settings.body_timeout_s)
        anthropic_messages.parse_count_tokens(body, max_bytes=limit)
        # Each provider has its own tokenizer: four bytes a token is the estimate used for quotes too.
        count = anthropic_messages.render_count(estimate_tokens(len(body)))
        incoming.respond(200, [JSON, ("x-prsm-estimate", "bytes/4")], count)

    def _once(
        self, incoming: Incoming, key: ApiKey, digest: bytes, answer: Callable[[Keep | None], Handling]
    ) -> Handling:
        """``answer`` the request, told how to keep the response; one that its Idempotency-Key has is sent again."""
        named = incoming.header("idempotency-key")
        return answer(None) if named is None else self._claimed(incoming, key, named, digest, answer)

    async def _claimed(
        self, incoming: Incoming, key: ApiKey, named: str, digest: bytes, answer: Callable[[Keep | None], Handling]
    ) -> None:
        subject = await self._node.subject_keys.key(key.principal_id)
        asked = hashlib.sha256(incoming.exchange.path.encode() + digest).digest()
        stored = await self._node.idempotency.claim(key.id, named, incoming.id, asked)
        if stored is not None:
            kept = stored.answer
            if are_sealed(kept):  # as all are but those of a version before
                kept = subject.open_bytes(kept, answer_place(stored.request_id))
            incoming.extra[0] = ("x-request-id", str(stored.request_id))
            incoming.respond(200, [*_stored_headers(kept), ("idempotent-replayed", "true")], kept)
            return
        place = answer_place(incoming.id)
        try:
            await answer(lambda response: subject.seal_bytes(response, place))
        except BaseException:
            await asyncio.shield(self._node.idempotency.free(incoming.id))
            raise

    async def _session(self, incoming: Incoming, fmt: Format, key: ApiKey) -> _Session | None:
        """The conversation this request continues or begins, if it asks for one."""
        conversations = self._node.conversations
        header = incoming.header("x-prsm-session")
        session_id = fmt.session_id if header is None else parse_session_id(header)
        if fmt.previous_id is not None:
            session_id, history = await conversations.until(fmt.previous_id, key.principal_id)
        elif session_id is not None:
            history = await conversations.history(session_id, key.principal_id)
        elif fmt.store:
            session_id, history = uuid7(), []
        else:
            return None
        added = fmt.call.messages[1:] if fmt.call.instructed else fmt.call.messages
        conversations.check_room(history, added)
        return _Session(session_id, history, added, await self._node.subject_keys.key(key.principal_id))


class _Sending:
    """One stream on its way to the client; what was sent is gathered where it may be asked for again."""

    __slots__ = ("_incoming", "_keep", "_sent", "_session")

    def __init__(self, incoming: Incoming, session: _Session | None, keep: Keep | None) -> None:
        self._incoming = incoming
        self._session = session
        self._keep = keep
        self._sent = bytearray() if keep else None

    def transcript(self, closing: bytes) -> bytes:
        """What is stored of the whole response."""
        assert self._keep is not None
        assert self._sent is not None
        return self._keep(bytes(self._sent) + closing)

    async def run(self, stream: AnswerStream, out: StreamFormat) -> None:
        """Send ``stream`` as ``out`` writes it, to its end."""
        exchange = self._incoming.exchange
        opening = out.start()
        try:
            # The first piece is there: it goes out in one write with the head.
            opening += out.feed(await stream.next() or [])
            self._begin(stream, opening)
            opening = b""  # an open stream has no use for it
            while (deltas := await stream.next()) is not None:
                data = out.feed(deltas)
                self._note(data)
                await exchange.send(data)
            closing, _ = await stream.finish(
                lambda completion, bill: out.finish(completion.usage, _prsm(bill, self._session))
            )
        except PrsmError as error:
            _log.warning("stream failed", request_id=str(self._incoming.id), code=error.code)
            closing = await _broken_off(self._incoming.id, out, stream, error)
            if not exchange.started:
                self._begin(stream, opening)
        exchange.end(closing)

    def _begin(self, stream: AnswerStream, first: bytes) -> None:
        incoming, candidate = self._incoming, stream.candidate
        about = _model_headers(candidate.target.name, candidate.reason)
        head = [EVENT_STREAM, ("cache-control", "no-store"), *about, *incoming.extra]
        incoming.exchange.start(200, head, first=first)
        incoming.extra = []  # an open stream has no use for them
        self._note(first)

    def _note(self, data: bytes) -> None:
        if self._sent is not None:
            self._sent.extend(data)


def _ask(incoming: Incoming, fmt: Format, key: ApiKey, session: _Session | None, digest: str, body_bytes: int) -> Ask:
    call = fmt.call
    history = session.history if session else []
    return Ask(
        caller=Caller(key.id, account_of(key.principal_id)),
        call=ChatCall(
            incoming.id,
            joined(history, call.messages) if history else call.messages,
            call.model,
            call.stream,
            call.max_output_tokens,
            call.options,
        ),
        request_digest=digest,
        body_bytes=body_bytes,
        history_bytes=size_bytes(history),
        cap_micro=_cap(incoming, call.prsm.max_cost_micro),
        choices=call.n,
        remember=_remember(session, key, incoming.id) if session else None,
        policy=policy_of(call.prsm, incoming.header("x-prsm-policy")),
        session_id=session.id if session else None,
        cache=call.prsm.cache,
    )


def _remember(session: _Session, key: ApiKey, request_id: UUID) -> Callable[[Completion], Statement]:
    """What keeps the turn: the messages that this request added, and the first choice of its answer."""

    def statement(answer: Completion) -> Statement:
        said = [_as_message(choice) for choice in answer.choices[:1]]
        return turn(session.id, key.principal_id, request_id, [*session.added, *said], session.key)

    return statement


def answer_place(request_id: UUID) -> str:
    """Where the answer that an Idempotency-Key stands for is sealed for."""
    return f"answer:{request_id}"


def _cap(incoming: Incoming, in_body: int | None) -> int | None:
    header = incoming.header("x-prsm-max-cost-micro")
    return in_body if header is None else parse_max_cost_micro(header)


def _prsm(bill: Bill, session: _Session | None) -> Json:
    shown: Json = {
        "cost_micro": bill.captured_micro,
        "model": bill.model,
        "provider": bill.provider,
        "reason": bill.reason,
        "receipt_id": str(bill.request_id),
    }
    if session is not None:
        shown["session_id"] = str(session.id)
    if bill.screened is not None and bill.screened.categories:
        found = bill.screened
        shown["safety"] = {"input": found.input, "output": found.output, "categories": [*found.categories]}
    if bill.cached_from is not None:
        shown["cached_from"] = str(bill.cached_from)
    return shown


async def _broken_off(request_id: UUID, out: StreamFormat, stream: AnswerStream, error: PrsmError) -> bytes:
    """The end of a stream that ``error`` ended: with what had come, and what it costs."""

    def render(_completion: Completion, bill: Bill) -> bytes:
        return out.fail(_costs(error, bill), _partial(request_id, bill))

    try:
        closing = await stream.leave(render, broken=not isinstance(error, ClientTooSlow))
    except PrsmError as worse:
        return out.fail(worse, _partial(request_id, None))
    return closing or out.fail(error, _partial(request_id, None))


def _costs(error: PrsmError, bill: Bill) -> PrsmError:
    came = f"{bill.usage.output_tokens} tokens of the answer had come and cost {bill.captured_micro} micro-FTNS."
    remedy = "Ask again for a whole answer, under a new Idempotency-Key."
    return PrsmError(f"{error.message} {came}", kind=error.kind, code=error.code, remedy=remedy)


def _partial(request_id: UUID, bill: Bill | None) -> Json:
    """What is told of an answer that is not whole; without ``bill`` nothing is charged."""
    shown: Json = {"request_id": str(request_id), "completed": False}
    if bill is None:
        return shown | {"cost_micro": 0}
    return shown | {
        "cost_micro": bill.captured_micro,
        "delivered_output_tokens": bill.usage.output_tokens,
        "model": bill.model,
        "provider": bill.provider,
        "receipt_id": str(bill.request_id),
    }


def _model_headers(model: str, reason: str) -> Headers:
    return [("x-prsm-model", model), ("x-prsm-reason", reason)]


def _bill_headers(bill: Bill) -> Headers:
    return _paid_headers(bill.model, bill.reason, bill.captured_micro, bill.request_id)


def _stored_headers(answer: bytes) -> Headers:
    """The headers that a stored response was sent with first."""
    if not answer.startswith(b"{"):
        return [EVENT_STREAM]
    prsm = _WHOLE.decode(answer).prsm
    return [JSON, *_paid_headers(prsm.model, prsm.reason, prsm.cost_micro, prsm.receipt_id)]


def _paid_headers(model: str, reason: str, cost_micro: int, receipt_id: UUID) -> Headers:
    return [
        *_model_headers(model, reason),
        ("x-prsm-cost-micro", str(cost_micro)),
        ("x-prsm-receipt", str(receipt_id)),
    ]


class _Paid(Struct):
    model: str
    reason: str
    cost_micro: int
    receipt_id: UUID


class _Whole(Struct):
    prsm: _Paid


_WHOLE = msgspec.json.Decoder(_Whole)


def _as_message(choice: Any) -> Json:
    # A refusal as words: not every provider reads it where OpenAI does.
    message: Json = {"role": "assistant", "content": (choice.content or "") + (choice.refusal or "")}
    if choice.tool_calls:
        message["tool_calls"] = choice.tool_calls
    return message


def _left() -> PrsmError:
    return PrsmError(
        "The connection ended before the answer did; what had come was charged.",
        kind=Kind.CONFLICT,
        code="client_left",
        remedy="Ask again under a new Idempotency-Key.",
    )


def _busy() -> PrsmError:
    return PrsmError(
        "The node has as many requests in work as it may.",
        kind=Kind.UNAVAILABLE,
        code="overloaded",
        remedy="Try again shortly.",
        retry_after_s=1,
    )
