"""How long a promotion and a rollback take by HTTP, while callers ask, on a node that knows many models.

``python -m bench.releases --models 2000 --instances 10``: seeds a database of its own, opens a node on it in this
process, asks one model without pause from a few callers, and prints the latency of each change and what the callers
saw. The time of a change is that until its answer, by then this node follows it.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from tests.support.servers import new_database, postgres_server, valkey_server
from tests.support.started_node import free_port
from tests.support.upstream import UpstreamServer

from prsm.api.main import serve
from prsm.core import database
from prsm.core.config import Settings
from prsm.core.identity import SCOPES, Grant
from prsm.core.keys import NodeKey
from prsm.federation.registry.lifecycle import State
from prsm.federation.registry.version_store import Signer, VersionStore
from prsm.federation.registry.versions import Version
from prsm.node import open_node

REGISTRY = "/node/v1/registry"
PRICES = {"input_price_micro": 1, "output_price_micro": 1}
_SEED_MODELS = """
INSERT INTO models (name, provider, upstream_name, capabilities, context_tokens, max_output_tokens, input_price_micro,
    output_price_micro, description, version, cid, owner_account, model)
SELECT 'far/m' || m || '-' || i, 'far', 'm' || m || '-' || i, '{chat}', 8192, 4096, 1000 + i, 2000 + i, '',
    'v' || i % 2, '', '', 'm' || m
FROM generate_series(1, $1) AS m, generate_series(1, $2) AS i
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--instances", type=int, default=10, help="a model")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--callers", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        with (
            postgres_server(tmp / "p") as postgres,
            valkey_server(tmp / "v") as valkey,
            new_database(postgres, "releases") as url,
        ):
            asyncio.run(_measure(given, tmp / "home", url, valkey))


async def _measure(given: argparse.Namespace, home: Path, url: str, valkey: str) -> None:
    await _seed(home, url, given.models, given.instances)
    limits: dict[str, Any] = {"rate_limit_per_minute": 1_000_000, "rate_limit_burst": 1_000_000}
    settings = Settings(home=home, port=free_port(), database_timeout_ms=60_000, probe_per_minute=0, **limits)
    upstream = await UpstreamServer().start()
    upstream.keep_requests = False
    async with open_node(settings, url, valkey) as node:
        listening = asyncio.Event()
        serving = asyncio.create_task(serve(node, listening.set))
        await listening.wait()
        admin = (await node.enrolment.principal("admin", "admin")).id
        token = (await node.enrolment.key(admin, Grant("k", SCOPES), actor=None, cap_micro=None)).token
        headers = {"authorization": f"Bearer {token}"}
        print(f"{len(node.path.models.by_name)} instances, {len(node.path.models.releases)} releases known")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{settings.port}", headers=headers) as http:
            await _rounds(http, upstream, given)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    await upstream.stop()


async def _seed(home: Path, url: str, models: int, instances: int) -> None:
    """Instances of models whose stable version every second of them serves."""
    key = NodeKey.load_or_create(home / "node.key")
    db = await database.connect(url, pool_size=8, timeout_ms=60_000)
    await db.pool.execute(
        "INSERT INTO providers (name, kind, base_url, sealed_key) VALUES ('far', 'vllm', 'http://127.0.0.1:9', '')"
    )
    await db.pool.execute(_SEED_MODELS, models, instances)
    versions = VersionStore(db.pool, Signer(key.public_key_hex, key.sign))
    for start in range(0, models, 50):
        named = [
            Version(f"m{number + 1}", "v0", "", ("chat",), 8192) for number in range(start, min(models, start + 50))
        ]
        await asyncio.gather(*[versions.register(each, by="bench", state=State.LIVE) for each in named])
    await db.pool.execute("TRUNCATE outbox")
    await db.close()


async def _rounds(http: aiohttp.ClientSession, upstream: UpstreamServer, given: argparse.Namespace) -> None:
    async def call(method: str, path: str, body: Any) -> float:
        begun = time.perf_counter()
        async with http.request(method, path, json=body) as response:
            answer = await response.json()
            assert response.status < 300, answer
        return time.perf_counter() - begun

    await call("PUT", "/node/v1/providers/up", {"kind": "vllm", "base_url": f"{upstream.origin}/v1"})
    for label, state in (("v1", "live"), ("v2", "candidate")):
        await call("PUT", f"/node/v1/models/up/instant-{label}", {**PRICES, "model": "echo", "version": label})
        await call("POST", f"{REGISTRY}/versions", {"model": "echo", "version": label, "state": state})
    seen: Counter[tuple[int, str]] = Counter()
    ended = asyncio.Event()
    waits: list[float] = []

    async def ask() -> None:
        body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
        while not ended.is_set():
            begun = time.perf_counter()
            async with http.post("/v1/chat/completions", json=body) as response:
                answer = await response.json()
                seen[response.status, answer.get("prsm", {}).get("model", "")] += 1
            waits.append(time.perf_counter() - begun)

    callers = [asyncio.create_task(ask()) for _ in range(given.callers)]
    took: dict[str, list[float]] = {"promotions": [], "rollbacks": []}
    for _ in range(given.rounds):
        took["promotions"].append(await call("POST", f"{REGISTRY}/promotions", {"model": "echo", "version": "v2"}))
        took["rollbacks"].append(await call("POST", f"{REGISTRY}/rollbacks", {"model": "echo", "away_from": "v2"}))
    ended.set()
    await asyncio.gather(*callers)
    for name, each in took.items():
        median, slowest = statistics.median(each) * 1000, max(each) * 1000
        print(f"{name}: median {median:.0f} ms, slowest {slowest:.0f} ms of {len(each)}")
    median, slowest = statistics.median(waits) * 1000, max(waits) * 1000
    print(f"requests meanwhile: median {median:.1f} ms, slowest {slowest:.0f} ms; {dict(seen)}")


if __name__ == "__main__":
    main()
