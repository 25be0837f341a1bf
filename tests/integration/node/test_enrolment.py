"""Enrolment: money and keys belong together, whatever happens between two steps."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from tests.support.ledger import World, open_world, outcomes, pay
from tests.support.servers import new_database

from prsm.core.errors import PrsmError
from prsm.core.identity import Grant, Identities, Principal
from prsm.tokenomics.enrolment import Enrolment, account_of
from prsm.tokenomics.orders import Budget, HoldOrder

pytestmark = pytest.mark.asyncio(loop_scope="module")

GRANT = 1000


class Office:
    """Enrolment over a real ledger."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.identities = Identities(world.db.pool, b"p" * 32, world.subject_keys)
        self.enrolment = self.granting(GRANT)

    def granting(self, amount_micro: int) -> Enrolment:
        return Enrolment(self.identities, self.world.ledger, welcome_grant_micro=amount_micro)

    async def budget(self, key_id: UUID) -> Budget | None:
        return (await self.world.ledger.budgets([key_id])).get(key_id)

    async def balance(self, principal: Principal) -> int:
        return (await self.world.ledger.balance(account_of(principal.id))).balance_micro

    async def hold(self, principal: Principal, key_id: UUID, amount_micro: int) -> UUID:
        order = HoldOrder(uuid4(), await self.world.ledger.account_id(account_of(principal.id)), key_id, amount_micro)
        await self.world.ledger.hold(order)
        return order.id


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(postgres_url: str) -> AsyncIterator[Office]:
    with new_database(postgres_url, f"office_{uuid4().hex}") as url:
        async with open_world(url) as world:
            yield Office(world)


async def test_a_new_principal_has_the_welcome_grant_once_however_often_it_is_welcomed(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    assert await office.balance(principal) == GRANT
    await asyncio.gather(*(office.enrolment.welcome(principal.id) for _ in range(5)))
    assert await office.balance(principal) == GRANT


async def test_a_grant_that_was_set_anew_is_not_given_to_who_had_the_old_one(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    await office.granting(GRANT * 2).welcome(principal.id)
    assert await office.balance(principal) == GRANT


async def test_without_a_grant_there_is_an_account_all_the_same(office: Office) -> None:
    principal = await office.granting(0).principal("bob", "user")
    assert await office.balance(principal) == 0
    query = "SELECT count(*) FROM ledger_accounts WHERE name = $1"
    assert await office.world.db.pool.fetchval(query, account_of(principal.id)) == 1


async def test_a_key_spends_within_its_budget_only(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    issued = await office.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=100)
    assert await office.budget(issued.key.id) == Budget(100, 0, 0)
    await office.hold(principal, issued.key.id, 100)
    with pytest.raises(PrsmError) as raised:
        await office.hold(principal, issued.key.id, 1)
    assert raised.value.code == "key_cap_exceeded"


async def test_a_key_whose_budget_was_never_made_cannot_spend(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    issued = await office.identities.create_key(principal.id, Grant("k"), actor=None)
    with pytest.raises(PrsmError) as raised:
        await office.hold(principal, issued.key.id, 1)
    assert raised.value.code == "invalid_api_key"
    # Nor does rotating it make one up.
    rotated = await office.enrolment.rotate(issued.key.id, actor=None, grace_s=0)
    assert await office.budget(rotated.key.id) is None


async def test_a_rotated_key_carries_what_was_left_and_the_old_one_keeps_what_it_holds(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    old = await office.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=100)
    spent = await office.hold(principal, old.key.id, 30)
    await office.world.ledger.capture(spent, pay(30))
    held = await office.hold(principal, old.key.id, 20)
    new = await office.enrolment.rotate(old.key.id, actor=None, grace_s=60)
    assert await office.budget(new.key.id) == Budget(50, 0, 0)
    assert await office.budget(old.key.id) == Budget(50, 30, 20)
    await office.world.ledger.capture(held, pay(20))
    for key_id, amount, code in ((old.key.id, 1, "key_cap_exceeded"), (new.key.id, 51, "key_cap_exceeded")):
        assert await outcomes([office.hold(principal, key_id, amount)]) == [code]
    await office.hold(principal, new.key.id, 50)


async def test_a_key_without_a_cap_stays_without_one(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    old = await office.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=None)
    new = await office.enrolment.rotate(old.key.id, actor=None, grace_s=60)
    assert await office.budget(new.key.id) == await office.budget(old.key.id) == Budget(None, 0, 0)


async def test_a_cap_that_was_lowered_below_what_is_spent_leaves_nothing(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    old = await office.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=100)
    await office.hold(principal, old.key.id, 60)
    await office.world.ledger.set_cap(old.key.id, 50)
    new = await office.enrolment.rotate(old.key.id, actor=None, grace_s=60)
    assert await office.budget(new.key.id) == Budget(0, 0, 0)
    assert await office.budget(old.key.id) == Budget(50, 0, 60)


async def test_rotated_while_it_is_spending_two_keys_never_spend_more_than_one_cap(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    for _ in range(5):
        old = await office.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=20)
        spending = [asyncio.create_task(outcomes([office.hold(principal, old.key.id, 1)])) for _ in range(30)]
        new = await office.enrolment.rotate(old.key.id, actor=None, grace_s=60)
        await asyncio.gather(*spending)
        await outcomes(office.hold(principal, new.key.id, 1) for _ in range(30))
        budgets = [await office.budget(key_id) for key_id in (old.key.id, new.key.id)]
        assert sum(budget.held_micro for budget in budgets if budget) <= 20
        assert all(
            budget and budget.cap_micro is not None and budget.held_micro <= budget.cap_micro for budget in budgets
        )


async def test_what_a_capped_key_gives_to_another_is_taken_out_of_its_own_cap(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    parent = await office.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=100)
    await office.world.ledger.capture(await office.hold(principal, parent.key.id, 10), pay(10))
    await office.hold(principal, parent.key.id, 20)
    for wanted, given, left in ((30, 30, 70), (50, 40, 30), (5, 0, 30), (None, 0, 30)):
        child = await office.enrolment.key(principal.id, Grant("k"), actor=parent.key, cap_micro=wanted)
        assert await office.budget(child.key.id) == Budget(given, 0, 0)
        assert await office.budget(parent.key.id) == Budget(left, 10, 20)


async def test_who_names_no_cap_gets_all_that_a_capped_key_has_left(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    parent = await office.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=100)
    child = await office.enrolment.key(principal.id, Grant("k"), actor=parent.key, cap_micro=None)
    assert await office.budget(child.key.id) == Budget(100, 0, 0)
    assert await office.budget(parent.key.id) == Budget(0, 0, 0)


async def test_children_of_a_key_without_a_cap_get_what_is_wanted(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    parent = await office.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=None)
    for wanted in (None, 70, 70):
        child = await office.enrolment.key(principal.id, Grant("k"), actor=parent.key, cap_micro=wanted)
        assert await office.budget(child.key.id) == Budget(wanted, 0, 0)
    assert await office.budget(parent.key.id) == Budget(None, 0, 0)


async def test_a_key_whose_budget_was_never_made_makes_none_that_can_spend(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    parent = await office.identities.create_key(principal.id, Grant("k"), actor=None)
    child = await office.enrolment.key(principal.id, Grant("k"), actor=parent.key, cap_micro=None)
    assert await office.budget(child.key.id) is None


async def test_a_race_of_creations_and_spending_never_goes_beyond_one_cap(office: Office) -> None:
    principal = await office.enrolment.principal("ada", "user")
    await office.world.ledger.transfer(uuid4(), "issuance", account_of(principal.id), 10_000, "grant")
    parent = await office.enrolment.key(principal.id, Grant("k"), actor=None, cap_micro=300)
    spending = [asyncio.create_task(outcomes([office.hold(principal, parent.key.id, 1)])) for _ in range(100)]
    children = await asyncio.gather(
        *(office.enrolment.key(principal.id, Grant("k"), actor=parent.key, cap_micro=1) for _ in range(500))
    )
    await asyncio.gather(*spending)
    await outcomes(office.hold(principal, child.key.id, 1) for child in children)
    await outcomes(office.hold(principal, parent.key.id, 1) for _ in range(300))
    budgets = await office.world.ledger.budgets([parent.key.id, *(child.key.id for child in children)])
    assert sum(budget.cap_micro or 0 for budget in budgets.values()) == 300
    assert sum(budget.held_micro for budget in budgets.values()) == 300
