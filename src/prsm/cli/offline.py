"""Proving ledger and audit log of a node that is not running: its servers are started for it and stopped again."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from prsm.core import database
from prsm.core.config import Settings
from prsm.core.keys import NodeKey
from prsm.node import servers
from prsm.node.audit import Audit
from prsm.tokenomics.verify import verify

_FIELDS = ("head", "holds", "captures", "releases", "expiries", "transfers", "open_holds", "violation_count")
_CONNECT_S = 60


def verify_offline(settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """The proof in the form in which a running node gives it; ``progress`` is told (events read, events in all)."""
    return asyncio.run(_verify(settings, progress))


def verify_audit_offline(settings: Settings, witnessed: list[str], witness: str) -> dict[str, Any]:
    """What the replay of the audit log finds, in the form in which a running node tells it."""
    return asyncio.run(_verify_audit(settings, witnessed, witness))


async def _verify_audit(settings: Settings, witnessed: list[str], witness: str) -> dict[str, Any]:
    key = NodeKey.load_or_create(settings.home / "node.key")
    async with servers(settings) as (postgres, _valkey):
        store = await database.connect(postgres, pool_size=2, timeout_ms=_CONNECT_S * 1000)
        try:
            return asdict(await Audit(store, key).verify(witnessed, witness or None))
        finally:
            await store.close()


async def _verify(settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    async with servers(settings) as (postgres, _valkey):
        connection = await database.connect_one(postgres, timeout_s=_CONNECT_S)
        proof = await verify(connection, progress)
        connection.terminate()
    shown: dict[str, Any] = {name: getattr(proof, name) for name in _FIELDS}
    return {**shown, "ok": proof.violation_count == 0, "violations": list(proof.violations)}
