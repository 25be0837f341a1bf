"""Consents and erasures; the log watches both."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_APPEND_ONLY = ("privacy_consents", "privacy_erasures")


def upgrade() -> None:
    op.create_table(
        "privacy_consents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("granted", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("privacy_consents_subject", "privacy_consents", ["subject_id", "purpose", "id"])
    op.create_table(
        "privacy_erasures",
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("subject_id"),
    )
    watch = sa.text("SELECT audit_watch(:name, :rules)").bindparams(
        sa.bindparam("rules", type_=postgresql.ARRAY(sa.Text()))
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.get_bind().execute(watch, {"name": table, "rules": []})


def downgrade() -> None:
    op.execute("DELETE FROM audit_tables WHERE name IN ('privacy_consents', 'privacy_erasures')")
    for table in _APPEND_ONLY:
        op.drop_table(table)
