"""Two started nodes that know nothing of each other but the interface they are on: one fetches what the other has."""

import os
import time
from pathlib import Path

import pytest
from tests.support.started_node import started_node

MIB = 1024 * 1024
pytestmark = pytest.mark.timeout(300)


def test_a_node_finds_another_on_its_link_and_fetches_from_it(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 7)
    (tmp_path / "file").write_bytes(data)
    link = {"STORAGE_MDNS_INTERFACE": "127.0.0.1"}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with started_node(tmp_path / "first", **link) as first:
        if "not on the link" in first.log_path.read_text():
            pytest.skip("no multicast on this machine's loopback")
        with started_node(tmp_path / "second", WORKERS=2, STORAGE_GATEWAY_ENABLED="false", **link) as second:
            added = first.cli("storage", "add", str(tmp_path / "file"))
            assert added.returncode == 0, added.stderr
            until_s = time.monotonic() + 60
            while (got := second.cli("storage", "get", added.stdout.strip(), "-o", str(tmp_path / "copy"))).returncode:
                assert time.monotonic() < until_s, got.stderr
                time.sleep(0.5)
            assert (tmp_path / "copy").read_bytes() == data
            assert first.url in second.cli("storage", "status").stdout
            assert second.url not in first.cli("storage", "status").stdout, "it serves nobody"
