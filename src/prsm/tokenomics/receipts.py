"""The receipt of one request: what was asked, answered, charged and paid, signed by the node that did it.

A receipt is canonical JSON under an Ed25519 signature (RFC 8032); anyone can check it without this project.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

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


class ReceiptFacts(Struct, frozen=True):
    """What a receipt binds. Digests are SHA-256 in hex; prices are micro-FTNS per million tokens.

    ``metered_by`` is ``upstream`` where the provider counted the tokens, ``node`` where this node estimated them.
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


def sign_receipt(facts: ReceiptFacts, legs: Sequence[Leg], signer: NodeSigner) -> bytes:
    """The receipt as JSON bytes ``{"receipt": {...}, "signature": hex}``, ready to be stored and shown."""
    body = canonical.encode_trusted(
        {
            "version": 1,
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
            },
            "amounts": {"held_micro": facts.held_micro, "captured_micro": facts.captured_micro},
            "splits": [{"account": leg.account, "kind": leg.kind, "amount_micro": leg.amount_micro} for leg in legs],
            "screened_by": list(facts.screened_by),
        }
    )
    signature = signer.sign(DOMAIN + body)
    return b'{"receipt":' + body + b',"signature":"' + signature.hex().encode() + b'"}'
