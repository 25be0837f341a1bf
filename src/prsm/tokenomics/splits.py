"""How one captured amount is divided; exact to the last micro-FTNS, with a stated remainder rule.

The owner's part goes on upstream, to those whose models and data the owner's was made of, by the shares it declared.
"""

from collections.abc import Sequence

from msgspec import Struct

from prsm.core.money import BASIS_POINTS

MAX_ROYALTIES = 16
"""Accounts upstream that one answer pays, at most; with owner, executor and treasury, a capture has 19 legs at most."""


class Share(Struct, frozen=True, gc=False):
    """A part of the revenue in basis points (1/10,000) for ``account``; ``kind`` names it on the posting."""

    account: str
    kind: str
    bps: int


class Leg(Struct, frozen=True, gc=False):
    """One posting of a capture: ``amount_micro`` goes to ``account``."""

    account: str
    kind: str
    amount_micro: int


def split(amount_micro: int, shares: tuple[Share, ...]) -> tuple[Leg, ...]:
    """Divide ``amount_micro`` by ``shares``, each rounded down; the remainder goes to the first share.

    Legs of zero are left out. Raises ValueError when the shares are not 10,000 basis points together.
    """
    parts = [share.bps for share in shares]
    if sum(parts) != BASIS_POINTS or min(parts) < 0:
        raise ValueError(f"shares must be non-negative and sum to {BASIS_POINTS} basis points")
    amounts = [amount_micro * bps // BASIS_POINTS for bps in parts]
    amounts[0] += amount_micro - sum(amounts)
    return tuple(
        [Leg(share.account, share.kind, amount) for share, amount in zip(shares, amounts, strict=True) if amount]
    )


def pay_upstream(owner: Leg, royalties: Sequence[tuple[str, int]]) -> tuple[Leg, ...]:
    """Divide the owner's leg among it and ``royalties``, (account, basis points of the leg), each rounded down.

    What is left is the owner's, and stands first. Raises ValueError when there are too many, or they exceed the whole.
    """
    if len(royalties) > MAX_ROYALTIES:
        raise ValueError(f"an answer pays at most {MAX_ROYALTIES} royalties")
    own = Share(owner.account, owner.kind, BASIS_POINTS - sum([bps for _, bps in royalties]))
    return split(owner.amount_micro, (own, *[Share(account, "royalty", bps) for account, bps in royalties]))
