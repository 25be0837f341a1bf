"""The statements of provenance that this node keeps: its own, which it signs, and others', which it verifies.

What is kept is what was signed, byte for byte; nothing is believed again without its signature.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from prsm.core.clock import Clock
from prsm.core.errors import Kind, PrsmError
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.provenance import signed_statement
from prsm.data_layer.provenance.signed_statement import BadProvenance, ContentKind, Origin, Provenance
from prsm.data_layer.store.catalog import Catalog

MAX_STATEMENTS = 1000
"""Of strangers about one object, and as many of this node: nobody may bury it under his."""

_log: Any = structlog.get_logger("storage")


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
            licence=signed_statement.spdx(claims.licence),
            title=claims.title,
            media_type=claims.media_type,
            size_bytes=size_bytes,
            derived_from=claims.derived_from,
        )
        return await self.accept(signed_statement.sign(statement, self._sign))

    async def accept(self, envelope: bytes) -> Signed:
        """Keep a statement, whoever signed it, once it is verified; again changes nothing. Raises BadProvenance."""
        statement = signed_statement.verify(envelope, self._clock())
        cid = Cid.parse(statement.cid)
        most = 2 * MAX_STATEMENTS if statement.public_key == self._public_key else MAX_STATEMENTS
        known = await self._catalog.provenance(cid, limit=most)
        if len(known) == most and envelope not in known:
            raise PrsmError(
                f"There are {most} statements about {cid} already.", kind=Kind.CONFLICT, code="too_many_statements"
            )
        await self._catalog.add_provenance(cid, envelope, statement.publisher, statement.published_at)
        return Signed(statement, envelope)

    async def about(self, cid: Cid) -> list[Signed]:
        """The statements about an object, oldest first, each verified again; one that no longer holds is left out."""
        envelopes = await self._catalog.provenance(cid, limit=2 * MAX_STATEMENTS)
        return await asyncio.to_thread(_verified, cid, envelopes, self._clock())


def _verified(cid: Cid, envelopes: Sequence[bytes], at: datetime) -> list[Signed]:
    signed: list[Signed] = []
    for envelope in envelopes:
        try:
            statement = signed_statement.verify(envelope, at)
        except BadProvenance as error:
            _log.warning("a statement kept here does not hold", cid=str(cid), reason=error.message)
            continue
        if Cid.parse(statement.cid) == cid:
            signed.append(Signed(statement, envelope))
    return signed
