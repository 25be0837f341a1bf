"""Uploads to own nodes that come and go, and workers that are killed: nothing is lost and nothing is sent twice."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.gateway_server import gateway_server
from tests.support.kubo_rpc_server import kubo_rpc_server
from tests.support.storage_nodes import OWNER, add, content, gated, opened, storage_at, until
from tests.support.transfers import object_of, random_bytes

from prsm.core.database import Pool
from prsm.core.errors import PrsmError, Unavailable
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS
from prsm.data_layer.store.catalog import State
from prsm.data_layer.store.uploads import Upload
from prsm.data_layer.transfer.upload_drain import Uploads

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def states(storage: EnhancedIPFS) -> list[str]:
    return [entry.state for entry in await storage.uploads.queue.entries()]


async def drained(storage: EnhancedIPFS) -> list[Upload]:
    """Drain, as the node does every second, until nothing waits."""

    async def step() -> list[Upload] | None:
        await storage.uploads.drain()
        entries = await storage.uploads.queue.entries()
        ended = all(entry.state in ("done", "failed") for entry in entries) and not storage.uploads.running
        return entries if ended else None

    return await until(step)


async def test_what_is_published_arrives_whole_and_is_pinned_there(tmp_path: Path, pool: Pool) -> None:
    with kubo_rpc_server() as one, kubo_rpc_server("Bearer t0ken") as two:
        nodes = [one.url, two.url.replace("://", "://bearer:t0ken@")]
        async with opened(storage_at(tmp_path, pool, nodes=nodes)) as storage:
            files = {f"d/{number}.bin": random_bytes(300_000, number) for number in range(3)}
            cids = {name: await add(storage, data) for name, data in files.items()}
            root = (await storage.add_directory(list(cids.items()), OWNER)).cid
            assert len(await storage.publish(root, OWNER)) == 2
            entries = await drained(storage)
            assert [entry.state for entry in entries] == ["done", "done"]
            assert [entry.attempts for entry in entries] == [0, 0], "none failed"
            for node in (one, two):
                assert node.pins == {root}
                assert all(node.dag.read_file(cids[name]) == data for name, data in files.items())


async def test_uploads_wait_while_the_node_is_away_keep_their_object_and_go_by_themselves_when_it_is_back(
    tmp_path: Path, pool: Pool
) -> None:
    with kubo_rpc_server() as node:
        async with gated(node.url) as gate, opened(storage_at(tmp_path, pool, nodes=[gate.url])) as storage:
            gate.turn("shut")
            cids = [await add(storage, random_bytes(50_000, number)) for number in range(3)]
            for cid in cids:
                await storage.publish(cid, OWNER)
            await storage.meet()
            asked = gate.met["shut"]
            for _ in range(5):
                await storage.uploads.drain()
                assert not storage.uploads.running
            assert gate.met["shut"] == asked > 0, "a node that is away is left alone"
            assert (await storage.collect()).objects == 0, "what waits to be sent is kept by its pin"
            gate.turn("open")
            await storage.meet()
            entries = await drained(storage)
            assert {entry.state for entry in entries} == {"done"}
            assert {entry.attempts for entry in entries} == {0}, "nothing was tried in vain"
            assert node.pins == set(cids)


async def test_nobody_keeps_more_than_the_quota_by_having_it_wait_to_be_sent(tmp_path: Path, pool: Pool) -> None:
    with kubo_rpc_server() as node:
        async with gated(node.url) as gate, opened(storage_at(tmp_path, pool, nodes=[gate.url])) as storage:
            gate.turn("shut")
            foreign = await add(storage, b"of another", "another")
            with pytest.raises(PrsmError, match="not pinned by you"):
                await storage.publish(foreign, OWNER, limited=True)
            assert await states(storage) == []
            for number in range(3):
                cid = await add(storage, random_bytes(50_000, number), limited=True)
                await storage.publish(cid, OWNER, limited=True)
                await storage.unpin(cid, OWNER)
            assert await storage.quota_left(OWNER) == storage.policy.quota_bytes
            assert (await storage.collect()).objects == 3, "who keeps nothing has nothing kept"
            gate.turn("open")
            await storage.meet()
            entries = await drained(storage)
            assert {entry.state for entry in entries} == {"failed"}
            assert all("not in this node's storage" in entry.last_error for entry in entries)


async def test_a_node_that_goes_in_the_midst_of_it_gets_the_rest_later(tmp_path: Path, pool: Pool) -> None:
    data = random_bytes(12_000_000, 1)
    with kubo_rpc_server() as node:
        async with gated(node.url) as gate:
            storage = storage_at(tmp_path, pool, nodes=[gate.url], limit_bytes_s=8_000_000)
            async with opened(storage):
                cid = await add(storage, data)
                await storage.meet()
                await storage.publish(cid, OWNER)
                await storage.uploads.drain()
                await until(lambda: value(node.calls["dag/import"]))
                gate.turn("nowhere")
                node.say_instead.extend([(404, b"something else answers here")] * 50)
                gate.turn("open")
                await until(lambda: value(not storage.uploads.running))
                assert await states(storage) == ["waiting"]
                await storage.uploads.drain()
                assert not storage.uploads.running, "it is left alone until it answers as a node does"
                node.say_instead.clear()
                there = set(node.dag.blocks)
                await storage.meet()
                await drained(storage)
                assert await states(storage) == ["done"]
                assert there
                assert node.dag.read_file(cid) == data


async def value(it: object) -> object:
    return it


async def test_a_node_that_is_taken_from_the_peers_file_ends_its_upload_and_is_given_up_after_a_day(
    tmp_path: Path, pool: Pool
) -> None:
    peers = tmp_path / "peers"
    with kubo_rpc_server() as node:
        async with gated(node.url) as gate:
            peers.write_text(f"node {gate.url}\n")
            storage = storage_at(tmp_path / "s", pool, peers_file=peers, limit_bytes_s=50_000)
            async with opened(storage):
                cid = await add(storage, random_bytes(1_000_000, 1))
                await storage.meet()
                await storage.publish(cid, OWNER)
                await storage.uploads.drain()
                await until(lambda: value(node.calls["block/stat"]))
                peers.write_text("# nobody any more\n")
                await storage.meet()
                await until(lambda: value(not storage.uploads.running), within_s=60)
                with pytest.raises(Unavailable):
                    await storage.publish(cid, OWNER)
                await storage.uploads.tidy()
                assert await states(storage) == ["waiting"], "it may come back"
                await pool.execute("UPDATE storage_uploads SET next_try_at = now() - interval '25 hours'")
                await pool.execute(  # more that have failed than a page has, and longer ago
                    "INSERT INTO storage_uploads (cid, node, state, next_try_at, updated_at) "
                    "SELECT $1, 'node ' || n, 'failed', now(), now() - interval '9 days' "
                    "FROM generate_series(1, 1001) n",
                    str(cid),
                )
                await storage.uploads.tidy()
                ended = await storage.uploads.queue.entries(limit=2000)
                assert {entry.state for entry in ended} == {"failed"}
                assert "no node of one's own" in ended[-1].last_error


async def test_one_bad_line_of_the_peers_file_does_not_take_the_others(tmp_path: Path, pool: Pool) -> None:
    peers = tmp_path / "peers"
    with kubo_rpc_server() as node, gateway_server({}) as gateway:
        peers.write_text(f"node {node.url}\n")
        storage = storage_at(tmp_path / "s", pool, peers_file=peers, gateways=[gateway.url])
        async with opened(storage):
            assert set(storage.endpoints.names) == {f"node {node.url}", f"gateway {gateway.url}"}
            peers.write_text("node ftp://nowhere\n")
            await storage.meet()
            assert set(storage.endpoints.names) == {f"node {node.url}", f"gateway {gateway.url}"}


async def test_closing_hands_an_upload_back_and_one_of_a_dead_worker_is_taken_up(tmp_path: Path, pool: Pool) -> None:
    with kubo_rpc_server() as node:
        async with gated(node.url) as gate:
            first = storage_at(tmp_path, pool, nodes=[gate.url])
            cid = await add(first, random_bytes(200_000, 1))
            await first.publish(cid, OWNER)
            gate.turn("nowhere")
            await first.uploads.drain()
            await until(lambda: value(gate.met["nowhere"]))
            async with asyncio.timeout(10):  # not as long as a node may take to answer
                await first.aclose()
            queue = first.uploads.queue
            (entry,) = await queue.entries()
            assert (entry.state, entry.last_error) == ("waiting", ""), "nobody's failure"
            # And one whose worker could not hand it back:
            assert await queue.claim([f"node {gate.url}"], seconds=0.2)
            gate.turn("open")
            async with opened(storage_at(tmp_path, pool, nodes=[gate.url])) as second:
                await drained(second)
                assert await states(second) == ["done"]
                assert node.dag.read_file(cid) == random_bytes(200_000, 1)


async def test_two_workers_send_each_object_once(tmp_path: Path, pool: Pool) -> None:
    with kubo_rpc_server() as node:
        one, two = (storage_at(tmp_path, pool, nodes=[node.url]) for _ in range(2))
        async with opened(one), opened(two):
            cids = [await add(one, random_bytes(20_000, number)) for number in range(12)]
            for cid in cids:
                await one.publish(cid, OWNER)

            async def step() -> bool:
                await asyncio.gather(one.uploads.drain(), two.uploads.drain(), one.uploads.drain())
                return set(await states(one)) == {"done"}

            await until(step)
            assert node.pins == set(cids)
            assert node.calls["pin/add"] == 12
            assert {entry.attempts for entry in await one.uploads.queue.entries()} == {0}


async def test_what_is_not_whole_is_given_up_with_a_reason(tmp_path: Path, pool: Pool) -> None:
    with kubo_rpc_server() as node:
        async with opened(storage_at(tmp_path, pool, nodes=[node.url])) as storage:
            cid = await add(storage, b"soon gone")
            await storage.publish(cid, OWNER)
            storage.files.remove(cid)
            (entry,) = await drained(storage)
            assert entry.state == "failed"
            assert "not in this node's storage" in entry.last_error
            await add(storage, b"soon gone")
            await storage.publish(cid, OWNER)
            (entry,) = await drained(storage)
            assert entry.state == "done"


async def test_a_claim_that_another_worker_has_ends_the_upload(tmp_path: Path, pool: Pool) -> None:
    with kubo_rpc_server() as node:
        storage = storage_at(tmp_path, pool, nodes=[node.url], limit_bytes_s=20_000)
        async with opened(storage):
            neighbours, queue = storage._neighbours, storage.uploads.queue
            uploads = Uploads(queue, storage.files, neighbours, storage._bandwidth, claim_s=0.6)
            cid = await add(storage, random_bytes(1_000_000, 1))
            await storage.publish(cid, OWNER)
            await uploads.drain()
            await until(lambda: value(node.calls["block/stat"]))
            await pool.execute("UPDATE storage_uploads SET claims = claims + 1")  # another worker's claim
            await until(lambda: value(not uploads.running))
            assert await states(storage) == ["running"], "it is the other one's now"
            await uploads.aclose()


async def test_after_kill_9_a_new_worker_goes_on_where_the_old_one_was(
    tmp_path: Path, pool: Pool, database_url: str
) -> None:
    data = random_bytes(1_500_000, 3)
    cid, dag = object_of(data)
    with gateway_server(dag.blocks) as gateway:
        command = [
            sys.executable,
            "-m",
            "tests.support.storage_nodes",
            str(tmp_path),
            database_url,
            gateway.url,
            str(cid),
        ]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        try:
            lines = [await asyncio.to_thread(worker.stdout.readline) for _ in range(2)]
            assert lines[1].strip() == "under way"
        finally:
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
            worker.stdout.close()
        added = Cid.parse(lines[0].strip())
        (tmp_path / "incoming" / "0123").write_bytes(b"left by a killed worker")
        gateway.requests.clear()
        async with opened(storage_at(tmp_path, pool, gateways=[gateway.url])) as storage:
            await storage.reconcile()
            assert await content(storage, added) == b"added before the end"
            assert not list((tmp_path / "incoming").iterdir())
            fetched = await storage.fetch(cid)
            assert fetched.state is State.WHOLE
            assert await content(storage, cid) == data
            leaves = {block for block in dag.blocks if block.codec is Codec.RAW}
            asked = {Cid.parse(path.split("/")[2].split("?")[0]) for path in gateway.requests}
            assert len(asked & leaves) <= len(leaves) - 300_000 // (16 * 1024) + 1, (
                "what had come was not fetched again"
            )
            assert (await storage.collect()).objects == 0, "the pin and the lease of the fetch keep both"
