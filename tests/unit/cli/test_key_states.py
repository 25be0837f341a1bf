"""What ``prsm keys list`` calls a key."""

from datetime import UTC, datetime

import pytest

from prsm.cli.keys import state_of

NOON = "2026-06-01T12:00:00Z"


@pytest.mark.parametrize(
    ("revoked_at", "expires_at", "state"),
    [
        (None, None, "live"),
        (None, "2026-06-01T12:00:01Z", "live"),
        (None, NOON, "expired"),
        (NOON, NOON, "revoked"),
        (NOON, None, "revoked"),
    ],
)
def test_a_key_is_live_until_it_is_revoked_or_expires(
    revoked_at: str | None, expires_at: str | None, state: str
) -> None:
    key = {"revoked_at": revoked_at, "expires_at": expires_at}
    assert state_of(key, datetime(2026, 6, 1, 12, tzinfo=UTC)) == state
