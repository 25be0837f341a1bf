"""Money is an int of micro-FTNS; prices are micro-FTNS per million tokens. No float ever touches it."""

from decimal import Decimal, InvalidOperation

from prsm.core.errors import InvalidRequest

MICRO_PER_FTNS = 1_000_000
TOKENS_PER_PRICE = 1_000_000
MAX_AMOUNT_MICRO = 10**17
"""The largest amount one account, hold or cap may name: 100 billion FTNS, far inside a signed 64-bit integer."""


def parse_ftns(text: str) -> int:
    """Read ``"1.25"`` FTNS as micro-FTNS; more than six decimals, signs and exponents are refused."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise InvalidRequest(f"{text!r} is not an amount of FTNS; write it like 1.25.") from None
    if not amount.is_finite() or "e" in text.lower():
        raise InvalidRequest(f"{text!r} is not an amount of FTNS; write it like 1.25.")
    micro = amount * MICRO_PER_FTNS
    if micro != micro.to_integral_value():
        raise InvalidRequest(f"{text} FTNS has more than six decimals; the smallest unit is 0.000001 FTNS.")
    if not 0 <= micro <= MAX_AMOUNT_MICRO:
        raise InvalidRequest(f"{text} FTNS is outside 0 to {MAX_AMOUNT_MICRO // MICRO_PER_FTNS} FTNS.")
    return int(micro)


def format_ftns(micro: int) -> str:
    """Write micro-FTNS as FTNS without loss and without trailing zeros: 1250000 -> ``1.25``."""
    sign = "-" if micro < 0 else ""
    whole, part = divmod(abs(micro), MICRO_PER_FTNS)
    return f"{sign}{whole}.{part:06d}".rstrip("0").rstrip(".")


def tokens_cost_micro(tokens: int, price_micro_per_mtok: int) -> int:
    """Price of ``tokens`` at ``price_micro_per_mtok``, rounded up to a whole micro-FTNS."""
    return -(-tokens * price_micro_per_mtok // TOKENS_PER_PRICE)
