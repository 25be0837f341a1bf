"""Bills: charged is what was metered, never more than was held; all of it is paid out, and the receipt says so."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.support.asks import ask, plan, target

from prsm.agents.billing import Bill, Biller, Economy, Metered
from prsm.agents.call import EmbedCall, Usage
from prsm.agents.plan import Plan
from prsm.core.keys import NodeKey
from prsm.receipt_verifier import verify
from prsm.tokenomics.quotes import Price, charge_micro
from prsm.tokenomics.receipts import NodeSigner
from prsm.tokenomics.splits import MAX_ROYALTIES, Leg, Share

KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
ECONOMY = Economy(7000, 2000, 1000, "node:self")
DIGEST = "cd" * 32


def biller(economy: Economy = ECONOMY) -> Biller:
    return Biller(NodeSigner(KEY.node_id, KEY.public_key_hex, KEY.sign), economy, lambda: AT, ("words",))


def bill(made: Plan, usage: Usage, economy: Economy = ECONOMY, **metered: Any) -> Bill:
    return biller(economy).bill(made, made.candidates[0], Metered(usage, "upstream", DIGEST, **metered))


def receipt(made: Bill) -> dict[str, Any]:
    return json.loads(made.receipt)["receipt"]


def test_the_charge_is_the_price_of_what_was_metered() -> None:
    made = bill(plan(), Usage(10, 20, 4))
    assert (made.metered_micro, made.captured_micro, made.held_micro) == (50, 50, 240)
    assert (made.model, made.provider, made.reason) == ("up/m", "up", "because")
    assert made.request_id == UUID(int=1)


def test_what_is_metered_beyond_the_hold_is_not_charged_and_shown_as_uncovered() -> None:
    made = bill(plan(), Usage(10**6, 10**6))
    assert made.captured_micro == made.held_micro == 240
    assert made.metered_micro == 3_000_000
    assert receipt(made)["usage"]["output_tokens"] == 10**6


def test_cached_input_costs_what_it_is_priced_at() -> None:
    mine = target(cached_input_price_micro=100_000)
    made = bill(plan(mine), Usage(10, 20, 4))
    assert (made.held_micro, made.captured_micro) == (240, 7 + 40)  # 6 + 0.4, rounded up once
    assert receipt(made)["prices"]["cached_input_micro_per_mtok"] == 100_000
    assert verify(made.receipt)[0] == []


def test_those_upstream_are_paid_of_the_owners_part() -> None:
    mine = target(owner_account="owner", royalties=(("base", 5000), ("data", 1)))
    assert bill(plan(mine), Usage(10, 20)).legs == (
        Leg("owner", "owner", 18),
        Leg("base", "royalty", 17),
        Leg("node:self", "executor", 10),
        Leg("treasury", "treasury", 5),
    )


def test_shares_go_to_owner_executor_and_treasury() -> None:
    mine = target(owner_account="principal:owner", executor_account="node:other")
    assert bill(plan(mine), Usage(10, 20)).legs == (
        Leg("principal:owner", "owner", 35),
        Leg("node:other", "executor", 10),
        Leg("treasury", "treasury", 5),
    )


def test_where_nobody_owns_or_executes_the_node_itself_is_paid() -> None:
    assert ECONOMY.shares(target()) == (
        Share("node:self", "owner", 7000),
        Share("node:self", "executor", 2000),
        Share("treasury", "treasury", 1000),
    )


def test_the_remainder_of_rounding_is_the_owners() -> None:
    assert bill(plan(), Usage(1, 1)).legs == (Leg("node:self", "owner", 3),)


def test_a_free_answer_has_a_receipt_and_no_legs() -> None:
    made = bill(plan(target(price_in=0, price_out=0)), Usage(10, 20))
    assert (made.captured_micro, made.legs) == (0, ())
    assert verify(made.receipt)[0] == []


def test_the_receipt_states_every_fact_of_the_request() -> None:
    mine = target(version="v3", cid="bafy123", owner_account="principal:owner")
    made = bill(plan(mine), Usage(10, 20, 4), completed=False)
    assert verify(made.receipt, node_key=KEY.public_key_hex) == ([], KEY.public_key_hex)
    assert receipt(made) == {
        "version": 3,
        "id": str(UUID(int=1)),
        "time": "2026-01-02T03:04:05.678+00:00",
        "node": {"id": KEY.node_id, "public_key": KEY.public_key_hex},
        "account": "principal:caller",
        "operation": "chat",
        "request_digest": "ab" * 32,
        "output_digest": DIGEST,
        "completed": False,
        "model": {"name": "up/m", "version": "v3", "cid": "bafy123"},
        "provider": "up",
        "usage": {"input_tokens": 10, "output_tokens": 20, "cached_input_tokens": 4, "metered_by": "upstream"},
        "prices": {
            "input_micro_per_mtok": 1_000_000,
            "output_micro_per_mtok": 2_000_000,
            "cached_input_micro_per_mtok": 1_000_000,
        },
        "quote": "",
        "segments": [],
        "cached_from": "",
        "amounts": {"held_micro": 240, "captured_micro": 50},
        "splits": [
            {"account": "principal:owner", "kind": "owner", "amount_micro": 35},
            {"account": "node:self", "kind": "executor", "amount_micro": 10},
            {"account": "treasury", "kind": "treasury", "amount_micro": 5},
        ],
        "screened_by": ["words"],
        "screening": {"policy": "", "input": "", "output": "", "categories": []},
    }
    assert not made.completed


def test_embeddings_say_so() -> None:
    made = bill(plan(asked=ask(EmbedCall(UUID(int=2), ["a"], "auto"))), Usage(10, 0))
    assert receipt(made)["operation"] == "embeddings"
    assert made.captured_micro == 10


def test_shares_that_are_no_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="basis points"):
        bill(plan(), Usage(10, 20), replace(ECONOMY, treasury_bps=999))


@st.composite
def economies(draw: st.DrawFn) -> Economy:
    owner = draw(st.integers(0, 10_000))
    executor = draw(st.integers(0, 10_000 - owner))
    return Economy(owner, executor, 10_000 - owner - executor, "node:self")


@st.composite
def royalties(draw: st.DrawFn) -> tuple[tuple[str, int], ...]:
    cuts = sorted(draw(st.lists(st.integers(0, 10_000), max_size=MAX_ROYALTIES)))
    return tuple((f"up{place}", cut - before) for place, (before, cut) in enumerate(pairwise([0, *cuts])))


@given(
    economies(),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.none() | st.integers(0, 10**9),
    st.builds(Usage, st.integers(0, 10**4), st.integers(0, 10**4), st.integers(0, 10**4)),
    royalties(),
)
def test_every_bill_is_exact_and_every_receipt_verifies(
    economy: Economy,
    price_in: int,
    price_out: int,
    price_cached: int | None,
    usage: Usage,
    upstream: tuple[tuple[str, int], ...],
) -> None:
    cached = None if price_cached is None else min(price_cached, price_in)
    mine = target(price_in=price_in, price_out=price_out, cached_input_price_micro=cached, royalties=upstream)
    made = bill(plan(mine), usage, economy)
    price = Price(price_in, price_out, cached)
    assert made.metered_micro == charge_micro(price, usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)
    assert verify(made.receipt)[0] == []
    owners = sum(leg.amount_micro for leg in made.legs if leg.kind in ("owner", "royalty"))
    assert owners == made.captured_micro - sum(
        made.captured_micro * bps // 10_000 for bps in (economy.executor_bps, economy.treasury_bps)
    )
    assert made.captured_micro == min(made.metered_micro, made.held_micro)
    assert sum(leg.amount_micro for leg in made.legs) == made.captured_micro
    assert all(leg.amount_micro > 0 for leg in made.legs)
    assert receipt(made)["amounts"] == {"held_micro": made.held_micro, "captured_micro": made.captured_micro}


def test_a_bill_of_any_size_passes_the_standalone_verifier() -> None:
    for price, read, written in ((1, 1, 1), (999_999, 3, 7), (10**12, 10, 90)):
        assert verify(bill(plan(target(price_in=price, price_out=price)), Usage(read, written)).receipt)[0] == []
