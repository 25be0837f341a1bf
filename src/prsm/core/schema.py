"""The tables' versions: Alembic brings them forth and back, over a connection of its own."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from prsm.core.errors import ConfigError


async def upgrade(url: str, revision: str = "head") -> None:
    """Bring the tables to ``revision``; two nodes starting at once take turns by an advisory lock.

    Raises ConfigError for a database that a newer PRSM has migrated.
    """

    def run(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7011)")
        command.upgrade(_alembic(connection), revision)

    async with _engine(url).begin() as connection:
        try:
            await connection.run_sync(run)
        except CommandError as error:
            raise ConfigError(
                f"The database has tables of another version of PRSM: {error}.",
                remedy="Run the version that made them, or a newer one.",
            ) from error


async def downgrade(url: str, revision: str) -> None:
    """Take the tables back to ``revision`` (``base`` removes all); data of newer revisions is lost."""
    async with _engine(url).begin() as connection:
        await connection.run_sync(lambda sync: command.downgrade(_alembic(sync), revision))


async def drift(url: str) -> str:
    """Empty when the migrated tables equal the declared ones, else what differs."""

    def check(connection: Connection) -> str:
        try:
            command.check(_alembic(connection))
        except CommandError as error:
            return str(error)
        return ""

    async with _engine(url).connect() as connection:
        return await connection.run_sync(check)


def _engine(url: str) -> AsyncEngine:
    parts = urlsplit(url)
    query: dict[str, Any] = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    driven = URL.create(
        "postgresql+asyncpg",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        host=parts.hostname,
        port=parts.port,
        database=unquote(parts.path.strip("/")),
        query=query,
    )
    return create_async_engine(driven, poolclass=NullPool)


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
