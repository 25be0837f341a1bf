"""Money is an int of micro-FTNS; prices are micro-FTNS per million tokens. No float ever touches it."""

import re

from prsm.core.errors import InvalidRequest

MICRO_PER_FTNS = 1_000_000
BASIS_POINTS = 10_000
"""Parts of a whole that shares are stated in."""
TOKENS_PER_PRICE = 1_000_000
MAX_AMOUNT_MICRO = 9 * 10**15
"""The largest amount that may be named: 9 billion FTNS, inside the 2^53-1 that every JSON reader keeps exact."""

_DECIMALS = 6
_AMOUNT = re.compile(r"([0-9]{1,30})(?:\.([0-9]{1,30}))?")


def parse_ftns(text: str) -> int:
    """Read ``"1.25"`` FTNS as micro-FTNS; more than six decimals, signs and exponents are refused."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{text[:40]!r} is not an amount of FTNS; write it like 1.25.")
    whole, decimals = match[1], (match[2] or "").rstrip("0")
    if len(decimals) > _DECIMALS:
        raise InvalidRequest(f"{text[:40]!r} has more than {_DECIMALS} decimals; the smallest unit is 0.000001 FTNS.")
    micro = int(whole) * MICRO_PER_FTNS + int(decimals.ljust(_DECIMALS, "0"))
    if micro > MAX_AMOUNT_MICRO:
        raise InvalidRequest(f"{text[:40]} FTNS is outside 0 to {MAX_AMOUNT_MICRO // MICRO_PER_FTNS} FTNS.")
    return micro


def format_ftns(micro: int) -> str:
    """Write micro-FTNS as FTNS without loss and without trailing zeros: 1250000 -> ``1.25``."""
    sign = "-" if micro < 0 else ""
    whole, part = divmod(abs(micro), MICRO_PER_FTNS)
    return f"{sign}{whole}.{part:06d}".rstrip("0").rstrip(".")


def tokens_cost_micro(tokens: int, price_micro_per_mtok: int) -> int:
    """Price of ``tokens`` at ``price_micro_per_mtok``, rounded up to a whole micro-FTNS."""
    return -(-tokens * price_micro_per_mtok // TOKENS_PER_PRICE)
