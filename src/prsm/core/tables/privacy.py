"""What people agreed to, and what was erased of whom. Both are only ever inserted; a trigger refuses anything else."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class PrivacyConsentRow(Base):
    """A yes or a no of a subject to one purpose; the newest counts."""

    __tablename__ = "privacy_consents"
    __table_args__ = (Index("privacy_consents_subject", "subject_id", "purpose", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    subject_id: Mapped[UUID]
    purpose: Mapped[str]
    granted: Mapped[bool]
    at: Mapped[datetime] = inserted_at()


class PrivacyErasureRow(Base):
    """That a subject was erased, with the signed certificate, byte for byte."""

    __tablename__ = "privacy_erasures"

    subject_id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime] = inserted_at()
    certificate: Mapped[bytes]
