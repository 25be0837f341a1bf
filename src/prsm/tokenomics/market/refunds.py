"""How a refund is divided and who may decide it: pure rules. Money goes back from those who were paid, and no others.

Each account gives back in proportion to what it was paid and has not given back yet, exact to the micro-FTNS. What the
payer was paid of its own request is no part of it: it has that already.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.money import format_ftns
from prsm.tokenomics.splits import Leg

REASONS = ("not_delivered", "wrong_model", "poor_quality", "overcharged", "duplicate", "other")
MAX_NOTE_CHARS = 2000

Parts = dict[str, int]
"""Micro-FTNS by account, none of them zero."""


def paid_parts(legs: Sequence[Leg], payer: str) -> Parts:
    """What each account but the payer was paid of one capture, in the order of its legs."""
    parts: Parts = {}
    for leg in legs:
        if leg.account != payer:
            parts[leg.account] = parts.get(leg.account, 0) + leg.amount_micro
    return parts


def left_of(parts: Parts, granted: Sequence[Mapping[str, int]]) -> Parts:
    """What of ``parts`` earlier grants have left."""
    left = {account: amount - sum(grant.get(account, 0) for grant in granted) for account, amount in parts.items()}
    return {account: amount for account, amount in left.items() if amount > 0}


def divide(amount_micro: int, left: Parts) -> Parts:
    """``amount_micro`` from the accounts of ``left``, in proportion, none beyond what it has there.

    Rounded down; what that leaves goes to the largest remainders, among equals to the first (Hamilton's method).
    Raises ValueError when there is not so much.
    """
    total = sum(left.values())
    if not 0 <= amount_micro <= total:
        raise ValueError(f"{amount_micro} is not from 0 to {total}")
    shares = {account: divmod(amount_micro * part, total) for account, part in left.items()} if total else {}
    short = amount_micro - sum(whole for whole, _ in shares.values())
    # A remainder above zero means a part above its share, so one more still fits.
    raised = set(sorted(shares, key=lambda account: -shares[account][1])[:short])
    parts = {account: whole + (account in raised) for account, (whole, _) in shares.items()}
    return {account: amount for account, amount in parts.items() if amount}


def check_asked(reason: str, note: str, amount_micro: int | None, most_micro: int) -> int:
    """The amount asked for, all there is where none is named. Raises InvalidRequest."""
    if reason not in REASONS:
        raise InvalidRequest(f"A reason is one of {', '.join(REASONS)}.", param="reason")
    if len(note) > MAX_NOTE_CHARS or "\0" in note:
        raise InvalidRequest(f"A note has at most {MAX_NOTE_CHARS} characters and no NUL.", param="note")
    amount = most_micro if amount_micro is None else amount_micro
    if not 0 < amount <= most_micro:
        raise InvalidRequest(
            f"Of this request {format_ftns(most_micro)} FTNS can be given back at most, and more than nothing.",
            param="amount_micro",
        )
    return amount


def check_in_time(captured_at: datetime, now: datetime, window_s: int) -> None:
    """Raise CONFLICT when the time to ask is over."""
    if now > captured_at + timedelta(seconds=window_s):
        raise PrsmError(
            f"A refund is asked for within {window_s} seconds of the answer.",
            kind=Kind.CONFLICT,
            code="refund_too_late",
        )


def reach(left: Parts, seller: str, account: str, *, is_admin: bool) -> Parts:
    """What the decider may give back: an admin everybody's part, the seller its own. Raises FORBIDDEN for any other.

    A seller that could give back what others earned could have its friends' requests for nothing.
    """
    if is_admin:
        return left
    if account == seller:
        return {name: amount for name, amount in left.items() if name == seller}
    raise PrsmError("Only the seller or an admin decides a refund.", kind=Kind.FORBIDDEN, code="not_the_seller")
