"""Whether another node works on the database: each holds one advisory lock as long as it runs.

The lock belongs to a connection of its own and goes with it, however the node ends. A node that starts tries to have
it alone; if it can, whatever open work stands in the database is a dead node's. PostgreSQL, "Advisory Locks".
"""

import asyncpg

from prsm.core.database import UNREACHABLE, Connection, connect_one
from prsm.core.errors import Unavailable

_KEY = 7014
_WAIT_S = 60.0
"""For a node that starts at the same time and first ends what a dead one left."""
_KEEPALIVE = "SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
"""So that the server notices within half a minute that a node's whole machine is gone."""


class Presence:
    """One node's sign on a database, shown from ``join`` to ``leave``; ``renew`` puts it back after an outage."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None

    async def join(self, *, alone: bool) -> bool:
        """Show the sign. With ``alone``: True when no other node shows one, and none can until ``settle``.

        Raises Unavailable.
        """
        try:
            return await self._join(alone=alone)
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            raise Unavailable(f"PostgreSQL does not answer: {error}") from error

    async def settle(self) -> None:
        """Let others join after ``join`` answered True."""
        if self._connection is not None:
            await self._connection.execute(f"SELECT pg_advisory_unlock({_KEY})")

    async def renew(self) -> None:
        """Look whether the sign still stands, and show it anew if not. Raises what the driver raises."""
        if self._connection is not None:
            try:
                await self._connection.fetchval("SELECT 1")
            except (*UNREACHABLE, asyncpg.PostgresError):
                self.leave()
            else:
                return
        await self._join(alone=False)

    def leave(self) -> None:
        """Take the sign away."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _join(self, *, alone: bool) -> bool:
        connection = await connect_one(self._url, timeout_s=_WAIT_S)
        try:
            await connection.execute(_KEEPALIVE)
            won = alone and await connection.fetchval(f"SELECT pg_try_advisory_lock({_KEY})")
            await connection.execute(f"SELECT pg_advisory_lock_shared({_KEY})")
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        return won
