"""Selling and buying with the clients users have: the ``prsm market`` commands, the OpenAI SDK, and ``kill -9``."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.support.started_node import StartedNode, started_node
from tests.support.upstream import UpstreamServer


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamServer) -> Iterator[StartedNode]:
    with started_node(tmp_path_factory.mktemp("market"), MARKET_EPOCH_S=86_400) as started:
        started.add_provider("up", f"{upstream.origin}/v1")
        started.add_model("up/echo", price_in=9_000_000, price_out=9_000_000)
        yield started


def told(node: StartedNode, *arguments: str, **env: str) -> str:
    done = node.cli("market", *arguments, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def asked(node: StartedNode, key: str, **prsm: Any) -> Any:
    client = OpenAI(base_url=node.base_url, api_key=key, max_retries=0)
    say: Any = [{"role": "user", "content": "one two three four"}]
    return client.chat.completions.create(model="up/echo", messages=say, extra_body={"prsm": prsm}).model_extra["prsm"]  # type: ignore[index]


def test_from_an_offer_to_a_statement(node: StartedNode, tmp_path: Path) -> None:
    _, buyer = node.new_client("buyer")
    offer = told(
        node, "offer", "up/echo", "--price-in", "1", "--price-out", "2", "--price-cached", "0.1",
        "--floor", "50", "--ceiling", "200", "--capacity", "60000", "--text", "for all",
    )  # fmt: skip
    listed = json.loads(told(node, "offers", "--model", "echo", "--max-in", "1", "--json"))
    assert [(one["id"], one["posted"]) for one in listed] == [
        (offer, {"input_micro": 1_000_000, "output_micro": 2_000_000, "cached_input_micro": 100_000})
    ]
    assert "up/echo" in told(node, "offers")
    assert told(node, "offers", "--max-in", "0.5").count("\n") == 0
    quote = json.loads(
        told(
            node,
            "quote",
            "up/echo",
            "--input-tokens",
            "500",
            "--output-tokens",
            "50",
            "--ttl",
            "600",
            PRSM_API_KEY=buyer,
        )
    )["quote"]
    assert told(
        node, "offer", "up/echo", "--price-in", "4", "--price-out", "4", "--capacity", "1", "--change", offer
    ) == offer  # fmt: skip
    assert "4 in" in told(node, "price", offer)
    # A quote and an offer outlive a node that is killed.
    node.kill()
    node.start()
    cheap = asked(node, buyer, quote_id=quote["id"])
    dear = asked(node, buyer)
    assert dear["cost_micro"] > 2 * cheap["cost_micro"]
    with pytest.raises(openai.ConflictError) as used:
        asked(node, buyer, quote_id=quote["id"])
    assert used.value.code == "quote_used"
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps(node.call("GET", f"/node/v1/receipts/{cheap['receipt_id']}")))
    assert node.cli("receipt", "verify", str(receipt)).returncode == 0
    refund = told(node, "refund", "ask", dear["receipt_id"], "--reason", "overcharged", PRSM_API_KEY=buyer)
    assert told(node, "refund", "grant", refund).startswith("paid: ")
    assert refund in told(node, "refund", "list", PRSM_API_KEY=buyer)
    assert node.cli("market", "refund", "refuse", refund, PRSM_API_KEY=buyer).returncode == 1
    month = datetime.now(UTC).strftime("%Y-%m")
    made = json.loads(told(node, "statement", month, "--json", PRSM_API_KEY=buyer))
    assert made["closing_micro"] == node.wallet(buyer)["balance_micro"]
    assert {line["kind"]: line["received_micro"] for line in made["lines"]}["refund"] == dear["cost_micro"]
    assert "closing" in told(node, "statement", month, PRSM_API_KEY=buyer)
    assert "net" in told(node, "earnings")
    for command in ("pause", "resume", "withdraw"):
        assert offer in told(node, command, offer)
    assert node.cli("ledger", "verify").returncode == 0
