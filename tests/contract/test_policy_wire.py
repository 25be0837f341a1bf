"""One policy in every wire format: the same fields, the same limits, the same sentences; and as a header."""

import contextlib
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.routers.policy import Policy
from prsm.api.formats import ChatFormat, MessagesFormat, ResponsesFormat
from prsm.api.wire import openai_embeddings
from prsm.api.wire.parsed import PrsmExtension, policy_of
from prsm.core.errors import InvalidRequest

LIMIT = 1_000_000
ASKED = [{"role": "user", "content": "hello"}]


def through(make: Any, body: dict[str, Any]) -> Callable[[Any], PrsmExtension]:
    def read(prsm: Any) -> PrsmExtension:
        return make(uuid4(), json.dumps({**body, "prsm": prsm}).encode(), LIMIT).call.prsm

    return read


def embeddings(prsm: Any) -> PrsmExtension:
    body = {"model": "auto", "input": "hello", "prsm": prsm}
    return openai_embeddings.parse(json.dumps(body).encode(), max_bytes=LIMIT).prsm


FORMATS = {
    "chat": through(ChatFormat, {"model": "auto", "messages": ASKED}),
    "messages": through(MessagesFormat, {"model": "auto", "messages": ASKED, "max_tokens": 5}),
    "responses": through(ResponsesFormat, {"model": "auto", "input": "hello"}),
    "embeddings": embeddings,
}
WHOLE = {
    "max_input_price_micro": 1,
    "max_output_price_micro": 2,
    "max_expected_micro": 3,
    "min_quality": 0.5,
    "answer_value_micro": 4,
    "regions": ["eu"],
    "licences": ["mit", "apache-2.0"],
    "allow_providers": ["a"],
    "deny_providers": ["b"],
    "capabilities": ["tools"],
}
READ = Policy(
    max_input_price_micro=1,
    max_output_price_micro=2,
    max_expected_micro=3,
    min_quality=0.5,
    answer_value_micro=4,
    regions=("eu",),
    licences=("mit", "apache-2.0"),
    allow_providers=("a",),
    deny_providers=("b",),
    capabilities=("tools",),
)
WRONG = [
    ({"min_quality": 1.1}, "min_quality"),
    ({"min_quality": "high"}, "min_quality"),
    ({"max_input_price_micro": -1}, "max_input_price_micro"),
    ({"max_expected_micro": 0.5}, "max_expected_micro"),
    ({"max_output_price_micro": 10**17}, "max_output_price_micro"),
    ({"answer_value_micro": True}, "answer_value_micro"),
    ({"regions": "eu"}, "regions"),
    ({"regions": [""]}, "regions[0]"),
    ({"licences": ["mit", 5]}, "licences[1]"),
    ({"deny_providers": ["p"] * 33}, "deny_providers"),
    ({"max_price": 1}, "max_price"),
]


@pytest.mark.parametrize("wire", FORMATS)
def test_a_policy_is_read_whole_beside_what_else_prsm_holds(wire: str) -> None:
    extension = FORMATS[wire]({**WHOLE, "max_cost_micro": 9})
    assert (policy_of(extension, None), extension.max_cost_micro) == (READ, 9)


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("prsm", [None, {}, {"max_cost_micro": 9}, {"regions": [], "min_quality": None}])
def test_without_a_limit_there_is_no_policy(wire: str, prsm: Any) -> None:
    assert policy_of(FORMATS[wire](prsm), None) is None


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize(("prsm", "field"), WRONG)
def test_each_field_is_refused_by_its_name(wire: str, prsm: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        FORMATS[wire](prsm)
    assert raised.value.param == f"prsm.{field}"
    assert f"`prsm.{field}`" in raised.value.message


def test_a_header_says_the_same_and_goes_before_the_body() -> None:
    header = "; ".join(f"{name}={','.join(v) if isinstance(v, list) else v}" for name, v in WHOLE.items())
    assert policy_of(PrsmExtension(), header) == READ
    body = PrsmExtension(min_quality=0.9, regions=("us",))
    assert policy_of(body, "min_quality = 0.5 ;") == Policy(min_quality=0.5, regions=("us",))
    assert policy_of(PrsmExtension(), " ") is None


@pytest.mark.parametrize(
    ("header", "param"),
    [
        ("min_quality", "x-prsm-policy"),
        ("min_quality=0.1;min_quality=0.2", "x-prsm-policy"),
        ("min_quality=2", "x-prsm-policy.min_quality"),
        ("min_quality=nan", "x-prsm-policy.min_quality"),
        ("min_quality=high", "x-prsm-policy.min_quality"),
        ("max_expected_micro=1.5", "x-prsm-policy.max_expected_micro"),
        ("regions=", "x-prsm-policy.regions[0]"),
        ("max_cost_micro=5", "x-prsm-policy.max_cost_micro"),
    ],
)
def test_a_wrong_header_is_refused_by_the_name_of_its_field(header: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        policy_of(PrsmExtension(), header)
    assert raised.value.param == param


@given(st.text())
def test_whatever_a_header_holds_is_a_policy_or_a_refusal(header: str) -> None:
    with contextlib.suppress(InvalidRequest):
        found = policy_of(PrsmExtension(), header)
        assert found is None or found == policy_of(found_as_body(found), None)


def found_as_body(policy: Policy) -> PrsmExtension:
    fields = {name: getattr(policy, name) for name in Policy.__struct_fields__}
    return FORMATS["chat"]({name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()})
