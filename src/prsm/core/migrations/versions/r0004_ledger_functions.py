"""Holds and captures with fewer look-ups: what a batch has read of its holds is kept, not joined again."""

import re
from importlib import resources

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_REPLACED = ("ledger_hold", "ledger_settle")


def upgrade() -> None:
    _install("ledger_functions_0004.sql")


def downgrade() -> None:
    _install("ledger_functions.sql")


def _install(script: str) -> None:
    text = resources.files("prsm.core.migrations").joinpath(script).read_text()
    for name in _REPLACED:
        found = re.search(rf"^CREATE (FUNCTION {name}\(.*?^END \$\$;)", text, re.DOTALL | re.MULTILINE)
        assert found, f"{script} does not make {name}"
        op.get_bind().exec_driver_sql(f"CREATE OR REPLACE {found[1]}")
