"""What discovery asks of a source of models, and what a source tells of each: nothing is guessed.

What a source does not say is None, and a price that is not known is not zero. Sources only read; what is kept of them,
for how long and how it is found is none of their business.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from prsm.core.errors import Kind, PrsmError

NANO = 1_000_000_000
"""Of a unit of currency: prices are whole billionths of a USD or of an FTNS."""

MAX_PRICE_NANO = 10**15
MAX_LISTED_TOKENS = 100_000_000
MAX_NAME_CHARS = 200
MAX_DESCRIPTION_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """What a source says a million tokens cost, exactly as it said; None: it did not say.

    ``source`` is who said it, ``as_of`` when it was read there. Amounts are from 0 to MAX_PRICE_NANO; those in USD and
    those in FTNS compare only by a rate that somebody else knows. ``request_nano`` comes on top of each request.
    """

    source: str
    as_of: datetime
    currency: Literal["USD", "FTNS"] = "USD"
    input_nano: int | None = None
    output_nano: int | None = None
    cached_input_nano: int | None = None
    request_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A model as a source lists it; ``name`` is the source's own name for it, unique there.

    Texts are printable and bounded (MAX_NAME_CHARS, a description by MAX_DESCRIPTION_CHARS), so that they can be kept
    and shown as they are. ``capabilities`` are some of ``model_registry.CAPABILITIES``. ``served_by`` are inference
    providers that answer for it now, by name; None: the source does not say. ``revision`` changes whenever anything
    else that is listed changes, except the time at which a price was read.
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
class Ending:
    """How a pass ended. ``whole``: what was on none of its pages is gone from the source.

    ``mark`` is for the next pass. ``left_out`` counts entries that could not be understood and were passed over.
    """

    whole: bool
    mark: str
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One pass over a source: pages of listings, each listing once, and then how the pass ended.

    ``ending`` may be called once the pages have ended without an error. Pages that are not read to their end are
    closed with ``aclose``.
    """

    pages: AsyncGenerator[tuple[Listing, ...], None]
    ending: Callable[[], Ending]


class SourceError(PrsmError):
    """A source could not be read; ``code`` says why: ``source_unreachable``, ``source_refused`` (its secret or a
    gate), ``source_rate_limited`` (``retry_after_s``), ``source_malformed``, or ``source_too_large``.
    """

    kind = Kind.UPSTREAM
    code = "source_unreachable"


class Source(Protocol):
    """A place that lists models. Bounds its own time, bytes and entries, and raises SourceError.

    What peers offer is one too: today another node's own list, with the prices that its market has posted.
    """

    @property
    def name(self) -> str:
        """Unique on this node; part of every listing's key."""
        ...

    async def read(self, mark: str) -> Reading | None:
        """A pass over what the source lists, or None where nothing has changed since ``mark`` (empty: the first).

        A mark that this source does not understand counts as none.
        """
        ...

    async def aclose(self) -> None:
        """Close what this source opened itself."""
        ...
