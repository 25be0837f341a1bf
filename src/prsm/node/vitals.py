"""What a node knows of its own parts: looked at every few seconds, shown by gauges, judged by counters.

It asks PostgreSQL over a connection of its own, so that a pool that is used up is not taken for a server that is away.
"""

import asyncio
import math
import os
import resource
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import psutil

from prsm.core.config import Settings
from prsm.core.database import Connection, Pool, connect_one
from prsm.data_layer.storage_watch import StorageWatch
from prsm.monitoring.metrics import Metrics

_ANSWER_S = 2.0
_STEP_WINDOW_S = 600.0
_LAG_WINDOW_S = 15.0
_LAG_STEP_S = 0.5
_MOST_WAIT_S, _MOST_OVERDUE_S = 30.0, 60.0
# The backlogs, and the oldest hold that should have ended; both by indices.
_LOOK = """
SELECT extract(epoch FROM clock_timestamp())::float8 AS at,
    coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at)::float8
        FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT 1), 0) AS outbox_lag_s,
    coalesce((SELECT extract(epoch FROM clock_timestamp() - h.expires_at)::float8
        FROM ledger_holds h LEFT JOIN ledger_resolutions r ON r.hold_id = h.id
        WHERE r.hold_id IS NULL AND h.expires_at > (SELECT swept_until FROM ledger_head WHERE id = 1)
            AND h.expires_at < clock_timestamp() ORDER BY h.expires_at LIMIT 1), 0) AS overdue_s,
    coalesce((SELECT extract(epoch FROM clock_timestamp() - at)::float8
        FROM audit_pending ORDER BY id LIMIT 1), 0) AS audit_lag_s,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS connections,
    current_setting('max_connections')::int AS connections_max
"""


class Vitals:
    """The parts of a node as one of its workers sees them."""

    def __init__(self, settings: Settings, database_url: str, metrics: Metrics, storage: StorageWatch) -> None:
        self.postgres_up = True
        self.outbox_lag_s = self.overdue_s = self.audit_lag_s = self.clock_offset_s = math.nan
        self.connections = self.connections_max = math.nan
        self.lag_s = 0.0
        self._database_url = database_url
        self._metrics = metrics
        self._storage = storage
        self._connection: Connection | None = None
        self._clocks: deque[tuple[float, float]] = deque()
        self._lags: deque[tuple[float, float]] = deque()
        self._process = psutil.Process()
        self._folders = {"home": str(settings.home)} | {each: each for each in settings.watched_folders}

    async def look(self) -> None:
        """Look at everything once. An outage is what is looked for: nothing is raised."""
        begun_s = time.time()
        try:
            async with asyncio.timeout(_ANSWER_S):
                row = await self._ask()
            self.postgres_up = True
            self._note(row, (begun_s + time.time()) / 2)
        except Exception:  # noqa: BLE001 - whatever the driver raises, it does not answer
            self.postgres_up = False
            self.outbox_lag_s = self.overdue_s = self.audit_lag_s = math.nan
            self.clock_offset_s = self.connections = math.nan
            self._drop()
        self._clocks.append((time.monotonic(), time.time() - time.monotonic()))
        while self._clocks[0][0] < time.monotonic() - _STEP_WINDOW_S:
            self._clocks.popleft()

    def judge(self) -> None:
        """Count whether the parts do what they are to do; by the worker that evaluates, once a turn."""
        self._metrics.checked("storage", ok=self.postgres_up and self._storage.free_bytes > 0)
        in_time = max(self.outbox_lag_s, self.audit_lag_s) < _MOST_WAIT_S and self.overdue_s < _MOST_OVERDUE_S
        self._metrics.checked("settlement", ok=in_time)

    async def feel_loop(self) -> None:
        """Measure for ever by how much the event loop is late."""
        loop = asyncio.get_running_loop()
        while True:
            begun_s = loop.time()
            await asyncio.sleep(_LAG_STEP_S)
            now_s = loop.time()
            self._lags.append((now_s, max(now_s - begun_s - _LAG_STEP_S, 0.0)))
            while self._lags[0][0] < now_s - _LAG_WINDOW_S:
                self._lags.popleft()
            self.lag_s = max(lag for _, lag in self._lags)

    def close(self) -> None:
        """Drop the connection."""
        self._drop()

    def clock_step_s(self) -> float:
        """By how much the wall clock left the steady one, within ten minutes."""
        offsets = [offset for _, offset in self._clocks]
        return max(offsets) - min(offsets) if offsets else 0.0

    def disks(self) -> dict[str, tuple[float, float]]:
        """Free and all bytes of each disk that is watched; one whose folder is not there is left out."""
        found: dict[str, tuple[float, float]] = {}
        for name, folder in self._folders.items():
            try:
                disk = os.statvfs(folder)
            except OSError:
                continue
            found[name] = (float(disk.f_bavail * disk.f_frsize), float(disk.f_blocks * disk.f_frsize))
        return found

    def resident_bytes(self) -> float:
        """Memory of this worker."""
        return float(self._process.memory_info().rss)

    def open_files(self) -> float:
        """Files and sockets of this worker."""
        return float(self._process.num_fds())

    async def _ask(self) -> Any:
        if self._connection is None:
            self._connection = await connect_one(self._database_url, timeout_s=_ANSWER_S)
        return await self._connection.fetchrow(_LOOK)

    def _note(self, row: Any, middle_s: float) -> None:
        self.outbox_lag_s, self.overdue_s, self.audit_lag_s = row["outbox_lag_s"], row["overdue_s"], row["audit_lag_s"]
        self.clock_offset_s = abs(row["at"] - middle_s)
        self.connections, self.connections_max = row["connections"], row["connections_max"]

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def expose_vitals(vitals: Vitals, metrics: Metrics, pool: Pool, ledger_queue_max: int) -> None:
    """Gauges of what was seen last; those of a process are sums over all workers."""
    metrics.gauge("prsm_postgres_up", "1 while PostgreSQL answers.", lambda: float(vitals.postgres_up))
    metrics.gauge("prsm_outbox_lag_seconds", "Age of the oldest unpublished event.", lambda: vitals.outbox_lag_s)
    metrics.gauge("prsm_hold_overdue_seconds", "How long ago the oldest open hold expired.", lambda: vitals.overdue_s)
    metrics.gauge("prsm_audit_lag_seconds", "Age of the oldest entry not in the audit log.", lambda: vitals.audit_lag_s)
    metrics.gauge("prsm_clock_offset_seconds", "Node's clock and database's, apart.", lambda: vitals.clock_offset_s)
    metrics.gauge("prsm_clock_step_seconds", "Jump of the clock within ten minutes.", vitals.clock_step_s)
    metrics.gauge("prsm_event_loop_lag_seconds", "Most that the event loop was late of late.", lambda: vitals.lag_s)
    metrics.gauge("prsm_database_connections", "Connections at the server.", lambda: vitals.connections)
    metrics.gauge("prsm_database_connections_max", "How many it takes.", lambda: vitals.connections_max)
    metrics.levels("prsm_disk_free_bytes", "Free bytes of a disk.", "disk", lambda: _disk(vitals, 0))
    metrics.levels("prsm_disk_size_bytes", "All bytes of a disk.", "disk", lambda: _disk(vitals, 1))
    metrics.summed(
        "prsm_database_pool_used", "Connections in use, of all workers.", lambda: pool.get_size() - pool.get_idle_size()
    )
    metrics.summed("prsm_database_pool_max", "Connections that may be used.", pool.get_max_size)
    metrics.summed("prsm_resident_bytes", "Memory of all workers.", vitals.resident_bytes)
    metrics.summed("prsm_open_files", "Open files of all workers.", vitals.open_files)
    metrics.summed("prsm_open_files_max", "How many those may have.", _open_files_max)
    metrics.gauge("prsm_ledger_queue_max", "How many orders may wait.", lambda: ledger_queue_max)
    metrics.gauge("prsm_memory_available_bytes", "Memory of the machine not in use.", _memory_available)


def _disk(vitals: Vitals, which: int) -> Mapping[str, float]:
    return {name: both[which] for name, both in vitals.disks().items()}


def _open_files_max() -> float:
    return float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _memory_available() -> float:
    return float(psutil.virtual_memory().available)
