"""Random orders in random batches against a model of the ledger that knows nothing of batches, then ``verify``."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.ledger import World, open_world, outcomes, pay

from prsm.core.clock import uuid7
from prsm.tokenomics.orders import HoldOrder
from prsm.tokenomics.verify import verify

FUNDS = (0, 40, 10_000)
CAPS = (None, 0, 30, 500)


@dataclass
class ModelHold:
    account: int
    key: int | None
    amount: int
    ended: tuple[str, int] | None = None


@dataclass
class Model:
    """One order after the other; accounts and keys are numbered as in FUNDS and CAPS."""

    balance: list[int] = field(default_factory=lambda: list(FUNDS))
    held: list[int] = field(default_factory=lambda: [0] * len(FUNDS))
    spent: list[int] = field(default_factory=lambda: [0] * len(CAPS))
    key_held: list[int] = field(default_factory=lambda: [0] * len(CAPS))
    holds: dict[int, ModelHold] = field(default_factory=dict)

    def hold(self, name: int, account: int, key: int | None, amount: int) -> str:
        known = self.holds.get(name)
        if known:
            same = (known.account, known.key, known.amount) == (account, key, amount) and known.ended is None
            return "" if same else "duplicate_request"
        if self.balance[account] - self.held[account] < amount:
            return "insufficient_funds"
        if key is not None:
            cap = CAPS[key]
            if cap is not None and cap - self.spent[key] - self.key_held[key] < amount:
                return "key_cap_exceeded"
            self.key_held[key] += amount
        self.held[account] += amount
        self.holds[name] = ModelHold(account, key, amount)
        return ""

    def settle(self, name: int, kind: str, captured: int) -> str:
        hold = self.holds.get(name)
        if hold is None:
            return "" if kind == "release" else "unknown_hold"
        if hold.ended:
            return "" if kind == "release" or hold.ended == (kind, captured) else "hold_already_resolved"
        if captured > hold.amount:
            return "capture_exceeds_hold"
        hold.ended = (kind, captured)
        self.held[hold.account] -= hold.amount
        self.balance[hold.account] -= captured
        if hold.key is not None:
            self.key_held[hold.key] -= hold.amount
            self.spent[hold.key] += captured
        return ""


names = st.integers(0, 9)
holds = st.tuples(
    st.just("hold"),
    names,
    st.integers(0, len(FUNDS) - 1),
    st.sampled_from([None, 0, 1, 2, 3]),
    st.sampled_from([0, 1, 10, 15, 40]),
)
captures = st.tuples(st.just("capture"), names, st.sampled_from([0, 1, 10, 16]))
releases = st.tuples(st.just("release"), names, st.just(0))
batches = st.lists(st.lists(st.one_of(holds, holds, captures, releases), min_size=1, max_size=12), max_size=6)


async def same_as_model(world: World, script: list[list[tuple]]) -> None:
    accounts = [f"account:{uuid4()}" for _ in FUNDS]
    ids = [await world.ledger.account_id(account) for account in accounts]
    for account, amount in zip(accounts, FUNDS, strict=True):
        if amount:
            await world.fund(account, amount)
    keys = [await world.key(cap) for cap in CAPS]
    uuids = [uuid7() for _ in range(10)]
    model = Model()

    def send(order: tuple) -> Awaitable[object]:
        match order:
            case ("hold", name, account, key, amount):
                key_id: UUID | None = None if key is None else keys[key]
                return world.ledger.hold(HoldOrder(uuids[name], ids[account], key_id, amount))
            case ("capture", name, amount):
                return world.ledger.capture(uuids[name], pay(amount))
            case _:
                return world.ledger.release(uuids[order[1]])

    for batch in script:
        # In a batch what ends is done before what begins.
        ends = [order for order in batch if order[0] != "hold"]
        begins = [order for order in batch if order[0] == "hold"]
        before = world.ledger.committed_batches
        answered = await outcomes(send(order) for order in batch)
        assert world.ledger.committed_batches == before + 1
        expected = [model.settle(name, kind, amount) for kind, name, amount in ends]
        expected += [model.hold(*order[1:]) for order in begins]
        answers = [answer for answer, order in zip(answered, batch, strict=True) if order[0] != "hold"]
        answers += [answer for answer, order in zip(answered, batch, strict=True) if order[0] == "hold"]
        assert answers == expected

    for place, account in enumerate(accounts):
        balance = await world.ledger.balance(account)
        assert (balance.balance_micro, balance.held_micro) == (model.balance[place], model.held[place])
    for place, key_id in enumerate(keys):
        assert await world.spent_and_held(key_id) == (model.spent[place], model.key_held[place])


def test_any_orders_in_any_batches_do_what_the_model_does(fresh_database: str) -> None:
    with asyncio.Runner() as runner:
        opened = open_world(fresh_database)
        world = runner.run(opened.__aenter__())

        @settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(batches)
        def check(script: list[list[tuple]]) -> None:
            runner.run(same_as_model(world, script))

        async def sound() -> None:
            async with world.db.pool.acquire() as connection:
                found = await verify(connection)
            assert found.violations == ()
            assert found.captures > 0
            assert found.releases > 0

        try:
            check()
            runner.run(sound())
        finally:
            runner.run(opened.__aexit__(None, None, None))
