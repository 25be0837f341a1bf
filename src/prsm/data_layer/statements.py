"""The statements of provenance that this node keeps: its own, which it signs, and others', which it verifies.

What is kept is what was signed, byte for byte; nothing is believed again without its signature.
"""

from collections.abc import Callable
from dataclasses import dataclass

from prsm.core.clock import Clock
from prsm.data_layer import provenance
from prsm.data_layer.catalog import Catalog
from prsm.data_layer.cid import Cid
from prsm.data_layer.provenance import ContentKind, Origin, Provenance


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement whose signature holds, and its envelope."""

    statement: Provenance
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Claims:
    """What a publisher says of an object; see ``Provenance``."""

    kind: ContentKind
    licence: str
    title: str
    media_type: str
    derived_from: tuple[Origin, ...] = ()


class Statements:
    """One node's statements; ``sign`` is its key's, ``public_key`` in hex."""

    def __init__(self, catalog: Catalog, public_key: str, sign: Callable[[bytes], bytes], clock: Clock) -> None:
        self._catalog = catalog
        self._public_key = public_key
        self._sign = sign
        self._clock = clock

    async def state(self, cid: Cid, size_bytes: int, publisher: str, claims: Claims) -> Signed:
        """Sign and keep a statement in the name of ``publisher``. Raises BadProvenance."""
        statement = Provenance(
            cid=str(cid),
            kind=claims.kind,
            publisher=publisher,
            public_key=self._public_key,
            published_at=self._clock(),
            licence=provenance.spdx(claims.licence),
            title=claims.title,
            media_type=claims.media_type,
            size_bytes=size_bytes,
            derived_from=claims.derived_from,
        )
        return await self.accept(provenance.sign(statement, self._sign))

    async def accept(self, envelope: bytes) -> Signed:
        """Keep a statement, whoever signed it, once it is verified. Raises BadProvenance."""
        statement = provenance.verify(envelope, self._clock())
        await self._catalog.add_provenance(
            Cid.parse(statement.cid), envelope, statement.publisher, statement.published_at
        )
        return Signed(statement, envelope)

    async def about(self, cid: Cid) -> list[Signed]:
        """The statements about an object, oldest first, each verified again. Raises BadProvenance."""
        now = self._clock()
        return [Signed(provenance.verify(each, now), each) for each in await self._catalog.provenance(cid)]
