"""A node on an IPv6 address: it starts, its printed address is one that can be pasted, and the commands reach it."""

import json
import socket
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from tests.support.started_node import StartedNode, started_node


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.mark.parametrize(("host", "workers"), [("::1", 1), ("::", 2)])
def test_a_node_on_ipv6(host: str, workers: int, tmp_path: Path) -> None:
    with started_node(tmp_path, HOST=host, WORKERS=workers) as node:
        printed = f"http://[{host}]:{node.port}"
        assert f"PRSM node is up at {printed} " in node.log_path.read_text()
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "What is 127 + 385?"}]}).encode()
        headers = {"authorization": f"Bearer {node.key}", "content-type": "application/json"}
        with urlopen(Request(f"http://[::1]:{node.port}/v1/chat/completions", body, headers), timeout=30) as answer:
            assert "512" in json.load(answer)["choices"][0]["message"]["content"]
        assert node.cli("ask", "What is 127 + 385?").stdout == "512\n"
        assert "FIX" not in node.cli("doctor").stdout
        assert f'base_url="{printed}/v1"' in node.log_path.read_text()
        taken = StartedNode(tmp_path / "other", HOST=host)
        refused = taken.cli("--port", str(node.port), "up")
        assert refused.returncode == 2
        assert f"cannot listen on {printed}" in refused.stderr
