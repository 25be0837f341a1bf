"""Under whose name an object is kept, and that nobody keeps more than the quota; every route that keeps asks here."""

import asyncio

from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import ApiKey
from prsm.data_layer.codec.cid import Cid
from prsm.node import Node


def owner_of(caller: ApiKey) -> str:
    """The name under which a caller keeps objects."""
    return f"principal:{caller.principal_id}"


class Keeping:
    """Pins within the quota, one after another: of two that do not fit together, the first is kept."""

    def __init__(self, node: Node) -> None:
        self._storage = node.storage
        self._one_at_a_time = asyncio.Lock()

    async def keep(self, caller: ApiKey, cid: Cid) -> bool:
        """Keep an object that is here for the caller; False when it did so already. Raises NotStored, PrsmError."""
        owner, storage = owner_of(caller), self._storage
        async with self._one_at_a_time:
            if any(pin.name == owner for pin in await storage.catalog.pins(cid)):
                return False
            await storage.pin(cid, owner, limited=not caller.is_admin)
            return True

    async def room_bytes(self, caller: ApiKey) -> int:
        """The largest object that the caller may add now."""
        policy = self._storage.policy
        if caller.is_admin:
            return policy.object_limit_bytes
        return min(policy.object_limit_bytes, await self._storage.quota_left(owner_of(caller)))

    def too_large(self, limit_bytes: int) -> PrsmError:
        """The refusal of an object above ``room_bytes``."""
        policy = self._storage.policy
        if limit_bytes < policy.object_limit_bytes:
            return PrsmError(
                f"You may keep {limit_bytes:,} bytes more here; these are more.",
                kind=Kind.TOO_LARGE,
                code="storage_quota_exceeded",
                remedy="Unpin something: prsm storage rm CID. Or have PRSM_STORAGE_QUOTA_BYTES raised.",
            )
        return PrsmError(
            f"The object is larger than {limit_bytes:,} bytes.",
            kind=Kind.TOO_LARGE,
            code="body_too_large",
            remedy="Send less, or raise PRSM_STORAGE_OBJECT_LIMIT_BYTES.",
        )
