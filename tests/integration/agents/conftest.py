"""One migrated database with a running ledger for the tests of a module, each of which has a payer of its own."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest_asyncio
from tests.support.ledger import World, open_world
from tests.support.servers import new_database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres_url: str) -> AsyncIterator[World]:
    with new_database(postgres_url, f"agents_{uuid4().hex}") as url:
        async with open_world(url) as opened:
            yield opened
