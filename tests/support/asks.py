"""Requests, models and plans for tests of the answer path's rules."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prsm.agents.call import ChatCall, Target
from prsm.agents.plan import Ask, Caller, PathLimits, Plan, make_plan
from prsm.agents.routers.model_router import Candidate

KEY_ID = UUID(int=7)
CALLER = Caller(KEY_ID, "principal:caller")
LIMITS = PathLimits(default_output_tokens=100)


def target(name: str = "up/m", *, price_in: int = 1_000_000, price_out: int = 2_000_000, **values: Any) -> Target:
    provider, _, upstream_name = name.partition("/")
    return Target(
        name=name,
        upstream_name=upstream_name,
        provider=provider,
        kind="fake",
        input_price_micro=price_in,
        output_price_micro=price_out,
        **values,
    )


def chat(text: str = "hello", *, limit: int | None = None, **options: Any) -> ChatCall:
    return ChatCall(UUID(int=1), [{"role": "user", "content": text}], "auto", False, limit, options)


def ask(call: Any = None, **values: Any) -> Ask:
    return Ask(CALLER, call or chat(), "ab" * 32, values.pop("body_bytes", 40), **values)


def candidates(*targets: Target) -> list[Candidate]:
    return [Candidate(one, "because", 5) for one in targets]


def plan(*targets: Target, asked: Ask | None = None, limits: PathLimits = LIMITS) -> Plan:
    return make_plan(asked or ask(), candidates(*(targets or (target(),))), limits)


def user(content: Sequence[Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}
