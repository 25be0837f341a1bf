"""Hold + capture on one hot account: the ledger's batcher, and the same two operations one by one in plain SQL.

    python -m bench.ledger [--url postgresql://...] [--callers 256] [--pairs 20000] [--rounds 3]

Without ``--url`` it starts an embedded PostgreSQL with the node's settings (fsync on) in a temporary folder. Each pair
posts three legs and stores a receipt of about 1,000 bytes, durably. Rounds of the two are interleaved; ``verify`` ends
the run.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import uvloop

from prsm.api.main import calm_collector
from prsm.core import database
from prsm.core.clock import now, uuid7
from prsm.core.database import Database, Pool
from prsm.core.embedded import EmbeddedPostgres, NodeHome
from prsm.tokenomics.ftns_service import Ledger
from prsm.tokenomics.orders import HoldOrder
from prsm.tokenomics.receipts import NodeSigner, ReceiptFacts, sign_receipt
from prsm.tokenomics.splits import Share, split
from prsm.tokenomics.verify import verify

SHARES = (Share("owner", "owner", 7000), Share("node", "executor", 2000), Share("treasury", "treasury", 1000))
LEGS = split(777, SHARES)
HELD = 1000
FUNDS = 10**15
NO_ID = UUID(int=0)
PEER_CONNECTIONS = 16
PEER_PAIRS_IN_A_ROUND = 1000

# Each begins with the head's lock, as the ledger does: in any other order they would deadlock.
PEER_HOLD = """
WITH head AS (UPDATE ledger_head SET position = position + 1 WHERE id = 1 RETURNING position),
account AS (UPDATE ledger_accounts SET held_micro = held_micro + $4
            WHERE id = $2 AND balance_micro - held_micro >= $4 AND (SELECT position FROM head) > 0 RETURNING id),
budget AS (UPDATE ledger_budgets SET held_micro = held_micro + $4
           WHERE api_key_id = $3 AND (cap_micro IS NULL OR cap_micro - spent_micro - held_micro >= $4)
           AND (SELECT id FROM account) IS NOT NULL RETURNING 1)
INSERT INTO ledger_holds (id, position, account_id, api_key_id, amount_micro, expires_at, created_at)
SELECT $1, head.position, $2, $3, $4, now() + interval '900 s', now() FROM head, account, budget
"""
PEER_CAPTURE = """
WITH head AS (UPDATE ledger_head SET position = position + 1 + cardinality($4::bigint[]) WHERE id = 1
              RETURNING position - cardinality($4::bigint[]) AS position),
hold AS (SELECT account_id, api_key_id, amount_micro FROM ledger_holds WHERE id = $1),
ended AS (INSERT INTO ledger_resolutions SELECT $1, head.position, 1, $2, now() FROM head RETURNING 1),
posted AS (INSERT INTO ledger_transfers
    SELECT head.position + leg.ord, null, $1, hold.account_id, leg.account_id, leg.amount, leg.kind, now()
    FROM head, hold, unnest($4::bigint[], $5::bigint[], $6::text[]) WITH ORDINALITY leg(account_id, amount, kind, ord)),
moved AS (UPDATE ledger_accounts a SET balance_micro = a.balance_micro + m.delta, held_micro = a.held_micro - m.unheld
    FROM (SELECT account_id, -$2 AS delta, amount_micro AS unheld FROM hold
          UNION ALL SELECT account_id, amount, 0 FROM unnest($4::bigint[], $5::bigint[]) AS leg(account_id, amount)) m
    WHERE a.id = m.account_id AND (SELECT position FROM head) > 0 RETURNING 1),
spent AS (UPDATE ledger_budgets b SET spent_micro = b.spent_micro + $2, held_micro = b.held_micro - hold.amount_micro
    FROM hold WHERE b.api_key_id = hold.api_key_id AND (SELECT count(*) FROM moved) > 0)
INSERT INTO receipts SELECT $1, hold.account_id, $3, now() FROM hold
"""

Pair = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Account:
    """One funded account with its key, and a receipt of its captures but for the request's id."""

    id: int
    key_id: UUID
    receipt: bytes

    def receipt_of(self, hold_id: UUID) -> bytes:
        """As long and as true as a signed one; signing is the answer path's cost, not the ledger's."""
        return self.receipt.replace(str(NO_ID).encode(), str(hold_id).encode(), 1)


@dataclass(frozen=True, slots=True)
class Measured:
    """One round: pairs per second, and the milliseconds of a pair."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


async def measure(pair: Pair, callers: int, pairs: int) -> Measured:
    """Run ``pairs`` by ``callers`` at once; each starts its next pair when the last is answered."""
    spent: list[float] = []

    async def caller() -> None:
        for _ in range(max(1, pairs // callers)):
            started = time.perf_counter()
            await pair()
            spent.append((time.perf_counter() - started) * 1000)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[caller() for _ in range(callers)])
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    spent.sort()
    return Measured(
        len(spent) / wall, spent[len(spent) // 2], spent[int(len(spent) * 0.99)], cpu / len(spent) * 1_000_000
    )


def batched(ledger: Ledger, account: Account) -> Pair:
    """A pair by the node's ledger."""

    async def pair() -> None:
        hold_id = uuid7()
        await ledger.hold(HoldOrder(hold_id, account.id, account.key_id, HELD))
        await ledger.capture(hold_id, LEGS, receipt=account.receipt_of(hold_id))

    return pair


async def one_by_one(ledger: Ledger, pool: Pool, account: Account) -> Pair:
    """A pair in two transactions of one statement each, over a pool of connections."""
    accounts = [await ledger.account_id(leg.account) for leg in LEGS]
    amounts, kinds = [leg.amount_micro for leg in LEGS], [leg.kind for leg in LEGS]
    total = sum(amounts)

    async def pair() -> None:
        hold_id = uuid7()
        assert await pool.execute(PEER_HOLD, hold_id, account.id, account.key_id, HELD) == "INSERT 0 1"
        done = await pool.execute(PEER_CAPTURE, hold_id, total, account.receipt_of(hold_id), accounts, amounts, kinds)
        assert done == "INSERT 0 1"

    return pair


async def open_account(ledger: Ledger, pool: Pool) -> Account:
    """A new account with money and a capped key."""
    name, principal_id, key_id = f"principal:{uuid4()}", uuid4(), uuid4()
    account_id = await ledger.account_id(name)
    await ledger.transfer(uuid4(), "issuance", name, FUNDS, "grant")
    await pool.execute("INSERT INTO principals (id, name, role) VALUES ($1, 'bench', 'user')", principal_id)
    await pool.execute(
        "INSERT INTO api_keys (id, principal_id, prefix, key_hash, name, scopes) "
        "VALUES ($1, $2, $3, '', 'bench', '{}')",
        key_id,
        principal_id,
        str(key_id),
    )
    await ledger.set_cap(key_id, FUNDS)
    return Account(account_id, key_id, _receipt(name))


def _receipt(account: str) -> bytes:
    facts = ReceiptFacts(
        request_id=NO_ID,
        account=account,
        operation="chat",
        request_digest="0" * 64,
        output_digest="0" * 64,
        model="bench/model",
        model_version="2026-01-01",
        model_cid="bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
        provider="bench",
        input_tokens=777,
        output_tokens=0,
        cached_input_tokens=0,
        metered_by="upstream",
        input_price_micro=1_000_000,
        output_price_micro=0,
        held_micro=HELD,
        captured_micro=sum(leg.amount_micro for leg in LEGS),
        completed=True,
        screened_by=(),
        at=now(),
    )
    return sign_receipt(facts, LEGS, NodeSigner("prsm1" + "a" * 32, "0" * 64, lambda _: bytes(64)))


def fsyncs_per_s(folder: Path, seconds: float = 1.0) -> float:
    """How often this disk can be told to keep 8 KiB: what bounds commits that nobody shares."""
    with tempfile.TemporaryFile(dir=folder) as file:
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            os.pwrite(file.fileno(), bytes(8192), 8192 * (count % 256))
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.perf_counter() - started)


@contextmanager
def home() -> Generator[Path]:
    """A folder that the server's own account can reach when this runs as root."""
    with tempfile.TemporaryDirectory(prefix="prsm-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def tell(name: str, rounds: list[Measured]) -> float:
    """Print the median of each number over the rounds; answers the pairs per second."""
    per_s, p50, p99, cpu = (
        statistics.median(getattr(one, part) for one in rounds) for part in ("per_s", "p50_ms", "p99_ms", "cpu_us")
    )
    print(f"{name:34} {per_s:9.0f} pairs/s   p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   client CPU {cpu:5.0f} us/pair")
    return per_s


async def compare(db: Database, peer_pool: Pool, callers: int, pairs: int, rounds: int) -> None:
    ledger = Ledger(lambda: database.connect_one(db.url, timeout_s=10), db.pool)
    ledger.start()
    try:
        account = await open_account(ledger, db.pool)
        ours, peer = batched(ledger, account), await one_by_one(ledger, peer_pool, account)
        await measure(ours, callers, callers * 4)
        await measure(peer, PEER_CONNECTIONS, PEER_CONNECTIONS * 4)
        calm_collector()  # as the node does: a full collection stops all 256 callers for a quarter second
        many: list[Measured] = []
        theirs: list[Measured] = []
        alone: list[Measured] = []
        for _ in range(rounds):
            many.append(await measure(ours, callers, pairs))
            theirs.append(await measure(peer, callers, PEER_PAIRS_IN_A_ROUND))
            alone.append(await measure(ours, 1, 300))
        fast = tell(f"batcher, {callers} callers", many)
        slow = tell(f"one by one, {callers} on {PEER_CONNECTIONS} connections", theirs)
        tell("batcher, 1 caller", alone)
        print(f"ratio {fast / slow:.1f}x   orders per batch {ledger.committed_orders / ledger.committed_batches:.0f}")
    finally:
        await ledger.close()


async def prove(db: Database) -> None:
    started = time.perf_counter()
    connection = await database.connect_one(db.url, timeout_s=60)
    found = await verify(connection)
    connection.terminate()
    print(f"verify: {found.events} events in {time.perf_counter() - started:.1f} s, {found.violation_count} violations")
    for sentence in found.violations[:5]:
        print(" ", sentence)


async def run(options: argparse.Namespace, folder: Path) -> None:
    async with AsyncExitStack() as stack:
        url: str | None = options.url
        if url is None:
            node = stack.enter_context(NodeHome.claim(folder / "home"))
            server = EmbeddedPostgres(node.server_site(outside=folder))
            await server.start()
            stack.push_async_callback(server.stop)
            url = server.url
        db = await database.connect(url, pool_size=3, timeout_ms=20_000)
        stack.push_async_callback(db.close)
        peer = await database.connect(url, pool_size=PEER_CONNECTIONS, timeout_ms=60_000)
        stack.push_async_callback(peer.close)
        await database.migrate(db)
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {fsyncs_per_s(folder):.0f} fdatasync/s")
        await compare(db, peer.pool, options.callers, options.pairs, options.rounds)
        await prove(db)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a PostgreSQL database to use; it is migrated, and what is written stays")
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs in a round of the batcher")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with home() as folder:
        uvloop.run(run(options, folder))


if __name__ == "__main__":
    main()
