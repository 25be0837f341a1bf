"""Any list of models at ``/v1/models``: OpenAI, vLLM, LM Studio, and other PRSM nodes, which say the most.

Most of these say no more than names. Fields of one server's own are read by their names: vLLM's ``max_model_len``,
LM Studio's ``type`` and ``max_context_length`` (under ``/api/v0/models``), a PRSM node's ``prsm``.
"""

from typing import Annotated, TypeAlias

import msgspec

from prsm.core.clock import Clock
from prsm.core.clock import now as now_utc
from prsm.federation.discovery.entry_reading import Name, Said, Tokens, Words, known, plain_text
from prsm.federation.discovery.json_fetch import FetchLimits, JsonFetch
from prsm.federation.discovery.seams import MAX_NAME_CHARS, MAX_PRICE_NANO, ListedPrice, Listing, Reading
from prsm.federation.discovery.whole_list import fetch_changed, whole_reading
from prsm.federation.model_registry import CAPABILITIES

_NANO_PER_MICRO = 1_000


class OpenAIListSource:
    """A Source. ``address`` is the API's, with its version (``https://api.openai.com/v1``)."""

    def __init__(
        self, name: str, address: str, *, secret: str = "", limits: FetchLimits | None = None, now: Clock = now_utc
    ) -> None:
        self.name = name
        self._fetch = JsonFetch(address, secret=secret, limits=limits, now=now)
        self._now = now

    async def read(self, mark: str) -> Reading | None:
        """A pass over the whole list, or None."""
        document = await fetch_changed(self._fetch, "/models", mark)
        return None if document is None else whole_reading(document, self._understand)

    async def aclose(self) -> None:
        """Close open connections."""
        await self._fetch.aclose()

    def _understand(self, raw: msgspec.Raw) -> Listing:
        entry = _ENTRY.decode(raw)
        prsm = entry.prsm or _Prsm()
        able = frozenset(prsm.capabilities or _BY_TYPE.get(entry.type or "", ()))
        return Listing(
            name=entry.id,
            title=plain_text(entry.name, MAX_NAME_CHARS),
            description=plain_text(entry.description),
            capabilities=able & _CAPABILITIES,
            context_tokens=known(prsm.context_tokens) or known(entry.max_model_len) or known(entry.max_context_length),
            max_output_tokens=known(prsm.max_output_tokens),
            licence=plain_text(prsm.licence, MAX_NAME_CHARS) or None,
            price=self._price(prsm),
        )

    def _price(self, prsm: "_Prsm") -> ListedPrice | None:
        if prsm.input_price_micro_per_mtok is None and prsm.output_price_micro_per_mtok is None:
            return None
        return ListedPrice(
            source=self.name,
            as_of=self._now(),
            currency="FTNS",
            input_nano=_nano(prsm.input_price_micro_per_mtok),
            output_nano=_nano(prsm.output_price_micro_per_mtok),
            cached_input_nano=_nano(prsm.cached_input_price_micro_per_mtok),
        )


_Micro: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_PRICE_NANO // _NANO_PER_MICRO)]


class _Prsm(msgspec.Struct):
    capabilities: Words = []
    context_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    licence: Said | None = None
    input_price_micro_per_mtok: _Micro | None = None
    output_price_micro_per_mtok: _Micro | None = None
    cached_input_price_micro_per_mtok: _Micro | None = None


class _Entry(msgspec.Struct):
    id: Name
    name: Said | None = None
    description: Said | None = None
    type: Said | None = None
    max_model_len: Tokens | None = None
    max_context_length: Tokens | None = None
    prsm: _Prsm | None = None


_ENTRY = msgspec.json.Decoder(_Entry)
_CAPABILITIES = frozenset(CAPABILITIES)
_BY_TYPE = {"llm": ("chat",), "vlm": ("chat", "vision"), "embeddings": ("embeddings",)}


def _nano(micro: int | None) -> int | None:
    return None if micro is None else micro * _NANO_PER_MICRO
