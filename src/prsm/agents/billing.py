"""What a request is charged and who is paid, with the signed receipt of it. Moves no money: the ledger does."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from msgspec import Struct

from prsm.agents.call import ChatCall, Target, Usage
from prsm.agents.plan import Plan
from prsm.agents.routers.model_router import Candidate
from prsm.core.clock import Clock
from prsm.tokenomics.quotes import Price, charge_micro
from prsm.tokenomics.receipts import NodeSigner, ReceiptFacts, Screened, Segment, sign_receipt
from prsm.tokenomics.splits import Leg, Share, pay_upstream, split


@dataclass(frozen=True, slots=True)
class Economy:
    """How revenue is divided: the shares of owner, executor and treasury in basis points, and the node's account."""

    owner_bps: int
    executor_bps: int
    treasury_bps: int
    node_account: str

    def shares(self, target: Target) -> tuple[Share, ...]:
        """Owner first: the remainder of rounding is the owner's."""
        return (
            Share(target.owner_account or self.node_account, "owner", self.owner_bps),
            Share(target.executor_account or self.node_account, "executor", self.executor_bps),
            Share("treasury", "treasury", self.treasury_bps),
        )

    def legs(self, captured_micro: int, target: Target) -> tuple[Leg, ...]:
        """All postings of a capture; those upstream of the owner are paid of the owner's part."""
        legs = split(captured_micro, self.shares(target))
        if not target.royalties or not legs or legs[0].kind != "owner":
            return legs
        return (*pay_upstream(legs[0], target.royalties), *legs[1:])


class Metered(Struct, frozen=True):
    """What an answer came to: tokens, who counted them (``upstream`` or ``node``), its digest, whether it is whole.

    ``segments`` are its parts where more than one instance made it; ``cached_from`` is whose answer is given again.
    """

    usage: Usage
    metered_by: str
    output_digest: str
    completed: bool = True
    segments: tuple[Segment, ...] = ()
    cached_from: UUID | None = None
    screened: Screened | None = None


class Bill(Struct, frozen=True):
    """What a request cost and who answered it.

    ``metered_micro`` is the price of all metered tokens; what of it exceeds the hold is not charged.
    """

    request_id: UUID
    model: str
    provider: str
    reason: str
    usage: Usage
    held_micro: int
    metered_micro: int
    captured_micro: int
    completed: bool
    legs: tuple[Leg, ...]
    receipt: bytes
    cached_from: UUID | None = None
    screened: Screened | None = None


class Biller:
    """Makes bills in the name of one node."""

    def __init__(self, signer: NodeSigner, economy: Economy, clock: Clock, screened_by: Sequence[str]) -> None:
        self._signer = signer
        self._economy = economy
        self._clock = clock
        self._screened_by = screened_by

    def bill(self, plan: Plan, candidate: Candidate, metered: Metered) -> Bill:
        """Charge, split and sign."""
        target, ask, usage = candidate.target, plan.ask, metered.usage
        price = Price(target.input_price_micro, target.output_price_micro, target.cached_input_price_micro)
        metered_micro = charge_micro(price, usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)
        captured_micro = min(metered_micro, plan.held_micro)
        legs = self._economy.legs(captured_micro, target)
        facts = ReceiptFacts(
            request_id=ask.call.request_id,
            account=ask.caller.account,
            operation="chat" if isinstance(ask.call, ChatCall) else "embeddings",
            request_digest=ask.request_digest,
            output_digest=metered.output_digest,
            model=target.name,
            model_version=target.version,
            model_cid=target.cid,
            provider=target.provider,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=min(usage.cached_input_tokens, usage.input_tokens),
            metered_by=metered.metered_by,
            input_price_micro=target.input_price_micro,
            output_price_micro=target.output_price_micro,
            held_micro=plan.held_micro,
            captured_micro=captured_micro,
            completed=metered.completed,
            screened_by=self._screened_by,
            at=self._clock(),
            cached_input_price_micro=target.cached_input_price_micro,
            quote_id=ask.bound.id if ask.bound else None,
            segments=metered.segments,
            cached_from=metered.cached_from,
            screened=metered.screened,
        )
        return Bill(
            request_id=ask.call.request_id,
            model=target.name,
            provider=target.provider,
            reason=candidate.reason,
            usage=usage,
            held_micro=plan.held_micro,
            metered_micro=metered_micro,
            captured_micro=captured_micro,
            completed=metered.completed,
            legs=legs,
            receipt=sign_receipt(facts, legs, self._signer),
            cached_from=metered.cached_from,
            screened=metered.screened,
        )
