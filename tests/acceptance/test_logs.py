"""What callers and operators entrust to a node is in none of its logs, whatever goes wrong.

Words and keys that occur nowhere else are sent through everything that works and much that fails, at the most talkative
level; then every log is searched for them.
"""

import contextlib
import json
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from tests.support.started_node import StartedNode, free_port, started_node
from tests.support.upstream import KEY as PROVIDER_KEY
from tests.support.upstream import UpstreamServer

FAULTS = ("fault-400", "fault-401", "fault-500", "not-json", "cut-mid-stream", "error-mid-stream", "end-early", "reset")
QUOTERS = ("quote-400", "quote-500")


class Teller:
    """Sends words that must not be kept, and remembers them."""

    def __init__(self, node: StartedNode) -> None:
        self.node = node
        _, self.key = node.new_client("teller")
        self.words: dict[str, str] = {"the caller's key": self.key.split("_", 2)[2]}

    def word(self, what: str) -> str:
        """A new word that occurs nowhere else."""
        self.words[what] = f"canary{secrets.token_hex(8)}"
        return self.words[what]

    def send(self, path: str, body: Any, *, key: str | None = None, method: str = "POST", **headers: str) -> int:
        """Send something; its status, or 0 where the connection broke."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"authorization": f"Bearer {key or self.key}", "content-type": "application/json", **headers}
        try:
            with urlopen(Request(self.node.url + path, data, sent, method=method), timeout=60) as response:
                response.read()
                return response.status
        except HTTPError as error:
            error.read()
            return error.code
        except (URLError, HTTPException, OSError):
            return 0

    def chat(self, what: str, model: str = "auto", **more: Any) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": f"What is 1 + 2? {self.word(what)}"}]}
        return self.send("/v1/chat/completions", body | more)

    def found_in(self, *logs: Path) -> list[str]:
        """Which of the words stand in which log."""
        return [
            f"{what} in {log}" for log in logs for what, word in self.words.items() if word.encode() in log.read_bytes()
        ]


@pytest.fixture(params=["console", "json"])
def teller(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamServer
) -> Iterator[Teller]:
    folder = tmp_path_factory.mktemp("logs")
    quick = {"RETRY_ATTEMPTS": 1, "UPSTREAM_FIRST_BYTE_TIMEOUT_S": 2, "UPSTREAM_IDLE_TIMEOUT_S": 2}
    with started_node(folder, LOG_LEVEL="debug", LOG_FORMAT=request.param, **quick) as node:
        node.call(
            "PUT", "/node/v1/providers/up",
            {"kind": "openai", "base_url": f"{upstream.origin}/v1", "api_key": PROVIDER_KEY},
        )  # fmt: skip
        for name in ("echo", *FAULTS, *QUOTERS):
            node.add_model(f"up/{name}")
        yield Teller(node)


def test_no_secret_and_no_word_of_a_caller_is_logged(teller: Teller) -> None:
    node = teller.node
    teller.words["the provider's key"] = PROVIDER_KEY
    for name in ("postgres.password", "valkey.password"):
        teller.words[name] = (node.home / name).read_text().strip()
    for stream in (False, True):
        assert teller.chat(f"a prompt, stream {stream}", "up/echo", stream=stream) == 200
        for fault in (*FAULTS, *QUOTERS):
            ended = teller.chat(f"a prompt to {fault}, stream {stream}", f"up/{fault}", stream=stream)
            assert ended, "an answer ends, also when the provider breaks it off"
    works_and_refusals(teller)
    without_database(teller)
    node.until_ready()
    assert teller.chat("a prompt after the outage", "up/echo") == 200
    site = node._site()
    assert site is not None
    logs = [node.log_path, *(site / name / "server.log" for name in ("postgres", "valkey"))]
    assert b"stream failed" in node.log_path.read_bytes(), "the failures were logged at all"
    assert all(log.stat().st_size for log in logs)
    assert not teller.found_in(*logs)
    assert len(teller.words) > 30


def test_what_an_operator_entrusts_in_addresses_is_not_logged_either(
    fresh_database: str, tmp_path: Path, upstream: UpstreamServer
) -> None:
    """Passwords in the database's and Valkey's addresses, keys in providers' addresses, while all of them fail."""
    parts = urlsplit(fresh_database)
    assert parts.password
    away = {"REDIS_URL": f"redis://:{(valkey := f'canary{secrets.token_hex(8)}')}@127.0.0.1:1", "LOG_LEVEL": "debug"}
    with started_node(tmp_path, DATABASE_URL=fresh_database, RETRY_ATTEMPTS=1, **away) as node:
        teller = Teller(node)
        teller.words |= {"the database's password": parts.password, "valkey's password": valkey}
        places = {
            "refuses": "127.0.0.1:1/v1", "unknown": "no-such-host.invalid/v1", "no-http": f"127.0.0.1:{node.port}/v1",
            "not-tls": f"127.0.0.1:{upstream.port}/v1",
        }  # fmt: skip
        for name, place in places.items():
            secret, query = teller.word(f"{name}'s password"), teller.word(f"{name}'s key")
            address = f"{'https' if name == 'not-tls' else 'http'}://user:{secret}@{place}?key={query}"
            node.call("PUT", f"/node/v1/providers/{name}", {"kind": "openai", "base_url": address})
            node.add_model(f"{name}/m")
            for stream in (False, True):
                assert teller.chat(f"a prompt to {name}", f"{name}/m", stream=stream) >= 400
        assert not teller.found_in(node.log_path)
        wrong = f"canary{secrets.token_hex(8)}"
        refused = node.cli("--port", str(free_port()), "--home", str(tmp_path / "other"), "up",
                           PRSM_DATABASE_URL=fresh_database.replace(parts.password, wrong))  # fmt: skip
        assert refused.returncode == 1
        assert "PRSM_DATABASE_URL" in refused.stderr
        assert wrong not in refused.stdout + refused.stderr


def works_and_refusals(teller: Teller) -> None:
    word, send = teller.word, teller.send
    answered = send("/v1/responses", {"model": "up/echo", "input": word("a response's input"), "store": True})
    assert answered == 200
    message = {"role": "user", "content": [{"type": "text", "text": word("a message's text")}]}
    assert send("/v1/messages", {"model": "up/echo", "max_tokens": 9, "messages": [message]}) == 200
    assert send("/v1/embeddings", {"model": "auto", "input": word("an embedding's text")}) == 200
    named = {"idempotency-key": word("an idempotency key")}
    assert send("/v1/embeddings", {"model": "auto", "input": "x"}, **named) == 200
    assert send(f"/node/v1/models/search?q={word('a search')}", None, method="GET") == 200
    refused = [
        send("/v1/chat/completions", {"model": word("an unknown model"), "messages": [message]}),
        send("/v1/chat/completions", {"model": "auto", "messages": word("messages of a wrong type")}),
        send("/v1/chat/completions", {"model": "auto", "messages": [message], word("a field"): 1, "n": 99}),
        send("/v1/chat/completions", word("no JSON").encode()),
        send("/v1/chat/completions", b'{"model":"' + word("invalid UTF-8").encode() + b'\xff"}'),
        send("/node/v1/keys", {"name": 5, "scopes": [word("a scope")]}),
        send("/node/v1/keys", {"name": word("a name"), "scopes": ["admin"]}),
        send(f"/node/v1/{word('a path')}", None, method="GET"),
        send("/node/v1/wallet", None, method="GET", key=word("no key at all")),
        send("/node/v1/wallet", None, method="GET", key="prsm_00000000_" + word("a foreign key").ljust(43, "x")),
        send("/v1/messages", {}, **{"x-prsm-session": word("a session's id")}),
    ]
    assert all(400 <= status < 500 for status in refused), refused


def without_database(teller: Teller) -> None:
    """Ask on while PostgreSQL is killed and comes back."""
    threads = [
        threading.Thread(target=keep_asking, args=(teller, f"a prompt in the outage, {number}")) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for _ in range(2):
        pid = teller.node.server_pid("postgres")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        teller.node.until_ready()
    for thread in threads:
        thread.join(60)


def keep_asking(teller: Teller, what: str) -> None:
    for number in range(10):
        body = {"model": "up/echo", "input": teller.word(f"{what}: {number}"), "store": True, "stream": number % 2 == 0}
        teller.send("/v1/responses", body)
