"""Posted prices that follow demand, by the rule of EIP-1559's base fee. Pure integers, one step an epoch.

An epoch that used more of an offer's capacity than the target raises its price, one that used less lowers it, by an
eighth at most, and never past the offer's floor and ceiling.
"""

from msgspec import Struct

from prsm.core.money import BASIS_POINTS

TARGET_BPS = 8_000
"""The utilisation that leaves a price as it is: four fifths of the declared capacity, in basis points."""
DENOMINATOR = 8
"""A price moves by at most this part of itself in one epoch."""


class Band(Struct, frozen=True, gc=False):
    """Where a price starts and the bounds it stays within, in micro-FTNS per million tokens."""

    base_micro: int
    floor_micro: int
    ceiling_micro: int

    def clamp(self, price_micro: int) -> int:
        """The nearest price inside the bounds."""
        return min(max(price_micro, self.floor_micro), self.ceiling_micro)


def next_price(price_micro: int, used_tokens: int, capacity_tokens: int, band: Band) -> int:
    """The price of the next epoch, after one in which ``used_tokens`` of its ``capacity_tokens`` were used.

    ``delta = price * (used - target) / target / 8``, rounded toward zero, and one micro-FTNS at least when used is not
    the target. Demand counts up to twice the target, so that no step exceeds an eighth, upward or downward.
    Source: EIP-1559, BASE_FEE_MAX_CHANGE_DENOMINATOR 8, elasticity 2. Unlike there, a fall is at least one unit too:
    else a low price could never come down.
    """
    # In tokens x basis points, so that the target itself is exact.
    target, used = capacity_tokens * TARGET_BPS, used_tokens * BASIS_POINTS
    over = min(used, 2 * target) - target
    if over == 0:
        return band.clamp(price_micro)
    step = max(price_micro * abs(over) // (target * DENOMINATOR), 1)
    return band.clamp(price_micro + step if over > 0 else price_micro - step)
