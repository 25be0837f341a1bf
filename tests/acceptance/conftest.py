"""One started node and one upstream for the session; a test that changes models or keys takes its own."""

from collections.abc import Iterator

import pytest
from tests.support.started_node import StartedNode, started_node, upstream_server
from tests.support.upstream import UpstreamServer


@pytest.fixture(scope="session")
def upstream() -> Iterator[UpstreamServer]:
    with upstream_server() as server:
        yield server


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamServer) -> Iterator[StartedNode]:
    # Without learning, so that whom auto chooses does not depend on what other tests have asked before.
    settings = {"UPSTREAM_IDLE_TIMEOUT_S": 30, "LEARNING_ENABLED": "false"}
    with started_node(tmp_path_factory.mktemp("node"), **settings) as node:
        node.add_provider("up", f"{upstream.origin}/v1")
        node.add_model("up/echo", description="Says again what it is told; for repeating.")
        # Dearer than the rest, so that auto never chooses what never ends.
        node.add_model("up/hold", price_in=100_000_000, price_out=200_000_000)
        node.add_model("up/embed", capabilities=["embeddings"], price_out=0)
        yield node


@pytest.fixture
def node(shared_node: StartedNode, request: pytest.FixtureRequest) -> Iterator[StartedNode]:
    """The shared node; what it logged during the test is printed, which pytest shows when the test fails."""
    begun = shared_node.log_path.stat().st_size
    yield shared_node
    print(shared_node.log_path.read_bytes()[begun:].decode(errors="replace")[-8000:])
