"""A migrated database with a started ledger, an account with money and a key that may spend it."""

from collections.abc import AsyncIterator

import pytest
from tests.support.ledger import OpenWorld, World, open_world


@pytest.fixture
def open_limited(fresh_database: str) -> OpenWorld:
    """Opens a world whose ledger has other limits."""
    return lambda limits: open_world(fresh_database, limits)


@pytest.fixture
async def world(fresh_database: str) -> AsyncIterator[World]:
    async with open_world(fresh_database) as opened:
        yield opened
