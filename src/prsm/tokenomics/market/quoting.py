"""A quote: prices the node has signed for one answer of one instance, until a time. Pure rules.

It honours one request whose input is at most its input tokens (four bytes a token, as the node estimates before anybody
has metered) and whose answer is cut at its output tokens. A request that ends without a charge has not used it.
"""

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from prsm.core import canonical
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.tokenomics.quotes import Price, estimate_tokens
from prsm.tokenomics.receipts import NodeSigner

DOMAIN = b"prsm-quote-v1\n"
"""Stands before the signed bytes, so that a quote's signature can be nothing else's."""
MAX_TOKENS = 100_000_000


class BoundQuote(Struct, frozen=True):
    """What a quote promises: ``asked`` is the model as the caller named it, ``instance`` the one that was chosen."""

    id: UUID
    account: str
    asked: str
    instance: str
    price: Price
    input_tokens: int
    output_tokens: int
    made_at: datetime
    valid_until: datetime

    @property
    def tokens(self) -> int:
        """All tokens that it honours."""
        return self.input_tokens + self.output_tokens


def sign_quote(quote: BoundQuote, signer: NodeSigner) -> bytes:
    """The quote as JSON bytes ``{"quote": {...}, "signature": hex}``: canonical JSON under Ed25519, as receipts are."""
    price = quote.price
    cached_micro = price.input_micro if price.cached_input_micro is None else price.cached_input_micro
    body = canonical.encode(
        {
            "version": 1,
            "id": str(quote.id),
            "node": {"id": signer.node_id, "public_key": signer.public_key_hex},
            "account": quote.account,
            "asked": quote.asked,
            "instance": quote.instance,
            "prices": {
                "input_micro_per_mtok": price.input_micro,
                "output_micro_per_mtok": price.output_micro,
                "cached_input_micro_per_mtok": cached_micro,
            },
            "input_tokens": quote.input_tokens,
            "output_tokens": quote.output_tokens,
            "time": quote.made_at.isoformat(timespec="milliseconds"),
            "valid_until": quote.valid_until.isoformat(timespec="milliseconds"),
        }
    )
    signature = signer.sign(DOMAIN + body)
    return b'{"quote":' + body + b',"signature":"' + signature.hex().encode() + b'"}'


def check_quote(input_tokens: int, output_tokens: int, ttl_s: int, most_s: int) -> None:
    """Raise InvalidRequest unless such a quote can be made."""
    for name, tokens, least in (("input_tokens", input_tokens, 1), ("output_tokens", output_tokens, 0)):
        if not least <= tokens <= MAX_TOKENS:
            raise InvalidRequest(f"{name} is from {least} to {MAX_TOKENS}.", param=name)
    if not 1 <= ttl_s <= most_s:
        raise InvalidRequest(f"ttl_s is from 1 to {most_s} seconds on this node.", param="ttl_s")


def check_use(quote: BoundQuote, asked: str, input_bytes: int, answers: int, now: datetime) -> None:
    """Raise unless a request for ``asked``, with such an input and so many ``answers``, may use the quote now."""
    if asked not in (quote.asked, quote.instance):
        raise InvalidRequest(f"The quote is for {quote.asked} ({quote.instance}).", code="quote_for_another_model")
    if now >= quote.valid_until:
        raise quote_gone("The quote has expired.", "quote_expired")
    if quote.output_tokens < answers:
        raise InvalidRequest(
            f"The quote is for {quote.output_tokens} output tokens.", code="quote_too_small", param="prsm.quote_id"
        )
    if estimate_tokens(input_bytes) > quote.input_tokens:
        raise InvalidRequest(
            f"The quote is for {quote.input_tokens} input tokens and the request has about "
            f"{estimate_tokens(input_bytes)}.",
            code="quote_too_small",
            param="prsm.quote_id",
            remedy="Shorten it, or ask for a quote of more.",
        )


def quote_gone(message: str, code: str) -> PrsmError:
    """The refusal for a quote that binds no more."""
    return PrsmError(message, kind=Kind.CONFLICT, code=code, param="prsm.quote_id", remedy="Ask for a new quote.")
