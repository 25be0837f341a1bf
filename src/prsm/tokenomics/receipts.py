"""The receipt of one request: what was asked, answered, charged and paid, signed by the node that did it.

A receipt is canonical JSON under an Ed25519 signature (RFC 8032); anyone can check it without this project.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Struct

from prsm.core import canonical
from prsm.tokenomics.splits import Leg

DOMAIN = b"prsm-receipt-v1\n"
"""Stands before the signed bytes, so that a receipt's signature can be nothing else's."""


@dataclass(frozen=True, slots=True)
class NodeSigner:
    """The node's name, its Ed25519 public key in hex, and its signing function."""

    node_id: str
    public_key_hex: str
    sign: Callable[[bytes], bytes]


class Segment(Struct, frozen=True, gc=False):
    """A part of an answer that several instances made one after the other."""

    model: str
    provider: str
    output_tokens: int


class Screened(Struct, frozen=True):
    """What screening found: the digest of the policies, what was done about each side (empty where nobody looked),
    and the categories of both.
    """

    policy: str
    input: str
    output: str
    categories: tuple[str, ...] = ()


class ReceiptFacts(Struct, frozen=True):
    """What a receipt binds. Digests are SHA-256 in hex; prices are micro-FTNS per million tokens.

    ``metered_by`` is ``upstream`` where the provider counted the tokens, ``node`` where this node estimated them.
    ``cached_input_price_micro`` None: as any input token. ``quote_id`` names the quote whose prices applied.
    ``segments`` are empty where one instance made the whole answer. ``cached_from`` names the request whose answer was
    given again; no model was asked then. ``screened`` is None where no detector looked.
    """

    request_id: UUID
    account: str
    operation: str
    request_digest: str
    output_digest: str
    model: str
    model_version: str
    model_cid: str
    provider: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    metered_by: str
    input_price_micro: int
    output_price_micro: int
    held_micro: int
    captured_micro: int
    completed: bool
    screened_by: Sequence[str]
    at: datetime
    cached_input_price_micro: int | None = None
    quote_id: UUID | None = None
    segments: Sequence["Segment"] = ()
    cached_from: UUID | None = None
    screened: Screened | None = None


class Amounts(Struct, frozen=True):
    """What was set aside and what was charged."""

    held_micro: int
    captured_micro: int


class ReceiptMoney(Struct, frozen=True):
    """What a receipt, of any version, says of the money."""

    id: UUID
    account: str
    amounts: Amounts
    splits: tuple[Leg, ...]


def sign_receipt(facts: ReceiptFacts, legs: Sequence[Leg], signer: NodeSigner) -> bytes:
    """The receipt as JSON bytes ``{"receipt": {...}, "signature": hex}``, ready to be stored and shown.

    Version 2 states the price of cached input, which version 1 charged as any input, the quote, and who
    else than the model named took part: other instances of it, or an earlier answer. Version 3 states what
    screening found.
    """
    screened = facts.screened or _UNSCREENED
    cached_price_micro = facts.cached_input_price_micro
    body = canonical.encode_trusted(
        {
            "version": 3,
            "id": str(facts.request_id),
            "time": facts.at.isoformat(timespec="milliseconds"),
            "node": {"id": signer.node_id, "public_key": signer.public_key_hex},
            "account": facts.account,
            "operation": facts.operation,
            "request_digest": facts.request_digest,
            "output_digest": facts.output_digest,
            "completed": facts.completed,
            "model": {"name": facts.model, "version": facts.model_version, "cid": facts.model_cid},
            "provider": facts.provider,
            "usage": {
                "input_tokens": facts.input_tokens,
                "output_tokens": facts.output_tokens,
                "cached_input_tokens": facts.cached_input_tokens,
                "metered_by": facts.metered_by,
            },
            "prices": {
                "input_micro_per_mtok": facts.input_price_micro,
                "output_micro_per_mtok": facts.output_price_micro,
                "cached_input_micro_per_mtok": (
                    facts.input_price_micro if cached_price_micro is None else cached_price_micro
                ),
            },
            "quote": str(facts.quote_id) if facts.quote_id else "",
            "segments": [
                {"model": one.model, "provider": one.provider, "output_tokens": one.output_tokens}
                for one in facts.segments
            ],
            "cached_from": str(facts.cached_from) if facts.cached_from else "",
            "amounts": {"held_micro": facts.held_micro, "captured_micro": facts.captured_micro},
            "splits": [{"account": leg.account, "kind": leg.kind, "amount_micro": leg.amount_micro} for leg in legs],
            "screened_by": list(facts.screened_by),
            "screening": {
                "policy": screened.policy,
                "input": screened.input,
                "output": screened.output,
                "categories": list(screened.categories),
            },
        }
    )
    signature = signer.sign(DOMAIN + body)
    return b'{"receipt":' + body + b',"signature":"' + signature.hex().encode() + b'"}'


def money_of(signed: bytes) -> ReceiptMoney:
    """What a stored receipt says of the money; not its signature. Raises DecodeError, UnicodeDecodeError."""
    return _decoder.decode(signed).receipt


_UNSCREENED = Screened("", "", "")


class _Signed(Struct):
    receipt: ReceiptMoney


_decoder = msgspec.json.Decoder(_Signed)
