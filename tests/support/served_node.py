"""A served node with an admin, a user and a provider behind it, for tests over HTTP and by its command."""

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from tests.support.servers import new_database
from tests.support.started_node import free_port
from tests.support.upstream import UpstreamServer

from prsm.api.main import serve
from prsm.core.config import Settings
from prsm.core.identity import SCOPES, Grant
from prsm.node import Node, open_node
from prsm.tokenomics.enrolment import account_of

PRSM = Path(sys.executable).with_name("prsm")
REGISTRY = "/node/v1/registry"
PRICES = {"input_price_micro": 1_000_000, "output_price_micro": 2_000_000}


@dataclass
class Served:
    """A node that is served, an admin's and a user's key, and a provider named ``up`` behind it."""

    node: Node
    http: aiohttp.ClientSession
    admin: str
    admin_account: str
    user: str
    upstream: UpstreamServer

    async def send(self, method: str, path: str, body: Any = None, *, key: str = "") -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {key or self.admin}"}
        async with self.http.request(method, path, json=body, headers=headers) as response:
            return response.status, await response.json() if response.status != 204 else None

    async def done(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = await self.send(method, path, body)
        assert status < 300, answer
        return answer

    async def refused(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        status, answer = await self.send(method, path, body)
        assert status >= 400, answer
        return {"status": status, **answer["error"]}

    async def ask(self, model: str) -> tuple[int, str]:
        """Whom a question went to: the status, and the instance or the code of the refusal."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        status, answer = await self.send("POST", "/v1/chat/completions", body, key=self.user)
        return status, answer["prsm"]["model"] if status == 200 else answer["error"]["code"]

    async def model(self, *labels: str) -> str:
        """A new model with an instance for each version; the first is stable, the others are drafts."""
        name = f"echo-{uuid4().hex[:8]}"
        for place, label in enumerate(labels):
            new = {"model": name, "version": label, "state": "draft" if place else "live"}
            if place:
                await self.done("POST", f"{REGISTRY}/versions", new)
            instance = {**PRICES, "model": name, "version": label}
            await self.done("PUT", f"/node/v1/models/up/{name}-{label}", instance)
            if not place:
                await self.done("POST", f"{REGISTRY}/versions", new)
        return name

    async def cli(self, *arguments: str, key: str = "") -> tuple[int, str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PRSM_")}
        env |= {"PRSM_PORT": str(self.node.settings.port), "PRSM_API_KEY": key or self.admin, "COLUMNS": "200"}
        process = await asyncio.create_subprocess_exec(
            PRSM, *arguments, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def serve_node(home: Path, postgres_url: str, valkey_url: str, **values: Any) -> AsyncIterator[Served]:
    """A node in this process, without limits on the rate; ``values`` are further settings."""
    looks = gc.get_threshold()
    settings = Settings(
        home=home, port=free_port(), database_timeout_ms=20_000, rate_limit_per_minute=1_000_000,
        rate_limit_burst=1_000_000, **values,
    )  # fmt: skip
    upstream = await UpstreamServer().start()
    with new_database(postgres_url, f"served_{uuid4().hex}") as url:
        async with open_node(settings, url, valkey_url) as node:
            listening = asyncio.Event()
            serving = asyncio.create_task(serve(node, listening.set))
            await asyncio.wait_for(listening.wait(), 30)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{settings.port}") as http:
                admin = (await node.enrolment.principal("admin", "admin")).id
                user = (await node.enrolment.principal("user", "user")).id
                keys = [
                    (await node.enrolment.key(owner, Grant("k", scopes), actor=None, cap_micro=None)).token
                    for owner, scopes in ((admin, SCOPES), (user, SCOPES - {"admin"}))
                ]
                one = Served(node, http, keys[0], account_of(admin), keys[1], upstream)
                provider = {"kind": "vllm", "base_url": f"{upstream.origin}/v1"}
                await one.done("PUT", "/node/v1/providers/up", provider)
                yield one
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    await upstream.stop()
    # A node sets aside what its start made, for good; here it would keep every test's node in memory.
    gc.unfreeze()
    gc.set_threshold(*looks)
    gc.collect()
