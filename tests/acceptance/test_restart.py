"""A node alone with its teacher, stopped in good order under a stream, and started again with everything."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai
import pytest
from openai import OpenAI
from tests.support.started_node import StartedNode, free_port, started_node
from tests.support.upstream import UpstreamServer


@pytest.fixture(scope="module")
def own_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartedNode]:
    with started_node(tmp_path_factory.mktemp("restart"), SHUTDOWN_GRACE_S=1) as node:
        yield node


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def sdk(node: StartedNode) -> OpenAI:
    return OpenAI(base_url=node.base_url, api_key=node.key, max_retries=0)


def test_with_the_teacher_alone_a_poem_is_refused_with_the_command_that_helps(own_node: StartedNode) -> None:
    client = sdk(own_node)
    assert client.chat.completions.create(model="auto", messages=say("What is 6 * 7?")).choices[0].message.content
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="auto", messages=say("Write a poem about the sea."))
    assert refused.value.code == "no_able_model"
    assert refused.value.status_code == 422
    assert "prsm models add" in refused.value.message
    assert own_node.wallet()["held_micro"] == 0
    done = own_node.cli("ask", "Write a poem about the sea.")
    assert done.returncode == 1
    assert "prsm models add" in done.stderr


def test_everything_is_there_after_a_restart(own_node: StartedNode, upstream: UpstreamServer) -> None:
    node = own_node
    node.add_provider("up", f"{upstream.origin}/v1")
    node.add_model("up/echo")
    node.add_model("up/hold")
    session = str(uuid4())
    extra: Any = {"extra_body": {"prsm": {"session_id": session}}, "extra_headers": {"Idempotency-Key": "before"}}
    ask = sdk(node).chat.completions.with_raw_response.create
    before = ask(model="up/echo", messages=say("My name is Ada"), **extra)
    _, token = node.new_key("kept", cap_micro=1000)
    wallet, key = node.wallet(), node.key
    receipts = node.call("GET", "/node/v1/receipts")

    assert node.stop() == 0
    assert node.server_pid("postgres") is None
    assert node.server_pid("valkey") is None
    node.start()

    assert node.key == key
    assert node.wallet() == wallet
    assert node.wallet(token)["key"]["cap_micro"] == 1000
    assert node.call("GET", "/node/v1/receipts") == receipts
    ask = sdk(node).chat.completions.with_raw_response.create
    again = ask(model="up/echo", messages=say("My name is Ada"), **extra)
    assert again.content == before.content
    assert node.wallet()["balance_micro"] == wallet["balance_micro"]
    del extra["extra_headers"]
    ask(model="up/echo", messages=say("What is my name?"), **extra)
    assert [m["role"] for m in upstream.requests[-1]["messages"]] == ["user", "assistant", "user"]


def test_a_stop_ends_open_streams_and_charges_what_they_gave(own_node: StartedNode) -> None:
    stream = sdk(own_node).chat.completions.with_raw_response.create(
        model="up/hold", messages=say("one two three"), stream=True
    )
    receipt_id = stream.headers["x-request-id"]
    got, first = [], threading.Event()

    def read() -> None:
        try:
            for chunk in stream.parse():
                got.append(chunk)
                if chunk.choices and chunk.choices[0].delta.content:
                    first.set()
        except Exception as error:  # noqa: BLE001 - how it ends is what is looked at
            got.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(20)
    begun = own_node.log_path.stat().st_size
    assert own_node.stop(signal.SIGINT) == 0
    reader.join(20)
    assert not reader.is_alive()
    said = own_node.log_path.read_bytes()[begun:].decode()
    assert "stopped" in said
    assert "Traceback" not in said
    assert "rror" not in said
    own_node.start()
    receipt = own_node.receipt(receipt_id)
    assert receipt["completed"] is False
    assert receipt["amounts"]["captured_micro"] > 0
    assert own_node.wallet()["held_micro"] == 0


def test_a_second_node_on_the_same_home_is_refused(own_node: StartedNode) -> None:
    done = own_node.cli("--port", str(free_port()), "up")
    assert done.returncode == 1
    assert "in use by process" in done.stderr


def test_a_port_that_is_taken_is_named(own_node: StartedNode, tmp_path: Path) -> None:
    done = own_node.cli("--home", str(tmp_path / "other"), "up")
    assert done.returncode == 2
    assert str(own_node.port) in done.stderr
    assert "--port" in done.stderr


def test_a_terminal_that_goes_away_stops_the_node_in_good_order(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]a home"
    folder.mkdir()
    ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the node would rightly ignore it
    with started_node(folder) as node:
        signal.signal(signal.SIGHUP, ignored)
        said = node.log_path.read_text()
        assert f"(kept in {node.home / 'operator.key'})" in said
        assert f"PRSM node is up at {node.url}   (docs: {node.url}/docs, metrics: {node.url}/metrics)\n" in said
        assert node.stop(signal.SIGHUP) == 0
        assert node.server_pid("postgres") is None
