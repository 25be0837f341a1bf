"""The market of one node: offers, prices that follow demand, quotes that bind, earnings, statements and refunds.

This is its door; each part is a book of its own in ``market/``. Every worker keeps the live offers in memory, which a
request's prices come from; changes reach it by an event, and by a reading now and then in case one was lost.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from prsm.core.clock import Clock
from prsm.core.database import Pool
from prsm.core.errors import Kind, PrsmError
from prsm.core.subject_keys import SubjectKeys
from prsm.tokenomics.ftns_service import Ledger
from prsm.tokenomics.market.account_books import AccountBooks
from prsm.tokenomics.market.offer_book import OfferBook
from prsm.tokenomics.market.offers import Offer, Stakes
from prsm.tokenomics.market.quote_book import QuoteBook, QuoteLimits
from prsm.tokenomics.market.refund_book import RefundBook
from prsm.tokenomics.receipts import NodeSigner

_LATE_S = 10.0
"""How long workers may be late with the tokens of an epoch."""


@dataclass(frozen=True, slots=True)
class MarketRules:
    """Bounds in seconds: an epoch's length, the time to ask for a refund; and those of quotes."""

    epoch_s: int = 60
    refund_window_s: int = 7 * 86_400
    quotes: QuoteLimits = field(default_factory=QuoteLimits)


class Marketplace:
    """Offers, quotes, refunds and accounts of one node; ``live`` are its offers by instance."""

    def __init__(
        self,
        pool: Pool,
        ledger: Ledger,
        signer: NodeSigner,
        clock: Clock,
        rules: MarketRules,
        keys: SubjectKeys,
        *,
        metered_tokens: Callable[[str], int],
        stakes: Stakes | None = None,
    ) -> None:
        """``metered_tokens`` is how many tokens this worker has metered of an instance since it started.

        ``stakes`` None: this node keeps none, and an offer that is to have one is refused.
        """
        self.offers = OfferBook(pool, rules.epoch_s)
        self.quotes = QuoteBook(pool, signer, rules.quotes, clock)
        self.refunds = RefundBook(pool, ledger, rules.refund_window_s, clock, keys)
        self.accounts = AccountBooks(pool)
        self.live: Mapping[str, Offer] = MappingProxyType({})
        self.epoch_s = rules.epoch_s
        self._stakes = stakes
        self._metered_tokens = metered_tokens
        self._reading = asyncio.Lock()
        self._counted: dict[str, int] = {}
        self._first_epoch: int | None = None

    async def reload(self) -> None:
        """Read the live offers anew."""
        async with self._reading:  # or an older reading could be the last to be kept
            self.live = MappingProxyType({offer.instance: offer for offer in await self.offers.live()})

    async def check_stake(self, owner_account: str, stake_micro: int) -> None:
        """Raise unless the seller has so much at stake. Raises UNAVAILABLE where nothing keeps stakes."""
        if not stake_micro:
            return
        if self._stakes is None:
            raise PrsmError(
                "This node keeps no stakes.", kind=Kind.UNAVAILABLE, code="stakes_off", remedy="Offer without a stake."
            )
        if await self._stakes.staked_micro(owner_account) < stake_micro:
            raise PrsmError("The seller has less at stake.", kind=Kind.CONFLICT, code="stake_too_small")

    async def note_usage(self) -> None:
        """Tell the database what this worker has metered of each offer since it last did."""
        now = {instance: self._metered_tokens(instance) for instance in self.live}
        new = {name: count - self._counted.get(name, count) for name, count in now.items()}
        await self.offers.note_usage({name: tokens for name, tokens in new.items() if tokens > 0})
        self._counted = now

    async def move_prices(self) -> int:
        """Move the prices by the last epoch that is over and counted; answers how many moved.

        The epoch in which this worker first saw an offer is left out: it may have lived through a part of it only. So
        are those in which no worker ran: a node that is down has no demand to tell of.
        """
        if not self.live:
            return 0
        epoch = await self.offers.epoch(back_s=min(_LATE_S, self.epoch_s / 2)) - 1
        if self._first_epoch is None:
            self._first_epoch = epoch + 2
        return await self.offers.close_epoch(epoch) if epoch >= self._first_epoch else 0
