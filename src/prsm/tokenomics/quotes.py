"""What a request may cost at most, and what it did cost. Pure integer rules; prices are micro-FTNS per million tokens.

The worst case is known before anything runs: a byte-level tokenizer makes at most one token of each byte of the
request, and the answer is cut at its token limit. So a capture fits its hold; where an upstream meters more all the
same, the node bears the difference.
"""

from msgspec import Struct

from prsm.core.money import TOKENS_PER_PRICE, tokens_cost_micro

IMAGE_TOKENS = 3_000
"""Bound for one image given by address, whose size the request does not show."""
BYTES_PER_TOKEN = 4
"""The estimate used where no upstream metered: four bytes of UTF-8 a token."""


class Price(Struct, frozen=True, gc=False):
    """Micro-FTNS per million input and output tokens; ``cached_input_micro``, at most that of input, of cached ones.

    None: a cached input token costs as any.
    """

    input_micro: int
    output_micro: int
    cached_input_micro: int | None = None


class Quote(Struct, frozen=True, gc=False):
    """The most a request can cost with ``output_tokens`` as its limit (of all its choices together)."""

    worst_micro: int
    input_tokens: int
    output_tokens: int


def charge_micro(price: Price, input_tokens: int, output_tokens: int, cached_input_tokens: int = 0) -> int:
    """The price of metered tokens; each side rounded up, once, to a whole micro-FTNS.

    ``cached_input_tokens`` are part of ``input_tokens``. They never raise the charge, so that a hold for none of them
    covers it.
    """
    written = tokens_cost_micro(output_tokens, price.output_micro)
    if price.cached_input_micro is None or not cached_input_tokens:
        return tokens_cost_micro(input_tokens, price.input_micro) + written
    cached = min(cached_input_tokens, input_tokens)
    read_micro = (input_tokens - cached) * price.input_micro + cached * price.cached_input_micro
    return -(-read_micro // TOKENS_PER_PRICE) + written


def quote(price: Price, input_tokens: int, output_tokens: int, *, choices: int, cap_micro: int | None) -> Quote | None:
    """The worst case of a request, its answer shortened until it fits ``cap_micro``; None where not one token fits."""
    total = output_tokens * choices
    worst = charge_micro(price, input_tokens, total)
    if cap_micro is None or worst <= cap_micro:
        return Quote(worst, input_tokens, output_tokens)
    left = cap_micro - tokens_cost_micro(input_tokens, price.input_micro)
    if left < 0 or price.output_micro == 0:
        return None
    affordable = left * TOKENS_PER_PRICE // price.output_micro // choices
    if affordable < 1:
        return None
    return Quote(charge_micro(price, input_tokens, affordable * choices), input_tokens, affordable)


def estimate_tokens(size_bytes: int) -> int:
    """Tokens of a text of ``size_bytes`` where nobody counted them: at least one for any text."""
    return -(-size_bytes // BYTES_PER_TOKEN)
