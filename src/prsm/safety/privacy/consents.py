"""What people agreed to: the newest word of a subject on a purpose counts, and every word is kept as proof."""

from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest
from prsm.safety.privacy.register import PURPOSES


class Consent(Struct, frozen=True):
    """A purpose, what it says, whether it is agreed to, and since when; None: nothing was said, the default counts."""

    purpose: str
    says: str
    granted: bool
    since: datetime | None


class Consents:
    """Consents over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of(self, subject: UUID) -> list[Consent]:
        """What a subject agrees to, purpose by purpose."""
        rows = await self._pool.fetch(
            "SELECT DISTINCT ON (purpose) purpose, granted, at FROM privacy_consents WHERE subject_id = $1 "
            "ORDER BY purpose, id DESC",
            subject,
        )
        said: dict[str, Any] = {row["purpose"]: row for row in rows}
        return [
            Consent(name, purpose.says, said[name]["granted"], said[name]["at"])
            if name in said
            else Consent(name, purpose.says, purpose.default, None)
            for name, purpose in PURPOSES.items()
        ]

    async def say(self, subject: UUID, purpose: str, *, granted: bool) -> list[Consent]:
        """Keep a word of the subject. Raises InvalidRequest for a purpose that there is not."""
        if purpose not in PURPOSES:
            raise InvalidRequest(f"The purposes are {', '.join(PURPOSES)}.", param="purpose")
        await self._pool.execute(
            "INSERT INTO privacy_consents (subject_id, purpose, granted) VALUES ($1, $2, $3)", subject, purpose, granted
        )
        return await self.of(subject)
