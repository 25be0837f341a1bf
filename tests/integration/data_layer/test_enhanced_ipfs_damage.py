"""Damage on the disk, on every way to read: what one worker knows all know, and what is found by reading is known."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.support.storage_nodes import OWNER, add, content, opened, storage_at
from tests.support.transfers import random_bytes

from prsm.core.database import Pool
from prsm.core.errors import Kind
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS
from prsm.data_layer.store.catalog import State
from prsm.data_layer.store.object_index import Damaged

Reading = Callable[[EnhancedIPFS, Cid], Awaitable[object]]


pytestmark = pytest.mark.asyncio(loop_scope="module")


def spoil(path: Path, at: int = 0) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


async def opens(storage: EnhancedIPFS, cid: Cid) -> None:
    (await storage.open(cid)).close()


async def reads(storage: EnhancedIPFS, cid: Cid) -> bytes:
    async with storage.read(cid) as reader:
        return await reader.read(0, 10)


async def reads_or_fetches(storage: EnhancedIPFS, cid: Cid) -> bytes:
    async with storage.open_or_fetch(cid) as reader:
        return await reader.read(0, 10)


async def takes_a_car(storage: EnhancedIPFS, cid: Cid) -> bytes:
    return b"".join([piece async for piece in await storage.car(cid, "", "all", None)])


async def lists(storage: EnhancedIPFS, cid: Cid) -> object:
    return await storage.entries(cid)


async def looks_below(storage: EnhancedIPFS, cid: Cid) -> object:
    return await storage.resolve(cid, "a")


@pytest.mark.parametrize("read", [opens, reads, reads_or_fetches, takes_a_car])
async def test_what_one_worker_knows_as_damaged_no_other_gives_out(tmp_path: Path, pool: Pool, read: Reading) -> None:
    async with opened(storage_at(tmp_path, pool)) as one, opened(storage_at(tmp_path, pool)) as two:
        cid = await add(one, random_bytes(600_000))
        await read(two, cid)
        spoil(one.files.payload_path(cid), 400_000)
        assert not (await one.verify(cid)).whole
        with pytest.raises(Damaged, match="is damaged") as refused:
            await read(two, cid)
        assert (refused.value.kind, refused.value.code) == (Kind.CONFLICT, "object_damaged")
        assert refused.value.remedy == f"Repair it with: prsm storage repair {cid}"
        await add(one, random_bytes(600_000))  # whole again
        await read(two, cid)


async def test_a_block_that_is_found_damaged_makes_its_object_known_as_damaged(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool)) as one, opened(storage_at(tmp_path, pool)) as two:
        cid = await add(one, random_bytes(10_000))
        spoil(one.files.payload_path(cid))
        with pytest.raises(Damaged):
            await one.block(cid)
        assert (await two.object(cid)).state is State.DAMAGED
        for storage in (one, two):
            with pytest.raises(Damaged):
                await storage.open(cid)
        assert one.files.remove(cid), "nobody holds it any more"


async def test_a_sound_block_of_a_damaged_file_is_given_all_the_same(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool)) as storage:
        cid = await add(storage, random_bytes(600_000))
        spoil(storage.files.payload_path(cid), 5)
        with pytest.raises(Damaged):
            await takes_a_car(storage, cid)
        assert (await storage.object(cid)).state is State.DAMAGED
        assert cid.names(await storage.block(cid)), "the root holds none of the damaged bytes"


async def test_a_car_that_meets_damage_on_its_way_ends_there(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool)) as storage:
        cid = await add(storage, random_bytes(3_000_000))
        spoil(storage.files.payload_path(cid), 2_900_000)
        pieces = await storage.car(cid, "", "all", None)
        with pytest.raises(Damaged):
            async for _ in pieces:
                pass
        assert (await storage.object(cid)).state is State.DAMAGED


@pytest.mark.parametrize("read", [lists, looks_below, takes_a_car])
async def test_a_directory_s_block_that_is_damaged(tmp_path: Path, pool: Pool, read: Reading) -> None:
    async with opened(storage_at(tmp_path, pool)) as storage:
        folder = (
            await storage.add_directory([("a", await add(storage, b"a")), ("b", await add(storage, b"b"))], OWNER)
        ).cid
        await read(storage, folder)
        path = storage.files.outboard_path(folder)
        spoil(path, path.stat().st_size - 1)
        with pytest.raises(Damaged):
            await read(storage, folder)
        assert (await storage.object(folder)).state is State.DAMAGED
        with pytest.raises(Damaged):
            await lists(storage, folder)


async def test_a_file_that_became_shorter_is_damaged_before_a_byte_of_it_is_given(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool)) as storage:
        cid = await add(storage, random_bytes(300_000))
        path = storage.files.payload_path(cid)
        path.chmod(0o600)
        async with storage.read(cid) as reader:
            with path.open("r+b") as file:
                file.truncate(200_000)
            assert len(await reader.read(0, 100_000)) == 100_000
        with pytest.raises(Damaged, match="length"):
            await storage.open(cid)
        assert (await storage.object(cid)).state is State.DAMAGED


async def test_a_file_that_becomes_shorter_while_it_is_read_is_damaged(tmp_path: Path, pool: Pool) -> None:
    async with opened(storage_at(tmp_path, pool)) as storage:
        cid = await add(storage, data := random_bytes(300_000))
        path = storage.files.payload_path(cid)
        path.chmod(0o600)

        async def read_on() -> None:
            async with storage.read(cid) as reader:
                with path.open("r+b") as file:
                    file.truncate(200_000)
                await reader.read(150_000, 100_000)

        with pytest.raises(Damaged, match="length"):
            await read_on()
        assert (await storage.object(cid)).state is State.DAMAGED
        await add(storage, data)
        assert await content(storage, cid) == data
