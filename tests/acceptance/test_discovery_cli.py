"""Discovery on a started node: sources added, read, searched and removed by the command line, a listing adopted."""

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
from tests.support.catalogue_servers import OpenRouterServer, PrsmServer
from tests.support.started_node import StartedNode, started_node
from tests.support.upstream import UpstreamServer

SECRET = "router-secret-0123456789"


@pytest.fixture(scope="module")
def router() -> Iterator[OpenRouterServer]:
    with OpenRouterServer() as server:
        assert isinstance(server, OpenRouterServer)
        for name, description in (
            ("echo", "Says again what it is told."),
            ("acme/healer", "Answers patients' questions in Portuguese."),
            ("acme/priceless", "Draws up contracts."),
        ):
            server.add(name)
            server.entries[name] |= {"name": name, "description": description}
        del server.entries["acme/priceless"]["pricing"]
        yield server


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, router: OpenRouterServer) -> Iterator[StartedNode]:
    """A node that has read the router."""
    with started_node(tmp_path_factory.mktemp("node"), USD_PRICE_MICRO_FTNS=0) as node:
        added = node.cli(
            "discovery", "add", "router", "--kind", "openrouter", "--address", router.origin, SOURCE_SECRET=SECRET
        )
        assert added.returncode == 0, added.stderr
        read = node.cli("discovery", "sync", "router")
        assert (read.returncode, read.stdout) == (0, "router: 3 models\n"), read.stderr
        yield node


def listings(node: StartedNode, **asked: Any) -> list[dict[str, Any]]:
    return node.call("GET", f"/node/v1/discovery/listings?{urlencode(asked)}")["listings"]


def names(node: StartedNode, **asked: Any) -> list[str]:
    return [each["name"] for each in listings(node, **asked)]


def until_indexed(node: StartedNode) -> None:
    deadline_s = time.monotonic() + 60
    while node.call("GET", "/node/v1/discovery/listings")["pending"]:
        assert time.monotonic() < deadline_s, "the listings were not indexed"
        time.sleep(0.05)


def test_a_source_is_shown_without_its_secret(found: StartedNode, router: OpenRouterServer) -> None:
    assert router.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    shown = found.cli("discovery", "sources", "--json")
    by_name = {each["name"]: each for each in json.loads(shown.stdout)}
    assert by_name["router"]["has_secret"] is True
    assert (by_name["router"]["listings"], by_name["router"]["stale"]) == (3, False)
    assert by_name["local"]["kind"] == "embedded"
    log = found.log_path.read_text(errors="replace")
    assert SECRET not in shown.stdout + json.dumps(listings(found)) + log


def test_what_is_listed_is_found_with_price_source_and_age(found: StartedNode) -> None:
    until_indexed(found)
    table = found.cli("discovery", "search", "help for sick people in Lisbon")
    assert table.stdout.splitlines()[1].split()[:6] == ["router", "acme/healer", "2.5", "USD", "10", "USD"]
    assert "just now" in table.stdout
    (first, *_) = listings(found, q="acme/priceless")
    assert (first["name"], first["by_name"], first["price"]) == ("acme/priceless", True, None)
    price = listings(found, q="healer")[0]["price"]
    assert (price["input"], price["output"], price["cached_input"]) == ("2.5", "10", "1.25")
    assert (price["source"], price["currency"], price["ftns"]) == ("router", "USD", None)
    assert price["as_of"]


def test_the_teacher_of_the_node_itself_is_listed_too(found: StartedNode) -> None:
    until_indexed(found)
    assert listings(found, q="sums and differences")[0]["source"] == "local"


def test_a_ceiling_excludes_what_is_unknown(found: StartedNode) -> None:
    assert names(found, source="router", max_input_price="999999") == ["acme/healer", "echo"]
    assert names(found, source="router", max_input_price="2.499999999") == []
    assert names(found, source="router", max_input_price="2.5", capability="vision", min_context_tokens=1_000_000)
    assert names(found, currency="FTNS", max_input_price="100", source="router") == []
    with pytest.raises(HTTPError) as refused:
        names(found, max_input_price="1e9")
    assert refused.value.code == 400


def test_a_listing_is_adopted_at_prices_in_ftns_only(found: StartedNode, upstream: UpstreamServer) -> None:
    base = ("--base-url", f"{upstream.origin}/v1")
    unpriced = found.cli("discovery", "adopt", "router", "echo", *base)
    assert unpriced.returncode == 1
    assert "is in USD, and this node knows no rate" in unpriced.stderr
    assert "--price-in" in unpriced.stderr
    unknown = found.cli("discovery", "adopt", "router", "acme/priceless", "--price-in", "1", *base)
    assert "is not known" in unknown.stderr
    done = found.cli("discovery", "adopt", "router", "echo", "--price-in", "0.5", "--price-out", "2", *base)
    assert done.stdout == "added router/echo at 0.5 and 2 FTNS per million tokens in and out\n", done.stderr
    answer = found.call(
        "POST", "/v1/chat/completions", {"model": "router/echo", "messages": [{"role": "user", "content": "hello you"}]}
    )
    assert answer["choices"][0]["message"]["content"] == "hello you"
    # Another address than the source's: its secret did not go there.
    assert all(SECRET not in json.dumps(headers) for headers in upstream.headers)
    (provider,) = [each for each in found.call("GET", "/node/v1/providers") if each["name"] == "router"]
    assert provider["has_api_key"] is False


def test_the_secret_goes_with_the_address_that_it_was_given_for(found: StartedNode, router: OpenRouterServer) -> None:
    prices = ("--price-in", "1", "--price-out", "1", "--provider", "same")
    done = found.cli("discovery", "adopt", "router", "acme/healer", *prices)
    assert done.returncode == 0, done.stderr
    (provider,) = [each for each in found.call("GET", "/node/v1/providers") if each["name"] == "same"]
    assert (provider["base_url"], provider["has_api_key"]) == (f"{router.origin}/api/v1", True)


def test_another_nodes_prices_in_ftns_are_taken_as_they_are(found: StartedNode) -> None:
    with PrsmServer() as peer:
        assert isinstance(peer, PrsmServer)
        peer.add("their-model")
        assert found.cli("discovery", "add", "peer", "--kind", "prsm", "--address", f"{peer.origin}/v1").returncode == 0
        assert found.cli("discovery", "sync", "peer").stdout == "peer: 1 models\n"
        done = found.cli("discovery", "adopt", "peer", "their-model")
        assert done.stdout == "added peer/their-model at 20 and 60 FTNS per million tokens in and out\n", done.stderr
        assert found.cli("discovery", "remove", "peer").returncode == 0
        assert names(found, source="peer") == []
        gone = found.cli("discovery", "sync", "peer")
        assert gone.returncode == 1


def test_what_is_built_in_stays_as_it_is(found: StartedNode) -> None:
    for arguments in (("remove", "local"), ("add", "local", "--kind", "vllm", "--address", "http://127.0.0.1:9/v1")):
        refused = found.cli("discovery", *arguments)
        assert (refused.returncode, "built in" in refused.stderr) == (1, True)
    assert "inside the node" in found.cli("discovery", "adopt", "local", "arithmetic").stderr


def test_a_source_that_is_away_says_so(found: StartedNode) -> None:
    assert found.cli("discovery", "add", "away", "--kind", "vllm", "--address", "http://127.0.0.1:9/v1").returncode == 0
    read = found.cli("discovery", "sync", "away")
    for _ in range(20):  # the node may be reading it by itself just now, and then there is nothing left to do
        if read.returncode:
            break
        time.sleep(0.5)
        read = found.cli("discovery", "sync", "away")
    assert read.returncode == 1
    assert read.stdout.startswith("away: ")
    (away,) = [
        each for each in json.loads(found.cli("discovery", "sources", "--json").stdout) if each["name"] == "away"
    ]
    assert (away["last_error_code"], away["last_read_at"], away["stale"]) == ("source_unreachable", None, True)
    assert away["failures"] >= 1
    found.cli("discovery", "remove", "away")
