"""Catalogues in OpenRouter's form: models of many providers with their prices, as decimal strings per token.

A price of -1 varies and one that is missing is unknown; "0" is free. (openrouter.ai/docs: the Models API.)
"""

from decimal import Decimal

import msgspec

from prsm.core.clock import Clock
from prsm.core.clock import now as now_utc
from prsm.federation.discovery.entry_reading import (
    Name,
    Said,
    Tokens,
    Words,
    known,
    per_request_nano,
    per_token_nano,
    plain_text,
)
from prsm.federation.discovery.json_fetch import FetchLimits, JsonFetch
from prsm.federation.discovery.seams import MAX_NAME_CHARS, ListedPrice, Listing, Reading
from prsm.federation.discovery.whole_list import fetch_changed, whole_reading

DEFAULT_ADDRESS = "https://openrouter.ai"


class OpenRouterSource:
    """A Source. ``address`` is that of the site, below which the catalogue is ``/api/v1/models``."""

    def __init__(
        self,
        name: str,
        address: str = DEFAULT_ADDRESS,
        *,
        secret: str = "",
        limits: FetchLimits | None = None,
        now: Clock = now_utc,
    ) -> None:
        self.name = name
        self._site = address.rstrip("/").removesuffix("/api/v1")
        self._fetch = JsonFetch(self._site, secret=secret, limits=limits, now=now)
        self._now = now

    async def read(self, mark: str) -> Reading | None:
        """A pass over the whole catalogue, or None."""
        document = await fetch_changed(self._fetch, "/api/v1/models", mark)
        return None if document is None else whole_reading(document, self._understand)

    async def aclose(self) -> None:
        """Close open connections."""
        await self._fetch.aclose()

    def _understand(self, raw: msgspec.Raw) -> Listing:
        entry = _ENTRY.decode(raw)
        shape, top = entry.architecture or _Architecture(), entry.top_provider or _TopProvider()
        inputs = frozenset(word.lower() for word in shape.input_modalities or ())
        outputs = frozenset(word.lower() for word in shape.output_modalities or ())
        return Listing(
            name=entry.id,
            title=plain_text(entry.name, MAX_NAME_CHARS),
            description=plain_text(entry.description),
            capabilities=_capabilities(inputs, outputs, entry.supported_parameters or []),
            input_modalities=inputs,
            output_modalities=outputs,
            context_tokens=known(entry.context_length) or known(top.context_length),
            max_output_tokens=known(top.max_completion_tokens),
            price=self._price(entry.pricing),
            page_url=f"{self._site}/{entry.id}",
        )

    def _price(self, pricing: "_Pricing | None") -> ListedPrice | None:
        if pricing is None:
            return None
        price = ListedPrice(
            source=self.name,
            as_of=self._now(),
            input_nano=per_token_nano(pricing.prompt),
            output_nano=per_token_nano(pricing.completion),
            cached_input_nano=per_token_nano(pricing.input_cache_read),
            request_nano=per_request_nano(pricing.request),
        )
        return None if price.input_nano is None and price.output_nano is None else price


class _Pricing(msgspec.Struct):
    prompt: Decimal | None = None
    completion: Decimal | None = None
    input_cache_read: Decimal | None = None
    request: Decimal | None = None


class _Architecture(msgspec.Struct):
    input_modalities: Words | None = None
    output_modalities: Words | None = None


class _TopProvider(msgspec.Struct):
    context_length: Tokens | None = None
    max_completion_tokens: Tokens | None = None


class _Entry(msgspec.Struct):
    id: Name
    name: Said | None = None
    description: Said | None = None
    context_length: Tokens | None = None
    architecture: _Architecture | None = None
    pricing: _Pricing | None = None
    top_provider: _TopProvider | None = None
    supported_parameters: Words | None = None


_ENTRY = msgspec.json.Decoder(_Entry)


def _capabilities(inputs: frozenset[str], outputs: frozenset[str], parameters: list[str]) -> frozenset[str]:
    able = {"embeddings"} & outputs
    if "text" in inputs and "text" in outputs:
        able.add("chat")
        if "image" in inputs:
            able.add("vision")
        if "tools" in parameters:
            able.add("tools")
    return frozenset(able)
