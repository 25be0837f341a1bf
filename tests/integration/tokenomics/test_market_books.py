"""Offers, quotes, refunds and statements over a real ledger, alone and with several writers at once."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.ledger import PAYER, World, open_world, outcomes

from prsm.core.clock import uuid7
from prsm.core.errors import PrsmError
from prsm.core.keys import NodeKey
from prsm.tokenomics.market.account_books import read_month
from prsm.tokenomics.market.offers import Offer, State, Terms
from prsm.tokenomics.market.pricing import Band
from prsm.tokenomics.market.quote_book import QuoteLimits, Wish
from prsm.tokenomics.market.quoting import BoundQuote
from prsm.tokenomics.market.refund_book import RefundBook
from prsm.tokenomics.marketplace import Marketplace, MarketRules
from prsm.tokenomics.orders import HoldOrder
from prsm.tokenomics.quotes import Price
from prsm.tokenomics.receipts import NodeSigner, ReceiptFacts, sign_receipt
from prsm.tokenomics.replay import Replay
from prsm.tokenomics.splits import Leg, Share, pay_upstream, split
from prsm.tokenomics.verify import verify

KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
SIGNER = NodeSigner(KEY.node_id, KEY.public_key_hex, KEY.sign)
SHARES = (
    Share("seller", "owner", 7000),
    Share("node:self", "executor", 2000),
    Share("treasury", "treasury", 1000),
)
TERMS = Terms(
    Band(1_000_000, 500_000, 2_000_000), Band(4_000_000, 1_000_000, 8_000_000), 6000, Band(100_000, 50_000, 200_000)
)
EPOCH_S = 60


@dataclass
class Market:
    """A market whose clock and meters the test sets."""

    world: World
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    metered: dict[str, int] = field(default_factory=dict[str, int])

    def open(self, *, epoch_s: int = EPOCH_S) -> Marketplace:
        """The same market, as another worker has it, or this one after a restart."""
        rules = MarketRules(epoch_s, 3600, QuoteLimits(600, 5))
        return Marketplace(
            self.world.db.pool,
            self.world.ledger,
            SIGNER,
            lambda: self.now,
            rules,
            self.world.subject_keys,
            metered_tokens=lambda instance: self.metered.get(instance, 0),
        )

    async def charged(self, captured: int, legs: tuple[Leg, ...] | None = None) -> UUID:
        """A request that was answered, with its receipt."""
        hold_id = await self.world.hold(captured)
        legs = split(captured, SHARES) if legs is None else legs
        facts = ReceiptFacts(
            request_id=hold_id,
            account=PAYER,
            operation="chat",
            request_digest="0" * 64,
            output_digest="0" * 64,
            model="p/m",
            model_version="1",
            model_cid="",
            provider="p",
            input_tokens=captured,
            output_tokens=0,
            cached_input_tokens=0,
            metered_by="upstream",
            input_price_micro=1_000_000,
            output_price_micro=0,
            held_micro=captured,
            captured_micro=captured,
            completed=True,
            screened_by=(),
            at=self.now,
        )
        await self.world.ledger.capture(hold_id, legs, receipt=sign_receipt(facts, legs, SIGNER))
        return hold_id

    async def balances(self, *accounts: str) -> tuple[int, ...]:
        return tuple([(await self.world.ledger.balance(account)).balance_micro for account in accounts])

    async def proof(self) -> Replay:
        async with self.world.db.pool.acquire() as connection:
            return await verify(connection)

    async def released(self, hold_id: UUID) -> None:
        await self.world.ledger.release(hold_id)

    async def posted(self, offer: Offer) -> Price:
        return (await self.open().offers.offer(offer.id)).posted


@pytest.fixture
async def market(fresh_database: str) -> AsyncIterator[Market]:
    async with open_world(fresh_database) as world:
        yield Market(world)


# -- offers -----------------------------------------------------------------------------------------------------


async def test_an_offer_lives_through_its_states_and_every_revision_is_kept(market: Market) -> None:
    book = market.open().offers
    offer = await book.open("p/m", "seller", TERMS, "seller")
    assert (offer.state, offer.posted) == (State.OPEN, Price(1_000_000, 4_000_000, 100_000))
    dearer = Terms(Band(2_000_000, 1, 3_000_000), TERMS.output, 9000, text="for all")
    await book.revise(offer.id, dearer, State.PAUSED, "admin")
    assert [found.posted for found in await book.live()] == [Price(2_000_000, 4_000_000)]
    await book.revise(offer.id, None, State.WITHDRAWN, "seller")
    assert await book.live() == []
    revisions, moves = await book.history(offer.id)
    assert [(one.revision, one.state, one.terms, one.by_account) for one in revisions] == [
        (3, State.WITHDRAWN, dearer, "seller"),
        (2, State.PAUSED, dearer, "admin"),
        (1, State.OPEN, TERMS, "seller"),
    ]
    assert moves == []
    assert await outcomes([book.revise(offer.id, None, State.OPEN, "seller"), book.offer(uuid4())]) == [
        "offer_withdrawn",
        "unknown_offer",
    ]
    assert (await book.open("p/m", "seller", TERMS, "seller")).id != offer.id


async def test_more_offers_than_are_handled_in_one_go(market: Market) -> None:
    book = market.open().offers
    await market.world.db.pool.execute(
        "INSERT INTO market_offers (id, instance, owner_account, state, revision, terms, input_price_micro, "
        "output_price_micro, epoch) SELECT gen_random_uuid(), 'p/' || number, 'seller', 'open', 1, "
        "convert_from($1, 'UTF8')::jsonb, 1000000, 4000000, 0 FROM generate_series(1, 450) AS number",
        msgspec.json.encode(TERMS),
    )
    assert {offer.instance for offer in await book.live()} == {f"p/{number}" for number in range(1, 451)}
    assert await book.close_epoch(7) == 450
    assert {offer.posted.input_micro for offer in await book.live()} == {875_000}


async def test_an_instance_has_one_live_offer_whoever_is_first(market: Market) -> None:
    books = [market.open().offers for _ in range(8)]
    assert sorted(await outcomes([book.open("p/m", "seller", TERMS, "seller") for book in books])) == [
        "",
        *["offer_exists"] * 7,
    ]
    assert len(await books[0].live()) == 1


@pytest.mark.parametrize("table", ["market_offer_revisions", "market_prices", "market_refunds"])
async def test_what_was_said_cannot_be_changed(market: Market, table: str) -> None:
    with pytest.raises(asyncpg.RestrictViolationError):
        await market.world.db.pool.execute(f"DELETE FROM {table}")
    await market.world.db.pool.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
    assert f"The table {table} has lost the trigger" in (await market.proof()).violations[0]


# -- epochs -----------------------------------------------------------------------------------------------------


async def test_an_epoch_moves_the_prices_once_whichever_worker_is_first(market: Market) -> None:
    workers = [market.open() for _ in range(4)]
    offer = await workers[0].offers.open("p/m", "seller", TERMS, "seller")
    paused = await workers[0].offers.open("p/n", "seller", TERMS, "seller")
    await workers[0].offers.revise(paused.id, None, State.PAUSED, "seller")
    for worker in workers:
        await worker.reload()
        await worker.note_usage()
    for step, worker in enumerate(workers, 1):
        market.metered["p/m"] = 6000 + step  # counted by each worker for itself; here all have the same meter
        await worker.note_usage()
    epoch = await workers[0].offers.epoch()
    used = await market.world.db.pool.fetchval("SELECT sum(tokens) FROM market_usage WHERE epoch >= $1 - 1", epoch)
    assert used == 4 * 6000 + 10
    await market.world.db.pool.execute("UPDATE market_usage SET epoch = $1", epoch + 1)
    moved = await asyncio.gather(*[worker.offers.close_epoch(epoch + 1) for worker in workers])
    assert sorted(moved) == [0, 0, 0, 1]
    # 24,010 of 6,000 tokens: more than twice the target, so an eighth.
    assert await market.posted(offer) == Price(1_125_000, 4_500_000, 112_500)
    assert await market.posted(paused) == paused.posted
    assert await workers[1].offers.close_epoch(epoch + 1) == 0
    _, moves = await workers[1].offers.history(offer.id)
    assert [(move.epoch, move.used_tokens, move.posted) for move in moves] == [
        (epoch + 1, used, Price(1_125_000, 4_500_000, 112_500))
    ]
    assert await workers[0].offers.close_epoch(epoch + 2) == 1
    assert await market.posted(offer) == Price(984_375, 3_937_500, 98_438)
    assert await market.world.db.pool.fetchval("SELECT count(*) FROM market_usage") == 0


async def test_an_offer_that_is_being_quoted_while_its_epoch_closes_keeps_its_demand(market: Market) -> None:
    book, pool = market.open().offers, market.world.db.pool
    offer = await book.open("p/m", "seller", TERMS, "seller")
    await book.note_usage({"p/m": 24_000, "gone": 1})
    epoch = await book.epoch() + 1
    await pool.execute("UPDATE market_usage SET epoch = $1", epoch)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM market_offers WHERE id = $1 FOR UPDATE", offer.id)
        assert await book.close_epoch(epoch) == 0
    assert await book.close_epoch(epoch) == 1
    assert (await market.posted(offer)).input_micro == 1_125_000
    assert await pool.fetchval("SELECT count(*) FROM market_usage") == 0


async def test_the_epoch_in_which_a_worker_first_saw_an_offer_moves_nothing(market: Market) -> None:
    worker = market.open(epoch_s=1)
    offer = await worker.offers.open("p/m", "seller", TERMS, "seller")
    assert await worker.move_prices() == 0
    await worker.reload()
    assert await worker.move_prices() == 0
    moved = 0
    while not moved:
        await asyncio.sleep(0.1)
        moved = await worker.move_prices()
    assert moved == 1
    assert (await market.posted(offer)).input_micro == 875_000


async def test_a_revision_while_an_epoch_closes_loses_neither(market: Market) -> None:
    book = market.open().offers
    offer = await book.open("p/m", "seller", TERMS, "seller")
    epoch = await book.epoch()
    narrow = Terms(TERMS.input, TERMS.output, 1, TERMS.cached_input, "narrow")
    await asyncio.gather(
        *[book.close_epoch(epoch + step) for step in range(1, 9)],
        *[book.revise(offer.id, narrow, State.OPEN, "seller") for _ in range(8)],
    )
    await book.close_epoch(epoch + 9)
    after = await book.offer(offer.id)
    assert (after.revision, after.terms) == (9, narrow)
    _, moves = await book.history(offer.id)
    assert moves[0].posted == after.posted
    assert after.posted.input_micro < TERMS.input.base_micro


# -- quotes -----------------------------------------------------------------------------------------------------


def wish(account: str = PAYER, tokens: int = 1000, ttl_s: int = 60) -> Wish:
    return Wish(account, "auto", tokens, 100, ttl_s)


async def quoted(maker: Marketplace, *, account: str = PAYER) -> BoundQuote:
    body = json.loads(await maker.quotes.make(wish(account), "p/m", Price(7, 8)))
    return await maker.quotes.quote(UUID(body["quote"]["id"]), account)


async def test_a_quote_is_of_the_posted_prices_and_survives_a_rise_and_a_restart(market: Market) -> None:
    maker = market.open()
    assert (await quoted(maker)).price == Price(7, 8)
    offer = await maker.offers.open("p/m", "seller", TERMS, "seller")
    bound = await quoted(maker)
    await maker.offers.revise(offer.id, Terms(Band(9, 9, 9), Band(9, 9, 9), 1), State.OPEN, "seller")
    found = await market.open().quotes.quote(bound.id, PAYER)
    assert found == bound
    assert found.price == offer.posted
    signed = json.loads(await maker.quotes.body(bound.id, PAYER))
    assert signed["quote"]["prices"]["cached_input_micro_per_mtok"] == 100_000
    assert await outcomes([maker.quotes.quote(bound.id, "another"), maker.quotes.body(uuid4(), PAYER)]) == [
        "unknown_quote",
        "unknown_quote",
    ]


async def test_of_many_requests_at_once_one_takes_a_quote(market: Market) -> None:
    maker = market.open()
    bound = await quoted(maker)
    holds = [await market.world.hold(5) for _ in range(8)]
    assert sorted(await outcomes([market.open().quotes.take(bound.id, hold) for hold in holds])) == [
        "",
        *["quote_used"] * 7,
    ]


async def test_a_request_that_ends_in_no_charge_leaves_the_quote_to_the_next(market: Market) -> None:
    maker = market.open()
    bound = await quoted(maker)
    failed, answered, late = [await market.world.hold(5) for _ in range(3)]
    await maker.quotes.take(bound.id, failed)
    assert await outcomes([maker.quotes.take(bound.id, answered)]) == ["quote_used"]
    await market.released(failed)
    await maker.quotes.take(bound.id, answered)
    await market.world.ledger.capture(answered, (Leg("seller", "owner", 5),))
    assert await outcomes([maker.quotes.take(bound.id, late)]) == ["quote_used"]


async def test_a_quote_ends_and_is_forgotten(market: Market) -> None:
    maker = market.open()
    bound = await quoted(maker)
    hold = await market.world.hold(5)
    market.now = bound.valid_until
    assert await outcomes([maker.quotes.take(bound.id, hold)]) == ["quote_used"]
    assert await maker.quotes.forget_old() == 0
    market.now += timedelta(days=1, seconds=1)
    assert await maker.quotes.forget_old() == 1


async def test_open_quotes_are_bounded_by_account_and_by_the_offers_capacity(market: Market) -> None:
    maker = market.open()
    made = await outcomes([market.open().quotes.make(wish(), "p/m", Price(7, 8)) for _ in range(8)])
    assert sorted(made) == [*[""] * 5, *["too_many_quotes"] * 3]
    # 6,000 tokens a minute for at most ten minutes; each of these takes 25,100.
    offer = await maker.offers.open("q/m", "seller", TERMS, "seller")
    wishes = [wish(f"account{number}", 25_000) for number in range(4)]
    made = await outcomes([market.open().quotes.make(one, "q/m", Price(7, 8)) for one in wishes])
    assert sorted(made) == ["", "", "too_many_quotes", "too_many_quotes"]
    market.now += timedelta(seconds=61)
    await maker.quotes.make(wish(), "q/m", Price(7, 8))
    await maker.offers.revise(offer.id, None, State.PAUSED, "seller")
    assert await outcomes([maker.quotes.make(wish(), "q/m", Price(7, 8))]) == ["offer_paused"]


# -- refunds ----------------------------------------------------------------------------------------------------


async def test_a_refund_goes_back_in_proportion_and_is_proven(market: Market) -> None:
    request = await market.charged(1000)
    before = await market.balances(PAYER)
    book = market.open().refunds
    refund = await book.ask(request, PAYER, "poor_quality", amount_micro=555, note="nonsense")
    assert (refund.state, refund.seller_account, refund.asked_micro) == ("asked", "seller", 555)
    paid = await book.decide(refund.id, "admin", is_admin=True, amount_micro=555)
    assert paid.state == "paid"
    assert dict(paid.decisions[0].parts) == {"seller": 389, "node:self": 111, "treasury": 55}
    assert await market.balances(PAYER, "seller", "node:self", "treasury") == (before[0] + 555, 311, 89, 45)
    rest = await book.decide(refund.id, "admin", is_admin=True, amount_micro=445)
    assert (rest.state, rest.granted_micro, rest.paid_micro) == ("paid", 1000, 1000)
    assert await market.balances(PAYER, "seller", "node:self", "treasury") == (before[0] + 1000, 0, 0, 0)
    proof = await market.proof()
    assert (proof.violations, proof.refunds) == ((), 6)
    assert await outcomes([book.decide(refund.id, "admin", is_admin=True, amount_micro=1)]) == ["invalid_request"]


async def test_of_many_decisions_at_once_the_grants_never_exceed_the_capture(market: Market) -> None:
    request = await market.charged(1000)
    refund = await market.open().refunds.ask(request, PAYER, "other")
    decided = await outcomes(
        [market.open().refunds.decide(refund.id, "admin", is_admin=True, amount_micro=300) for _ in range(8)]
    )
    assert sorted(decided) == ["", "", "", *["invalid_request"] * 5]
    found = await market.open().refunds.refund(refund.id)
    assert (found.granted_micro, found.paid_micro, len(found.decisions)) == (900, 900, 3)
    assert await market.world.db.pool.fetchval("SELECT count(*) FROM market_refunds_owed") == 0
    assert (await market.proof()).violations == ()


async def test_paying_again_pays_nothing_twice(market: Market) -> None:
    request = await market.charged(1000)
    book = market.open().refunds
    refund = await book.ask(request, PAYER, "other")
    await book.decide(refund.id, "admin", is_admin=True, amount_micro=1000)
    before = await market.balances(PAYER, "seller")
    assert await asyncio.gather(*[market.open().refunds.pay(refund.id) for _ in range(8)]) == [0] * 8
    assert await market.balances(PAYER, "seller") == before


async def test_what_a_seller_cannot_give_back_now_waits_until_it_can(market: Market) -> None:
    request = await market.charged(1000)
    book = market.open().refunds
    await market.world.ledger.account_id("elsewhere")
    await market.world.ledger.transfer(uuid4(), "seller", "elsewhere", 600, "payout")
    refund = await book.ask(request, PAYER, "other")
    part = await book.decide(refund.id, "admin", is_admin=True, amount_micro=1000)
    assert (part.state, part.paid_micro) == ("waiting", 400)
    assert await market.balances("seller") == (0,)
    assert await book.pay_owed() == 0
    await market.world.fund("seller", 250)
    assert await book.pay_owed() == 0
    assert (await book.refund(refund.id)).paid_micro == 650
    await market.charged(1000)
    assert await book.pay_owed() == 1
    assert (await book.refund(refund.id)).state == "paid"
    assert await book.pay_owed() == 0
    assert await market.balances("seller") == (350,)
    assert (await market.proof()).violations == ()


async def test_a_grant_whose_node_died_before_it_paid_is_paid_later(market: Market) -> None:
    request = await market.charged(1000)
    book = market.open().refunds
    refund = await book.ask(request, PAYER, "other")
    async with market.world.sequencer_held():
        decision = asyncio.create_task(book.decide(refund.id, "admin", is_admin=True, amount_micro=1000))
        while not await market.world.db.pool.fetchval("SELECT count(*) FROM market_refunds_owed"):
            await asyncio.sleep(0.01)
        decision.cancel()
        await asyncio.gather(decision, return_exceptions=True)
    assert (await book.refund(refund.id)).state == "waiting"
    assert await market.open().refunds.pay_owed() == 1
    assert (await book.refund(refund.id)).state == "paid"


async def test_a_seller_decides_once_of_its_own_and_an_admin_may_give_more(market: Market) -> None:
    request = await market.charged(1000)
    book = market.open().refunds
    refund = await book.ask(request, PAYER, "other")
    assert await outcomes(
        [
            book.decide(refund.id, "seller", is_admin=False, amount_micro=701),
            book.decide(refund.id, PAYER, is_admin=False, amount_micro=1),
            book.decide(refund.id, "treasury", is_admin=False, amount_micro=1),
        ]
    ) == ["invalid_request", "not_the_seller", "unknown_refund"]
    refused = await book.decide(refund.id, "seller", is_admin=False, amount_micro=0, note="it was right")
    assert refused.state == "refused"
    assert await outcomes([book.decide(refund.id, "seller", is_admin=False, amount_micro=9)]) == ["refund_decided"]
    granted = await book.decide(refund.id, "admin", is_admin=True, amount_micro=100)
    assert (granted.state, granted.paid_micro) == ("paid", 100)
    assert [found.id for found in await book.refunds("seller", limit=10)] == [refund.id]
    assert await book.refunds("treasury", limit=10) == []
    assert await book.refunds(None, limit=10, before=refund.id) == []


async def test_what_may_not_be_asked(market: Market) -> None:
    request = await market.charged(1000)
    free = await market.charged(0)
    own = await market.charged(100, (Leg(PAYER, "owner", 100),))
    book = market.open().refunds
    assert await outcomes(
        [
            book.ask(uuid7(), PAYER, "other"),
            book.ask(request, "another", "other"),
            book.ask(request, PAYER, "because"),
            book.ask(request, PAYER, "other", amount_micro=1001),
            book.ask(free, PAYER, "other"),
            book.ask(own, PAYER, "other"),
        ]
    ) == ["unknown_receipt", "unknown_receipt", *["invalid_request"] * 4]
    assert sorted(await outcomes([book.ask(request, PAYER, "other") for _ in range(4)])) == ["", *["refund_asked"] * 3]
    market.now += timedelta(seconds=3601)
    late = await market.charged(5)
    market.now += timedelta(seconds=3601)
    with pytest.raises(PrsmError, match="within 3600 seconds"):
        await book.ask(late, PAYER, "other")


async def test_the_ledger_itself_refunds_no_more_than_was_captured(market: Market) -> None:
    """Whatever the rules above it were to say."""
    request = await market.charged(100)
    await market.world.fund("rich", 10_000)
    assert await market.world.ledger.refund(request, {"rich": 70, "seller": 90}) > 0
    assert (
        await market.world.db.pool.fetchval("SELECT sum(amount_micro) FROM ledger_transfers WHERE kind = 'refund'")
        == 100
    )
    proof = await market.proof()
    assert any("which was paid 0" in violation or "it got 0" in violation for violation in proof.violations)
    assert await outcomes([market.world.ledger.refund(uuid7(), {"rich": 1})]) == ["nothing_captured"]
    assert await outcomes([market.world.ledger.refund(request, {"nobody": 1})]) == ["unknown_account"]


TAMPERED: Mapping[str, tuple[str, str]] = {
    "a refund raised": (
        "UPDATE ledger_transfers SET amount_micro = amount_micro + 1 WHERE kind = 'refund'",
        "refunded of",
    ),
    "another's money": (
        "UPDATE ledger_transfers SET debit_account_id = (SELECT id FROM ledger_accounts WHERE name = 'rich') "
        "WHERE position = (SELECT min(position) FROM ledger_transfers WHERE kind = 'refund')",
        "it got 0",
    ),
    "to another": (
        "UPDATE ledger_transfers SET credit_account_id = (SELECT id FROM ledger_accounts WHERE name = 'rich') "
        "WHERE kind = 'refund'",
        "was paid by",
    ),
    "of another request": (
        "UPDATE ledger_transfers SET refund_of = gen_random_uuid() WHERE kind = 'refund'",
        "captured nothing",
    ),
    "of no request": ("UPDATE ledger_transfers SET refund_of = null WHERE kind = 'refund'", "names no request"),
    "by another name": ("UPDATE ledger_transfers SET kind = 'gift' WHERE kind = 'refund'", "is of the kind gift"),
}


async def test_every_changed_refund_is_found(market: Market) -> None:
    request = await market.charged(1000)
    await market.world.fund("rich", 10_000)
    book = market.open().refunds
    refund = await book.ask(request, PAYER, "other")
    await book.decide(refund.id, "admin", is_admin=True, amount_micro=1000)
    missed: dict[str, tuple[str, ...]] = {}
    async with market.world.db.pool.acquire() as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("CREATE TEMP TABLE kept AS TABLE ledger_transfers")
        for name, (change, sentence) in TAMPERED.items():
            await connection.execute(change)
            found = await verify(connection)
            if not any(sentence in violation for violation in found.violations):
                missed[name] = found.violations
            await connection.execute("TRUNCATE ledger_transfers; INSERT INTO ledger_transfers TABLE kept")
        assert (await verify(connection)).violations == ()
        await connection.execute("SET session_replication_role = origin")
    assert missed == {}


# -- statements -------------------------------------------------------------------------------------------------

BY_SQL = """
SELECT kind, sum(CASE WHEN credit_account_id = a.id THEN amount_micro ELSE 0 END)::bigint,
    sum(CASE WHEN debit_account_id = a.id THEN amount_micro ELSE 0 END)::bigint
FROM ledger_transfers t, ledger_accounts a WHERE a.name = $1 AND a.id IN (credit_account_id, debit_account_id)
    AND t.created_at >= $2::date AND t.created_at < ($2::date + interval '1 month') GROUP BY kind ORDER BY kind
"""


async def assert_equal_to_the_ledger(market: Market, months: list[str]) -> None:
    pool = market.world.db.pool
    books = market.open().accounts
    for row in await pool.fetch("SELECT name, balance_micro FROM ledger_accounts"):
        name, closing = row["name"], 0
        for month in months:
            made = await books.statement(name, month)
            assert made.opening_micro == closing
            lines = [tuple(line) for line in await pool.fetch(BY_SQL, name, read_month(month))]
            assert [(line.kind, line.received_micro, line.paid_micro) for line in made.lines] == lines
            closing = made.closing_micro
        assert closing == row["balance_micro"]


async def test_statements_are_the_ledgers_postings_before_while_and_after_they_are_summed(market: Market) -> None:
    royalties = (("upstream", 2500), ("dataset", 100))
    for captured in (1000, 777, 1):
        legs = split(captured, SHARES)
        await market.charged(captured, (*pay_upstream(legs[0], royalties), *legs[1:]))
    request = await market.charged(5000)
    book = market.open().refunds
    refund = await book.ask(request, PAYER, "other")
    await book.decide(refund.id, "admin", is_admin=True, amount_micro=1234)
    pool = market.world.db.pool
    # As if half of it had been last year.
    await pool.execute("ALTER TABLE ledger_transfers DISABLE TRIGGER append_only")
    await pool.execute("UPDATE ledger_transfers SET created_at = '2025-11-30 23:59:59.9+00' WHERE position < 7")
    months = ["2025-10", "2025-11", "2025-12", datetime.now(UTC).strftime("%Y-%m")]
    await assert_equal_to_the_ledger(market, months)
    assert await market.open().accounts.sum_up() > 10
    await assert_equal_to_the_ledger(market, months)
    await market.charged(99)
    await assert_equal_to_the_ledger(market, months)
    summed = await asyncio.gather(*[market.open().accounts.sum_up() for _ in range(4)])
    assert sum(summed) == 3
    await assert_equal_to_the_ledger(market, months)
    earned = await market.open().accounts.earnings("upstream")
    assert earned.earned_micro == {"owner": 0, "executor": 0, "royalty": 311, "treasury": 0}
    seller = await market.open().accounts.earnings("seller")
    assert seller.net_micro == (await market.balances("seller"))[0]
    assert seller.refunded_micro == 864
    assert sum(seller.by_month.values()) == seller.net_micro


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-1", "26-01-01", "2026-01-01", "0000-01"])
def test_a_month_is_written_in_one_way(month: str) -> None:
    with pytest.raises(PrsmError, match="like 2026-01"):
        read_month(month)


async def test_who_was_erased_meanwhile_asks_nothing_back(market: Market) -> None:
    """The log's trigger would make a salt anew, by which notes from before pass for changed ones."""
    pool, principal_id, hold_id = market.world.db.pool, uuid4(), uuid7()
    account = f"principal:{principal_id}"
    account_id = await market.world.fund(account, 1000)
    await market.world.ledger.hold(HoldOrder(hold_id, account_id, None, 100))
    splits = [{"account": "seller", "kind": "owner", "amount_micro": 100}]
    amounts = {"held_micro": 100, "captured_micro": 100}
    receipt = {"id": str(hold_id), "account": account, "amounts": amounts, "splits": splits}
    legs = (Leg("seller", "owner", 100),)
    await market.world.ledger.capture(hold_id, legs, receipt=json.dumps({"receipt": receipt}).encode())
    keys = market.world.subject_keys
    await keys.key(principal_id)  # as a worker has it that has not heard of the erasure yet
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("DELETE FROM subject_salts WHERE subject_id = $1", principal_id)
        await connection.execute("INSERT INTO privacy_erasures (subject_id, certificate) VALUES ($1, '')", principal_id)
    book = RefundBook(pool, market.world.ledger, 3600, lambda: market.now, keys)
    assert await outcomes([book.ask(hold_id, account, "other", note="mine")]) == ["principal_erased"]
    assert await pool.fetchval("SELECT count(*) FROM subject_salts WHERE subject_id = $1", principal_id) == 0
