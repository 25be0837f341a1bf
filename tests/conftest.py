"""Servers shared by all integration tests of a session, started only when a test asks for one.

Properties have no deadline: how long one example takes says more of the machine than of the code. PRSM_TEST_EXAMPLES
says how many examples each is tried on that names no number itself.
"""

import itertools
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from tests.support.servers import new_database, postgres_server, valkey_server

settings.register_profile("prsm", deadline=None, max_examples=int(os.environ.get("PRSM_TEST_EXAMPLES", "50")))
settings.load_profile("prsm")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One PostgreSQL server for the session; tests take ``fresh_database`` rather than this."""
    with postgres_server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Valkey server for the session; its data is shared, so tests use names or namespaces of their own."""
    with valkey_server(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def fresh_database(postgres_url: str) -> Iterator[str]:
    """The URL of a new database with the tables and nothing in them, dropped after the test."""
    with new_database(postgres_url, f"test_{next(_numbers)}") as url:
        yield url


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    """The URL of a new database without tables, dropped after the test."""
    with new_database(postgres_url, f"test_{next(_numbers)}", empty=True) as url:
        yield url
