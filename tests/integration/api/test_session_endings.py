"""Answers of a session that end otherwise than well: what the next turn is told of them."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support.served_node import PRICES, serve_node


async def test_the_next_turn_is_told_of_a_refusal(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    async with serve_node(tmp_path, postgres_url, valkey_url) as served:
        await served.done("PUT", "/node/v1/models/up/refuser", PRICES)
        body: Any = {"model": "up/refuser", "messages": [{"role": "user", "content": "hello"}]}
        body["prsm"] = {"session_id": str(uuid4())}
        for _ in range(2):
            await served.done("POST", "/v1/chat/completions", body)
        assert served.upstream.requests[-1]["messages"][1] == {"role": "assistant", "content": "hello"}
