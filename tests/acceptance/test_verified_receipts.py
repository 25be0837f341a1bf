"""Each answer's receipt, verified offline by the standalone verifier against what the client sent and received."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI
from tests.support.started_node import StartedNode

from prsm.receipt_verifier import verify

Answered = tuple[str, bytes, bytes]
"""What a client has of one request: the receipt's id, the body as it was sent, the answer as the SDK assembled it."""


def chat(node: StartedNode, **more: Any) -> Answered:
    client = OpenAI(base_url=node.base_url, api_key=node.key)
    raw = client.chat.completions.with_raw_response.create(
        model="up/echo", messages=[{"role": "user", "content": "one zwei 三 \u00e9"}], **more
    )
    return raw.headers["x-prsm-receipt"], raw.http_response.request.read(), raw.content


def streamed_chat(node: StartedNode, **more: Any) -> Answered:
    client = OpenAI(base_url=node.base_url, api_key=node.key)
    raw = client.chat.completions.with_raw_response.create(
        model="up/echo", messages=[{"role": "user", "content": "one zwei 三"}], stream=True, **more
    )
    text, receipt_id = "", ""
    for chunk in raw.parse():
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        receipt_id = (getattr(chunk, "prsm", None) or {}).get("receipt_id", receipt_id)
    return receipt_id, raw.http_response.request.read(), text.encode()


def responses(node: StartedNode) -> Answered:
    raw = OpenAI(base_url=node.base_url, api_key=node.key).responses.with_raw_response.create(
        model="up/echo", input="one two"
    )
    return raw.headers["x-prsm-receipt"], raw.http_response.request.read(), raw.content


def embeddings(node: StartedNode) -> Answered:
    raw = OpenAI(base_url=node.base_url, api_key=node.key).embeddings.with_raw_response.create(
        model="local/minilm-l6", input=["a cat", "a dog"]
    )
    return raw.headers["x-prsm-receipt"], raw.http_response.request.read(), raw.content


def message(node: StartedNode, **more: Any) -> Answered:
    raw = Anthropic(base_url=node.url, api_key=node.key).messages.with_raw_response.create(
        model="up/echo", max_tokens=50, messages=[{"role": "user", "content": "one two"}], **more
    )
    return raw.headers["x-prsm-receipt"], raw.http_response.request.read(), raw.read()


def streamed_message(node: StartedNode) -> Answered:
    client = Anthropic(base_url=node.url, api_key=node.key)
    with client.messages.stream(
        model="up/echo", max_tokens=50, messages=[{"role": "user", "content": "one two"}]
    ) as stream:
        text = "".join(stream.text_stream)
        return stream.response.headers["x-request-id"], stream.response.request.read(), text.encode()


def chat_tools(node: StartedNode) -> Answered:
    return chat(node, tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])


def message_tools(node: StartedNode) -> Answered:
    return message(node, tools=[{"name": "f", "input_schema": {"type": "object"}}])


ROUTES = [chat, streamed_chat, responses, embeddings, message, streamed_message, chat_tools, message_tools]


@pytest.mark.parametrize("ask", ROUTES)
def test_a_receipt_binds_what_was_sent_and_what_was_received(
    node: StartedNode, ask: Callable[[StartedNode], Answered]
) -> None:
    receipt_id, request, answer = ask(node)
    signed = node.call("GET", f"/node/v1/receipts/{receipt_id}")
    key = node.call("GET", "/node/v1/node")["public_key"]
    problems, signer = verify(json.dumps(signed).encode(), node_key=key, request=request, answer=answer)
    assert (problems, signer) == ([], key)
    receipt = signed["receipt"]
    assert receipt["request_digest"] == hashlib.sha256(request).hexdigest()
    assert receipt["completed"] is True
    assert sum(leg["amount_micro"] for leg in receipt["splits"]) == receipt["amounts"]["captured_micro"] > 0
    # The same receipt proves no other answer and no other request.
    other = b'{"data": []}' if ask is embeddings else b"another answer"
    assert verify(json.dumps(signed).encode(), node_key=key, answer=other)[0]
    assert verify(json.dumps(signed).encode(), node_key=key, request=request + b" ")[0]


def test_the_verifier_that_the_node_hands_out_runs_alone(node: StartedNode, tmp_path: Path) -> None:
    receipt_id, request, answer = chat(node)
    (tmp_path / "verifier.py").write_text(node.call("GET", "/node/v1/verifier"))
    (tmp_path / "receipt.json").write_text(json.dumps(node.call("GET", f"/node/v1/receipts/{receipt_id}")))
    (tmp_path / "request").write_bytes(request)
    (tmp_path / "answer").write_bytes(answer)
    command = [sys.executable, "-I", "verifier.py", "receipt.json", "--request", "request", "--answer", "answer"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_nobody_reads_anothers_receipt(node: StartedNode) -> None:
    receipt_id, _, _ = chat(node)
    _, stranger = node.new_client()
    with pytest.raises(Exception, match="404"):
        node.receipt(receipt_id, key=stranger)
