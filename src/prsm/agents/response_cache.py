"""Answers that are given again: the same question of the same caller at the same version of a model, for a while.

Off unless the node offers it and the request is deterministic or asks for it; nobody is ever given what another was
told. An answer is found by the exact request, or, where the caller says how alike is alike enough, by the meaning of
its one question. Losing what is kept does no harm, and a cache that is away is a cache that found nothing.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct

from prsm.agents.billing import Bill
from prsm.agents.call import ChatCall, Choice, Completion, Delta, Target, Usage
from prsm.agents.plan import Ask, Plan
from prsm.agents.routers.model_router import Candidate
from prsm.agents.routers.roster import served_model
from prsm.core.clock import Clock
from prsm.core.errors import PrsmError
from prsm.core.money import BASIS_POINTS
from prsm.core.seams import Filter, VectorIndex, VectorItem
from prsm.core.subject_keys import SubjectKeys, Unreadable
from prsm.monitoring.metrics import Metrics

Match = Literal["exact", "semantic"]
Embed = Callable[[Sequence[str]], Awaitable[Any]]

_MOST_AT_ONCE: Final = 64
_SWEPT_AT_ONCE: Final = 1_000
_KEPT_ENDINGS: Final = frozenset({"stop", "tool_calls"})
_PLAIN_OPTIONS: Final = frozenset({"temperature", "top_p", "seed", "user", "metadata", "store", "response_format"})
_LITERAL: Final = re.compile(r"\w*\d\w*|\b(?:not?|never|none|without|except|n't)\b|[-+*/^<>=%]|n't\b", re.IGNORECASE)
_log: Any = structlog.get_logger("answer")


class Store(Protocol):
    """Where answers are kept: ``core.cache.Cache``."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        ...

    async def set(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s``."""
        ...

    async def incr_by(self, key: str, amount: int, *, ttl_s: float) -> int:
        """Add to a counter that ends ``ttl_s`` after its first addition."""
        ...


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What is kept: for how long, how large, how much for one caller within that time, and what it costs again.

    ``price_bps`` is the share of the output price; the input costs what cached input costs.
    """

    ttl_s: int = 3600
    answer_bytes: int = 64 * 1024
    caller_bytes: int = 16 * 1024 * 1024
    price_bps: int = 1_000


@dataclass(frozen=True, slots=True)
class Meaning:
    """How answers are found by meaning: where vectors are kept, what makes them, and whether it reads all of a text."""

    index: VectorIndex
    embed: Embed
    reads_whole: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Found:
    """An answer that is given again, at its price, and the request that it was made for."""

    candidate: Candidate
    completion: Completion
    metered_by: str
    request_id: UUID


class ResponseCache:
    """Finds and keeps answers for one node. Without ``meaning``, only by the exact request."""

    def __init__(
        self,
        store: Store,
        policy: CachePolicy,
        metrics: Metrics,
        clock: Clock,
        keys: SubjectKeys,
        meaning: Meaning | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self._meaning = meaning
        self._keeping: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait until what is being kept is."""
        await asyncio.gather(*self._keeping)

    async def find(self, plan: Plan) -> Found | None:
        """The answer to give again instead of asking the plan's first candidate; None where there is none."""
        if not is_wanted(plan.ask):
            return None
        candidate = plan.candidates[0]
        try:
            kept, match = await self._exact(plan.ask, candidate.target), "exact"
            if kept is None:
                kept, match = await self._alike(plan.ask, candidate.target), "semantic"
        except PrsmError as error:
            _log.warning("response cache away", code=error.code)
            return None
        if kept is None:
            self._metrics.looked_up("nothing")
            return None
        self._metrics.looked_up("exact" if match == "exact" else "semantic")
        return found(candidate, kept, match, self._policy.price_bps)

    def keep_later(self, ask: Ask, target: Target, completion: Completion, bill: Bill) -> None:
        """Keep a whole answer of ``target``, without delay for the caller; beyond a few at once it is not kept."""
        if len(self._keeping) < _MOST_AT_ONCE and is_wanted(ask) and is_whole(completion):
            task = asyncio.create_task(self._keep(ask, target, completion, bill))
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

    async def sweep(self) -> int:
        """Forget the vectors of answers that are no longer kept, at most 1,000; answers how many."""
        if self._meaning is None:
            return 0
        index = self._meaning.index
        anywhere = [1.0] + [0.0] * (index.dimension - 1)
        due = await index.search(anywhere, _SWEPT_AT_ONCE, [Filter("expires_at", "<=", self._now_s())])
        return await index.delete([hit.id for hit in due]) if due else 0

    async def _exact(self, ask: Ask, target: Target) -> "Kept | None":
        return await self._get(ask, exact_key(ask, target))

    async def _alike(self, ask: Ask, target: Target) -> "Kept | None":
        wish, question = ask.cache, self._asked_alike(ask)
        if wish is None or question is None or self._meaning is None:
            return None
        vector = (await self._meaning.embed([question]))[0]
        live = [Filter("scope", "=", scope_key(ask, target)), Filter("expires_at", ">=", self._now_s())]
        hits = await self._meaning.index.search(vector, 1, live)
        if not hits or hits[0].similarity < wish.similarity:
            return None
        return await self._get(ask, _answer_key(hits[0].id))

    async def _get(self, ask: Ask, name: str) -> "Kept | None":
        data, key = await self._store.get(name), await self._keys.of_account(ask.caller.account)
        try:
            return _decode(key.open_bytes(data, name)) if data else None
        except Unreadable:  # from before answers were sealed
            return None

    async def _set(self, ask: Ask, name: str, data: bytes) -> None:
        key = await self._keys.of_account(ask.caller.account)
        await self._store.set(name, key.seal_bytes(data, name), ttl_s=self._policy.ttl_s)

    async def _keep(self, ask: Ask, target: Target, completion: Completion, bill: Bill) -> None:
        kept = Kept(bill.request_id, completion.choices, bill.usage, "upstream" if completion.usage else "node")
        data = _encode(kept)
        if len(data) > self._policy.answer_bytes:
            return
        question = self._asked_alike(ask)
        copies = 1 if question is None else 2
        ttl_s = self._policy.ttl_s
        try:
            spent = await self._store.incr_by(f"answers:of:{ask.caller.account}", copies * len(data), ttl_s=ttl_s)
            if spent > self._policy.caller_bytes:
                return
            await self._set(ask, exact_key(ask, target), data)
            if question is not None and self._meaning is not None:
                await self._set(ask, _answer_key(str(bill.request_id)), data)
                await self._keep_vector(ask, target, question, str(bill.request_id))
        except PrsmError as error:
            _log.warning("answer not kept", code=error.code)

    async def _keep_vector(self, ask: Ask, target: Target, question: str, item_id: str) -> None:
        assert self._meaning is not None
        vector = (await self._meaning.embed([question]))[0]
        about = {"scope": scope_key(ask, target), "expires_at": self._now_s() + self._policy.ttl_s}
        await self._meaning.index.upsert([VectorItem(item_id, vector, about)])

    def _asked_alike(self, ask: Ask) -> str | None:
        """The question of a request that may be answered with the answer to one like it; None of any other."""
        if self._meaning is None or ask.cache is None or ask.cache.mode != "semantic":
            return None
        question = only_question(ask)
        return question if question and self._meaning.reads_whole(question) else None

    def _now_s(self) -> int:
        return int(self._clock().timestamp())


class Kept(Struct, frozen=True):
    """An answer as it is kept."""

    request_id: UUID
    choices: list[Choice]
    usage: Usage
    metered_by: str


async def replay(completion: Completion) -> AsyncGenerator[list[Delta], None]:
    """A kept answer as a stream: what was said, then why it ended with the usage."""
    for choice in completion.choices:
        calls = [{"index": place, **call} for place, call in enumerate(choice.tool_calls)]
        said = Delta(
            choice.index, choice.content, choice.reasoning, calls or None, None, choice.refusal, choice.logprobs
        )
        yield [said, Delta(choice.index, finish_reason=choice.finish_reason)]
    yield [Delta(usage=completion.usage)]


def is_wanted(ask: Ask) -> bool:
    """Whether a request may be given a kept answer: its caller says so, or it is deterministic and nobody says no."""
    call, wish = ask.call, ask.cache
    if not isinstance(call, ChatCall) or (wish and wish.mode == "off"):
        return False
    temperature = call.options.get("temperature")
    return wish is not None or (temperature is not None and temperature == 0)


def is_whole(completion: Completion) -> bool:
    """Whether every choice ended of itself: what a limit cut, or a filter, is not given again."""
    return all(choice.finish_reason in _KEPT_ENDINGS for choice in completion.choices)


def only_question(ask: Ask) -> str | None:
    """The text of the one user message of a request that is nothing but text: no tools, images or conversation."""
    call = ask.call
    if not isinstance(call, ChatCall) or ask.choices != 1 or ask.history_bytes or ask.remember:
        return None
    options = {name for name, value in call.options.items() if value is not None}
    *before, last = call.messages
    plain = all(isinstance(message.get("content"), str) for message in call.messages)
    if not plain or last["role"] != "user" or any(m["role"] not in ("system", "developer") for m in before):
        return None
    return str(last["content"]) if options <= _PLAIN_OPTIONS else None


def exact_key(ask: Ask, target: Target) -> str:
    """Where the answer to exactly this request of this caller by this version of the model is kept."""
    call = ask.call
    assert isinstance(call, ChatCall)
    return "answers:" + _digest([*_who(ask, target), call.messages, call.options, call.max_output_tokens, ask.choices])


def scope_key(ask: Ask, target: Target) -> str:
    """Equal for requests of which one may have the other's answer: all is the same but the words of the question.

    Its numbers, operators and negations are the same too: vectors hardly tell those apart, answers do.
    """
    call = ask.call
    assert isinstance(call, ChatCall)
    literals = sorted(found.lower() for found in _LITERAL.findall(str(call.messages[-1]["content"])))
    return _digest([*_who(ask, target), call.messages[:-1], call.options, call.max_output_tokens, literals])


def found(candidate: Candidate, kept: Kept, match: Match, price_bps: int) -> Found:
    """``kept`` as an answer of ``candidate`` at the price of a cached one: all its input is cached input."""
    price_micro = -(-candidate.target.output_price_micro * price_bps // BASIS_POINTS)
    said = "the same question" if match == "exact" else "a question like it"
    again = changed(
        candidate,
        target=changed(candidate.target, output_price_micro=price_micro),
        reason=f"answered before: {said}, request {kept.request_id}",
    )
    usage = msgspec.structs.replace(kept.usage, cached_input_tokens=kept.usage.input_tokens)
    return Found(again, Completion(kept.choices, usage), kept.metered_by, kept.request_id)


def _who(ask: Ask, target: Target) -> list[str]:
    """Whose answer, and by which version: an instance without a version stands for itself alone."""
    return [ask.caller.account, served_model(target) if target.version else target.name, target.version, target.cid]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def _answer_key(request_id: str) -> str:
    return f"answers:alike:{request_id}"


def _decode(data: bytes | None) -> Kept | None:
    """What was kept; None where it cannot be read, as after a change of its form."""
    try:
        return _DECODER.decode(data) if data else None
    except msgspec.DecodeError:
        return None


_encode = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder(Kept)
