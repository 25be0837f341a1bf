"""The FTNS ledger: double entry, holds with capture and release, one sequencer. Only this file moves balances.

Orders of all callers are gathered while the batch before them commits, and go to PostgreSQL together in one
transaction. A batch whose fate a lost connection hides is sent again as it was: every order is idempotent by id.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, TypeVar
from uuid import UUID

import asyncpg
import structlog
from msgspec import Struct

from prsm.core.cancellation import end_tasks
from prsm.core.database import Connection, Pool
from prsm.core.errors import InvalidRequest, Kind, PrsmError, Unavailable
from prsm.core.money import MAX_AMOUNT_MICRO, format_ftns
from prsm.tokenomics.orders import (
    Balance,
    Budget,
    HoldOrder,
    Posting,
    Resolution,
    SettleOrder,
    Statement,
    hold_refusal,
    settle_refusal,
)
from prsm.tokenomics.splits import Leg

Order = TypeVar("Order", HoldOrder, SettleOrder)

_DONE = (0, 1)
_APPLY = "SELECT settled, held FROM ledger_apply($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14)"
_OPEN = """
SELECT h.id FROM ledger_holds h LEFT JOIN ledger_resolutions r ON r.hold_id = h.id
WHERE r.hold_id IS NULL AND h.expires_at > (SELECT swept_until FROM ledger_head WHERE id = 1) LIMIT $1
"""
_REFUSED = (asyncpg.PostgresError, ValueError, TypeError, OverflowError)
"""PostgreSQL undid the transaction, or the driver never sent it. After any other error the batch may have committed."""
_SHARE_CAP = """
WITH giver AS (
    SELECT cap_micro, greatest(0, cap_micro - spent_micro - held_micro) AS left_micro
    FROM ledger_budgets WHERE api_key_id = $1 FOR UPDATE
), share AS (
    SELECT CASE WHEN cap_micro IS NULL THEN $3 ELSE least($3, left_micro) END AS micro FROM giver
), taken AS (
    UPDATE ledger_budgets SET cap_micro = cap_micro - micro FROM share WHERE api_key_id = $1
)
INSERT INTO ledger_budgets (api_key_id, cap_micro) SELECT $2, micro FROM share
"""
_TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)


class _Waiting(Struct, Generic[Order]):
    order: Order
    done: "asyncio.Future[None]"
    deadline: float


_BUSY_ORDERS = 8
_LINGER_STEPS = 4
_log: Any = structlog.get_logger("ledger")


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """Bounds: orders per batch, orders waiting, seconds an order may wait, seconds a hold lives.

    ``linger_s`` is the longest wait after a busy batch, which ends when no more orders come: a batch of few costs
    nearly as much as one of many. A lone caller never waits for it.
    """

    batch_max: int = 1000
    queue_max: int = 20_000
    timeout_s: float = 10
    hold_ttl_s: int = 900
    linger_s: float = 0.008


class Ledger:
    """The one door to balances; ``start`` before use, ``close`` after."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        pool: Pool,
        limits: LedgerLimits | None = None,
    ) -> None:
        """``connect`` opens the sequencer's own asyncpg connection; ``pool`` serves everything else."""
        self._connect = connect
        self._pool = pool
        self._limits = limits or LedgerLimits()
        self._connection: Connection | None = None
        self._holds: deque[_Waiting[HoldOrder]] = deque()
        self._settles: deque[_Waiting[SettleOrder]] = deque()
        self._wake = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closing = False
        self._current: tuple[list[_Waiting[SettleOrder]], list[_Waiting[HoldOrder]]] = ([], [])
        self._account_ids: dict[str, int] = {}
        self.committed_batches = 0
        self.committed_orders = 0

    def start(self) -> None:
        """Begin to take orders."""
        self._runner = asyncio.create_task(self._run(), name="ledger")

    async def close(self) -> None:
        """Commit what is queued (bounded by the order time-out), then stop; what could not be committed is refused."""
        self._closing = True
        self._wake.set()
        if self._runner:
            await asyncio.wait([self._runner], timeout=self._limits.timeout_s)
            await end_tasks([self._runner])
        await self._drop_connection()

    @property
    def waiting(self) -> int:
        """Orders queued and not yet committed."""
        return len(self._holds) + len(self._settles)

    async def hold(self, order: HoldOrder) -> None:
        """Set money aside, durably. Raises LedgerRefusal (no funds, cap), PrsmError (key revoked), Unavailable.

        A caller that is cancelled while waiting leaves no hold behind.
        """
        waiting = self._enqueue(self._holds, order)
        try:
            await waiting.done
        except asyncio.CancelledError:
            # Cancelled after the batch was answered and before this caller woke: nobody else lets the hold go.
            if not waiting.done.cancelled() and waiting.done.exception() is None:
                self.release_later(order.id)
            raise

    async def capture(
        self,
        hold_id: UUID,
        legs: tuple[Leg, ...],
        *,
        receipt: bytes | None = None,
        answer: bytes | None = None,
        along: Statement | None = None,
    ) -> None:
        """Charge a hold and pay ``legs``; what is left of the hold is free again. Durable on return.

        ``receipt``, ``answer`` and ``along`` are committed with it, or not at all.
        """
        postings: list[Posting] = []
        for leg in legs:
            account_id = self._account_ids.get(leg.account) or await self.account_id(leg.account)
            postings.append((account_id, leg.amount_micro, leg.kind))
        total = sum([leg.amount_micro for leg in legs])
        order = SettleOrder(hold_id, Resolution.CAPTURE, total, tuple(postings), receipt, answer, along)
        await self._enqueue(self._settles, order).done

    async def release(self, hold_id: UUID) -> None:
        """Let a hold go; releasing one that ended already is no error."""
        try:
            await self._enqueue(self._settles, SettleOrder(hold_id, Resolution.RELEASE)).done
        except PrsmError as error:
            if error.code not in ("hold_already_resolved", "unknown_hold"):
                raise

    def release_later(self, hold_id: UUID) -> None:
        """Let a hold go without waiting; should the order be lost, the hold expires by itself."""
        waiting = self._waiting(SettleOrder(hold_id, Resolution.RELEASE))
        waiting.done.add_done_callback(_forget)
        self._settles.append(waiting)
        self._wake.set()

    async def transfer(self, transfer_id: UUID, debit: str, credit: str, amount_micro: int, kind: str) -> bool:
        """Post outside a hold; False when this very transfer stood already. Raises PrsmError when refused."""
        if not 0 < amount_micro <= MAX_AMOUNT_MICRO or debit == credit:
            raise InvalidRequest(
                f"A transfer moves 0.000001 to {format_ftns(MAX_AMOUNT_MICRO)} FTNS between two different accounts."
            )
        outcome: int = await self._pool.fetchval(
            "SELECT ledger_transfer($1,$2,$3,$4,$5)", transfer_id, debit, credit, amount_micro, kind
        )
        if outcome == 2:
            raise PrsmError(
                f"The account {debit} has too little available.", kind=Kind.PAYMENT_REQUIRED, code="insufficient_funds"
            )
        if outcome == 5:
            raise PrsmError(f"There is no account {debit} or {credit}.", kind=Kind.NOT_FOUND, code="unknown_account")
        if outcome == 6:
            raise PrsmError("The transfer id was used already.", kind=Kind.CONFLICT, code="duplicate_transfer")
        return outcome == 0

    async def refund(self, request_id: UUID, owed: Mapping[str, int]) -> int:
        """Give back what a request was charged: from each account of ``owed`` what it owes in all and has not given.

        ``owed`` sums up all grants for the request, so that this can be asked again at any time. Answers what has to
        wait because an account has too little available. Raises PrsmError when nothing was captured.
        """
        row = await self._pool.fetchrow(
            "SELECT outcome, left_micro FROM ledger_refund($1,$2,$3)", request_id, list(owed), list(owed.values())
        )
        if row["outcome"] == 2:
            raise PrsmError(f"Request {request_id} was charged nothing.", kind=Kind.NOT_FOUND, code="nothing_captured")
        if row["outcome"] == 5:
            raise PrsmError("An account that owes does not exist.", kind=Kind.NOT_FOUND, code="unknown_account")
        return row["left_micro"]

    async def account_id(self, name: str) -> int:
        """The id of an account, opened when it is new."""
        known = self._account_ids.get(name)
        if known is not None:
            return known
        await self._pool.execute("INSERT INTO ledger_accounts (name) VALUES ($1) ON CONFLICT DO NOTHING", name)
        found: int = await self._pool.fetchval("SELECT id FROM ledger_accounts WHERE name = $1", name)
        if len(self._account_ids) >= 100_000:
            self._account_ids.clear()
        self._account_ids[name] = found
        return found

    async def has_account(self, name: str) -> bool:
        """Whether it was ever opened."""
        return await self._pool.fetchval("SELECT EXISTS (SELECT FROM ledger_accounts WHERE name = $1)", name)

    async def balance(self, account: str) -> Balance:
        """What an account has and holds; zero for one that was never opened."""
        row = await self._pool.fetchrow(
            "SELECT balance_micro, held_micro FROM ledger_accounts WHERE name = $1", account
        )
        return Balance(row["balance_micro"], row["held_micro"]) if row else Balance(0, 0)

    async def set_cap(self, api_key_id: UUID, cap_micro: int | None) -> None:
        """Give a key its budget row, or change its cap; None is no cap of its own."""
        await self._pool.execute(
            "INSERT INTO ledger_budgets (api_key_id, cap_micro) VALUES ($1, $2) "
            "ON CONFLICT (api_key_id) DO UPDATE SET cap_micro = $2",
            api_key_id,
            cap_micro,
        )

    async def share_cap(self, giver_id: UUID, new_key_id: UUID, wanted_micro: int | None) -> None:
        """Give a new key a part of what is left of the giver's cap, all of it for None, and take it out of that cap.

        What is left bounds the part; a giver without cap gives what is wanted, without a budget nothing, and then the
        new key cannot spend. Between two batches, so that nothing spent meanwhile is counted as left.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetchval("SELECT position FROM ledger_head WHERE id = 1 FOR UPDATE")
            await connection.execute(_SHARE_CAP, giver_id, new_key_id, wanted_micro)

    async def budgets(self, api_key_ids: Sequence[UUID]) -> dict[UUID, Budget]:
        """The budgets of keys."""
        rows = await self._pool.fetch(
            "SELECT api_key_id, cap_micro, spent_micro, held_micro FROM ledger_budgets WHERE api_key_id = ANY($1)",
            list(api_key_ids),
        )
        return {row["api_key_id"]: Budget(row["cap_micro"], row["spent_micro"], row["held_micro"]) for row in rows}

    async def release_open(self, step: int = 1000) -> int:
        """Let every open hold go; answers how many there were.

        Only for a node that has the database to itself and serves nobody yet: they are those of one that was killed.
        """
        total = 0
        while rows := await self._pool.fetch(_OPEN, step):
            await asyncio.gather(*(self.release(row["id"]) for row in rows))
            total += len(rows)
        return total

    async def expire_due(self, step: int = 2000) -> int:
        """End all holds whose time is over, ``step`` at a time so that orders pass in between; answers how many."""
        total, done = 0, False
        while not done:
            row = await self._pool.fetchrow("SELECT ended, done FROM ledger_expire($1)", step)
            total, done = total + row["ended"], row["done"]
        return total

    # -- the batcher --------------------------------------------------------------------------------------------

    def _waiting(self, order: Order) -> _Waiting[Order]:
        loop = asyncio.get_running_loop()
        return _Waiting(order, loop.create_future(), time.monotonic() + self._limits.timeout_s)

    def _enqueue(self, queue: deque[_Waiting[Order]], order: Order) -> _Waiting[Order]:
        if self._runner is None or self._runner.done():
            raise _stopped()
        if len(queue) >= self._limits.queue_max:
            raise Unavailable(
                "The ledger has more orders waiting than it may queue.",
                code="ledger_busy",
                remedy="Try again shortly.",
                retry_after_s=1,
            )
        waiting = self._waiting(order)
        queue.append(waiting)
        self._wake.set()
        return waiting

    async def _run(self) -> None:
        try:
            await self._take_turns()
        finally:
            # However the batcher ends, nobody is left waiting for it.
            settles, holds = self._current
            for waiting in (*settles, *holds, *self._settles, *self._holds):
                _resolve(waiting.done, _stopped())

    async def _take_turns(self) -> None:
        while self._holds or self._settles or not self._closing:
            if not (self._holds or self._settles):
                self._wake.clear()
                await self._wake.wait()
            settles = _take(self._settles, self._limits.batch_max)
            holds = [w for w in _take(self._holds, self._limits.batch_max) if not w.done.done()]
            self._current = (settles, holds)
            await self._commit(settles, holds)
            self._current = ([], [])
            if len(settles) + len(holds) >= _BUSY_ORDERS:
                await self._gather()

    async def _gather(self) -> None:
        """Wait while orders keep coming, so that the next batch has more of them."""
        until, before = time.monotonic() + self._limits.linger_s, -1
        while before < self.waiting < self._limits.batch_max and not self._closing and time.monotonic() < until:
            before = self.waiting
            await asyncio.sleep(self._limits.linger_s / _LINGER_STEPS)

    async def _commit(self, settles: list[_Waiting[SettleOrder]], holds: list[_Waiting[HoldOrder]]) -> None:
        """Send one batch until it is known to be committed or nothing of it is left; who waits behind it is told."""
        attempt = 0
        while settles or holds:
            try:
                settled, held = await self._apply([w.order for w in settles], [w.order for w in holds])
            except Exception as error:  # noqa: BLE001 - told to the callers; the batcher must outlive it
                if isinstance(error, _REFUSED) and not isinstance(error, _TRANSIENT):
                    await self._isolate(settles, holds, error)
                    return
                await self._drop_connection()
                holds = self._give_up_late(holds, error)
                await asyncio.sleep(min(0.05 * 2**attempt, 1))
                attempt += 1
            else:
                self._answer(settles, settled, holds, held)
                return

    async def _apply(self, settles: list[SettleOrder], holds: list[HoldOrder]) -> tuple[list[int], list[int]]:
        if self._connection is None:
            async with asyncio.timeout(self._limits.timeout_s):
                self._connection = await self._connect()
        async with asyncio.timeout(self._limits.timeout_s):
            if not any(order.along for order in settles):
                return await self._send(self._connection, settles, holds)
            async with self._connection.transaction():
                settled, held = await self._send(self._connection, settles, holds)
                ended = [order.along for order, outcome in zip(settles, settled, strict=True) if outcome == 0]
                for query, same in groupby(filter(None, ended), key=itemgetter(0)):
                    await self._connection.executemany(query, [arguments for _, arguments in same])
            return settled, held

    async def _send(
        self, connection: Connection, settles: list[SettleOrder], holds: list[HoldOrder]
    ) -> tuple[list[int], list[int]]:
        legs = [(place, *leg) for place, order in enumerate(settles, 1) for leg in order.legs]
        places, payees, amounts, kinds = zip(*legs, strict=True) if legs else ((), (), (), ())
        answers = [order.answer for order in settles]
        row = await connection.fetchrow(
            _APPLY,
            [order.hold_id for order in settles],
            [order.kind for order in settles],
            [order.captured_micro for order in settles],
            [order.receipt for order in settles],
            answers if any(answers) else None,
            places,
            payees,
            amounts,
            kinds,
            [order.id for order in holds],
            [order.account_id for order in holds],
            [order.api_key_id for order in holds],
            [order.amount_micro for order in holds],
            self._limits.hold_ttl_s,
        )
        return row["settled"], row["held"]

    def _answer(
        self,
        settles: list[_Waiting[SettleOrder]],
        settled: list[int],
        holds: list[_Waiting[HoldOrder]],
        held: list[int],
    ) -> None:
        self.committed_batches += 1
        self.committed_orders += len(settles) + len(holds)
        for waiting, outcome in zip(settles, settled, strict=True):
            _resolve(waiting.done, None if outcome in _DONE else settle_refusal(outcome, waiting.order))
        for waiting, outcome in zip(holds, held, strict=True):
            if not waiting.done.done():
                _resolve(waiting.done, None if outcome in _DONE else hold_refusal(outcome, waiting.order))
            elif outcome in _DONE:  # its caller was cancelled, or was told that it took too long
                self.release_later(waiting.order.id)

    def _give_up_late(self, holds: list[_Waiting[HoldOrder]], error: Exception) -> list[_Waiting[HoldOrder]]:
        """Fail the orders that waited too long, in the queues too; answers those of a batch's ``holds`` that did not.

        Whether the batch was committed is not known: its late holds are let go, and a late capture becomes its hold's
        release. That does no harm where the hold was never placed or the capture did commit; it is kept however late
        it is, for the caller's money and Idempotency-Key wait for it.
        """
        now = time.monotonic()
        sent_settles, sent_holds = self._current
        for settle in (*sent_settles, *self._settles):
            if now >= settle.deadline:
                _resolve(settle.done, _away(error))
                settle.order = SettleOrder(settle.order.hold_id, Resolution.RELEASE)
        for hold in (*sent_holds, *self._holds):
            if now >= hold.deadline:
                _resolve(hold.done, _away(error))
        while self._holds and self._holds[0].done.done():
            self._holds.popleft()
        for hold in holds:
            if now >= hold.deadline:
                self.release_later(hold.order.id)
        return [hold for hold in holds if now < hold.deadline]

    async def _isolate(
        self, settles: list[_Waiting[SettleOrder]], holds: list[_Waiting[HoldOrder]], error: Exception
    ) -> None:
        """One order of the batch is refused by the database itself: halve the batch until it stands alone."""
        if len(settles) + len(holds) == 1:
            alone = (settles or holds)[0]
            if not alone.done.done():
                _log.error(
                    "order refused by the database", error=type(error).__name__, order=type(alone.order).__name__
                )
                _resolve(alone.done, PrsmError("The ledger could not carry out the order; the node's log says why."))
            return
        half_settles, half_holds = (len(settles) + 1) // 2, len(holds) // 2
        await self._commit(settles[:half_settles], holds[:half_holds])
        await self._commit(settles[half_settles:], holds[half_holds:])

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _take(queue: deque[_Waiting[Order]], most: int) -> list[_Waiting[Order]]:
    return [queue.popleft() for _ in range(min(most, len(queue)))]


def _resolve(done: "asyncio.Future[None]", error: PrsmError | None) -> None:
    """Tell the caller; one who was told already or has been cancelled hears no more."""
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _forget(done: "asyncio.Future[None]") -> None:
    """Mark the outcome as seen, so that nobody is warned of it."""
    if not done.cancelled():
        done.exception()


def _stopped() -> Unavailable:
    return Unavailable(
        "The ledger takes no orders: it was not started, or is stopping.",
        code="ledger_unavailable",
        remedy="Try again when the node is up.",
        retry_after_s=1,
    )


def _away(error: Exception) -> Unavailable:
    return Unavailable(
        f"The ledger could not be reached in time ({type(error).__name__}).",
        code="ledger_unavailable",
        remedy="Nothing was charged unless the same request answers otherwise; try again.",
        retry_after_s=1,
    )
