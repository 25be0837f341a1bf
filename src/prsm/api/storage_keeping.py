"""Under whose name a caller keeps objects, and how much may come from him; the rule itself is storage's."""

from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import ApiKey
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS
from prsm.data_layer.store.pins import quota_exceeded


def owner_of(caller: ApiKey) -> str:
    """The name under which a caller keeps objects."""
    return f"principal:{caller.principal_id}"


def is_limited(caller: ApiKey) -> bool:
    """Whether the quota holds for what the caller keeps."""
    return not caller.is_admin


async def room_bytes(storage: EnhancedIPFS, caller: ApiKey, size_bytes: int | None) -> int:
    """The largest object that the caller may add now, or at least ``size_bytes`` if that is known and he may.

    Whether it is kept is decided when all of it has come.
    """
    limit_bytes = storage.policy.object_limit_bytes
    if not is_limited(caller):
        return limit_bytes
    return min(limit_bytes, await storage.quota_left(owner_of(caller), size_bytes))


def too_large(storage: EnhancedIPFS, limit_bytes: int) -> PrsmError:
    """The refusal of an object above ``room_bytes``."""
    if limit_bytes < storage.policy.object_limit_bytes:
        return quota_exceeded(limit_bytes)
    return PrsmError(
        f"The object is larger than {limit_bytes:,} bytes.",
        kind=Kind.TOO_LARGE,
        code="body_too_large",
        remedy="Send less, or raise PRSM_STORAGE_OBJECT_LIMIT_BYTES.",
    )
