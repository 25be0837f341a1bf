"""Policies of safety, incidents, threats and breakers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_EMPTY = sa.text("''")
_WATCHED: dict[str, list[str]] = {
    "safety_policies": [],
    "safety_incidents": ["secret:texts", "secret:appeal", "secret:note"],
    "safety_threats": ["skip:score", "skip:at"],
    "breakers": [],
    "alert_silences": [],
}


def upgrade() -> None:
    op.create_table(
        "safety_policies",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("policy", postgresql.JSONB(), nullable=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("safety_policies_scope", "safety_policies", ["scope", "id"])
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON safety_policies "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    _incidents()
    op.create_table(
        "safety_threats",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(53), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("throttled_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("suspended_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("suspensions", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reason", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.PrimaryKeyConstraint("account"),
    )
    _breakers()
    watch = sa.text("SELECT audit_watch(:name, :rules, NULL)").bindparams(
        sa.bindparam("rules", type_=postgresql.ARRAY(sa.Text()))
    )
    for name, rules in _WATCHED.items():
        op.get_bind().execute(watch, {"name": name, "rules": rules})


def downgrade() -> None:
    op.execute(sa.text("DELETE FROM audit_tables WHERE name = ANY(:names)").bindparams(names=[*_WATCHED]))
    for table in ("breakers", "safety_threats", "safety_incidents", "safety_policies"):
        op.drop_table(table)


def _breakers() -> None:
    op.create_table(
        "breakers",
        sa.Column("board", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("open_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("opened", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("worker", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("held or open_until is not null", name="breakers_until"),
        sa.PrimaryKeyConstraint("board", "name"),
    )


def _incidents() -> None:
    op.create_table(
        "safety_incidents",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("findings", postgresql.JSONB(), nullable=False),
        sa.Column("texts", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("appeal", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("decided_by", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("note", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("direction in ('input', 'output')", name="safety_incidents_direction"),
        sa.CheckConstraint("status in ('recorded', 'open', 'upheld', 'overturned')", name="safety_incidents_status"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("safety_incidents_account", "safety_incidents", ["account", "created_at"])
    op.create_index(
        "safety_incidents_open", "safety_incidents", ["created_at"], postgresql_where=sa.text("status = 'open'")
    )
    op.create_index("safety_incidents_request", "safety_incidents", ["request_id"])
