"""The market in the started node: built from the settings, its prices on the answer path's targets, quotes on requests.

The rooms below know nothing of each other: here an offer meets the instance it stands for, and a quote the request.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

import msgspec

from prsm.agents.call import ChatCall, Target
from prsm.agents.plan import Ask
from prsm.core.clock import now
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.keys import NodeKey
from prsm.core.subject_keys import SubjectKeys
from prsm.tokenomics.ftns_service import Ledger
from prsm.tokenomics.market.offers import Offer
from prsm.tokenomics.market.quote_book import QuoteLimits
from prsm.tokenomics.market.quoting import check_use
from prsm.tokenomics.marketplace import Marketplace, MarketRules
from prsm.tokenomics.receipts import NodeSigner


async def open_market(
    settings: Settings,
    key: NodeKey,
    store: Database,
    ledger: Ledger,
    keys: SubjectKeys,
    metered_tokens: Callable[[str], int],
) -> Marketplace:
    """The market of a node, its offers read."""
    market = Marketplace(
        store.pool,
        ledger,
        NodeSigner(key.node_id, key.public_key_hex, key.sign),
        now,
        MarketRules(
            settings.market_epoch_s,
            settings.market_refund_window_s,
            QuoteLimits(settings.market_quote_ttl_s, settings.market_quotes_open),
        ),
        keys,
        metered_tokens=metered_tokens,
    )
    await market.reload()
    return market


def at_posted_prices(targets: Sequence[Target], offers: Mapping[str, Offer]) -> Sequence[Target]:
    """The targets, those with an offer at the prices posted for it."""
    if not offers:
        return targets
    return [_at(target, offers[target.name]) if target.name in offers else target for target in targets]


def offers_by_state(market: Marketplace) -> dict[str, int]:
    """How many offers are open and how many paused, as this worker knows."""
    counted = Counter(offer.state.value for offer in market.live.values())
    return {"open": counted["open"], "paused": counted["paused"]}


async def bind(market: Marketplace, ask: Ask, quote_id: UUID) -> Ask:
    """The request at the prices of a quote, answered by the quote's instance alone. Raises PrsmError."""
    quote = await market.quotes.quote(quote_id, ask.caller.account)
    answers = ask.choices if isinstance(ask.call, ChatCall) else 0
    check_use(quote, ask.call.model, ask.input_bytes, answers, now())
    return msgspec.structs.replace(
        ask,
        call=msgspec.structs.replace(ask.call, model=quote.instance),
        bound=quote,
        claim=partial(market.quotes.take, quote.id, ask.call.request_id),
    )


def _at(target: Target, offer: Offer) -> Target:
    price = offer.posted
    return replace(
        target,
        input_price_micro=price.input_micro,
        output_price_micro=price.output_micro,
        cached_input_price_micro=price.cached_input_micro,
    )
