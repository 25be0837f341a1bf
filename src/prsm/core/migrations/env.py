"""Alembic's entry: runs revisions on the connection it is given by ``core.database`` and never opens its own."""

from typing import Any

from alembic import context
from sqlalchemy import Connection

from prsm.core.models import Base

_UNMANAGED = {"vector_items", "vector_collections"}
"""Tables with types the ORM does not model; ``core.vectors.schema`` declares them."""


def _is_managed(name: str | None, kind: str, _parents: Any) -> bool:
    return not (kind == "table" and name in _UNMANAGED)


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=_is_managed,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
