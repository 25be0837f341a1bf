"""``prsm demo``: the node's main job, once from start to stop without a person; any failing step fails the whole."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prsm.cli.client import KEY_FILE, NodeClient, NodeUnreachable
from prsm.core.errors import PrsmError
from prsm.core.money import format_ftns
from prsm.core.verifier_file import verifier_file

QUESTIONS = ("What is 127 + 385?", "12 * 34", "What is 950 - 275?")
_START_S = 120
_STOP_S = 60
_CHAT = "/v1/chat/completions"


def demo() -> None:
    """Start a node in a folder of its own, ask three questions, check costs and receipts, prove the ledger, stop."""
    with tempfile.TemporaryDirectory(prefix="prsm-demo-") as folder, running_node(Path(folder)) as client:
        before: int = client.call("GET", "/node/v1/wallet")["balance_micro"]
        node_key: str = client.call("GET", "/node/v1/node")["public_key"]
        print(f"balance: {format_ftns(before)} FTNS\n")
        spent = 0
        for place, question in enumerate(QUESTIONS):
            spent += _ask(client, question, Path(folder), node_key, streamed=place == 1)
        after: int = client.call("GET", "/node/v1/wallet")["balance_micro"]
        print(f"balance: {format_ftns(after)} FTNS")
        if before - after != spent or spent == 0:
            raise PrsmError(f"The balance fell by {before - after} micro-FTNS, the receipts say {spent}.")
        proof = client.call("GET", "/node/v1/ledger/verify")
        if not proof["ok"]:
            raise PrsmError(f"The ledger is not sound: {proof['violations'][:3]}.")
        print(f"ledger:  proven, {proof['head']} positions without a gap")
    print("stopped")


def _ask(client: NodeClient, question: str, folder: Path, node_key: str, *, streamed: bool) -> int:
    """Ask, print, and verify the receipt against what was sent and received; answers the cost in micro-FTNS."""
    body = {"model": "auto", "messages": [{"role": "user", "content": question}], "stream": streamed}
    print(f"ask{' (streamed)' if streamed else ''}: {question}")
    if streamed:
        answer, bill = "", {}
        for event in client.stream(_CHAT, body):
            answer += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            bill: dict[str, Any] = event.get("prsm") or bill
    else:
        response = client.call("POST", _CHAT, body)
        answer, bill = response["choices"][0]["message"]["content"], response["prsm"]
    if not answer.strip():
        raise PrsmError(f"The answer to {question!r} is empty.")
    print(f"  {answer}\n  {bill['model']} ({bill['reason']}), {format_ftns(bill['cost_micro'])} FTNS")
    receipt = client.read(f"/node/v1/receipts/{bill['receipt_id']}")
    _verify(folder, receipt, json.dumps(body).encode(), answer, node_key)
    captured: int = json.loads(receipt)["receipt"]["amounts"]["captured_micro"]
    if captured != bill["cost_micro"]:
        raise PrsmError(f"The receipt says {captured} micro-FTNS, the answer {bill['cost_micro']}.")
    return captured


def _verify(folder: Path, receipt: bytes, request: bytes, answer: str, node_key: str) -> None:
    paths = [folder / name for name in ("receipt.json", "request.json", "answer.txt")]
    for path, data in zip(paths, (receipt, request, answer.encode()), strict=True):
        path.write_bytes(data)
    options = ["--node-key", node_key, "--request", str(paths[1]), "--answer", str(paths[2])]
    done = subprocess.run(  # noqa: S603 - our own file
        [sys.executable, "-I", verifier_file(), paths[0], *options], capture_output=True, text=True, check=False
    )
    print("  receipt: " + (done.stdout or done.stderr).strip().replace("\n", "\n  ") + "\n")
    if done.returncode:
        raise PrsmError("The receipt does not verify.")


@contextmanager
def running_node(home: Path) -> Generator[NodeClient]:
    """A node of its own in ``home``, and a client with its operator's key; stopped when the block ends."""
    port = _free_port()
    started_s = time.monotonic()
    command = [sys.executable, "-m", "prsm", "--home", str(home / "node"), "--port", str(port), "up"]
    log = (home / "node.log").open("w+")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603 - ourselves
    try:
        client = _wait(process, home / "node" / KEY_FILE, f"http://127.0.0.1:{port}")
        print(f"started in {time.monotonic() - started_s:.1f} s")
        yield client
        process.terminate()
        if process.wait(_STOP_S) != 0:
            raise PrsmError(f"The node ended with exit code {process.returncode}.")
    except BaseException:
        log.seek(0)
        print(log.read(), file=sys.stderr)
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(_STOP_S)
        log.close()


def _wait(process: "subprocess.Popen[bytes]", key: Path, address: str) -> NodeClient:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if key.exists() and (token := key.read_text().strip()):
            client = NodeClient(address, token)
            try:
                client.call("GET", "/readyz")
            except NodeUnreachable:
                pass
            else:
                return client
        time.sleep(0.1)
    raise PrsmError(f"The node did not start within {_START_S} seconds.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
