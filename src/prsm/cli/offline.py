"""Proving the ledger of a node that is not running: its servers are started for it and stopped again."""

import asyncio
from collections.abc import Callable
from typing import Any

from prsm.core import database
from prsm.core.config import Settings
from prsm.node import servers
from prsm.tokenomics.verify import verify

_FIELDS = ("head", "holds", "captures", "releases", "expiries", "transfers", "open_holds", "violation_count")
_CONNECT_S = 60


def verify_offline(settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """The proof in the form in which a running node gives it; ``progress`` is told (events read, events in all)."""
    return asyncio.run(_verify(settings, progress))


async def _verify(settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    async with servers(settings) as (postgres, _valkey):
        connection = await database.connect_one(postgres, timeout_s=_CONNECT_S)
        proof = await verify(connection, progress)
        connection.terminate()
    shown: dict[str, Any] = {name: getattr(proof, name) for name in _FIELDS}
    return {**shown, "ok": proof.violation_count == 0, "violations": list(proof.violations)}
