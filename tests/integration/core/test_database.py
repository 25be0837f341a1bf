"""The database's edge: what cannot be reached or is of another version says so in a sentence, and pings do not lie."""

import pytest

from prsm.core import database
from prsm.core.errors import ConfigError, Unavailable


@pytest.mark.parametrize(
    "url", ["", "mysql://u:p@h/x", "postgresql://u:p@h/", "postgresql://u:p@h:port/x", "postgresql://u:p@[h/x"]
)
async def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        await database.connect(url, pool_size=1, timeout_ms=1000)
    assert "PRSM_DATABASE_URL" in raised.value.message
    assert ":p@" not in str(raised.value)


async def test_a_database_that_is_not_there_or_does_not_let_in_says_which_setting(postgres_url: str) -> None:
    wrong_password = postgres_url.replace("://prsm:", "://prsm:x")
    assert wrong_password != postgres_url
    for url in (
        postgres_url.replace("/prsm?", "/nowhere?"),
        wrong_password,
        "postgresql://u:p@127.0.0.1:1/x",
    ):
        with pytest.raises(Unavailable) as raised:
            await database.connect(url, pool_size=1, timeout_ms=20_000)
        assert "PRSM_DATABASE_URL" in raised.value.remedy


async def test_tables_of_a_newer_version_are_left_alone(fresh_database: str) -> None:
    db = await database.connect(fresh_database, pool_size=2, timeout_ms=20_000)
    try:
        await database.migrate(db.engine)
        await db.pool.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(ConfigError) as raised:
            await database.migrate(db.engine)
        assert "9999" in raised.value.message
        assert await db.pool.fetchval("SELECT version_num FROM alembic_version") == "9999"
    finally:
        await db.close()
