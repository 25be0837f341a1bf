"""Two workers on one folder and one database at once, by chance: what must be there is there, whole, at the end.

``PRSM_TEST_STORAGE_STEPS`` and ``PRSM_TEST_STORAGE_SEED`` make it longer or repeat a run.
"""

import asyncio
import io
import os
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.fault_proxy import LIES, Trouble
from tests.support.gateway_server import gateway_server
from tests.support.memory_dag import MemoryDag
from tests.support.storage_nodes import OWNER, TABLES, add, content, opened, proxied, storage_at
from tests.support.transfers import SMALL, random_bytes

from prsm.core.database import Pool
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.enhanced_ipfs import Added, EnhancedIPFS
from prsm.data_layer.store.catalog import State
from prsm.data_layer.store.object_files import NotStored

STEPS = int(os.environ.get("PRSM_TEST_STORAGE_STEPS", "400"))
SEED = int(os.environ.get("PRSM_TEST_STORAGE_SEED", "0")) or random.randrange(1, 10**9)
LIMIT_BYTES = 600_000
PROFILE = "kubo-v1"


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_who_was_told_that_it_is_kept_has_it_although_another_worker_collects_just_then(
    tmp_path: Path, pools: list[Pool]
) -> None:
    await pools[0].execute(f"TRUNCATE {TABLES}")
    one, two = (storage_at(tmp_path, pool) for pool in pools)
    async with opened(one), opened(two):
        told: Counter[str] = Counter()
        for number in range(40):
            data = b"%d" % number
            cid = await add(one, data)
            await one.unpin(cid, OWNER)
            making = one.add_directory([("a/file", cid)], OWNER) if number % 2 else one.pin(cid, OWNER)
            collecting = asyncio.create_task(two.collect())
            await asyncio.sleep(number % 8 / 2000)
            try:
                made = await making
            except NotStored:
                told["gone"] += 1
            else:
                told["kept"] += 1
                await collecting
                assert (
                    await content(one, await one.resolve(made.cid, "a/file") if isinstance(made, Added) else cid)
                    == data
                )
            await collecting
        assert told["kept"] > 0, told


@dataclass
class World:
    """The two storages, what anybody may add or fetch, and what must be there: the pins."""

    draw: random.Random
    storages: list[EnhancedIPFS]
    own: list[bytes]
    remote: dict[Cid, dict[str, bytes]]
    files: dict[Cid, bytes] = field(default_factory=dict)
    folders: dict[Cid, dict[str, Cid]] = field(default_factory=dict)
    pinned: dict[tuple[Cid, str], bool] = field(default_factory=dict)
    turns: dict[tuple[Cid, str], asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    did: Counter[str] = field(default_factory=Counter)

    def storage(self) -> EnhancedIPFS:
        return self.draw.choice(self.storages)

    def owner(self) -> str:
        return self.draw.choice(["ann", "bob"])

    def any_known(self) -> Cid:
        return self.draw.choice([*self.files, *self.folders, *self.remote])


async def adds(world: World) -> None:
    data, owner = world.draw.choice(world.own), world.owner()
    async with world.turns[cid_of(data), owner]:
        cid = await add(world.storage(), data, owner)
        world.files[cid] = data
        world.pinned[cid, owner] = True


def cid_of(data: bytes) -> Cid:
    return MemoryDag().add_file(io.BytesIO(data), PROFILES[PROFILE]).cid


async def adds_a_folder(world: World) -> None:
    if not world.files:
        return
    chosen = world.draw.sample(list(world.files), min(3, len(world.files)))
    storage, owner = world.storage(), world.owner()
    entries = [(f"sub/{number}", cid) for number, cid in enumerate(chosen)]
    made = await storage.add_directory(entries, owner)
    async with world.turns[made.cid, owner]:
        await storage.pin(made.cid, owner)  # somebody may have taken the pin away since
        world.folders[made.cid] = dict(entries)
        world.pinned[made.cid, owner] = True


async def unpins(world: World) -> None:
    kept = [key for key, holds in world.pinned.items() if holds]
    if not kept:
        return
    key = world.draw.choice(kept)
    async with world.turns[key]:
        if world.pinned[key]:
            await world.storage().unpin(*key)
            world.pinned[key] = False


async def pins(world: World) -> None:
    key = (world.any_known(), world.owner())
    async with world.turns[key]:
        await world.storage().pin(*key)
        world.pinned[key] = True


async def fetches(world: World) -> None:
    await world.storage().fetch(world.draw.choice(list(world.remote)))


async def fetches_and_leaves(world: World) -> None:
    task = asyncio.create_task(world.storage().fetch(world.draw.choice(list(world.remote))))
    await asyncio.sleep(world.draw.random() * 0.05)
    task.cancel()
    await asyncio.wait([task])


async def reads(world: World) -> None:
    if not world.files:
        return
    cid = world.draw.choice(list(world.files))
    storage = world.storage()
    with await storage.open(cid) as file:
        await asyncio.sleep(world.draw.random() * 0.05)
        buffer = bytearray(file.size_bytes)
        file.read_into(memoryview(buffer), 0)
        assert buffer == world.files[cid]


async def collects(world: World) -> None:
    await world.storage().collect()


async def makes_room(world: World) -> None:
    await world.storage().make_room()


async def cares(world: World) -> None:
    storage = world.storage()
    await storage.flush_reads()
    await storage.verify_next()
    await storage.reconcile()


WHAT: list[tuple[Callable[[World], Awaitable[None]], int]] = [
    (adds, 30),
    (adds_a_folder, 10),
    (unpins, 25),
    (pins, 10),
    (fetches, 10),
    (fetches_and_leaves, 8),
    (reads, 30),
    (collects, 12),
    (makes_room, 12),
    (cares, 5),
]


async def test_two_workers_at_once_keep_what_is_kept(tmp_path: Path, pools: list[Pool]) -> None:
    print("seed", SEED)
    await pools[0].execute(f"TRUNCATE {TABLES}")
    draw = random.Random(SEED)
    dag = MemoryDag()
    remote = {}
    for number in range(4):
        files = {f"{name % 2}/{name}": random_bytes(9_000 + name, number * 100 + name // 2) for name in range(6)}
        remote[dag.add_folder(files, SMALL).cid] = files
    own = [random_bytes(draw.choice([10, 20_000, 90_000]), 1000 + number) for number in range(14)]
    with gateway_server(dag.blocks) as gateway:
        async with proxied(gateway.url, chance=0.1, kinds=[Trouble.RESET, *LIES], seed=SEED) as proxy:
            urls = [proxy.url, gateway.url]
            storages = [
                storage_at(tmp_path, pool, gateways=urls, profile=PROFILE, limit_bytes=LIMIT_BYTES, scrub_after_s=0.2)
                for pool in pools
            ]
            async with opened(storages[0]), opened(storages[1]):
                world = World(draw, storages, own, remote)
                await run(world)
                await compare(world)
    print(world.did)


async def run(world: World) -> None:
    plan = world.draw.choices([what for what, _ in WHAT], [weight for _, weight in WHAT], k=STEPS)
    coming = iter(plan)

    async def work() -> None:
        for what in coming:
            try:
                await what(world)
                world.did[what.__name__] += 1
            except NotStored:  # what nobody keeps may have gone
                world.did[f"{what.__name__}: gone"] += 1

    await asyncio.gather(*(work() for _ in range(8)))


async def compare(world: World) -> None:
    """Everything that is pinned, and all under it, is whole here; the catalog and the disk say the same."""
    one, two = world.storages
    await one.reconcile()
    kept = {cid for (cid, _), holds in world.pinned.items() if holds}
    assert {(pin.cid, pin.name) for pin in await one.catalog.pins()} == {
        key for key, holds in world.pinned.items() if holds
    }
    for cid in kept:
        if cid in world.files:
            assert await content(one, cid) == world.files[cid]
        elif cid in world.folders:
            for path, child in world.folders[cid].items():
                assert await content(two, await two.resolve(cid, path)) == world.files[child]
        else:
            for path, data in world.remote[cid].items():
                assert await content(two, await two.resolve(cid, path)) == data
    stored = await one.catalog.list_objects(limit=10_000)
    assert all(each.state is State.WHOLE for each in stored)
    for each in stored:
        assert (await one.verify(each.cid)).whole
    assert {found.cid for found in one.files.listing()} == {each.cid for each in stored}
    assert not list((one.files.folder / "incoming").iterdir())
    await two.collect()
    left = {each.cid for each in await one.catalog.list_objects(limit=10_000)}
    assert kept <= left
    if not (await one.catalog.usage()).leased:
        under = {cid for cid in left if await one.catalog.kept(cid)}
        assert left == under, "nothing is left that nobody keeps"
