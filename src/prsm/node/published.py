"""What the answer path has been given last. One at a time gives it more."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from prsm.federation.model_registry import Catalogue
from prsm.tokenomics.market.offers import Offer


@dataclass(slots=True)
class Published:
    """The catalogue and the posted prices that the answer path goes by; none before the first."""

    catalogue: Catalogue | None = None
    offers: Mapping[str, Offer] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def stands(self, catalogue: Catalogue, offers: Mapping[str, Offer]) -> bool:
        """Whether these are the same."""
        return self.catalogue is catalogue and self.offers == offers
