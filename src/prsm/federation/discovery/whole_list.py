"""A list of models that is one JSON document: read whole whenever it has changed, by its ETag or else by its bytes."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec

from prsm.federation.discovery.entry_reading import PAGE_LISTINGS, EntryReader
from prsm.federation.discovery.json_fetch import JsonFetch, malformed, too_large
from prsm.federation.discovery.seams import Ending, Listing, Reading

MAX_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Document:
    """A list that has changed: its entries, not yet looked at, and the mark of what it is now."""

    entries: list[msgspec.Raw]
    mark: str


async def fetch_changed(fetch: JsonFetch, path: str, mark: str) -> Document | None:
    """The list at ``path``, or None where it is what ``mark`` was of. Raises SourceError."""
    known = _read_mark(mark)
    fetched = await fetch.get(path, etag=known.etag)
    if fetched is None:
        return None
    digest = digest_of(fetched.body)
    if digest == known.digest:
        return None
    return Document(_entries(fetch.host, fetched.body), msgspec.json.encode(_Mark(fetched.etag, digest)).decode())


def digest_of(content: bytes) -> str:
    """What tells one state of a list from another."""
    return hashlib.sha256(content).hexdigest()


def whole_reading(document: Document, understand: Callable[[msgspec.Raw], Listing]) -> Reading:
    """A pass over a whole list."""
    reader = EntryReader()
    listings = reader.read(document.entries, understand)
    return Reading(pages_of(listings), lambda: Ending(True, document.mark, reader.left_out))


async def pages_of(listings: Iterable[Listing]) -> AsyncGenerator[tuple[Listing, ...], None]:
    """Pages of listings; others have their turn between two."""
    left = iter(listings)
    while page := _page(left):
        yield page
        await asyncio.sleep(0)


class _Mark(msgspec.Struct, array_like=True):
    etag: str = ""
    digest: str = ""


class _Data(msgspec.Struct):
    data: list[msgspec.Raw]


class _Models(msgspec.Struct):
    models: list[msgspec.Raw]


def _entries(host: str, body: bytes) -> list[msgspec.Raw]:
    """The entries of OpenAI's form, of Ollama's, or of a bare list. Raises SourceError."""
    for form in (_Data, _Models, list[msgspec.Raw]):
        try:
            found = msgspec.json.decode(body, type=form)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        entries = found.data if isinstance(found, _Data) else found.models if isinstance(found, _Models) else found
        if len(entries) > MAX_ENTRIES:
            raise too_large(host, f"{MAX_ENTRIES} entries")
        return entries
    raise malformed(host, "answers something else than a list of models")


def _read_mark(mark: str) -> _Mark:
    try:
        return msgspec.json.decode(mark, type=_Mark)
    except (msgspec.DecodeError, UnicodeError):
        return _Mark()


def _page(listings: Iterator[Listing]) -> tuple[Listing, ...]:
    return tuple(islice(listings, PAGE_LISTINGS))
