"""``model="auto"`` and its variants with the official SDKs, and ``prsm route explain`` beside what then happens."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from openai import OpenAI
from tests.support.started_node import StartedNode, started_node
from tests.support.upstream import UpstreamServer

AIMS = ("auto", "auto:cheap", "auto:best", "auto:fast")
POEM = "a poem about the sea"


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamServer) -> Iterator[StartedNode]:
    """Three providers with one model each, and one model that two of them serve. Nothing is explored."""
    with started_node(tmp_path_factory.mktemp("routed"), EXPLORE_SHARE_BPS=0) as node:
        for name in ("one", "two", "three"):
            node.add_provider(name, f"{upstream.origin}/v1")
        node.add_model("one/cheap", price_in=1_000_000, price_out=1_000_000, region="us-east-1", licence="mit")
        node.add_model("two/middle", price_in=5_000_000, price_out=5_000_000, region="eu-west-1", licence="apache-2.0")
        node.add_model(
            "three/dear", price_in=50_000_000, price_out=50_000_000, capabilities=["chat", "tools", "vision"]
        )
        node.add_model("two/shared-a", model="shared", price_in=9_000_000, price_out=9_000_000)
        node.add_model("three/shared-b", model="shared", price_in=8_000_000, price_out=8_000_000)
        yield node


@pytest.fixture
def client(routed: StartedNode) -> Iterator[OpenAI]:
    with OpenAI(base_url=routed.base_url, api_key=routed.key, max_retries=0) as made:
        yield made


def say(text: str = POEM) -> Any:
    return [{"role": "user", "content": text}]


def explained(node: StartedNode, body: dict[str, Any]) -> dict[str, Any]:
    return node.call("POST", "/node/v1/route/explain", body)


def tried(told: dict[str, Any]) -> list[str]:
    return [one["name"] for one in told["instances"] if one["place"]]


@pytest.mark.parametrize("aim", AIMS)
def test_each_variant_answers_as_explained_and_says_why(client: OpenAI, routed: StartedNode, aim: str) -> None:
    before = routed.wallet()["available_micro"]
    told = explained(routed, {"model": aim, "messages": say()})
    assert routed.wallet()["available_micro"] == before
    assert (told["aim"], told["named"]) == (aim, "")
    first = told["instances"][0]
    answer = client.chat.completions.create(model=aim, messages=say())
    assert (first["place"], first["name"]) == (1, answer.model)
    # Byte for byte the same request has the same reason, but for the time, which each answer measures anew.
    shown = routed.call("POST", "/v1/chat/completions", {"model": aim, "messages": say()})["prsm"]
    assert shown["model"] == answer.model
    assert shown["reason"].split(", about")[0] == first["reason"].split(", about")[0]
    stream = client.chat.completions.create(model=aim, messages=say(), stream=True)
    assert {chunk.model for chunk in stream} == {answer.model}


def test_all_that_can_answer_stand_in_order_and_all_others_have_a_reason(routed: StartedNode) -> None:
    told = explained(routed, {"model": "auto", "messages": say()})
    assert tried(told) == ["one/cheap", "two/middle", "three/shared-b"]
    others = {one["name"]: one["why_not"] for one in told["instances"] if not one["place"]}
    assert others["local/minilm-l6"] == "capabilities: it cannot do what is asked (chat)"
    assert others["local/arithmetic"].startswith("domain: a specialist")
    assert "its provider" in others["two/shared-a"] or "others are worth more" in others["two/shared-a"]
    assert told["total"] == len(told["instances"]) == told["able"] + sum(one["instances"] for one in told["excluded"])
    assert told["held_micro"] > 0


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"regions": ["eu"]}, {"two/middle"}),
        ({"licences": ["apache-2.0"]}, {"two/middle"}),
        ({"deny_providers": ["one", "two"], "max_input_price_micro": 20_000_000}, {"three/shared-b"}),
        ({"allow_providers": ["three"], "capabilities": ["vision"]}, {"three/dear"}),
        ({"max_expected_micro": 400}, {"one/cheap"}),
    ],
)
def test_a_policy_in_the_body_is_kept(
    client: OpenAI, routed: StartedNode, policy: dict[str, Any], expected: set[str]
) -> None:
    answer = client.chat.completions.create(model="auto", messages=say(), extra_body={"prsm": policy})
    assert answer.model in expected
    assert set(tried(explained(routed, {"model": "auto", "messages": say(), "prsm": policy}))) == expected


def test_a_policy_comes_in_a_header_where_a_body_cannot_carry_it(client: OpenAI, routed: StartedNode) -> None:
    answer = client.chat.completions.create(
        model="auto", messages=say(), extra_headers={"x-prsm-policy": "regions=eu; deny_providers=one"}
    )
    assert answer.model == "two/middle"
    with anthropic.Anthropic(base_url=routed.url, api_key=routed.key, max_retries=0) as claude:
        said = claude.messages.create(
            model="auto", max_tokens=50, messages=say(), extra_headers={"x-prsm-policy": "regions=eu"}
        )
        assert said.model == "two/middle"
        said = claude.messages.create(
            model="auto", max_tokens=50, messages=say(), extra_body={"prsm": {"allow_providers": ["three"]}}
        )
        assert said.model == "three/shared-b"
    response = client.responses.create(model="auto", input=POEM, extra_body={"prsm": {"regions": ["eu"]}})
    assert response.model == "two/middle"


def test_a_policy_that_leaves_nobody_is_refused_with_what_to_relax(client: OpenAI, routed: StartedNode) -> None:
    before = routed.wallet()["available_micro"]
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.chat.completions.create(
            model="auto", messages=say(), extra_body={"prsm": {"regions": ["eu"], "max_input_price_micro": 1}}
        )
    error: Any = raised.value.body
    assert (error["code"], error["param"].startswith("prsm.")) == ("policy_too_narrow", True)
    assert "prsm.regions forbids" in error["message"]
    assert "Relax" in error["message"]
    with pytest.raises(openai.BadRequestError, match=r"prsm\.min_quality"):
        client.chat.completions.create(model="auto", messages=say(), extra_body={"prsm": {"min_quality": 7}})
    with pytest.raises(openai.NotFoundError, match="auto:best"):
        client.chat.completions.create(model="auto:finest", messages=say())
    assert routed.wallet()["available_micro"] == before


def test_a_model_that_several_serve_is_asked_where_it_is_cheapest(client: OpenAI, routed: StartedNode) -> None:
    answer = client.chat.completions.create(model="shared", messages=say())
    assert (answer.model, answer.prsm["reason"]) == ("three/shared-b", "named by the caller")  # type: ignore[attr-defined]
    assert tried(explained(routed, {"model": "shared", "messages": say()})) == ["three/shared-b", "two/shared-a"]
    dearer = client.chat.completions.create(
        model="shared", messages=say(), extra_body={"prsm": {"deny_providers": ["three"]}}
    )
    assert dearer.model == "two/shared-a"


def test_the_command_shows_a_table_or_json(routed: StartedNode) -> None:
    shown = routed.cli("route", "explain", POEM, "--region", "eu", "--max-price-in", "20")
    assert shown.returncode == 0, shown.stderr
    assert "two/middle" in shown.stdout
    assert "prsm.regions takes away" in shown.stdout
    assert "FTNS would be held" in shown.stdout
    told = json.loads(routed.cli("route", "explain", POEM, "-m", "auto:best", "--json").stdout)
    assert told["aim"] == "auto:best"
    assert told["instances"][0]["place"] == 1
    refused = routed.cli("route", "explain", POEM, "--min-quality", "1", "--max-price-in", "0")
    assert refused.returncode == 1
    assert "No model is within the policy" in refused.stderr
