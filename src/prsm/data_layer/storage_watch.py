"""The state of storage for those who watch it: counted now and then, so that looking at it costs nothing.

Endpoints are looked at when asked, for they are in memory; what only the catalog and the disk know is as old as the
last ``refresh``. Being offline is a state, not a fault: what is here is served all the same.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal

from prsm.data_layer.enhanced_ipfs import EnhancedIPFS
from prsm.data_layer.network.endpoints import EndpointView
from prsm.data_layer.store.catalog import Usage

ENDPOINT_LEVELS: Mapping[str, float] = {"live": 0, "failing": 1, "resting": 2, "banned": 3}


class StorageWatch:
    """Watches one storage; ``moved`` is told what was fetched from endpoints and uploaded since it was told last."""

    def __init__(self, storage: EnhancedIPFS, moved: Callable[[Literal["fetched", "uploaded"], int], object]) -> None:
        self._storage = storage
        self._moved = moved
        self._told = (0, 0)
        self.usage = Usage(0, 0, 0, 0, 0, 0, 0, 0)
        self.free_bytes = 0

    async def refresh(self) -> None:
        """Count anew. Raises what the catalog raises, StorageFault (LOCAL_DISK)."""
        self.free_bytes = await asyncio.to_thread(self._storage.files.free_bytes)
        before, self._told = self._told, (self._storage.endpoints.fetched_bytes, self._storage.uploads.sent_bytes)
        self._moved("fetched", self._told[0] - before[0])
        self._moved("uploaded", self._told[1] - before[1])
        self.usage = await self._storage.catalog.usage()

    def offline(self) -> str:
        """Why nothing can be fetched now; empty while an endpoint answers."""
        views = self._storage.endpoints.snapshot()
        if not views:
            return "No endpoint is configured; set PRSM_STORAGE_GATEWAYS, _NODES or _MDNS_INTERFACE."
        if any(endpoint_state(view) == "live" for view in views):
            return ""
        best = views[0]
        return f"None of {len(views)} endpoints answers; {best.name}: {best.ban_reason or best.last_fault}"

    def away(self) -> bool:
        """Whether there are endpoints and none of them answers."""
        views = self._storage.endpoints.snapshot()
        return bool(views) and not any(endpoint_state(view) == "live" for view in views)

    def levels(self) -> dict[str, float]:
        """The state of each endpoint by name, as ``ENDPOINT_LEVELS`` numbers it."""
        return {view.name: ENDPOINT_LEVELS[endpoint_state(view)] for view in self._storage.endpoints.snapshot()}

    def objects(self) -> dict[str, float]:
        """Objects by state."""
        usage = self.usage
        whole = usage.objects - usage.damaged - usage.missing
        return {"whole": whole, "damaged": usage.damaged, "missing": usage.missing}

    def transfers(self) -> dict[str, float]:
        """Transfers under way in this process."""
        return {"download": len(self._storage.transfers), "upload": self._storage.uploads.running}

    def readiness(self) -> dict[str, Any]:
        """The part of ``/readyz``; not ok when nothing more can be stored."""
        reason = self.offline()
        part: dict[str, Any] = {
            "ok": self.free_bytes > 0,
            "objects": self.usage.objects,
            "damaged": self.usage.damaged,
            "uploads_waiting": self.usage.uploads_waiting,
            "offline": bool(reason),
        }
        if reason:
            part["reason"] = reason
        if not part["ok"]:
            part["error"] = f"The disk of {self._storage.files.folder} is full."
        return part


def endpoint_state(view: EndpointView) -> str:
    """One word for how an endpoint does: live, failing, resting (by its own wish) or banned."""
    if view.banned_s:
        return "banned"
    if view.resting_s:
        return "resting"
    return "live" if view.healthy else "failing"
