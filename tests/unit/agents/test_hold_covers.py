"""The hold of a request covers whoever may answer it, however it ends, and what is not charged of it is let go."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.support.asks import LIMITS, ask, candidates, chat, target

from prsm.agents.billing import Biller, Economy, Metered
from prsm.agents.call import ChatCall, Choice, Target, Usage
from prsm.agents.hedging import HedgePolicy, hedge_for
from prsm.agents.plan import Ask, Plan, make_plan
from prsm.agents.response_cache import Kept, found
from prsm.agents.resuming import Chain, delivered_usage, joined_usage, said_tokens
from prsm.core.errors import PrsmError
from prsm.core.keys import NodeKey
from prsm.receipt_verifier import verify
from prsm.tokenomics.quotes import Price, charge_micro
from prsm.tokenomics.receipts import NodeSigner

NODE = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
BILLER = Biller(
    NodeSigner(NODE.node_id, NODE.public_key_hex, NODE.sign),
    Economy(7000, 2000, 1000, "node:self"),
    lambda: datetime(2026, 1, 1, tzinfo=UTC),
    (),
)
prices = st.integers(0, 10**9)
tokens = st.integers(0, 5_000)


@st.composite
def models(draw: st.DrawFn) -> list[Target]:
    return [
        target(
            f"p{number}/m",
            price_in=(price_in := draw(prices)),
            price_out=draw(prices),
            max_output_tokens=draw(st.integers(1, 4_000)),
            cached_input_price_micro=draw(st.none() | st.integers(0, price_in)),
        )
        for number in range(draw(st.integers(1, 3)))
    ]


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    call = chat(limit=draw(st.none() | st.integers(1, 4_000)))
    return ask(
        ChatCall(call.request_id, call.messages, "auto", True, call.max_output_tokens, {}),
        body_bytes=draw(st.integers(1, 100_000)),
        cap_micro=draw(st.none() | st.integers(0, 10**9)),
        choices=draw(st.integers(1, 3)),
    )


def planned(asked: Ask, targets: list[Target]) -> Plan:
    try:
        return make_plan(asked, candidates(*targets), LIMITS)
    except PrsmError as error:
        assume(error.code != "cost_cap_too_low")
        raise


def charged(plan: Plan, number: int, usage: Usage) -> int:
    bill = BILLER.bill(plan, plan.candidates[number], Metered(usage, "upstream", "ab" * 32))
    assert verify(bill.receipt)[0] == []
    assert sum(leg.amount_micro for leg in bill.legs) == bill.captured_micro <= plan.held_micro
    return bill.captured_micro


@given(asks(), models())
def test_the_hold_is_the_dearest_quote_and_within_the_cap(asked: Ask, targets: list[Target]) -> None:
    plan = planned(asked, targets)
    assert plan.held_micro == max(plan.quotes[c.target.name].worst_micro for c in plan.candidates)
    assert asked.cap_micro is None or plan.held_micro <= asked.cap_micro


@given(asks(), models(), st.data())
def test_whoever_answers_within_what_was_quoted_is_paid_in_full(
    asked: Ask, targets: list[Target], data: st.DataObject
) -> None:
    """Whichever candidate wins, first choice, fallback or hedge: its whole price fits the hold; the rest is let go."""
    plan = planned(asked, targets)
    number = data.draw(st.integers(0, len(plan.candidates) - 1))
    winner = plan.candidates[number].target
    quoted = plan.quotes[winner.name]
    read = data.draw(st.integers(0, quoted.input_tokens))
    said = data.draw(st.integers(0, quoted.output_tokens * asked.choices))
    usage = Usage(read, said, data.draw(st.integers(0, read)))
    price = Price(winner.input_price_micro, winner.output_price_micro, winner.cached_input_price_micro)
    assert charged(plan, number, usage) == charge_micro(price, read, said, usage.cached_input_tokens)


@given(asks(), models(), tokens, tokens, st.data())
def test_what_is_metered_beyond_is_the_nodes(
    asked: Ask, targets: list[Target], read: int, said: int, data: st.DataObject
) -> None:
    plan = planned(asked, targets)
    charged(plan, data.draw(st.integers(0, len(plan.candidates) - 1)), Usage(read, said))


@given(asks(), models(), st.floats(0.01, 5))
def test_a_hedge_is_always_one_whom_the_hold_covers(asked: Ask, targets: list[Target], usual_s: float) -> None:
    plan = planned(asked, targets)
    hedge = hedge_for(plan, HedgePolicy(max_output_tokens=10**6), lambda name: usual_s, lambda name: False)
    if hedge is None:
        return
    first, other = plan.candidates[0].target, hedge.candidate.target
    assert other.name != first.name
    assert plan.quotes[other.name].worst_micro <= plan.held_micro
    # Without a cap nobody is asked beside the first who charges more than it does.
    dearer = other.input_price_micro > first.input_price_micro or other.output_price_micro > first.output_price_micro
    assert asked.cap_micro is not None or not dearer


@given(asks(), models(), st.text(min_size=1, max_size=200), st.text(max_size=200), tokens, tokens)
def test_an_answer_of_several_instances_is_charged_once_at_the_first_ones_prices(
    asked: Ask, targets: list[Target], first_half: str, rest: str, read: int, said: int
) -> None:
    plan = planned(asked, targets)
    chain = Chain(plan.candidates[0].target)
    chain.pass_on(first_half, replace(plan.candidates[-1].target, name="z/m"))
    usage = joined_usage(asked, [Choice(content=first_half + rest)], Usage(read, said), first_half)
    assert usage.input_tokens + usage.output_tokens == read + said
    metered = Metered(usage, "node", "ab" * 32, segments=chain.segments(usage.output_tokens))
    bill = BILLER.bill(plan, plan.candidates[0], metered)
    assert verify(bill.receipt)[0] == []
    assert bill.captured_micro <= plan.held_micro


@given(asks(), models(), st.text(max_size=300))
def test_half_an_answer_costs_at_most_its_own_text_and_never_the_input(
    asked: Ask, targets: list[Target], text: str
) -> None:
    plan = planned(asked, targets)
    cost = charged(plan, 0, delivered_usage(asked, [Choice(content=text)]))
    price_micro = plan.candidates[0].target.output_price_micro
    assert cost == min(plan.held_micro, -(-said_tokens(text) * price_micro // 1_000_000))


@given(asks(), models(), tokens, tokens, st.integers(0, 10_000))
def test_a_cached_answer_costs_at_most_what_a_new_one_would(
    asked: Ask, targets: list[Target], read: int, said: int, share_bps: int
) -> None:
    plan = planned(asked, targets)
    again = found(plan.candidates[0], Kept(UUID(int=9), [], Usage(read, said), "upstream"), "exact", share_bps)
    assert again.completion.usage is not None
    bill = BILLER.bill(plan, again.candidate, Metered(again.completion.usage, "upstream", "ab" * 32))
    assert verify(bill.receipt)[0] == []
    assert bill.captured_micro <= charged(plan, 0, Usage(read, said))
