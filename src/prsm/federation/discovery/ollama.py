"""An Ollama server's own list: what its OpenAI form leaves out is asked of ``/api/show``, model by model.

(github.com/ollama/ollama, docs/api.md: List Local Models, Show Model Information.)
"""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from prsm.core.clock import Clock
from prsm.core.clock import now as now_utc
from prsm.federation.discovery.entry_reading import (
    PAGE_LISTINGS,
    BadEntry,
    Count,
    EntryReader,
    Name,
    Said,
    Words,
    known,
)
from prsm.federation.discovery.json_fetch import FetchLimits, JsonFetch
from prsm.federation.discovery.seams import MAX_LISTED_TOKENS, Ending, Listing, Reading
from prsm.federation.discovery.whole_list import Document, fetch_changed

DEFAULT_ADDRESS = "http://127.0.0.1:11434"
_MAX_SHOWN = 1_000
"""Each costs a request; a server with more models lists the rest by name only."""


class OllamaSource:
    """A Source. ``address`` is that of the server, without ``/v1``."""

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
        self._fetch = JsonFetch(address.rstrip("/").removesuffix("/v1"), secret=secret, limits=limits, now=now)

    async def read(self, mark: str) -> Reading | None:
        """A pass over all its models, or None."""
        document = await fetch_changed(self._fetch, "/api/tags", mark)
        if document is None:
            return None
        reader = EntryReader()
        return Reading(self._pages(document, reader), lambda: Ending(True, document.mark, reader.left_out))

    async def aclose(self) -> None:
        """Close open connections."""
        await self._fetch.aclose()

    async def _pages(self, document: Document, reader: EntryReader) -> AsyncGenerator[tuple[Listing, ...], None]:
        asked = 0
        for start in range(0, len(document.entries), PAGE_LISTINGS):
            page: list[Listing] = []
            for raw in document.entries[start : start + PAGE_LISTINGS]:
                tag = reader.attempt(_TAG.decode, raw)
                if tag is None:
                    continue
                asked += 1
                shown = await self._fetch.post("/api/show", {"model": tag.name}) if asked <= _MAX_SHOWN else None
                page += reader.read([(tag, shown)], _listing)
            yield tuple(page)


class _Tag(msgspec.Struct):
    name: Name
    modified_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _Shown(msgspec.Struct):
    capabilities: Words = []
    model_info: dict[str, msgspec.Raw] = {}


_TAG = msgspec.json.Decoder(_Tag)
_SHOWN = msgspec.json.Decoder(_Shown)
_COUNT = msgspec.json.Decoder(Count | None)
_LABEL = msgspec.json.Decoder(Said | None)
_ABLE = {"completion": "chat", "tools": "tools", "vision": "vision", "embedding": "embeddings"}


def _listing(said: tuple[_Tag, bytes | None]) -> Listing:
    tag, body = said
    shown = _Shown() if body is None else _SHOWN.decode(body)
    architecture = _LABEL.decode(shown.model_info.get("general.architecture", _NULL)) or ""
    context = _COUNT.decode(shown.model_info.get(f"{architecture}.context_length", _NULL))
    if (context or 0) > MAX_LISTED_TOKENS:
        raise BadEntry("its context is out of its range")
    return Listing(
        name=tag.name,
        capabilities=frozenset(_ABLE[word] for word in shown.capabilities if word in _ABLE),
        context_tokens=known(context),
        parameters=known(_COUNT.decode(shown.model_info.get("general.parameter_count", _NULL))),
        updated_at=tag.modified_at and tag.modified_at.astimezone(UTC),
    )


_NULL = msgspec.Raw(b"null")
