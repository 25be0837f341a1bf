"""What every table is declared with: the base class, and the columns that many have."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    DateTime,
    LargeBinary,
    Text,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables; column types that Python types stand for are given once here."""

    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy from the class
        str: Text,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        UUID: Uuid(),
        list[str]: ARRAY(Text),
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
    }


def inserted_at() -> Mapped[datetime]:
    """When the row was inserted, by the server's clock."""
    return mapped_column(server_default=func.now())
