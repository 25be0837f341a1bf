"""An executor whose every call is a span, by the conventions of generative AI; stands around the one that speaks.

What is sent upstream meanwhile carries the span's ``traceparent``. Only where traces are on: otherwise it is not there.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from prsm.agents.call import ChatCall, Choice, Completion, Delta, EmbedCall, Embeddings, Target, Usage
from prsm.agents.seams import Executor
from prsm.monitoring import tracing
from prsm.monitoring.tracing import Tracing, cut

_PROVIDERS = {"openai": "openai", "anthropic": "anthropic"}
"""Kinds of which the conventions have a name; others are named as the operator named them."""


class TracedExecutor:
    """``inner``, traced; what it returns and raises is passed on as it is."""

    def __init__(self, inner: Executor, traces: Tracing) -> None:
        self._inner = inner
        self._traces = traces

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        """The whole answer."""
        span = self._begin("chat", target, call)
        try:
            with self._traces.inside(span):
                completion = await self._inner.chat(target, call)
        except BaseException as error:
            self._traces.failed(span, error)
            raise
        else:
            self._answered(span, completion.usage, [choice.finish_reason for choice in completion.choices])
            self._told(span, completion.choices)
            return completion
        finally:
            span.end()

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        """The answer as it comes."""
        span = self._begin("chat", target, call)
        usage: Usage | None = None
        reasons: list[str] = []
        inner: Any = self._inner.chat_stream(target, call)
        try:
            async with aclosing(inner):
                while True:
                    with self._traces.inside(span):  # not while it rests: the one who reads has a context of its own
                        deltas = cast("list[Delta] | None", await anext(inner, None))
                    if deltas is None:
                        break
                    for delta in deltas:
                        usage = delta.usage or usage
                        reasons += [delta.finish_reason] if delta.finish_reason else []
                    yield deltas
        except BaseException as error:
            self._traces.failed(span, error)
            raise
        else:
            self._answered(span, usage, reasons)
        finally:
            span.end()

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        """One vector per text."""
        span = self._begin("embeddings", target, call)
        try:
            with self._traces.inside(span):
                embeddings = await self._inner.embed(target, call)
        except BaseException as error:
            self._traces.failed(span, error)
            raise
        else:
            self._answered(span, embeddings.usage, [])
            return embeddings
        finally:
            span.end()

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        """The upstream's own names of the models it offers."""
        return await self._inner.list_models(base_url, api_key)

    async def aclose(self) -> None:
        """Close pooled connections."""
        await self._inner.aclose()

    def _begin(self, operation: str, target: Target, call: ChatCall | EmbedCall) -> Any:
        attributes: dict[str, Any] = {
            tracing.OPERATION: operation,
            tracing.PROVIDER: _PROVIDERS.get(target.kind, target.provider),
            tracing.REQUEST_MODEL: target.upstream_name,
            tracing.SERVER_ADDRESS: urlsplit(target.base_url).hostname or "",
            tracing.REQUEST_ID: str(call.request_id),
        }
        if isinstance(call, ChatCall):
            attributes[tracing.STREAMED] = call.stream
            if call.max_output_tokens is not None:
                attributes[tracing.MAX_TOKENS] = call.max_output_tokens
            if self._traces.content:
                attributes[tracing.INPUT_MESSAGES] = cut(msgspec.json.encode(call.messages).decode())
        return self._traces.calling(f"{operation} {target.upstream_name}", attributes)

    def _answered(self, span: Any, usage: Usage | None, reasons: Sequence[str | None]) -> None:
        if usage:
            span.set_attribute(tracing.INPUT_TOKENS, usage.input_tokens)
            span.set_attribute(tracing.OUTPUT_TOKENS, usage.output_tokens)
        told = [reason for reason in reasons if reason]
        if told:
            span.set_attribute(tracing.FINISH_REASONS, told)

    def _told(self, span: Any, choices: Sequence[Choice]) -> None:
        if self._traces.content:
            said = [{"role": "assistant", "content": choice.content} for choice in choices]
            span.set_attribute(tracing.OUTPUT_MESSAGES, cut(msgspec.json.encode(said).decode()))
