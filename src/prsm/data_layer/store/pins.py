"""Who keeps what, and that nobody keeps more than the quota.

There is one rule, ``Catalog.keep``, and the database holds it for all workers together; here is what is said of it.
"""

from dataclasses import dataclass

from prsm.core.errors import Kind, PrsmError
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.store.catalog import Catalog
from prsm.data_layer.store.object_files import NotStored


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of all owners; ``quota_bytes`` is for those of one."""

    catalog: Catalog
    quota_bytes: int

    async def add(self, cid: Cid, owner: str, *, limited: bool) -> bool:
        """Keep an object that is here, ``limited`` by the quota; False when ``owner`` kept it before.

        Raises NotStored, PrsmError (``storage_quota_exceeded``, ``size_unknown``).
        """
        kept = await self.catalog.keep(cid, owner, most_bytes=self.quota_bytes if limited else None)
        if not kept.here:
            raise not_here(cid)
        if kept.unknown is not None:
            raise size_unknown(cid, kept.unknown)
        if kept.size_bytes > self.quota_bytes:
            before = await self.catalog.pinned_bytes(owner)
            raise quota_exceeded(max(0, self.quota_bytes - before), kept.size_bytes - before)
        return not kept.before

    async def remove(self, cid: Cid, owner: str) -> None:
        """Keep it no more. Raises NotStored when ``owner`` did not."""
        if not await self.catalog.unpin(cid, owner):
            raise NotStored(f"{cid} is not pinned by you.", remedy="See what is: prsm storage ls")

    async def left_bytes(self, owner: str, enough_bytes: int | None = None) -> int:
        """How many bytes more an owner may keep; perhaps more than answered where that is ``enough_bytes``."""
        if enough_bytes is not None:
            most = await self.catalog.most_pinned_bytes(owner)
            if most is not None and self.quota_bytes - most >= enough_bytes:
                return self.quota_bytes - most
        return max(0, self.quota_bytes - await self.catalog.pinned_bytes(owner))


def not_here(cid: Cid) -> NotStored:
    """The refusal of what this node does not have."""
    return NotStored(f"{cid} is not in this node's storage.", remedy=f"Fetch it with: prsm storage get {cid}")


def not_pinned(cid: Cid) -> PrsmError:
    """The refusal to send what somebody does not keep."""
    return PrsmError(
        f"{cid} is not pinned by you, and only what is can be published.",
        kind=Kind.CONFLICT,
        code="not_pinned",
        remedy=f"Keep it first: prsm storage pin {cid}",
    )


def size_unknown(cid: Cid, unknown: str) -> PrsmError:
    """The refusal of what may turn out larger than the quota when it is whole."""
    return PrsmError(
        f"{unknown}, a part of {cid}, is not here, so nobody can say how much you would keep.",
        kind=Kind.CONFLICT,
        code="size_unknown",
        remedy=f"Fetch all of it first: prsm storage get {cid}",
    )


def quota_exceeded(left_bytes: int, size_bytes: int | None = None) -> PrsmError:
    """The refusal of what does not fit; without ``size_bytes`` of what is larger, and not known how large."""
    these = "more" if size_bytes is None else f"{size_bytes:,}"
    return PrsmError(
        f"You may keep {left_bytes:,} bytes more here; these are {these}.",
        kind=Kind.TOO_LARGE,
        code="storage_quota_exceeded",
        remedy="Unpin something: prsm storage rm CID. Or have PRSM_STORAGE_QUOTA_BYTES raised.",
    )
