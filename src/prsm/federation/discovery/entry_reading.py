"""Entries of a source's list, read strictly: one with a field of a wrong type or out of its range is left out, counted.

Texts become printable and bounded, amounts whole and exact. What an entry does not say stays None.
"""

import decimal
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from prsm.federation.discovery.seams import (
    MAX_DESCRIPTION_CHARS,
    MAX_LISTED_TOKENS,
    MAX_NAME_CHARS,
    MAX_PRICE_NANO,
    Listing,
)

PAGE_LISTINGS = 500
MAX_SAID_CHARS = 100_000

Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_LISTED_TOKENS)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=rf"^[\x21-\x7e]{{1,{MAX_NAME_CHARS}}}\Z")]
Said: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_SAID_CHARS)]
Words: TypeAlias = Annotated[
    list[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:+-]{1,64}\Z")]], msgspec.Meta(max_length=64)
]

_T = TypeVar("_T")
_R = TypeVar("_R")
_NANO_PER_MILLION_TOKENS = 15
"""Powers of ten between a price per token and a billionth of it per million tokens."""
_UP = decimal.Context(prec=50, rounding=decimal.ROUND_CEILING)
_SPACES = re.compile(r"\s+")


class BadEntry(ValueError):
    """An entry breaks a rule that its types do not tell."""


@dataclass(slots=True)
class EntryReader:
    """Reads the entries of one pass; ``left_out`` counts those that could not be read, or came twice."""

    left_out: int = 0
    _names: set[bytes] = field(default_factory=set[bytes])

    @property
    def listed(self) -> int:
        """How many were read."""
        return len(self._names)

    def read(self, entries: Iterable[_T], understand: Callable[[_T], Listing]) -> Iterator[Listing]:
        """The listings of ``entries``, each with its revision."""
        for entry in entries:
            listing = self.attempt(understand, entry)
            if listing is not None and self._is_new(listing.name):
                yield replace(listing, revision=revision_of(listing))

    def attempt(self, understand: Callable[[_T], _R], entry: _T) -> _R | None:
        """What an entry, or a part of it, says; None, and counted, where it cannot be understood."""
        try:
            return understand(entry)
        except (msgspec.DecodeError, BadEntry, UnicodeError, RecursionError):
            self.left_out += 1
            return None

    def _is_new(self, name: str) -> bool:
        short = hashlib.blake2b(name.encode(), digest_size=8).digest()
        if short in self._names:
            self.left_out += 1
            return False
        self._names.add(short)
        return True


def plain_text(said: str | None, most_chars: int = MAX_DESCRIPTION_CHARS) -> str:
    """One line of printable text, cut to its limit."""
    words = _SPACES.sub(" ", said or "").strip()[: 2 * most_chars]
    return "".join(char for char in words if char.isprintable())[:most_chars]


def per_token_nano(price: Decimal | None) -> int | None:
    """A price per token in units of currency, as a billionth of it per million tokens; None: not said.

    -1 says that it varies: not known either. Finer than can be told is rounded up, so that nothing costs less than
    was said, and only zero is zero. Raises BadEntry.
    """
    return _nano(price, _NANO_PER_MILLION_TOKENS)


def per_request_nano(price: Decimal | None) -> int | None:
    """A price per request, likewise."""
    return _nano(price, 9)


def known(count: int | None) -> int | None:
    """A count that is one: zero says that nobody has filled it in."""
    return count or None


def revision_of(listing: Listing) -> str:
    """Changes with anything that is listed but the time at which its price was read."""
    price = listing.price and replace(listing.price, as_of=datetime.min)
    said = msgspec.json.encode(replace(listing, revision="", price=price), order="deterministic")
    return hashlib.sha256(said).hexdigest()[:32]


def _nano(price: Decimal | None, power: int) -> int | None:
    if price is None:
        return None
    if not price.is_finite() or price > MAX_PRICE_NANO or (price < 0 and price != -1):
        raise BadEntry("a price is out of its range")
    if price < 0:
        return None
    nano = int(price.scaleb(power, _UP).to_integral_value(decimal.ROUND_CEILING))
    if nano > MAX_PRICE_NANO:
        raise BadEntry("a price is out of its range")
    return nano
