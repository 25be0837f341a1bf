"""What the audit log costs and does: the ledger with and without it in turns, appends a second, proofs, replay.

    python -m bench.audit [--callers 256] [--pairs 10000] [--rounds 5] [--changes 20000] [--proofs 2000]

On an embedded PostgreSQL with the node's settings (fsync on). In each round the same pairs go through the ledger three
times: without the log; with it as the node has it (triggers, and every second a sequencer that reads new positions);
and with the design that was refused, a trigger that digests the rows of each statement within the ledger's batch.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.ledger import Measured, batched, fsyncs_per_s, home, measure, open_account, tell
from prsm.core import clock, database
from prsm.core.database import Database
from prsm.core.embedded import EmbeddedPostgres, NodeHome
from prsm.core.keys import NodeKey
from prsm.core.merkle.notes import VerifierKey, parse_checkpoint, parse_note
from prsm.core.merkle.tree import includes, leaf_hash
from prsm.safety.audit.log_book import LogBook
from prsm.safety.audit.sequencer import LogSigner, Sequencer
from prsm.safety.audit.verify import verify_log
from prsm.tokenomics.ftns_service import Ledger

KEY = NodeKey(Ed25519PrivateKey.generate())
LOG_KEY = VerifierKey("prsm.audit/bench", KEY.public_key_hex)
TABLES = ("ledger_accounts", "ledger_budgets", "ledger_transfers")
WRITERS = 8
REFUSED = """
CREATE FUNCTION bench_digest() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM audit_note('bench', jsonb_build_object('table', TG_TABLE_NAME, 'rows', count(*)::text,
        'sha256', encode(sha256(string_agg(row, ''::bytea)), 'hex'))) FROM ({rows}) AS each;
    RETURN NULL;
END $$
"""
REFUSED_ROWS = {
    "ledger_holds": "SELECT int8send(position) || uuid_send(id) || int8send(account_id) || int8send(amount_micro) "
    "|| timestamptz_send(expires_at) AS row FROM new_rows",
    "ledger_resolutions": "SELECT int8send(position) || uuid_send(hold_id) || int8send(captured_micro) AS row "
    "FROM new_rows",
    "ledger_transfers": "SELECT int8send(position) || uuid_send(hold_id) || int8send(debit_account_id) "
    "|| int8send(credit_account_id) || int8send(amount_micro) || convert_to(kind, 'UTF8') AS row FROM new_rows",
    "receipts": "SELECT uuid_send(id) || sha256(body) AS row FROM new_rows",
}


@asynccontextmanager
async def appending(sequencer: Sequencer) -> AsyncGenerator[None]:
    """The sequencer at work every second, as in a node."""

    async def work() -> None:
        while True:
            await asyncio.sleep(1)
            await sequencer.drain()

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def triggers(db: Database, state: str) -> None:
    for table in TABLES:
        names = await db.pool.fetch(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = $1::text::regclass AND tgname LIKE 'audit%'", table
        )
        for row in names:
            await db.pool.execute(f"ALTER TABLE {table} {state} TRIGGER {row['tgname']}")


async def refused_design(db: Database, on: bool) -> None:
    for table, rows in REFUSED_ROWS.items():
        name = f"bench_{table}"
        if on:
            await db.pool.execute(REFUSED.format(rows=rows).replace("bench_digest", name))
            await db.pool.execute(
                f"CREATE TRIGGER {name} AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
            )
        else:
            await db.pool.execute(f"DROP FUNCTION {name} CASCADE")


async def ledger_in_turns(db: Database, sequencer: Sequencer, options: argparse.Namespace) -> None:
    ledger = Ledger(lambda: database.connect_one(db.url, timeout_s=10), db.pool)
    ledger.start()
    found: dict[str, list[Measured]] = {"without": [], "with": [], "refused": []}
    try:
        pair = batched(ledger, await open_account(ledger, db.pool))
        await measure(pair, options.callers, options.callers * 4)
        for number in range(options.rounds):
            for kind in random.Random(number).sample(sorted(found), 3):
                await sequencer.drain()
                await triggers(db, "DISABLE" if kind == "without" else "ENABLE")
                if kind == "refused":
                    await refused_design(db, True)
                async with AsyncExitStack() as stack:
                    if kind == "with":
                        await stack.enter_async_context(appending(sequencer))
                    found[kind].append(await measure(pair, options.callers, options.pairs))
                if kind == "refused":
                    await refused_design(db, False)
        await triggers(db, "ENABLE")
    finally:
        await ledger.close()
    without = tell("ledger without the log", found["without"])
    within = tell("with the log", found["with"])
    refused = tell("with digests in each batch (refused)", found["refused"])
    each = [a.per_s / b.per_s for a, b in zip(found["with"], found["without"], strict=True)]
    print(f"with / without: {within / without:.3f} of medians; by round {' '.join(f'{ratio:.2f}' for ratio in each)}")
    print(f"refused / without: {refused / without:.3f}")


async def appends(db: Database, sequencer: Sequencer, changes: int) -> None:
    """Changes by several writers, one a transaction, and the sequencer beside them; then what a backlog takes."""
    await sequencer.drain()

    async def write(count: int) -> None:
        for _ in range(count):
            await db.pool.execute("INSERT INTO ledger_accounts (name) VALUES (gen_random_uuid()::text)")

    before, started = await log_size(db), time.perf_counter()
    async with appending(sequencer):
        await asyncio.gather(*[write(changes // WRITERS // 4) for _ in range(WRITERS)])
    wrote_s = time.perf_counter() - started
    await sequencer.drain()
    total_s, count = time.perf_counter() - started, await log_size(db) - before
    print(f"{count} changes, one a transaction, by {WRITERS} writers: {count / wrote_s:.0f}/s; all in the log after "
          f"{total_s:.1f} s")  # fmt: skip
    await db.pool.execute(
        "INSERT INTO audit_pending (at, actor, request, what, op, rows) SELECT now(), 'bench', '', 'bench', 'event', "
        "jsonb_build_array(jsonb_build_object('n', n::text, 'text', repeat('x', 200))) FROM generate_series(1, $1) n",
        changes,
    )
    started = time.perf_counter()
    count = await sequencer.drain()
    spent_s = time.perf_counter() - started
    print(f"a backlog of {count} taken in at {count / spent_s:.0f} entries/s, a signed checkpoint each 2,000")


async def proofs(db: Database, count: int) -> None:
    book, size = LogBook(db.pool), await log_size(db)
    root = parse_checkpoint(parse_note((await book.checkpoint())[1])).root
    spent: list[float] = []
    draw = random.Random(1)
    for _ in range(count):
        position, started = draw.randrange(size), time.perf_counter()
        proven = await book.prove(position)
        spent.append((time.perf_counter() - started) * 1000)
        assert includes(leaf_hash(proven.body), position, size, proven.proof, root)
    spent.sort()
    print(f"inclusion proofs of {size} entries: p50 {spent[count // 2]:.2f} ms, p99 {spent[int(count * 0.99)]:.2f} ms")


async def replay(db: Database) -> None:
    connection = await database.connect_one(db.url, timeout_s=120)
    started = time.perf_counter()
    verdict = await verify_log(connection, LOG_KEY)
    connection.terminate()
    print(f"verify: {verdict.entries} entries, {verdict.checkpoints} checkpoints and {verdict.ledger_positions} "
          f"positions in {time.perf_counter() - started:.1f} s, {verdict.finding_count} findings")  # fmt: skip
    for sentence in verdict.findings[:5]:
        print(" ", sentence)


async def log_size(db: Database) -> int:
    return await db.pool.fetchval("SELECT size FROM audit_head")


async def run(options: argparse.Namespace, folder: Path) -> None:
    async with AsyncExitStack() as stack:
        node = stack.enter_context(NodeHome.claim(folder / "home"))
        server = EmbeddedPostgres(node.server_site(outside=folder))
        await server.start()
        stack.push_async_callback(server.stop)
        db = await database.connect(server.url, pool_size=WRITERS + 2, timeout_ms=20_000)
        stack.push_async_callback(db.close)
        await database.migrate(db)
        sequencer = Sequencer(db.pool, LogSigner(LOG_KEY, KEY.sign), clock.now)
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {fsyncs_per_s(folder):.0f} fdatasync/s")
        await ledger_in_turns(db, sequencer, options)
        await appends(db, sequencer, options.changes)
        await proofs(db, options.proofs)
        await replay(db)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=10_000, help="pairs in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--proofs", type=int, default=2000)
    options = parser.parse_args()
    with home() as folder:
        uvloop.run(run(options, folder))


if __name__ == "__main__":
    main()
