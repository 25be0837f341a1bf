"""Receipts: canonical bytes under the node's signature."""

import json
from datetime import UTC, datetime
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from prsm.core import canonical
from prsm.tokenomics.receipts import DOMAIN, NodeSigner, ReceiptFacts, Screened, Segment, money_of, sign_receipt
from prsm.tokenomics.splits import Leg

PRIVATE = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
SIGNER = NodeSigner("prsm1node", PRIVATE.public_key().public_bytes_raw().hex(), PRIVATE.sign)
LEGS = (Leg("owner", "owner", 9), Leg("treasury", "treasury", 1))
FACTS = ReceiptFacts(
    request_id=UUID(int=5),
    account="principal:x",
    operation="chat",
    request_digest="ab" * 32,
    output_digest="cd" * 32,
    model="m",
    model_version="1",
    model_cid="bafy",
    provider="p",
    input_tokens=3,
    output_tokens=4,
    cached_input_tokens=1,
    metered_by="upstream",
    input_price_micro=1,
    output_price_micro=2,
    held_micro=20,
    captured_micro=10,
    completed=True,
    screened_by=("a", "b"),
    at=datetime(2026, 1, 2, 3, 4, 5, 678_900, UTC),
)


def test_the_signature_is_over_the_domain_and_the_canonical_receipt() -> None:
    signed = json.loads(sign_receipt(FACTS, LEGS, SIGNER))
    assert signed.keys() == {"receipt", "signature"}
    message = DOMAIN + canonical.encode(signed["receipt"])
    PRIVATE.public_key().verify(bytes.fromhex(signed["signature"]), message)


def test_it_binds_every_fact() -> None:
    """No fact can change without the signed bytes changing."""
    signed = sign_receipt(FACTS, LEGS, SIGNER)
    others = {
        "request_id": UUID(int=6),
        "completed": False,
        "screened_by": (),
        "segments": (Segment("m", "p", 4),),
        "screened": Screened("ab" * 32, "allow", "annotate", ("hate",)),
        "at": datetime(2026, 1, 2, 3, 4, 5, 679_000, UTC),
    }
    for name in ReceiptFacts.__struct_fields__:
        value = getattr(FACTS, name)
        other = others.get(name, value + 1 if isinstance(value, int) else f"{value}x")
        assert sign_receipt(replace(FACTS, **{name: other}), LEGS, SIGNER) != signed, name
    assert sign_receipt(FACTS, LEGS[:1], SIGNER) != signed


def test_what_it_says_of_the_money_can_be_read_again() -> None:
    money = money_of(sign_receipt(FACTS, LEGS, SIGNER))
    assert (money.id, money.account, money.splits) == (FACTS.request_id, FACTS.account, LEGS)
    assert (money.amounts.held_micro, money.amounts.captured_micro) == (FACTS.held_micro, FACTS.captured_micro)


def test_time_is_utc_with_milliseconds() -> None:
    assert json.loads(sign_receipt(FACTS, LEGS, SIGNER))["receipt"]["time"] == "2026-01-02T03:04:05.678+00:00"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_encoded_as_the_canonical_encoding_has_it(text: str) -> None:
    signed = sign_receipt(replace(FACTS, model=text, account=text), LEGS, SIGNER)
    receipt = json.loads(signed)["receipt"]
    assert receipt["model"]["name"] == text
    assert signed.startswith(b'{"receipt":' + canonical.encode(receipt) + b',"signature":"')
