"""What the ledger is asked and how it refuses.

Plain values; the numbers of the outcomes are those of the SQL functions.
"""

from enum import IntEnum
from typing import Any
from uuid import UUID

from msgspec import Struct

from prsm.core.errors import Kind, PrsmError
from prsm.core.money import format_ftns

Statement = tuple[str, tuple[Any, ...]]
"""A statement in SQL and its arguments."""


Posting = tuple[int, int, str]
"""Credit account id, micro-FTNS, kind."""


class HoldOrder(Struct, frozen=True, gc=False):
    """Set ``amount_micro`` aside on an account, and on the key's budget; ``id`` is the request's id."""

    id: UUID
    account_id: int
    api_key_id: UUID | None
    amount_micro: int


class Resolution(IntEnum):
    """How a hold ends."""

    CAPTURE = 1
    RELEASE = 2
    EXPIRE = 3


class SettleOrder(Struct, frozen=True):
    """End a hold. ``legs`` sum to ``captured_micro``.

    ``receipt`` is stored in the same transaction; so is ``answer`` for the request's Idempotency-Key, if it had one.
    ``along`` is carried out there too, once: what must stand if and only if the hold ended by this order.
    """

    hold_id: UUID
    kind: Resolution
    captured_micro: int = 0
    legs: tuple[Posting, ...] = ()
    receipt: bytes | None = None
    answer: bytes | None = None
    along: Statement | None = None

    def __post_init__(self) -> None:
        if sum([amount for _, amount, _ in self.legs]) != self.captured_micro:
            raise ValueError("the legs of a capture must sum to the captured amount")


class Balance(Struct, frozen=True, gc=False):
    """An account's money in micro-FTNS; ``available`` is what may still be held or sent."""

    balance_micro: int
    held_micro: int

    @property
    def available_micro(self) -> int:
        """Balance less open holds."""
        return self.balance_micro - self.held_micro


class Budget(Struct, frozen=True, gc=False):
    """What one API key may spend in all (None: no cap of its own), has spent and holds, in micro-FTNS."""

    cap_micro: int | None
    spent_micro: int
    held_micro: int


class LedgerRefusal(PrsmError):
    """The ledger's rules do not allow the order; nothing was moved."""

    kind = Kind.PAYMENT_REQUIRED


def hold_refusal(outcome: int, order: HoldOrder) -> PrsmError:
    """The refusal for a hold that was not placed."""
    amount = format_ftns(order.amount_micro)
    if outcome == 2:
        return LedgerRefusal(
            f"The request may cost up to {amount} FTNS and the account has less available.",
            code="insufficient_funds",
            remedy="Lower the token limit or add FTNS to the account.",
        )
    if outcome == 3:
        return LedgerRefusal(
            f"The request may cost up to {amount} FTNS and this key's spend cap leaves less.",
            code="key_cap_exceeded",
            remedy="Lower the token limit, or have the key's cap raised.",
        )
    if outcome == 4:
        return PrsmError("The API key was revoked or has expired.", kind=Kind.UNAUTHENTICATED, code="invalid_api_key")
    if outcome == 5:
        return PrsmError("The account to be charged does not exist.", kind=Kind.NOT_FOUND, code="unknown_account")
    return PrsmError("The request id was used for another hold.", kind=Kind.CONFLICT, code="duplicate_request")


def settle_refusal(outcome: int, order: SettleOrder) -> PrsmError:
    """The refusal for a hold that was not ended as ordered."""
    if outcome == 2:
        return PrsmError(f"There is no hold {order.hold_id}.", kind=Kind.NOT_FOUND, code="unknown_hold")
    if outcome == 3:
        return PrsmError(
            f"The hold {order.hold_id} has ended already.", kind=Kind.CONFLICT, code="hold_already_resolved"
        )
    return PrsmError(
        f"The hold {order.hold_id} is smaller than {format_ftns(order.captured_micro)} FTNS.",
        kind=Kind.CONFLICT,
        code="capture_exceeds_hold",
    )
