"""The answer path over a real ledger, with models that do as the test says."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.asks import target
from tests.support.ledger import World

from prsm.agents.answer import AnswerPath
from prsm.agents.attempts import Attempts
from prsm.agents.billing import Bill, Biller, Economy
from prsm.agents.call import ChatCall, Choice, Completion, Delta, EmbedCall, Embeddings, Target, Usage
from prsm.agents.executors.retry import RetryPolicy
from prsm.agents.guard import Guard
from prsm.agents.hedging import Hedger
from prsm.agents.learning.observation import Observe, unobserved
from prsm.agents.plan import Ask, Caller, PathLimits
from prsm.agents.response_cache import ResponseCache
from prsm.agents.routers.model_router import Health, Router, roster
from prsm.core.clock import uuid7
from prsm.core.keys import NodeKey
from prsm.monitoring.metrics import Metrics
from prsm.safety.circuit_breaker import BreakerBoard
from prsm.safety.policy import Direction, Policy, Rule, Verdict
from prsm.safety.policy_book import PolicyBook
from prsm.safety.screening import Screening
from prsm.safety.seams import Assessment, Category, DetectorAway, Span
from prsm.safety.threat import Event
from prsm.tokenomics.receipts import NodeSigner
from prsm.tokenomics.verify import verify

T = TypeVar("T")

NODE = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
LIMITS = PathLimits(default_output_tokens=100, answer_bytes=1000, request_timeout_s=30)
METERED = Usage(10, 20)


@dataclass
class Model:
    """An Executor that gives ``pieces`` one by one and fails with ``error`` where they end, if there is one.

    With ``pause`` it stops before that piece until ``resume`` is set.
    """

    pieces: list[Delta] = field(default_factory=list[Delta])
    usage: Usage | None = METERED
    error: BaseException | None = None
    pause: int | None = None
    resume: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[ChatCall | EmbedCall] = field(default_factory=list[Any])
    open_streams: int = 0

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        self.asked.append(call)
        await self._wait(0)
        if self.error:
            raise self.error
        return Completion([Choice(content="".join(piece.content or "" for piece in self.pieces))], self.usage)

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        self.asked.append(call)
        self.open_streams += 1
        try:
            for number, piece in enumerate(self.pieces):
                await self._wait(number)
                yield [piece]
            await self._wait(len(self.pieces))
            if self.error:
                raise self.error
            if self.usage:
                yield [Delta(finish_reason="stop", usage=self.usage)]
        finally:
            self.open_streams -= 1

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        self.asked.append(call)
        await self._wait(0)
        if self.error:
            raise self.error
        return Embeddings([[0.5, -0.5] for _ in call.texts], self.usage or Usage(0, 0))

    async def aclose(self) -> None:
        """Nothing was opened."""

    async def _wait(self, number: int) -> None:
        await asyncio.sleep(0)
        if number == self.pause:
            self.reached.set()
            await self.resume.wait()


def says(*words: str) -> list[Delta]:
    return [Delta(content=word) for word in words]


class Words:
    """A detector that finds hate in texts with one of its words, and says where."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.seen: list[str] = []
        self.away = False

    async def assess(self, texts: Sequence[str]) -> list[Assessment]:
        await asyncio.sleep(0)
        if self.away:
            raise DetectorAway("No detector is there.")
        self.seen += texts
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Assessment:
        found = [(text.index(word), word) for word in self.words if word in text]
        spans = tuple(Span(Category.HATE, "word", at, at + len(word)) for at, word in found)
        return Assessment({Category.HATE: 0.9 if found else 0.1}, spans)


@dataclass
class Recorded:
    """What screening told of: incidents, events of callers, and texts counted."""

    incidents: list[tuple[str, str, Verdict, tuple[str, ...]]] = field(default_factory=list[Any])
    events: list[tuple[str, Event]] = field(default_factory=list[Any])
    counted: list[tuple[str, str, int]] = field(default_factory=list[Any])

    async def record(
        self, request_id: UUID, account: str, model: str, direction: Direction, verdict: Verdict, texts: Sequence[str]
    ) -> None:
        self.incidents.append((direction.value, model, verdict, tuple(texts)))

    def note(self, account: str, event: Event) -> None:
        self.events.append((account, event))

    def count(self, direction: Direction, action: str, texts: int) -> None:
        self.counted.append((direction.value, action, texts))


BLOCKING = Policy((Rule(Category.HATE, "block"),), stream_lag_chars=4)


def guarding(pool: Any, words: Words, policy: Policy = BLOCKING, told: Recorded | None = None) -> Guard:
    """Screening by ``words`` under ``policy``, over policies as they stand in ``pool``."""
    told = told or Recorded()
    screening = Screening("words", words.assess, told.record, told.note, told.count)
    return Guard(screening, PolicyBook(pool, policy))


@dataclass
class Payer:
    """A caller with money of its own, and what became of it."""

    world: World
    account: str
    key_id: UUID
    start_micro: int

    async def charged_micro(self) -> int:
        """What was charged; every hold that was to be let go is gone, or this fails."""
        await self.world.barrier()
        balance = await self.world.ledger.balance(self.account)
        assert balance.held_micro == 0
        spent, held = await self.world.spent_and_held(self.key_id)
        assert (spent, held) == (self.start_micro - balance.balance_micro, 0)
        return spent

    async def open_holds(self) -> int:
        query = """SELECT count(*) FROM ledger_holds h LEFT JOIN ledger_resolutions r ON r.hold_id = h.id
                   WHERE h.api_key_id = $1 AND r.hold_id IS NULL"""
        return await self.world.db.pool.fetchval(query, self.key_id)

    async def receipt(self, request_id: UUID) -> bytes | None:
        return await self.world.db.pool.fetchval("SELECT body FROM receipts WHERE id = $1", request_id)

    def ask(self, text: str = "hello", *, embed: bool = False, **values: Any) -> Ask:
        request_id = uuid7()
        call = ChatCall(request_id, [{"role": "user", "content": text}], "auto")
        return Ask(
            Caller(self.key_id, self.account),
            EmbedCall(request_id, [text], "auto") if embed else call,
            "ab" * 32,
            40,
            **values,
        )


async def new_payer(world: World, start_micro: int = 1_000_000) -> Payer:
    account = f"principal:{uuid7()}"
    # Not opened through the ledger, which would know its id from then on: a first request has to look it up.
    await world.db.pool.execute("INSERT INTO ledger_accounts (name) VALUES ($1)", account)
    await world.ledger.transfer(uuid7(), "issuance", account, start_micro, "grant")
    return Payer(world, account, await world.key(None), start_micro)


async def assert_sound(world: World) -> None:
    async with world.db.pool.acquire() as connection:
        assert (await verify(connection)).violations == ()


def answer_path(
    world: World,
    *models: Model,
    guard: Guard | None = None,
    limits: PathLimits = LIMITS,
    owner: str = "principal:owner",
    metrics: Metrics | None = None,
    hedger: Hedger | None = None,
    changed: Sequence[Mapping[str, Any]] = (),
    observe: Observe = unobserved,
    cache: ResponseCache | None = None,
) -> AnswerPath:
    """A path that tries ``models`` in turn: ``up/m``, ``up1/m``, ...; ``changed`` fields of each target."""
    metrics = metrics or Metrics()
    biller = Biller(
        NodeSigner(NODE.node_id, NODE.public_key_hex, NODE.sign),
        Economy(7000, 2000, 1000, "node:self"),
        lambda: datetime.now(UTC),
        [guard.name] if guard else [],
    )
    breakers = BreakerBoard(time.monotonic)
    none: list[Mapping[str, Any]] = [{}] * len(models)
    fields_of = [{"kind": f"kind{number}", **fields} for number, fields in enumerate(changed or none)]
    executors = {str(fields["kind"]): model for fields, model in zip(fields_of, models, strict=True)}
    attempts = Attempts(
        breakers, metrics, RetryPolicy(1), timeout_s=limits.request_timeout_s, hedger=hedger, observe=observe
    )
    path = AnswerPath(
        ledger=world.ledger,
        executors=executors,
        attempts=attempts,
        biller=biller,
        router=Router({}, lambda name: Health(breakers.resting(name))),
        metrics=metrics,
        limits=limits,
        guard=guard,
        observe=observe,
        cache=cache,
    )
    able = frozenset({"chat", "embeddings"})
    path.models = roster(
        [
            replace(target(f"up{number or ''}/m", owner_account=owner, capabilities=able), **fields)
            for number, fields in enumerate(fields_of)
        ]
    )
    return path


def render(completion: Completion, bill: Bill) -> bytes:
    """The answer's text and its price."""
    text = "|".join(choice.content or "" for choice in completion.choices)
    return f"{text} for {bill.captured_micro}".encode()


class Interrupted(Generic[T]):
    """Runs ``work`` and cancels its task where it waits for the ``at``-th time; with ``storm`` at each time after too.

    ``points`` counts the waits. To be awaited as the whole of a task.
    """

    def __init__(self, work: Coroutine[Any, Any, T], at: int, *, storm: bool = False) -> None:
        self.points = 0
        self._work = work
        self._at = at
        self._storm = storm

    def __await__(self) -> Generator[Any, Any, T]:
        task = asyncio.current_task()
        assert task is not None
        step: Callable[[Any], Any] = self._work.send
        argument: Any = None
        while True:
            try:
                awaited = step(argument)
            except StopIteration as done:
                return done.value
            if self.points == self._at or (self._storm and self.points > self._at):
                task.cancel()
            self.points += 1
            try:
                argument = yield awaited
                step = self._work.send
            except BaseException as error:  # noqa: BLE001 - handed on to the work as it came
                step, argument = self._work.throw, error

    async def run(self) -> T:
        return await self
