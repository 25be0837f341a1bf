"""A real Prometheus beside a started node, with the rules that the node writes, tells of outages and of their end."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from tests.support.outages import OUTAGES, outage_world, suffer_until
from tests.support.started_node import StartedNode, free_port

PROGRAM = shutil.which("prometheus")
CONFIG = """
global: {{scrape_interval: 2s, evaluation_interval: 2s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: prsm
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@contextmanager
def prometheus(node: StartedNode, folder: Path) -> Iterator[str]:
    written = node.cli("alerts", "rules", "--folder", str(folder))
    assert written.returncode == 0, written.stderr
    (folder / "prometheus.yml").write_text(CONFIG.format(rules=folder / "prsm.rules.yml", port=node.port))
    port = free_port()
    assert PROGRAM is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROGRAM, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def firing(url: str) -> set[str]:
    try:
        with urlopen(f"{url}/api/v1/alerts", timeout=30) as answer:
            alerts = json.load(answer)["data"]["alerts"]
    except URLError:
        return set()
    return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


def until(holds: object, timeout_s: float = 150) -> float:
    begun_s = time.monotonic()
    while not holds():  # type: ignore[operator]
        assert time.monotonic() - begun_s < timeout_s
        time.sleep(0.2)
    return time.monotonic() - begun_s


@pytest.mark.timeout(900)
@pytest.mark.skipif(PROGRAM is None, reason="prometheus is not installed (Debian: prometheus)")
def test_prometheus_tells_of_outages_and_of_their_end(tmp_path: Path) -> None:
    with outage_world(tmp_path) as world, prometheus(world.node, tmp_path) as url:
        until(lambda: values(url, "up").get("up") == 1)
        assert firing(url) == set()
        for outage in OUTAGES:
            if outage.rule == "DiskAlmostFull" and world.disk is None:
                continue
            until(lambda rule=outage.rule: rule not in firing(url))
            fired_s, resolved_s = suffer_until(
                world,
                outage,
                fires=lambda rule=outage.rule: until(lambda: rule in firing(url)),
                ends=lambda rule=outage.rule: until(lambda: rule not in firing(url)),
            )
            print(f"{outage.what}: {outage.rule} in Prometheus after {fired_s:.1f} s, over after {resolved_s:.1f} s")
        assert world.node.stop() == 0
        until(lambda: "NodeDown" in firing(url))


def values(url: str, query: str) -> dict[str, float]:
    try:
        with urlopen(f"{url}/api/v1/query?query={query}", timeout=30) as answer:
            return {one["metric"]["__name__"]: float(one["value"][1]) for one in json.load(answer)["data"]["result"]}
    except URLError:
        return {}
