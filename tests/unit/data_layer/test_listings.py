"""Directories listed page by page: all names once, in order, whatever their blocks' order."""

from pathlib import Path

import pytest

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.directories import Built
from prsm.data_layer.codec.unixfs_dag import PROFILES, Profile
from prsm.data_layer.store import listings
from prsm.data_layer.store.ingest import Intake
from prsm.data_layer.store.listings import Listings
from prsm.data_layer.store.object_files import NotStored, ObjectFiles

PROFILE = PROFILES["kubo-v1"]
SHARDED = Profile("sharded", chunk_bytes=1024, max_links=16, shard_above_bytes=100)
CHILD = Built(Cid.of(Codec.RAW, b"child"), 5)


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "storage", keep_free_bytes=0)


def directory(files: ObjectFiles, names: list[str], profile: Profile = PROFILE) -> Cid:
    with Intake(files, profile) as intake:
        return intake.tree([(name, CHILD) for name in names])[-1].cid


def all_pages(listing: Listings, cid: Cid, limit: int) -> list[str]:
    names: list[str] = []
    while page := listing.page(cid, names[-1] if names else "", limit):
        assert len(page) <= limit
        names += [name for name, _ in page]
        if len(page) < limit:
            break
    return names


@pytest.mark.parametrize("profile", [PROFILE, SHARDED])
@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
def test_the_pages_together_are_all_entries_by_name(files: ObjectFiles, profile: Profile, limit: int) -> None:
    names = [f"{number * 37 % 100:02}é" for number in range(100)] + ["Z", "\U0001f600", "\uffee", " "]
    listing = Listings(files)
    assert all_pages(listing, directory(files, names, profile), limit) == sorted(names)
    assert not listing._kept, "nothing is kept of what was listed to its end"


def test_a_name_that_is_not_there_is_a_place_all_the_same(files: ObjectFiles) -> None:
    cid = directory(files, ["a", "c", "e"])
    listing = Listings(files)
    assert [name for name, _ in listing.page(cid, "b", 1)] == ["c"]
    assert [name for name, _ in listing.page(cid, "c", 9)] == ["e"]
    assert listing.page(cid, "e", 9) == []
    assert listing.page(directory(files, []), "", 9) == []


def test_what_was_taken_away_or_is_a_file_is_not_listed(files: ObjectFiles) -> None:
    cid = directory(files, ["a", "b", "c"])
    listing = Listings(files)
    listing.page(cid, "", 1)
    assert cid in listing._kept
    files.remove(cid)
    with pytest.raises(NotStored):
        listing.page(cid, "a", 1)
    with Intake(files, PROFILE) as intake:
        file = intake.file(lambda _: 0).cid
    with pytest.raises(InvalidRequest, match="not a directory"):
        listing.page(file, "", 1)


def test_what_is_kept_has_a_bound(files: ObjectFiles) -> None:
    listing = Listings(files)
    listing._keep(CHILD.cid, [("x", CHILD.cid)] * (listings.MOST_KEPT - 2))
    small = directory(files, ["a", "b", "c"])
    listing.page(small, "", 1)
    assert list(listing._kept) == [small], "what was listed longest ago goes"
