"""The Protocols of core: what the node asks of a vector index, whoever keeps the vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = "Sequence[float] | npt.NDArray[np.float32]"
Attribute: TypeAlias = str | int | bool


@dataclass(frozen=True, slots=True)
class VectorItem:
    """A vector to keep under an id, with flat attributes to filter by."""

    id: str
    vector: Vector
    attributes: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on one attribute. ``in`` takes several values, ``<=`` and ``>=`` an int, ``=`` any one value.

    Values of different types are never equal (``1`` is not ``True``), and an item without the attribute never passes.
    """

    attribute: str
    compare: Literal["=", "in", "<=", ">="]
    value: Attribute | Sequence[Attribute]


@dataclass(frozen=True, slots=True)
class Hit:
    """An item found; ``similarity`` is the cosine, 1.0 for the same direction."""

    id: str
    similarity: float
    attributes: Mapping[str, Attribute]


class VectorIndex(Protocol):
    """One collection of vectors of one declared dimension, searched by cosine.

    Every method bounds its own time. Bad input raises InvalidRequest and changes nothing; a store that does not answer
    raises Unavailable.
    """

    @property
    def dimension(self) -> int:
        """Length of every vector here."""
        ...

    async def upsert(self, items: Sequence[VectorItem]) -> None:
        """Put the items in, replacing those of the same id; of two items with one id the later counts."""
        ...

    async def delete(self, ids: Sequence[str]) -> int:
        """Take the items out; answers how many there were."""
        ...

    async def search(self, vector: Vector, limit: int, filters: Sequence[Filter] = ()) -> list[Hit]:
        """The nearest items that pass every filter, nearest first, at most ``limit``."""
        ...

    async def count(self) -> int:
        """How many items there are."""
        ...

    async def reindex(self) -> None:
        """Build the index anew; searches and writes go on meanwhile."""
        ...

    async def recall(self, queries: Sequence[Vector], limit: int = 10) -> float:
        """Mean share of the truly nearest ``limit`` (by exact search) that ``search`` finds for each query."""
        ...

    async def ping(self) -> float:
        """Milliseconds one round trip takes now."""
        ...

    async def aclose(self) -> None:
        """Close what this index opened itself."""
        ...
