"""What every vector index asks of its input, and how recall is counted; pure functions, no store is known here."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from prsm.core.errors import InvalidRequest
from prsm.core.seams import Attribute, Filter, Hit, Vector, VectorItem

MAX_DIMENSION: Final = 4_000
MAX_LIMIT: Final = 1_000
MAX_ITEMS: Final = 10_000
MAX_FILTERS: Final = 16
MAX_FILTER_VALUES: Final = 128
MAX_ATTRIBUTES: Final = 32
MAX_FILTERED_CHARS: Final = 40
"""Of a collection and an attribute together, or the name of their index would be cut."""
MAX_TEXT_CHARS: Final = 1_024
MAX_INT: Final = 2**53 - 1

_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")
_TIE: Final = 1e-6
"""Two similarities this near are the same one: items that tie for the last place may stand for each other."""


def check_collection(name: str, dimension: int) -> None:
    """Raise InvalidRequest unless a collection may be called ``name`` and have ``dimension``."""
    if not _NAME.fullmatch(name):
        raise _bad("collection", f"must be 1 to 30 of a-z, 0-9 and _, beginning with a letter, not {name!r}")
    if not 1 <= dimension <= MAX_DIMENSION:
        raise _bad("dimension", f"must be 1 to {MAX_DIMENSION}, not {dimension}")


def distinct_items(items: Sequence[VectorItem]) -> list[VectorItem]:
    """The checked items, one per id (the later counts), in the order of their ids: writers lock rows in one order."""
    _check_size("items", len(items))
    for item in items:
        _check_id(item.id)
        _check_attributes(item)
    return [item for _, item in sorted({item.id: item for item in items}.items())]


def check_ids(ids: Sequence[str]) -> None:
    """Raise InvalidRequest unless the ids may be ids, and are not too many for one call."""
    _check_size("ids", len(ids))
    for item_id in ids:
        _check_id(item_id)


def unit_rows(vectors: Sequence[Vector], dimension: int) -> npt.NDArray[np.float32]:
    """The vectors scaled to length one, [n, dimension]: cosine is kept and no half-precision store can overflow."""
    rows = np.empty((len(vectors), dimension), np.float64)
    for index, vector in enumerate(vectors):
        if len(vector) != dimension:
            raise _bad("vector", f"must have {dimension} numbers, not {len(vector)}")
        rows[index] = vector
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise _bad("vector", "must be finite and not all zero")
    return (rows / lengths).astype(np.float32)


def check_filtered(collection: str, attributes: Sequence[str]) -> None:
    """Raise InvalidRequest unless a collection can keep an index of each of these attributes."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise _bad("attributes", f"must be at most {MAX_ATTRIBUTES}, not {len(attributes)}")
    for name in attributes:
        _check_name(name)
        if len(collection) + len(name) > MAX_FILTERED_CHARS:
            raise _bad(
                "attributes", f"must be shorter: {collection} and {name} have over {MAX_FILTERED_CHARS} characters"
            )


def check_search(limit: int, filters: Sequence[Filter]) -> None:
    """Raise InvalidRequest on a limit or a filter that cannot be obeyed."""
    if not 1 <= limit <= MAX_LIMIT:
        raise _bad("limit", f"must be 1 to {MAX_LIMIT}, not {limit}")
    if len(filters) > MAX_FILTERS:
        raise _bad("filters", f"must be at most {MAX_FILTERS}, not {len(filters)}")
    for condition in filters:
        _check_filter(condition)


def values_of(condition: Filter) -> list[Attribute]:
    """The value of ``=`` or the values of ``in``, as a list."""
    return [condition.value] if isinstance(condition.value, str | int) else list(condition.value)


def recall_of(found: Sequence[Hit], exact: Sequence[Hit]) -> float:
    """Share of the ``exact`` nearest that ``found`` holds; a tie with the last of them counts as holding it."""
    if not exact:
        return 1.0
    least = exact[-1].similarity - _TIE
    return min(1.0, sum(hit.similarity >= least for hit in found) / len(exact))


def ordered(hits: Iterable[Hit]) -> list[Hit]:
    """Nearest first; items at the same similarity by id, so that an answer is the same every time."""
    return sorted(hits, key=lambda hit: (-hit.similarity, hit.id))


def _check_filter(condition: Filter) -> None:
    _check_name(condition.attribute)
    single = isinstance(condition.value, str | int)
    if single == (condition.compare == "in"):
        raise _bad(condition.attribute, f"compared by {condition.compare} has {condition.value!r}, the wrong shape")
    values = values_of(condition)
    if not 1 <= len(values) <= MAX_FILTER_VALUES:
        raise _bad(condition.attribute, f"must be compared with 1 to {MAX_FILTER_VALUES} values, not {len(values)}")
    if condition.compare in ("<=", ">=") and type(condition.value) is not int:
        raise _bad(condition.attribute, f"compared by {condition.compare} needs an int, not {condition.value!r}")
    for value in values:
        _check_value(condition.attribute, value)


def _check_attributes(item: VectorItem) -> None:
    if len(item.attributes) > MAX_ATTRIBUTES:
        raise _bad("attributes", f"must be at most {MAX_ATTRIBUTES}, not {len(item.attributes)}")
    for name, value in item.attributes.items():
        _check_name(name)
        _check_value(name, value)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise _bad("attributes", f"must have names of 1 to 30 a-z, 0-9 and _, beginning with a letter, not {name!r}")


def _check_value(name: str, value: object) -> None:
    if isinstance(value, str):
        _check_text(name, value)
    elif not isinstance(value, int):
        raise _bad(name, f"must be a str, an int or a bool, not {type(value).__name__}")
    elif abs(value) > MAX_INT:
        raise _bad(name, "must be within +-(2^53-1)")


def _check_id(item_id: str) -> None:
    if not item_id:
        raise _bad("id", "must not be empty")
    _check_text("id", item_id)


def _check_text(name: str, text: str) -> None:
    if len(text) > MAX_TEXT_CHARS:
        raise _bad(name, f"must have at most {MAX_TEXT_CHARS} characters, not {len(text)}")
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise _bad(name, "must hold neither NUL nor lone surrogates")


def _check_size(name: str, size: int) -> None:
    if size > MAX_ITEMS:
        raise InvalidRequest(f"{name} has {size} entries.", param=name, remedy=f"Send at most {MAX_ITEMS} at a time.")


def _bad(param: str, rule: str) -> InvalidRequest:
    return InvalidRequest(f"{param} {rule}.", param=param)
