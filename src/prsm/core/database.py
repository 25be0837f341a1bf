"""PostgreSQL: a bounded pool of connections that time out; nothing here knows what the tables mean."""

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import asyncpg

from prsm.core.acting import acting
from prsm.core.errors import ConfigError, Unavailable

_UNREACHABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a connection cut in the middle of an answer may raise
)
UNREACHABLE = (*_UNREACHABLE, TimeoutError, asyncpg.OperatorInterventionError)
"""What says only that PostgreSQL is away, restarting or too slow."""

NEWEST_MIGRATION: Final = max(each.name[1:5] for each in (Path(__file__).parent / "migrations/versions").glob("r*.py"))
"""The migrations' files are named by their numbers."""


class Connection(Protocol):
    """The part of an asyncpg connection that is used; asyncpg itself is only partly typed."""

    async def execute(self, query: str, *args: Any) -> str:
        """Run a statement; answers its command tag."""
        ...

    async def executemany(self, command: str, args: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of arguments, all in one round trip."""
        ...

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows."""
        ...

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """The first row or None."""
        ...

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row or None."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A transaction block."""
        ...

    def cursor(self, query: str, *args: Any, prefetch: int = 50) -> AsyncIterable[Any]:
        """Rows as they are needed; inside a transaction."""
        ...

    async def copy_from_query(
        self,
        query: str,
        *,
        output: Callable[[bytes], Awaitable[None]],
        format: Literal["binary", "csv", "text"],  # noqa: A002 - the driver's name
    ) -> str:
        """Give ``output`` all rows as COPY writes them, piece by piece; answers the command tag."""
        ...

    def terminate(self) -> None:
        """Drop the connection at once."""
        ...


class Pool(Protocol):
    """The part of an asyncpg pool that is used."""

    async def execute(self, query: str, *args: Any) -> str:
        """Run a statement on any connection."""
        ...

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows."""
        ...

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """The first row or None."""
        ...

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row or None."""
        ...

    def acquire(self) -> AbstractAsyncContextManager[Connection]:
        """One connection, for a transaction; whoever sets or locks something for its session undoes it."""
        ...

    def get_size(self) -> int:
        """Connections that are open."""
        ...

    def get_idle_size(self) -> int:
        """Of those, the ones that nobody uses."""
        ...

    def get_max_size(self) -> int:
        """How many may be open."""
        ...

    async def close(self) -> None:
        """Close when all connections are idle."""
        ...

    def terminate(self) -> None:
        """Close at once."""
        ...


@dataclass(frozen=True, slots=True)
class Database:
    """One PostgreSQL: where it is, and the connections to it."""

    url: str
    pool: Pool

    async def ping(self) -> float:
        """Milliseconds one round trip takes now. Raises Unavailable."""
        started = time.perf_counter()
        try:
            await self.pool.fetchval("SELECT 1")
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            raise Unavailable(f"PostgreSQL does not answer: {error}") from error
        return (time.perf_counter() - started) * 1000

    async def close(self) -> None:
        """Close the pool; connections still in use are ended after five seconds."""
        try:
            async with asyncio.timeout(5):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()


async def connect(url: str, *, pool_size: int, timeout_ms: int) -> Database:
    """Open the pool on ``url`` (``postgresql://user:password@host:port/name`` or ``...@/name?host=/socket/dir``).

    ``timeout_ms`` bounds connecting and each statement. Raises ConfigError on a bad URL, Unavailable on no answer.
    """
    check_url(url)
    seconds = timeout_ms / 1000
    teller = _Teller()
    try:
        pool: Any = await asyncpg.create_pool(  # pyright: ignore[reportUnknownMemberType]
            url,
            min_size=1,
            max_size=pool_size,
            timeout=seconds,
            command_timeout=seconds,
            server_settings={"application_name": "prsm", "statement_timeout": str(timeout_ms)},
            init=teller.forget,
            setup=teller.tell,
            reset=_nothing_to_reset,
        )
    except (*_UNREACHABLE, TimeoutError, asyncpg.PostgresError) as error:
        raise Unavailable(
            f"PostgreSQL cannot be reached: {error}",
            remedy="Check PRSM_DATABASE_URL, or unset it to use the embedded one.",
        ) from error
    return Database(url, pool)


def unreachable(error: BaseException) -> Unavailable | None:
    """The refusal for an error of UNREACHABLE; None for any other."""
    if isinstance(error, UNREACHABLE):
        return Unavailable("PostgreSQL does not answer.", remedy="Try again shortly.", retry_after_s=1)
    return None


async def connect_one(url: str, *, timeout_s: float) -> Connection:
    """One connection outside the pools, for who must never wait for a pool. Raises what asyncpg raises."""
    settings = {"application_name": "prsm-ledger"}
    driver: Any = asyncpg
    return await driver.connect(url, timeout=timeout_s, command_timeout=timeout_s, server_settings=settings)


def check_url(url: str) -> None:
    """Raise ConfigError unless ``url`` names a PostgreSQL database."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("postgresql", "postgres") and parts.path.strip("/") and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        named = False
    if not named:
        raise ConfigError(
            "PRSM_DATABASE_URL is not a PostgreSQL address.",
            remedy="Write it like postgresql://user:password@host/name.",
        )


async def migrate(db: Database) -> None:
    """Bring the tables to this version's. Raises ConfigError for a database that a newer PRSM has migrated."""
    if await _newest_migration(db.pool) != NEWEST_MIGRATION:
        # Imported here: SQLAlchemy and Alembic are a fifth of what a node loads, and most starts have no use for them.
        from prsm.core.schema import upgrade

        await upgrade(db.url)


async def _newest_migration(pool: Pool) -> str | None:
    try:
        return await pool.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        return None


class _Teller:
    """Tells the server for whom a connection works, so that its triggers know; only where that changes."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[str, str]] = {}

    async def forget(self, connection: Any) -> None:
        self._told.pop(connection.get_server_pid(), None)

    async def tell(self, connection: Any) -> None:
        who, told = acting(), self._told.get(connection.get_server_pid(), _NOBODY)
        if who != told:
            await connection.fetchrow(_TELL, *who)
            self._told[connection.get_server_pid()] = who


_NOBODY = ("", "")
_TELL = "SELECT set_config('prsm.actor', $1, false), set_config('prsm.request', $2, false)"


async def _nothing_to_reset(_connection: Any) -> None:
    """An open transaction has been ended before this; resetting the session too would cost each use a round trip."""
