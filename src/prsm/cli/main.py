"""The ``prsm`` command."""

import asyncio
import os

import uvloop

from prsm.api.main import serve
from prsm.core.config import load_settings
from prsm.core.identity import Grant
from prsm.monitoring import logs
from prsm.node import open_node, servers


async def _up() -> None:
    settings = load_settings(os.environ, {}).settings
    logs.configure(settings.log_level, settings.log_format)
    async with servers(settings) as (postgres, valkey), open_node(settings, postgres, valkey) as node:
        p = await node.enrolment.principal("op", "admin")
        key = await node.enrolment.key(p.id, Grant("first", frozenset({"chat","embeddings","read","keys","admin"})), actor=None, cap_micro=None)
        print(key.token, flush=True)
        await serve(node)


def main() -> None:
    uvloop.run(_up())
