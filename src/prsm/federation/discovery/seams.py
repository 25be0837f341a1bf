"""What discovery asks of a source of models, and what a source tells of each: nothing is guessed.

What a source does not say is None, and a price that is not known is not zero. Sources only read; what is kept of them,
for how long and how it is found is none of their business.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from prsm.core.errors import Kind, PrsmError

NANO_PER_USD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """What a source says a million tokens cost, in nano-USD, exactly as it said; None: it did not say.

    ``source`` is who said it, ``as_of`` when it was read there.
    """

    source: str
    as_of: datetime
    input_nano_usd: int | None = None
    output_nano_usd: int | None = None
    cached_input_nano_usd: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A model as a source lists it; ``name`` is the source's own name for it, unique there.

    ``capabilities`` are some of ``model_registry.CAPABILITIES``. ``revision`` changes whenever what is listed changes.
    ``served_by`` are inference providers that answer for it now, by name; None: the source does not say.
    """

    name: str
    title: str = ""
    description: str = ""
    capabilities: frozenset[str] = frozenset()
    input_modalities: frozenset[str] = frozenset()
    output_modalities: frozenset[str] = frozenset()
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    parameters: int | None = None
    licence: str | None = None
    gated: bool | None = None
    price: ListedPrice | None = None
    served_by: tuple[str, ...] | None = None
    revision: str = ""
    updated_at: datetime | None = None
    page_url: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One pass over a source: pages of listings, and then the mark to hand to the next pass.

    ``whole``: what is on none of the pages is gone from the source; otherwise the pages are what has changed. ``mark``
    may be called once the pages have ended without an error.
    """

    whole: bool
    pages: AsyncIterator[tuple[Listing, ...]]
    mark: Callable[[], str]


class SourceError(PrsmError):
    """A source could not be read; ``code`` says why: ``source_unreachable``, ``source_refused`` (its secret or a
    gate), ``source_rate_limited`` (``retry_after_s``), or ``source_malformed``.
    """

    kind = Kind.UPSTREAM
    code = "source_unreachable"


class Source(Protocol):
    """A place that lists models. Bounds its own time, bytes and entries, and raises SourceError."""

    @property
    def name(self) -> str:
        """Unique on this node; part of every listing's key."""
        ...

    async def read(self, mark: str) -> Reading | None:
        """A pass over what the source lists, or None where nothing has changed since ``mark`` (empty: the first)."""
        ...

    async def aclose(self) -> None:
        """Close what this source opened itself."""
        ...
