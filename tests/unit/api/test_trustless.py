"""Requests to the trustless gateway, as the specification words them."""

import pytest

from prsm.api.trustless import CAR_TYPE, RAW_TYPE, CarRequest, RawRequest, parse
from prsm.core.errors import PrsmError
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_walk import EntityBytes

CID = Cid.of(Codec.RAW, b"block")


@pytest.mark.parametrize(
    ("query", "accept"),
    [("format=raw", None), ("", RAW_TYPE), ("", f"text/html, {RAW_TYPE}"), ("format=raw", CAR_TYPE)],
)
def test_a_raw_block(query: str, accept: str | None) -> None:
    assert parse(f"/ipfs/{CID}", query, accept) == RawRequest(CID)


def test_a_car_with_path_scope_and_bytes() -> None:
    asked = parse(f"/ipfs/{CID}/a/b/", "format=car&dag-scope=entity&entity-bytes=5:*", None)
    assert asked == CarRequest(CID, "a/b", "entity", EntityBytes(5, None))
    assert parse(f"/ipfs/{CID}", "", f"{CAR_TYPE}; version=1; order=dfs; dups=y") == CarRequest(CID, "", "all", None)


@pytest.mark.parametrize(
    ("path", "query", "accept", "param"),
    [
        ("/ipfs/nonsense", "format=raw", None, "cid"),
        (f"/ipfs/{CID}/a", "format=raw", None, "format"),
        (f"/ipfs/{CID}/../x", "format=car", None, "path"),
        (f"/ipfs/{CID}/" + "a" * 5000, "format=car", None, "path"),
        (f"/ipfs/{CID}", "", None, "format"),
        (f"/ipfs/{CID}", "", "*/*", "format"),
        (f"/ipfs/{CID}", "", f"{RAW_TYPE};q=0", "format"),
        (f"/ipfs/{CID}", "format=tar", None, "format"),
        (f"/ipfs/{CID}", "format=car&dag-scope=some", None, "dag-scope"),
        (f"/ipfs/{CID}", "format=car&entity-bytes=1", None, "entity-bytes"),
        (f"/ipfs/{CID}", "format=car&entity-bytes=9:3", None, "entity-bytes"),
        (f"/ipfs/{CID}", "format=car&car-version=2", None, "car-version"),
        (f"/ipfs/{CID}", "format=car&car-order=bfs", None, "car-order"),
        (f"/ipfs/{CID}", "&".join(["a=1"] * 60), None, "query"),
        (f"/ipfs/{CID}", "", f"{CAR_TYPE};version=2", "car-version"),
    ],
)
def test_what_is_refused_names_its_part(path: str, query: str, accept: str | None, param: str) -> None:
    with pytest.raises(PrsmError) as refused:
        parse(path, query, accept)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        ((0, None), (0, 10)),
        ((2, 4), (2, 5)),
        ((-3, None), (7, 10)),
        ((0, -2), (0, 9)),
        ((20, 30), (10, 10)),
        ((5, -9), (5, 5)),
    ],
)
def test_entity_bytes_count_from_either_end(asked: tuple[int, int | None], span: tuple[int, int]) -> None:
    assert EntityBytes(*asked).within(10) == span
