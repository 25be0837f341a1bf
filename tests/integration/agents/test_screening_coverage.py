"""Nothing is answered unscreened, whatever comes in, however models say it, and whatever becomes of the detectors.

Requests of all forms and disguises meet detectors that crash, hang, answer for too few texts and are overloaded. What
a model read and what a caller was shown is then held against what detectors have looked at: all of it, or nothing.
PRSM_TEST_SCREENED_REQUESTS says how many requests; the seed is printed where it fails.
"""

import asyncio
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.answering import METERED, Payer, Recorded, answer_path, assert_sound, new_payer, render
from tests.support.ledger import World

from prsm.agents.call import ChatCall, Choice, Completion, Delta, EmbedCall, Embeddings, Json, Target, Usage
from prsm.agents.guard import Guard
from prsm.agents.plan import PathLimits
from prsm.core.errors import PrsmError
from prsm.safety.gathering import Gathering
from prsm.safety.monitor import Monitor
from prsm.safety.policy import Policy, Rule
from prsm.safety.policy_book import PolicyBook
from prsm.safety.screening import Screening
from prsm.safety.seams import Assessment, Category, Span

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = int(os.environ.get("PRSM_TEST_SCREENED_REQUESTS", "3000"))
SEED = int(os.environ.get("PRSM_TEST_SCREENED_SEED", random.randrange(2**32)))
AT_ONCE = 64
ABLE = {"capabilities": frozenset({"chat", "embeddings", "tools"})}
BAD = "forbidden"
ODD = ["\u200b", "\x00", "é", "𝔣", "👩‍👩‍👧", "\u202e", "ß", "İ", "\n", "%66", "Zm9yYmlkZGVu", "0", " "]
POLICIES = {
    "block": Policy((Rule(Category.HATE, "block"),), stream_lag_chars=0),
    "lag": Policy((Rule(Category.HATE, "block"),), stream_lag_chars=40),
    "redact": Policy((Rule(Category.HATE, "redact"),)),
    "annotate": Policy((Rule(Category.HATE, "annotate"),)),
}


class Sees:
    """A detector that keeps every piece of text it has answered for, and at times fails as detectors do."""

    name = "sees"
    categories = frozenset({Category.HATE})

    def __init__(self, chance: random.Random, fault_rate: float) -> None:
        self._chance = chance
        self._rate = fault_rate
        self._lock = threading.Lock()
        self.seen: dict[int, set[str]] = {}
        self.faults: Counter[str] = Counter()

    def assess(self, texts: Sequence[str], go_on: Callable[[], None]) -> list[Assessment]:
        with self._lock:
            fault = self._chance.choice(["crash", "short", "slow"]) if self._chance.random() < self._rate else ""
            self.faults.update([fault] if fault else [])
        if fault == "crash":
            raise RuntimeError("a detector crashed")
        if fault == "slow":
            time.sleep(0.06)
        found = [_assessed(text) for text in texts]
        if fault == "short":
            return found[:-1]
        if fault != "slow":  # what came too late has not been looked at in time
            with self._lock:
                for text in texts:
                    self.seen.setdefault(hash(text) % 4096, set()).add(text)
        return found

    def has_seen(self, text: str) -> bool:
        return text in self.seen.get(hash(text) % 4096, ())


def _assessed(text: str) -> Assessment:
    at = text.find(BAD)
    spans: list[Span] = []
    while at >= 0:
        spans.append(Span(Category.HATE, "word", at, at + len(BAD)))
        at = text.find(BAD, at + 1)
    return Assessment({Category.HATE: 0.9 if spans else 0.0}, tuple(spans))


@dataclass
class Talker:
    """A model that says what the request's id is entered with, and keeps what it read."""

    says: dict[Any, list[Delta]] = field(default_factory=dict[Any, list[Delta]])
    read: dict[Any, list[str]] = field(default_factory=dict[Any, list[str]])

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        self.read[call.request_id] = _texts(call)
        said = self.says[call.request_id]
        content = "".join(delta.content or "" for delta in said)
        tools = [fragment for delta in said for fragment in delta.tool_calls or ()]
        return Completion([Choice(content=content, tool_calls=tools)], METERED)

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        self.read[call.request_id] = _texts(call)
        for delta in self.says[call.request_id]:
            await asyncio.sleep(0)
            yield [delta]
        yield [Delta(finish_reason="stop", usage=METERED)]

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        self.read[call.request_id] = call.texts
        return Embeddings([[1.0] for _ in call.texts], Usage(3, 0))

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        return []

    async def aclose(self) -> None:
        """Nothing was opened."""


def _texts(call: ChatCall) -> list[str]:
    """Every text of a call, found by walking all of it: another way than the guard's."""
    found: list[str] = []

    def walk(value: Any, key: str) -> None:
        if isinstance(value, str) and key not in ("role", "type", "id"):
            found.append(json.loads(value)["q"] if key == "arguments" and value.startswith("{") else value)
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, name)
        elif isinstance(value, list):
            for inner in value:
                walk(inner, key)

    walk(call.messages, "")
    walk(call.options, "")
    return [text for text in found if text]


def _said(chance: random.Random) -> str:
    words = [
        chance.choice([*ODD, "word", "a longer word", "x" * chance.randrange(60)]) for _ in range(chance.randrange(8))
    ]
    if chance.random() < 0.2:
        words.insert(chance.randrange(len(words) + 1), BAD)
    return " ".join(words)


def _message(chance: random.Random) -> Json:
    role = chance.choice(["system", "user", "user", "assistant", "tool"])
    if chance.random() < 0.3:
        kinds = [chance.choice(["text", "text", "refusal"]) for _ in range(chance.randrange(1, 4))]
        return {"role": role, "content": [{"type": kind, kind: _said(chance)} for kind in kinds]}
    message: Json = {"role": role, "content": _said(chance)}
    if role == "assistant" and chance.random() < 0.5:
        asked = chance.choice([_said(chance), json.dumps({"q": _said(chance)})])
        message["tool_calls"] = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": asked}}]
    if chance.random() < 0.1:
        message[chance.choice(["name", "reasoning_content", "unheard_of"])] = _said(chance)
    return message


def _options(chance: random.Random) -> Json:
    """Tools, a form of the answer, or what nobody knows; mostly nothing."""
    described: Json = {"name": "f", "description": _said(chance)}
    return chance.choice(
        [
            {"tools": [{"type": "function", "function": described}]},
            {"response_format": {"type": "json_schema", "json_schema": described}},
            {"unheard_of": [_said(chance)]},
            *[{}] * 17,
        ]
    )


def _deltas(chance: random.Random) -> list[Delta]:
    text, said = " ".join(_said(chance) for _ in range(chance.randrange(1, 4))), list[Delta]()
    while text:
        cut = chance.randrange(1, 20)
        said.append(Delta(content=text[:cut]))
        text = text[cut:]
    if chance.random() < 0.2:
        call = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": _said(chance)}}
        said.append(Delta(tool_calls=[call]))
    return said


@dataclass
class Outcome:
    """What a caller was shown: whole, or until where it broke off."""

    name: str
    shown: list[str]


async def _ask(path: Any, payer: Payer, talker: Talker, chance: random.Random) -> Outcome:
    kind = chance.choice(["whole", "stream", "stream", "embed"])
    ask = payer.ask(_said(chance) or "x", embed=kind == "embed")
    if isinstance(ask.call, ChatCall):
        messages = [_message(chance) for _ in range(chance.randrange(1, 4))]
        ask = replace(ask, call=replace(ask.call, messages=messages, options=_options(chance)))
    talker.says[ask.call.request_id] = _deltas(chance)
    shown: list[str] = []
    try:
        if kind == "embed":
            await path.embed(ask, lambda _vectors, _bill: b"{}")
        elif kind == "whole":
            body, _ = await path.chat(ask, render)
            shown.append(body.decode("utf-8", "surrogatepass").rpartition(" for ")[0])
        else:
            await _stream(path, ask, shown)
    except PrsmError as error:
        return Outcome(error.code, shown if kind == "stream" else [])
    return Outcome("ok", shown)


async def _stream(path: Any, ask: Any, shown: list[str]) -> None:
    stream = await path.chat_stream(ask)
    try:
        while (deltas := await stream.next()) is not None:
            shown += [delta.content for delta in deltas if delta.content]
        await stream.finish(lambda _completion, _bill: b"")
    except BaseException:
        await stream.leave(lambda _completion, _bill: b"", broken=True)
        raise


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.timeout(7200)
async def test_nothing_is_answered_unscreened(world: World, policy: str) -> None:
    chance = random.Random(f"{SEED} {policy}")
    sees, talker, told = Sees(chance, fault_rate=0.2), Talker(), Recorded()
    monitor = Monitor(sees, threads=2, max_waiting=8, time_limit_s=0.05)  # type: ignore[arg-type]
    gathering = Gathering(monitor.assess, at_once=2, time_limit_s=5, max_waiting_chars=4000)
    screening = Screening("sees", gathering.assess, told.record, told.note, told.count)
    guard = Guard(screening, PolicyBook(world.db.pool, POLICIES[policy]))
    payer = await new_payer(world, start_micro=10**12)
    path = answer_path(world, talker, guard=guard, limits=PathLimits(100, 100_000, 600), changed=[ABLE])  # type: ignore[arg-type]
    outcomes: Counter[str] = Counter()
    lag = POLICIES[policy].stream_lag_chars
    for _ in range(-(-REQUESTS // (len(POLICIES) * AT_ONCE))):
        talker.says.clear(), talker.read.clear(), sees.seen.clear()
        screening._remembered.clear()  # what was looked at in an earlier round is not kept by ``sees``
        for outcome in await asyncio.gather(*(_ask(path, payer, talker, chance) for _ in range(AT_ONCE))):
            outcomes[outcome.name] += 1
            _check_shown(outcome, sees, policy, lag)
        for read in talker.read.values():
            for text in read:
                _check_read(text, sees, policy)
        told.incidents.clear(), told.events.clear(), told.counted.clear()
    await path.close()
    monitor.close()
    print(f"{policy}: {dict(outcomes)}, faults {dict(sees.faults)}, seed {SEED}")
    assert outcomes["ok"] > outcomes.total() / 4
    assert outcomes["screening_unavailable"] > 0
    assert len(sees.faults) == 3 or REQUESTS < 100_000
    await assert_sound(world)


def _check_read(text: str, sees: Sees, policy: str) -> None:
    if policy == "redact" and "[word]" in text:
        assert BAD not in text, SEED
        return
    assert any(text in one for bucket in sees.seen.values() for one in bucket), (SEED, text)
    if policy != "annotate":
        assert BAD not in text, (SEED, text)


def _check_shown(outcome: Outcome, sees: Sees, policy: str, lag: int) -> None:
    text = "".join(outcome.shown)
    if policy == "redact":
        assert BAD not in text, SEED
        return
    unseen = len(text)
    for bucket in sees.seen.values():
        for one in bucket:  # every look reaches to the end of what was said by then
            for end in range(len(text), len(text) - unseen, -1):
                if one and text[max(0, end - len(one)) : end] == one[-min(len(one), end) :]:
                    unseen = len(text) - end
                    break
    assert unseen <= (lag if outcome.name != "ok" else 0), (SEED, outcome, unseen)
    if policy == "block":
        assert BAD not in text, SEED
