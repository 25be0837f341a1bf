"""What the answer path carries: the call as asked, the target it is sent to, and what comes back.

The OpenAI chat shape is the one inner language: every wire format is translated to it at the edge, and every
executor translates from it to its upstream. Nothing here does input or output.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from msgspec import Struct

Json = dict[str, Any]

NOT_READ = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""Options of a chat call that no model reads."""


class Usage(Struct, frozen=True, gc=False):
    """Tokens: ``cached_input_tokens`` are part of ``input_tokens``, ``reasoning_tokens`` of ``output_tokens``."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0


class ChatCall(Struct, frozen=True):
    """One chat question.

    ``messages`` and ``options`` are in OpenAI chat form, already validated at the edge. ``options`` holds
    everything but model, messages, stream, stream_options and token limits (temperature, tools, n, ...)
    and is passed through. ``max_output_tokens`` is the caller's own limit, None where none was given.
    """

    request_id: UUID
    messages: list[Json]
    model: str
    stream: bool = False
    max_output_tokens: int | None = None
    options: Json = {}


class EmbedCall(Struct, frozen=True):
    """Texts to embed; ``dimensions`` is passed to upstreams that can shorten their vectors."""

    request_id: UUID
    texts: list[str]
    model: str
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One model at one provider, ready to be called.

    ``name`` is what callers use (``openai/gpt-5-mini``), ``upstream_name`` what the provider is told.
    ``base_url`` ends without a slash; ``api_key`` is the plaintext secret and never logged. Prices are
    micro-FTNS per million tokens. ``domain`` is None for a generalist, or what a specialist is good for. ``model`` is
    the registered model that this is an instance of, or empty; ``cached_input_price_micro`` None: as any input token.
    ``royalties`` are those upstream of the owner, as (account, basis points of the owner's part).
    """

    name: str
    upstream_name: str
    provider: str
    kind: str
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    capabilities: frozenset[str] = frozenset({"chat"})
    domain: str | None = None
    context_tokens: int = 8192
    max_output_tokens: int = 4096
    input_price_micro: int = 0
    output_price_micro: int = 0
    version: str = ""
    cid: str = ""
    owner_account: str = ""
    executor_account: str = ""
    model: str = ""
    licence: str = ""
    region: str = ""
    cached_input_price_micro: int | None = None
    royalties: tuple[tuple[str, int], ...] = ()


class Choice(Struct):
    """One finished answer: text, tool calls in OpenAI form, why it ended. ``logprobs`` is passed through."""

    index: int = 0
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Json] = []
    finish_reason: str = "stop"
    refusal: str | None = None
    logprobs: Json | None = None


class Completion(Struct, frozen=True):
    """A whole answer from an executor; ``usage`` is None when the upstream did not meter."""

    choices: list[Choice]
    usage: Usage | None


class Delta(Struct):
    """One piece of a stream; every field may be absent. ``tool_calls`` are OpenAI ``delta.tool_calls`` objects.

    Where ``pieces`` are given, several that were nothing but text came together: ``content`` is all of it, ``pieces``
    the same as it was cut. JSON escapes no character of them.
    """

    index: int = 0
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Json] | None = None
    finish_reason: str | None = None
    refusal: str | None = None
    logprobs: Json | None = None
    usage: Usage | None = None
    pieces: list[str] | None = None


class Embeddings(Struct, frozen=True):
    """One vector per text, in order; float32 lists of equal length."""

    vectors: list[list[float]]
    usage: Usage
