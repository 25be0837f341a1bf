"""All tables, declared once: Alembic migrates to them and a drift check holds the two together.

They stand in ``tables/``, by what they are about. The set-based functions over them stand in the migrations.
"""

from prsm.core.tables import (
    alerts,
    audit,
    identity,
    ledger,
    listings,
    market,
    privacy,
    quality,
    registry,
    rollouts,
    safety,
    serving,
    storage,
    training,
)
from prsm.core.tables.declared import Base

TABLES = (
    alerts, audit, identity, ledger, listings, market, privacy, quality, registry, rollouts, safety, serving, storage,
    training,
)  # fmt: skip
"""The modules that declare tables; a module that is not here is not migrated to."""

__all__ = ["TABLES", "Base"]
