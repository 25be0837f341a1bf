"""What is kept of a listing: within bounds, with the words and the attributes by which it is found; pure functions.

A listing whose name cannot be kept is left out; everything else that does not fit is cut or forgotten, never guessed.
"""

import hashlib
import re
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import msgspec

from prsm.core.seams import Attribute
from prsm.federation.discovery.seams import ListedPrice, Listing

MAX_NAME_CHARS: Final = 300
MAX_NUMBER: Final = 2**53 - 1
"""The largest number that every reader of JSON and every vector index keeps exact."""

_MAX_DESCRIPTION_CHARS: Final = 4_000
_MAX_TEXT_CHARS: Final = 300
_MAX_URL_CHARS: Final = 2_000
_MAX_ITEMS: Final = 64
_WORD = re.compile(r"[^\W_]+")
_UNKEPT = re.compile("[\0\ud800-\udfff]")
_CONTROL = re.compile(r"[\0-\x1f\x7f\ud800-\udfff]")


def kept(listing: Listing) -> Listing | None:
    """The listing within the bounds of what is stored; None where its name has no form that can be."""
    if not 1 <= len(listing.name) <= MAX_NAME_CHARS or _CONTROL.search(listing.name) or not words_of(listing.name):
        return None
    return replace(
        listing,
        title=_text(listing.title, _MAX_TEXT_CHARS),
        description=_text(listing.description, _MAX_DESCRIPTION_CHARS),
        capabilities=frozenset(_texts(sorted(listing.capabilities))),
        input_modalities=frozenset(_texts(sorted(listing.input_modalities))),
        output_modalities=frozenset(_texts(sorted(listing.output_modalities))),
        context_tokens=_number(listing.context_tokens),
        max_output_tokens=_number(listing.max_output_tokens),
        parameters=_number(listing.parameters),
        licence=_text(listing.licence, _MAX_TEXT_CHARS).lower() or None if listing.licence else None,
        price=_price(listing.price) if listing.price else None,
        served_by=None if listing.served_by is None else _texts(listing.served_by),
        revision=_text(listing.revision, _MAX_TEXT_CHARS),
        page_url=_text(listing.page_url, _MAX_URL_CHARS),
    )


def fields_of(listing: Listing) -> dict[str, Any]:
    """The columns of ``listings`` that the source states, as JSON has them."""
    price = listing.price
    return {
        "title": listing.title,
        "description": listing.description,
        "capabilities": sorted(listing.capabilities),
        "input_modalities": sorted(listing.input_modalities),
        "output_modalities": sorted(listing.output_modalities),
        "context_tokens": listing.context_tokens,
        "max_output_tokens": listing.max_output_tokens,
        "parameters": listing.parameters,
        "licence": listing.licence,
        "gated": listing.gated,
        "price_source": price.source if price else None,
        "price_currency": price.currency if price else None,
        "input_price_nano": price.input_nano if price else None,
        "output_price_nano": price.output_nano if price else None,
        "cached_input_price_nano": price.cached_input_nano if price else None,
        "request_price_nano": price.request_nano if price else None,
        "served_by": None if listing.served_by is None else [*listing.served_by],
        "revision": listing.revision,
        "updated_at": _iso(listing.updated_at),
        "page_url": listing.page_url,
    }


def digest_of(fields: dict[str, Any]) -> bytes:
    """16 bytes that change with any of the fields; the time at which a price was read is not one of them."""
    return hashlib.sha256(msgspec.json.encode(fields)).digest()[:16]


def words_of(text: str) -> list[str]:
    """Its words, lower case: ``Llama-3.1-8B`` is llama, 3, 1, 8b."""
    return _WORD.findall(text.casefold())


def key_of(text: str) -> str:
    """How a name is compared: ``gpt-4o-mini``, ``GPT4o mini`` and ``gpt 4o mini`` are one."""
    return "".join(words_of(text))


def short_name(name: str) -> str:
    """The name without who published it."""
    return name.rpartition("/")[2] or name


def meaning_of(listing: Listing) -> str:
    """What the encoder reads of a listing: its name as words, its title where that says more, its description."""
    title = listing.title if key_of(listing.title) not in key_of(listing.name) else ""
    parts = (" ".join(words_of(short_name(listing.name))), title, listing.description)
    return ". ".join(part.strip(" .") for part in parts if part.strip(" ."))


def document_of(listing: Listing) -> str:
    """What is found by words besides the name."""
    facts = (*sorted(listing.capabilities), *sorted(listing.input_modalities | listing.output_modalities))
    return " ".join((listing.title, listing.description, *facts, listing.licence or ""))


def attributes_of(source: str, listing: Listing) -> dict[str, Attribute]:
    """What the vector index filters by; what is unknown is absent, so that it passes no filter."""
    price = listing.price
    currency = price.currency.lower() if price else "none"
    numbers = {
        "context": listing.context_tokens,
        f"{currency}_in": price.input_nano if price else None,
        f"{currency}_out": price.output_nano if price else None,
        "gated": listing.gated,
        "licence": listing.licence,
    }
    known: dict[str, Attribute] = {name: value for name, value in numbers.items() if value is not None}
    return {"source": source, **known, **{f"can_{able}": True for able in listing.capabilities if _plain(able)}}


def _plain(capability: str) -> bool:
    return re.fullmatch(r"[a-z0-9_]{1,20}", capability) is not None


def _price(price: ListedPrice) -> ListedPrice:
    return replace(
        price,
        source=_text(price.source, _MAX_TEXT_CHARS),
        input_nano=_number(price.input_nano),
        output_nano=_number(price.output_nano),
        cached_input_nano=_number(price.cached_input_nano),
        request_nano=_number(price.request_nano),
    )


def _number(value: int | None) -> int | None:
    return value if value is not None and 0 <= value <= MAX_NUMBER else None


def _text(text: str, most_chars: int) -> str:
    return _UNKEPT.sub("", text)[:most_chars]


def _texts(texts: "list[str] | tuple[str, ...]") -> tuple[str, ...]:
    return tuple(_text(text, _MAX_TEXT_CHARS) for text in texts[:_MAX_ITEMS])


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
