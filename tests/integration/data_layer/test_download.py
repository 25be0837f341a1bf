"""Downloads over real sockets and a real disk: equal bytes, resumed, hedged, cancelled, limited, read as they come."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from tests.support.gateway_server import GatewayServer, gateway_server
from tests.support.memory_dag import MemoryDag
from tests.support.transfers import SMALL, MemorySource, gateway_at, object_of, random_bytes, supply_of

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import BadBlock, Link
from prsm.data_layer.codec.directories import build_directory
from prsm.data_layer.codec.unixfs import FileNode, decode_node
from prsm.data_layer.codec.unixfs_dag import PROFILES, FileDagReader
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.object_files import InUse, NotStored, ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import read_index
from prsm.data_layer.store.parts import begin
from prsm.data_layer.transfer.cancellation import Cancellation, Cancelled
from prsm.data_layer.transfer.download import Download, Fetched, download
from prsm.data_layer.transfer.download_plan import Hedging
from prsm.data_layer.transfer.fetching import DownloadLimits, TooLarge
from prsm.data_layer.transfer.progress import Progress
from prsm.data_layer.transfer.throttle import Bandwidth

PAYLOAD = random_bytes(40 * SMALL.chunk_bytes + 77)
ROOT, DAG = object_of(PAYLOAD)


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "storage", keep_free_bytes=0)


@pytest.fixture
def server() -> Iterator[GatewayServer]:
    with gateway_server(DAG.blocks) as server:
        yield server


def leaves_of(dag: MemoryDag, root: Cid) -> list[Cid]:
    reader = FileDagReader(root)
    while reader.wanted:
        for cid in reader.wanted:
            reader.feed(cid, dag[cid])
    return [leaf.cid for leaf in reader.leaves]


LEAVES = leaves_of(DAG, ROOT)


def stored_bytes(files: ObjectFiles, cid: Cid) -> bytes:
    return files.payload_path(cid).read_bytes()


def test_a_file_arrives_equal_and_is_not_fetched_again(server: GatewayServer, files: ObjectFiles) -> None:
    supply = supply_of([gateway_at(server.url)])
    whole = sum(map(len, DAG.blocks.values()))
    assert download(ROOT, files, supply) == Fetched(ROOT, ObjectKind.FILE, len(PAYLOAD), 1, whole, True)
    assert stored_bytes(files, ROOT) == PAYLOAD
    assert set(read_index(files, ROOT).blocks) | set(LEAVES) == set(DAG.blocks)
    asked = sum(server.requests.values())
    assert asked == len(DAG.blocks)
    assert download(ROOT, files, supply) == Fetched(ROOT, ObjectKind.FILE, len(PAYLOAD), 1, 0, False)
    assert sum(server.requests.values()) == asked
    assert list(files.parts()) == []


@pytest.mark.parametrize("size", [0, 1, SMALL.chunk_bytes, SMALL.chunk_bytes + 1, 16 * SMALL.chunk_bytes + 1])
def test_every_shape_of_file(files: ObjectFiles, size: int) -> None:
    payload = random_bytes(size, seed=size)
    root, dag = object_of(payload)
    assert download(root, files, supply_of([MemorySource("m", dag)])).size_bytes == size
    assert stored_bytes(files, root) == payload


def test_a_file_of_wrapped_leaves(files: ObjectFiles) -> None:
    dag = MemoryDag()
    chunks = [random_bytes(5000, seed=number) for number in range(9)]
    root = dag.add_wrapped_file(chunks).cid
    source = MemorySource("m", dag)
    assert download(root, files, supply_of([source])).size_bytes == 9 * 5000
    assert stored_bytes(files, root) == b"".join(chunks)
    assert set(source.asked.values()) == {1}


def test_a_file_that_stands_in_its_cid(files: ObjectFiles) -> None:
    cid = Cid(Codec.RAW, b"few bytes", identity=True)
    assert download(cid, files, supply_of([])).moved_bytes == 0
    assert stored_bytes(files, cid) == b"few bytes"


def test_the_first_leaves_come_first(files: ObjectFiles) -> None:
    source = MemorySource("m", DAG)
    limits = DownloadLimits(workers=1)
    download(ROOT, files, supply_of([source], limits=limits))
    assert [cid for cid in source.order if cid.codec is Codec.RAW] == LEAVES


def test_a_broken_off_download_goes_on_where_it_was(files: ObjectFiles) -> None:
    gone = set(LEAVES[10:20])
    poor = MemoryDag(blocks={cid: block for cid, block in DAG.blocks.items() if cid not in gone})
    with gateway_server(poor.blocks) as server, pytest.raises(StorageFault, match="does not have it") as failed:
        download(ROOT, files, supply_of([gateway_at(server.url)], limits=DownloadLimits(workers=1)))
    assert failed.value.fault is Fault.OTHER_REPLICA
    assert list(files.parts()) == [ROOT]
    with pytest.raises(NotStored):
        files.open(ROOT)
    source = MemorySource("m", DAG)
    fetched = download(ROOT, files, supply_of([source]))
    assert stored_bytes(files, ROOT) == PAYLOAD
    assert set(source.asked) == set(LEAVES[10:])
    assert fetched.moved_bytes == sum(len(DAG[cid]) for cid in LEAVES[10:])


def test_what_an_earlier_attempt_left_is_not_believed(files: ObjectFiles) -> None:
    source = MemorySource("m", DAG, held=[LEAVES[30]])
    cancelled = Cancellation()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(download, ROOT, files, supply_of([source], cancelled=cancelled))
        source.wait_until_asked(LEAVES[30])
        cancelled.set()
        with pytest.raises(Cancelled):
            running.result(timeout=30)
    with files.part_path(ROOT).open("r+b") as part:
        part.seek(3 * SMALL.chunk_bytes + 5)
        part.write(b"?!")
    again = MemorySource("m", DAG)
    download(ROOT, files, supply_of([again]))
    assert stored_bytes(files, ROOT) == PAYLOAD
    assert again.asked[LEAVES[3]] == 1
    assert again.asked[LEAVES[2]] == 0


def test_a_damaged_object_is_repaired_by_its_damaged_leaves_alone(files: ObjectFiles) -> None:
    download(ROOT, files, supply_of([MemorySource("m", DAG)]))
    path = files.payload_path(ROOT)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(7 * SMALL.chunk_bytes)
        file.write(b"damage")
    source = MemorySource("m", DAG)
    Download(ROOT, files, supply_of([source]), repair=True).run()
    assert stored_bytes(files, ROOT) == PAYLOAD
    assert [cid for cid in source.order if cid.codec is Codec.RAW] == [LEAVES[7]]


def test_a_late_leaf_is_asked_for_elsewhere_and_the_loser_is_cancelled(files: ObjectFiles) -> None:
    """All endpoints hold back one leaf at first: whoever is asked a second time for it is somebody else."""
    sources = [MemorySource(name, DAG, held=[LEAVES[5]]) for name in ("one", "other")]
    supply = supply_of(sources, hedging=Hedging(least_s=0.02, unknown_s=0.02))
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(download, ROOT, files, supply)
        for source in sources:
            source.wait_until_asked(LEAVES[5])
        sources[1].let_go()
        running.result(timeout=30)
    assert stored_bytes(files, ROOT) == PAYLOAD
    assert [source.asked[LEAVES[5]] for source in sources] == [1, 1]


def test_workers_that_all_hang_on_one_endpoint_are_freed(files: ObjectFiles) -> None:
    stuck = MemorySource("stuck", DAG, held=LEAVES)
    hedging = Hedging(least_s=0.01, unknown_s=0.01, most_extra=1.0)
    supply = supply_of([stuck], hedging=hedging, limits=DownloadLimits(workers=2))
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(download, ROOT, files, supply)
        stuck.wait_until_asked(LEAVES[1])
        supply.endpoints.add(MemorySource("well", DAG))
        running.result(timeout=30)
    assert stored_bytes(files, ROOT) == PAYLOAD


def test_hedging_keeps_to_its_budget(files: ObjectFiles) -> None:
    slow = MemorySource("slow", DAG, held=LEAVES)
    supply = supply_of([slow], hedging=Hedging(least_s=0.0, unknown_s=0.0, least_known=10**6))
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(download, ROOT, files, supply)
        slow.wait_until_asked(LEAVES[7])
        slow.let_go()
        running.result(timeout=60)
    extra = sum(slow.asked[cid] - 1 for cid in LEAVES)
    assert extra <= len(LEAVES) // 10


def test_cancelling_ends_it_and_leaves_the_part(files: ObjectFiles) -> None:
    source = MemorySource("m", DAG, held=LEAVES[5:])
    cancelled = Cancellation()
    before = threading.active_count()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(download, ROOT, files, supply_of([source], cancelled=cancelled))
        source.wait_until_asked(LEAVES[6])
        cancelled.set()
        with pytest.raises(Cancelled):
            running.result(timeout=30)
    assert threading.active_count() == before, "no worker is left behind"
    assert list(files.parts()) == [ROOT]


def test_cancelling_wakes_those_that_wait_for_bandwidth(files: ObjectFiles) -> None:
    cancelled = Cancellation()
    supply = supply_of([MemorySource("m", DAG)], bandwidth=Bandwidth(1024), cancelled=cancelled)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(download, ROOT, files, supply)
        cancelled.set()
        with pytest.raises(Cancelled):
            running.result(timeout=30)


def test_the_first_real_cause_is_told(files: ObjectFiles) -> None:
    bad = MemoryDag(blocks=dict(DAG.blocks))
    bad.blocks[LEAVES[3]] = b"something else"
    with pytest.raises(StorageFault, match=str(LEAVES[3])) as failed:
        download(ROOT, files, supply_of([MemorySource("liar", bad)]))
    assert failed.value.fault is Fault.BAN


def test_a_full_disk_ends_it_before_the_leaves_are_fetched(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path / "storage", keep_free_bytes=1 << 62)
    source = MemorySource("m", DAG)
    with pytest.raises(StorageFault, match="are needed") as failed:
        download(ROOT, files, supply_of([source]))
    assert (failed.value.fault, failed.value.code) == (Fault.LOCAL_DISK, "disk_full")
    assert not any(source.asked[cid] for cid in LEAVES)


def test_an_object_above_the_limit_is_refused_before_its_leaves_are_fetched(files: ObjectFiles) -> None:
    source = MemorySource("m", DAG)
    limits = DownloadLimits(total_bytes=len(PAYLOAD) - 1)
    with pytest.raises(TooLarge, match=f"1 files of {len(PAYLOAD):,} bytes"):
        download(ROOT, files, supply_of([source], limits=limits))
    assert set(source.asked) == {ROOT}
    assert list(files.parts()) == []


def test_content_that_breaks_a_rule_is_refused_although_its_hash_is_right(files: ObjectFiles) -> None:
    dag = MemoryDag()
    root = dag.add_file(BytesIO(random_bytes(3 * SMALL.chunk_bytes)), SMALL).cid
    node = decode_node(root, dag[root])
    assert isinstance(node, FileNode)
    claimed = dag[root]
    short = dag.add(Codec.RAW, b"short")
    lying = claimed.replace(node.links[1].cid.encode(), short.encode())
    liar = dag.add(Codec.DAG_PB, lying)
    with pytest.raises(BadBlock, match="5 bytes"):
        download(liar, files, supply_of([MemorySource("m", dag)]))
    assert files.has_file(liar) is False
    assert list(files.parts()) == []


def test_two_transfers_of_one_object_do_not_meet(files: ObjectFiles) -> None:
    with begin(files, ROOT), pytest.raises(InUse):
        download(ROOT, files, supply_of([MemorySource("m", DAG)]))


def test_progress_is_told_and_its_end_always(files: ObjectFiles) -> None:
    told: list[Progress] = []
    download(ROOT, files, supply_of([MemorySource("m", DAG)]), tell=told.append)
    assert told[-1].done_bytes == told[-1].total_bytes == len(PAYLOAD)
    assert told[-1].moved_bytes == sum(map(len, DAG.blocks.values()))
    assert (told[-1].files, told[-1].files_done) == (1, 1)
    assert [each.done_bytes for each in told] == sorted(each.done_bytes for each in told)


def folder_of(count: int) -> tuple[Cid, MemoryDag, dict[str, bytes]]:
    dag = MemoryDag()
    contents = {f"data/part-{number:03}.bin": random_bytes(number * 50, seed=number) for number in range(count)}
    contents |= {"readme.txt": b"read me", "data/copy.bin": random_bytes(50, seed=1)}
    return dag.add_folder(contents, PROFILES["unixfs-v1-2025"], ["empty"]).cid, dag, contents


def test_a_directory_arrives_whole(files: ObjectFiles) -> None:
    root, dag, contents = folder_of(60)
    with gateway_server(dag.blocks) as server:
        fetched = download(root, files, supply_of([gateway_at(server.url)]))
        assert max(server.requests.values()) == 1
    assert fetched.kind is ObjectKind.DIRECTORY
    assert fetched.files == len(set(contents.values()))
    entries = dict(read_index(files, root).children())
    for name, cid in read_index(files, entries["data"]).children():
        assert stored_bytes(files, cid) == contents[f"data/{name}"]
    assert read_index(files, entries["empty"]).kind is ObjectKind.DIRECTORY
    assert download(root, files, supply_of([])).fresh is False


def test_a_directory_with_large_and_broken_files_is_not_published(files: ObjectFiles) -> None:
    dag = MemoryDag(blocks=dict(DAG.blocks))
    small = dag.add(Codec.RAW, b"small")
    links = [Link(ROOT, "large", 10_000_000), Link(small, "small", 5)]
    root = build_directory(links, SMALL, dag.blocks.__setitem__).cid
    missing = dag.blocks.pop(LEAVES[12])
    with pytest.raises(StorageFault):
        download(root, files, supply_of([_gateway_like(dag)], limits=DownloadLimits(block_budget_s=0.5)))
    assert not files.outboard_path(root).exists()
    assert stored_bytes(files, small) == b"small"
    dag.blocks[LEAVES[12]] = missing
    download(root, files, supply_of([MemorySource("m", dag)]))
    assert stored_bytes(files, ROOT) == PAYLOAD
    assert files.outboard_path(root).exists()


class _gateway_like(MemorySource):
    """Says what a gateway says of a block that it has not."""

    def __init__(self, dag: MemoryDag) -> None:
        super().__init__("poor", dag)

    def fetch(self, cid: Cid, into: memoryview, *, deadline_s: float, pace) -> int:
        try:
            return super().fetch(cid, into, deadline_s=deadline_s, pace=pace)
        except KeyError:
            raise StorageFault("not here", fault=Fault.OTHER_REPLICA, endpoint=self.name) from None


def test_a_sharded_directory_arrives_whole(files: ObjectFiles) -> None:
    dag = MemoryDag()
    contents = {f"file-{number}": f"content {number}".encode() for number in range(400)}
    profile = type(SMALL)("sharding", chunk_bytes=1024, max_links=16, shard_above_bytes=1000)
    root = dag.add_folder(contents, profile).cid
    download(root, files, supply_of([MemorySource("m", dag)]))
    assert {name: stored_bytes(files, cid) for name, cid in read_index(files, root).children()} == contents


@pytest.mark.parametrize("limits", [DownloadLimits(files=20), DownloadLimits(total_bytes=3000)])
def test_a_directory_above_a_limit_is_refused(files: ObjectFiles, limits: DownloadLimits) -> None:
    root, dag, _ = folder_of(60)
    with pytest.raises(TooLarge, match="at most"):
        download(root, files, supply_of([MemorySource("m", dag)], limits=limits))


def test_directories_too_deep_are_refused(files: ObjectFiles) -> None:
    dag = MemoryDag()
    root = dag.add_folder({"/".join("abcdefgh") + "/file": b"deep"}, SMALL).cid
    with pytest.raises(InvalidRequest, match="deep"):
        download(root, files, supply_of([MemorySource("m", dag)], limits=DownloadLimits(folders_deep=5)))


def test_reading_while_it_comes(files: ObjectFiles) -> None:
    """A reader that jumps to the end gets it first; one that follows gets all; both see the bytes that come later."""
    source = MemorySource("m", DAG, held=LEAVES)
    transfer = Download(ROOT, files, supply_of([source], limits=DownloadLimits(workers=2)))
    nobody = Cancellation()
    buffer = memoryview(bytearray(1000))
    with ThreadPoolExecutor(3) as threads:
        running = threads.submit(transfer.run)
        assert transfer.size_bytes(nobody) == len(PAYLOAD)
        source.wait_until_asked(LEAVES[1])
        tail = threads.submit(transfer.read, buffer, len(PAYLOAD) - 500, nobody)
        source.let_go(LEAVES[0], LEAVES[39], LEAVES[40])
        assert tail.result(timeout=30) == 500
        assert bytes(buffer[:500]) == PAYLOAD[-500:]
        assert source.asked[LEAVES[20]] == 0, "the end was fetched before the middle"
        assert not running.done()

        def follow() -> bytes:
            got, room = bytearray(), memoryview(bytearray(3000))
            while size := transfer.read(room, len(got), nobody):
                got += room[:size]
            return bytes(got)

        following = threads.submit(follow)
        source.let_go()
        assert following.result(timeout=60) == PAYLOAD
        running.result(timeout=60)
    assert transfer.read(buffer, 10, nobody) == 1000
    assert bytes(buffer) == PAYLOAD[10:1010]


def test_a_reader_is_told_why_nothing_comes(files: ObjectFiles) -> None:
    cancelled = Cancellation()
    source = MemorySource("m", DAG, held=LEAVES)
    transfer = Download(ROOT, files, supply_of([source], cancelled=cancelled))
    own = Cancellation()
    with ThreadPoolExecutor(3) as threads:
        running = threads.submit(transfer.run)
        first = threads.submit(transfer.read, memoryview(bytearray(10)), 0, Cancellation())
        second = threads.submit(transfer.read, memoryview(bytearray(10)), 0, own)
        source.wait_until_asked(LEAVES[0])
        own.set()
        with pytest.raises(Cancelled):
            second.result(timeout=30)
        assert not running.done()
        cancelled.set()
        with pytest.raises(Cancelled):
            running.result(timeout=30)
        with pytest.raises(StorageFault, match="that this reads from was cancelled"):
            first.result(timeout=30)
