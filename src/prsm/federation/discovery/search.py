"""Listings are found by name, by words and by what they mean, within filters that what is unknown never passes.

A name that was typed comes first. The rest is ordered by reciprocal ranks of meaning and of words (Cormack et al.,
SIGIR 2009), ties by source and name, so that the same question has the same answer; a page is a part of one such list.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest
from prsm.core.seams import Filter, Hit, VectorIndex
from prsm.federation.discovery.entry import MAX_NUMBER, key_of, words_of
from prsm.federation.discovery.indexing import item_id, of_item
from prsm.federation.discovery.listings import SELECT, KeptListing, kept_listing

WINDOW: Final = 50
"""A question has at most this many answers: whoever has not found it by then should ask otherwise."""
MAX_QUERY_CHARS: Final = 1_000
MAX_VALUES: Final = 50

_MOST_BY_WORDS: Final = 500
"""Words that more listings share say nothing: then meaning decides."""
_MOST_BY_NAME: Final = 100
_LEAST_PREFIX_CHARS: Final = 3
_MOST_WORDS: Final = 32
_RRF_RANK: Final = 60
_WEIGHTS: Final = "ARRAY[0.4, 0.4, 0.4, 0.6]::real[]"
"""Of a word in the description (first) and in the name (last)."""
_FULL_NAME, _SHORT_NAME, _NAME_BEGINS, _NAME_HOLDS, _OTHER = range(5)

EmbedOne = Callable[[str], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a listing must be; prices are billionths of ``currency`` per million tokens.

    ``ungated``: the source says that anybody may have it. What a source does not state passes no condition on it.
    """

    capabilities: tuple[str, ...] = ()
    max_input_nano: int | None = None
    max_output_nano: int | None = None
    currency: str = "USD"
    min_context_tokens: int | None = None
    licences: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    ungated: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A listing that was found; ``similarity`` to the question is None where it was found by words only."""

    kept: KeptListing
    by_name: bool
    similarity: float | None


def check_wanted(wanted: Wanted) -> None:
    """Raise InvalidRequest on a condition that cannot be obeyed."""
    if wanted.currency not in ("USD", "FTNS"):
        raise InvalidRequest("A price is in USD or FTNS.", param="currency")
    for name in ("max_input_nano", "max_output_nano", "min_context_tokens"):
        if not 0 <= (getattr(wanted, name) or 0) <= MAX_NUMBER:
            raise InvalidRequest(f"{name} is from 0 to {MAX_NUMBER}.", param=name)
    for name in ("capabilities", "licences", "sources"):
        values: tuple[str, ...] = getattr(wanted, name)
        if len(values) > MAX_VALUES or any(not _is_plain(value) for value in values):
            raise InvalidRequest(f"{name} are at most {MAX_VALUES} words of 1 to 200 characters.", param=name)


def check_page(query: str, limit: int, offset: int) -> None:
    """Raise InvalidRequest on a question or a page that cannot be answered."""
    if len(query) > MAX_QUERY_CHARS or "\0" in query:
        raise InvalidRequest(f"A question has at most {MAX_QUERY_CHARS} characters and no NUL.", param="q")
    if limit < 1 or offset < 0 or (query.strip() and offset + limit > WINDOW):
        raise InvalidRequest(f"offset + limit is at most {WINDOW}.", param="limit", remedy="Ask more exactly.")


def vector_filters(wanted: Wanted) -> list[Filter]:
    """The conditions as the vector index has them."""
    currency = wanted.currency.lower()
    filters = [Filter(f"can_{able}", "=", True) for able in wanted.capabilities]
    if wanted.max_input_nano is not None:
        filters.append(Filter(f"{currency}_in", "<=", wanted.max_input_nano))
    if wanted.max_output_nano is not None:
        filters.append(Filter(f"{currency}_out", "<=", wanted.max_output_nano))
    if wanted.min_context_tokens is not None:
        filters.append(Filter("context", ">=", wanted.min_context_tokens))
    if wanted.licences:
        filters.append(Filter("licence", "in", [each.lower() for each in wanted.licences]))
    if wanted.sources:
        filters.append(Filter("source", "in", wanted.sources))
    if wanted.ungated:
        filters.append(Filter("gated", "=", False))
    return filters


def sql_conditions(wanted: Wanted, arguments: list[Any]) -> str:
    """The same as SQL over ``listings l``; values are appended to ``arguments``. NULL passes nothing."""
    priced = wanted.max_input_nano is not None or wanted.max_output_nano is not None
    conditions = ["l.removed_at IS NULL"]
    for condition, value in (
        ("l.capabilities @> {}::text[]", [*wanted.capabilities] or None),
        ("l.price_currency = {}", wanted.currency if priced else None),
        ("l.input_price_nano <= {}", wanted.max_input_nano),
        ("l.output_price_nano <= {}", wanted.max_output_nano),
        ("l.context_tokens >= {}", wanted.min_context_tokens),
        ("l.licence = ANY({}::text[])", [each.lower() for each in wanted.licences] or None),
        ("l.source = ANY({}::text[])", [*wanted.sources] or None),
        ("l.gated = {}", False if wanted.ungated else None),
    ):
        if value is not None:
            arguments.append(value)
            conditions.append(condition.format(f"${len(arguments)}"))
    return " AND ".join(conditions)


def fused(tiers: dict[str, tuple[int, int]], by_meaning: Sequence[str], by_words: Sequence[str]) -> list[str]:
    """Items of all lists in the order in which they are answered.

    ``tiers`` are those found by name, with how well that fits and how long the name is: of two that begin as was typed
    the shorter is nearer to it. The other two lists are ordered, the best first.
    """
    scores: dict[str, float] = dict.fromkeys(tiers, 0.0)
    for ranked in (by_meaning, by_words):
        for rank, item in enumerate(ranked, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (_RRF_RANK + rank)
    return sorted(scores, key=lambda item: (tiers.get(item, (_OTHER, 0)), -scores[item], item))


class Search:
    """Finds listings; ``embed`` gives the vector of one question, off the event loop."""

    def __init__(self, pool: Pool, index: VectorIndex, embed: EmbedOne) -> None:
        self._pool = pool
        self._index = index
        self._embed = embed

    async def find(self, query: str, wanted: Wanted, *, limit: int = 20, offset: int = 0) -> list[Found]:
        """One page of the listings that answer ``query`` best; without a query, of all by source and name."""
        check_page(query, limit, offset)
        check_wanted(wanted)
        if not words_of(query):
            return await self._browse(wanted, limit, offset)
        vector = await self._embed(query)
        return await self.find_with(query, vector, wanted, limit=limit, offset=offset)

    async def find_with(self, query: str, vector: Any, wanted: Wanted, *, limit: int, offset: int = 0) -> list[Found]:
        """As ``find``, for a query whose vector is known."""
        hits = await self._index.search(vector, WINDOW, vector_filters(wanted))
        candidates = await self._candidates(query, wanted, hits)
        tiers = {item: (row["tier"], row["chars"]) for item, row in candidates.items() if row["tier"] < _OTHER}
        ranks = {item: row["rank"] for item, row in candidates.items() if row["rank"] > 0}
        by_words = sorted(ranks, key=lambda item: (-ranks[item], item))[:WINDOW]
        page = fused(tiers, [hit.id for hit in hits if hit.id in candidates], by_words)[:WINDOW][
            offset : offset + limit
        ]
        similarity = {hit.id: hit.similarity for hit in hits}
        rows = await self._rows(page)
        return [Found(rows[item], item in tiers, similarity.get(item)) for item in page if item in rows]

    async def _browse(self, wanted: Wanted, limit: int, offset: int) -> list[Found]:
        arguments: list[Any] = []
        conditions = sql_conditions(wanted, arguments)
        rows = await self._pool.fetch(
            f"{SELECT} WHERE {conditions} ORDER BY l.source, l.name LIMIT {limit:d} OFFSET {offset:d}",
            *arguments,
        )
        return [Found(kept_listing(row), False, None) for row in rows]

    async def _candidates(self, query: str, wanted: Wanted, hits: Sequence[Hit]) -> dict[str, Any]:
        """What was found by name, by words or by meaning, as it is now: it may have changed since it was indexed.

        Each with how well it fits by name (``tier``), how long its name is (``chars``), and its ``rank`` by words.
        """
        words = list(dict.fromkeys(words_of(query)))[:_MOST_WORDS]
        arguments: list[Any] = [
            key_of(query),
            _prefix(key_of(query)),
            " & ".join(f"'{word}':A" for word in words),
            query,
            " | ".join(f"'{word}'" for word in words),
            [of_item(hit.id)[0] for hit in hits],
            [of_item(hit.id)[1] for hit in hits],
        ]
        conditions = sql_conditions(wanted, arguments)
        rows = await self._pool.fetch(_CANDIDATES.format(conditions=conditions), *arguments)
        return {item_id(row["source"], row["name"]): row for row in rows}

    async def _rows(self, items: Sequence[str]) -> dict[str, KeptListing]:
        keys = [of_item(item) for item in items]
        rows = await self._pool.fetch(
            f"{SELECT} JOIN unnest($1::text[], $2::text[]) AS u (source, name) "
            "ON u.source = l.source AND u.name = l.name WHERE l.removed_at IS NULL",
            [source for source, _ in keys],
            [name for _, name in keys],
        )
        return {item_id(row["source"], row["name"]): kept_listing(row) for row in rows}


_CANDIDATES = f"""
WITH full_name AS (
    SELECT l.source, l.name FROM listings l WHERE l.name_key = $1 AND {{conditions}}
    ORDER BY l.source, l.name LIMIT {_MOST_BY_NAME}
), short_name AS (
    SELECT l.source, l.name FROM listings l WHERE l.short_key = $1 AND {{conditions}}
    ORDER BY l.source, l.name LIMIT {_MOST_BY_NAME}
), begins AS (
    SELECT l.source, l.name FROM listings l
    WHERE l.short_key ~>=~ $1 AND l.short_key ~<~ $2 AND {{conditions}}
    ORDER BY l.short_key USING ~<~, l.source, l.name LIMIT {_MOST_BY_NAME}
), holds AS (
    SELECT l.source, l.name FROM listings l WHERE l.words @@ to_tsquery('simple', $3) AND {{conditions}}
    LIMIT {_MOST_BY_WORDS + 1}
), worded AS (
    SELECT l.source, l.name FROM listings l WHERE l.words @@ plainto_tsquery('english', $4) AND {{conditions}}
    LIMIT {_MOST_BY_WORDS + 1}
), candidates AS (
    SELECT source, name, {_FULL_NAME} AS tier FROM full_name
    UNION ALL SELECT source, name, {_SHORT_NAME} FROM short_name
    UNION ALL SELECT source, name, {_NAME_BEGINS} FROM begins
    UNION ALL SELECT source, name, {_NAME_HOLDS} FROM holds WHERE (SELECT count(*) FROM holds) <= {_MOST_BY_WORDS}
    UNION ALL SELECT source, name, {_OTHER} FROM worded WHERE (SELECT count(*) FROM worded) <= {_MOST_BY_WORDS}
    UNION ALL SELECT source, name, {_OTHER} FROM unnest($6::text[], $7::text[]) AS hit (source, name)
), best AS (
    SELECT source, name, min(tier) AS tier FROM candidates GROUP BY source, name
)
SELECT b.source, b.name, b.tier, length(l.short_key) AS chars,
    ts_rank({_WEIGHTS}, l.words, to_tsquery('english', $5)) AS rank
FROM best b JOIN listings l USING (source, name) JOIN listing_sources s ON s.name = b.source AND NOT s.removing
WHERE {{conditions}}
"""  # noqa: S608 - numbers, written above


def _prefix(key: str) -> str:
    """What is above every key that begins with ``key``; where that is too short to say anything, nothing is below."""
    return key + "\U0010ffff" if len(key) >= _LEAST_PREFIX_CHARS else ""


def _is_plain(value: str) -> bool:
    return 1 <= len(value) <= 200 and value.isprintable()
