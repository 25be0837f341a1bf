"""What discovery answers and takes over HTTP; prices are decimal strings per million tokens, exactly as they were said.

What a source does not state is null, a price as much as a licence.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from prsm.federation.discovery.source_book import MAX_EVERY_S, MIN_EVERY_S
from prsm.federation.model_registry import CAPABILITIES, MAX_PRICE_MICRO, MAX_TOKENS
from prsm.node.discovery import SOURCE_KINDS

Able = Annotated[str, Field(json_schema_extra={"enum": [*CAPABILITIES]}, max_length=40)]
MAX_PRICE_CHARS = 16
PRICE = r"^[0-9]{1,6}(\.[0-9]{1,9})?$"
_TEXT = r"^[^\x00-\x1f\x7f]*$"


class SourceChange(BaseModel):
    """Where a source of models is. ``secret`` is sealed and never shown; empty keeps it while the address stays.

    ``query`` is for huggingface: search, author, filter (tags apart by commas), pipeline_tag, inference_provider.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: str = Field(max_length=40, json_schema_extra={"enum": [*SOURCE_KINDS]})
    address: str = Field(default="", max_length=2000)
    secret: str = Field(default="", max_length=4000)
    every_s: int = Field(default=3600, ge=MIN_EVERY_S, le=MAX_EVERY_S, description="How often it is read.")
    query: dict[str, str] = Field(default={}, max_length=10)


class SourceShown(BaseModel):
    """A source without its secret, how its last reading went, and how old what it lists is."""

    name: str
    kind: str
    address: str
    query: dict[str, str]
    every_s: int
    has_secret: bool
    listings: int
    left_out: int = Field(description="Entries of the last whole reading that could not be understood.")
    last_read_at: datetime | None
    age_s: int | None
    stale: bool
    last_failed_at: datetime | None
    last_error: str
    last_error_code: str
    failures: int
    next_read_at: datetime
    reading: bool
    removing: bool


class FtnsPrice(BaseModel):
    """What it comes to in micro-FTNS per million tokens, by the rate that the operator has set; rounded up."""

    input_price_micro: int | None
    output_price_micro: int | None


class PriceShown(BaseModel):
    """What ``source`` said at ``as_of``, per million tokens and, besides, per request."""

    source: str
    as_of: datetime
    currency: Literal["USD", "FTNS"]
    input: str | None
    output: str | None
    cached_input: str | None
    request: str | None
    ftns: FtnsPrice | None


class ListingShown(BaseModel):
    """A model as a source lists it; ``read_at`` is when that was read, ``stale`` that this is too long ago."""

    source: str
    name: str
    title: str
    description: str
    capabilities: list[str]
    input_modalities: list[str]
    output_modalities: list[str]
    context_tokens: int | None
    max_output_tokens: int | None
    parameters: int | None
    licence: str | None
    gated: bool | None
    price: PriceShown | None
    served_by: list[str] | None
    updated_at: datetime | None
    page_url: str
    first_seen_at: datetime
    last_seen_at: datetime
    removed_at: datetime | None
    read_at: datetime | None
    age_s: int | None
    stale: bool
    indexed: bool = Field(description="Whether it is found by meaning as it is now.")


class FoundListing(ListingShown):
    """How it was found: by its name, or by meaning, as near to the question as ``similarity``."""

    by_name: bool
    similarity: float | None


class ListingsFound(BaseModel):
    """One page; ``next_offset`` is null on the last one. ``pending`` listings are not found by meaning yet."""

    listings: list[FoundListing]
    next_offset: int | None
    pending: int


class Wish(BaseModel):
    """The listing that becomes an instance, and what it does not say; prices are micro-FTNS per million tokens."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str = Field(min_length=1, max_length=64, pattern=_TEXT)
    name: str = Field(min_length=1, max_length=300, pattern=_TEXT)
    provider: str = Field(default="", max_length=64, pattern=_TEXT)
    base_url: str = Field(default="", max_length=2000, pattern=_TEXT)
    input_price_micro: int | None = Field(default=None, ge=0, le=MAX_PRICE_MICRO)
    output_price_micro: int | None = Field(default=None, ge=0, le=MAX_PRICE_MICRO)
    capabilities: list[Able] = Field(default=[], max_length=10)
    context_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)


class Adopted(BaseModel):
    """The instance as it was added."""

    name: str
    capabilities: list[str]
    context_tokens: int
    max_output_tokens: int
    input_price_micro: int
    output_price_micro: int
    licence: str
