"""Spans are named by routes: what names a single thing is in none of them."""

import pytest

from prsm.api.traced import route_of


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/node/v1/storage/content", "/node/v1/storage/content"),
        ("/node/v1/storage/content/bafy/a/b", "/node/v1/storage/content/{id}"),
        ("/ipfs/bafy", "/ipfs/{id}"),
        ("/v1/models/up/echo", "/v1/models/{id}"),
        ("/node/v1/receipts/0190", "/node/v1/receipts"),
        ("/node/v1/wallet", "/node/v1/wallet"),
        ("/anything/else", "other"),
    ],
)
def test_a_route_is_the_same_for_all_requests_of_one_kind(path: str, route: str) -> None:
    assert route_of(path) == route
