"""Proving ledger and audit log of a node that is not running: its servers are started for it and stopped again."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import asyncpg

from prsm.cli.client import NodeUnreachable
from prsm.core import database
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.errors import PrsmError
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
    async with _database(settings) as store:
        key = NodeKey.load_or_create(settings.home / "node.key")
        return asdict(await Audit(store, key).verify(witnessed, witness or None))


async def _verify(settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    async with _database(settings) as store, store.pool.acquire() as connection:
        proof = await verify(connection, progress)
    shown: dict[str, Any] = {name: getattr(proof, name) for name in _FIELDS}
    return {**shown, "ok": proof.violation_count == 0, "violations": list(proof.violations)}


@asynccontextmanager
async def _database(settings: Settings) -> AsyncGenerator[Database, None]:
    where = "PRSM_DATABASE_URL" if settings.database_url else str(settings.home)
    if not (settings.database_url or (settings.home / "node.key").exists()):
        raise NodeUnreachable(
            f"No node answers at {settings.address}, and none was ever started in {where}.", remedy="Start it: prsm up."
        )
    print(f"No node answers at {settings.address}: what is read is the database of {where}.", file=sys.stderr)
    async with servers(settings) as (postgres, _valkey):
        store = await database.connect(postgres, pool_size=2, timeout_ms=_CONNECT_S * 1000)
        try:
            yield store
        except asyncpg.UndefinedTableError as error:
            raise PrsmError(f"No node of this version has worked on the database of {where}: {error}.") from error
        finally:
            await store.close()
