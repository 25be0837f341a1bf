"""Uploads from a real disk: whole, in an order that a broken-off one can be trusted by, and nothing twice."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.memory_dag import MemoryDag
from tests.support.transfers import SMALL, FolderSink, MemorySource, object_of, random_bytes, supply_of

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.object_files import NotStored, ObjectFiles
from prsm.data_layer.store.object_index import Damaged
from prsm.data_layer.transfer.cancellation import Cancellation, Cancelled
from prsm.data_layer.transfer.download import download
from prsm.data_layer.transfer.progress import Progress
from prsm.data_layer.transfer.throttle import Bandwidth
from prsm.data_layer.transfer.upload import BATCH_BYTES, Outlet, Uploaded, UploadLimits, upload

PAYLOAD = random_bytes(40 * SMALL.chunk_bytes + 77)
ROOT, DAG = object_of(PAYLOAD)
DAG_BYTES = sum(map(len, DAG.blocks.values()))


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    files = ObjectFiles(tmp_path / "storage", keep_free_bytes=0)
    download(ROOT, files, supply_of([MemorySource("m", DAG)]))
    return files


@pytest.fixture
def sink(tmp_path: Path) -> FolderSink:
    return FolderSink(tmp_path / "node")


def test_a_file_goes_whole_and_only_once(files: ObjectFiles, sink: FolderSink) -> None:
    outlet = Outlet(sink, Bandwidth())
    told: list[Progress] = []
    expected = Uploaded(ROOT, "folder node", len(DAG.blocks), DAG_BYTES, DAG_BYTES)
    assert upload(ROOT, files, outlet, tell=told.append) == expected
    assert sink.blocks() == DAG.blocks
    assert sink.pinned == {ROOT}
    assert sink.got[-1] == ROOT, "who has the root was given everything"
    assert told[-1].done_bytes == told[-1].total_bytes == DAG_BYTES
    assert upload(ROOT, files, outlet).moved_bytes == 0
    assert len(sink.got) == len(DAG.blocks)


def test_what_the_node_has_is_not_sent(files: ObjectFiles, sink: FolderSink) -> None:
    upload(ROOT, files, Outlet(sink, Bandwidth()))
    gone = [cid for number, cid in enumerate(sorted(DAG.blocks, key=str)) if number % 4 == 0]
    for cid in gone:
        sink._path(cid).unlink()
    sink.got.clear()
    assert upload(ROOT, files, Outlet(sink, Bandwidth())).moved_bytes == sum(len(DAG[cid]) for cid in gone)
    assert sorted(sink.got, key=str) == gone
    assert sink.blocks() == DAG.blocks


def test_a_directory_goes_with_all_under_it(files: ObjectFiles, sink: FolderSink) -> None:
    dag = MemoryDag(blocks=dict(DAG.blocks))
    contents = {f"d/{number}": random_bytes(number * 40, seed=number) for number in range(30)}
    root = dag.add_folder({**contents, "copy": contents["d/7"]}, PROFILES["unixfs-v1-2025"], ["empty"]).cid
    download(root, files, supply_of([MemorySource("m", dag)]))
    uploaded = upload(root, files, Outlet(sink, Bandwidth()))
    assert sink.blocks() == {cid: block for cid, block in dag.blocks.items() if cid not in DAG.blocks}
    assert uploaded.blocks == len(sink.blocks())
    assert len(sink.got) == len(set(sink.got))


def test_wrapped_leaves_go_as_they_came(files: ObjectFiles, sink: FolderSink) -> None:
    dag = MemoryDag()
    root = dag.add_wrapped_file([random_bytes(3000, seed=number) for number in range(7)]).cid
    download(root, files, supply_of([MemorySource("m", dag)]))
    upload(root, files, Outlet(sink, Bandwidth()))
    assert sink.blocks() == dag.blocks


def test_a_file_in_its_cid_needs_no_block(files: ObjectFiles, sink: FolderSink) -> None:
    cid = Cid(Codec.RAW, b"few bytes", identity=True)
    download(cid, files, supply_of([]))
    assert upload(cid, files, Outlet(sink, Bandwidth())).blocks == 0


def test_passing_failures_are_sat_out(files: ObjectFiles, tmp_path: Path) -> None:
    faults = [StorageFault("busy", fault=Fault.RETRY) for _ in range(5)]
    sink = FolderSink(tmp_path / "busy", faults)
    upload(ROOT, files, Outlet(sink, Bandwidth(), draw=lambda: 0.01))
    assert sink.blocks() == DAG.blocks


@pytest.mark.parametrize("fault", [Fault.OTHER_REPLICA, Fault.BAN])
def test_others_end_it(files: ObjectFiles, tmp_path: Path, fault: Fault) -> None:
    sink = FolderSink(tmp_path / "no", [StorageFault("it wants credentials", fault=fault)])
    with pytest.raises(StorageFault, match="credentials"):
        upload(ROOT, files, Outlet(sink, Bandwidth()))


def test_patience_ends(files: ObjectFiles, tmp_path: Path) -> None:
    sink = FolderSink(tmp_path / "down", [StorageFault("down", fault=Fault.RETRY) for _ in range(10**4)])
    with pytest.raises(StorageFault, match="down"):
        upload(ROOT, files, Outlet(sink, Bandwidth(), limits=UploadLimits(patience_s=0.05)))


def test_a_slow_line_takes_long_and_gets_there() -> None:
    limits = UploadLimits()
    slowest_bytes_s = limits.workers * BATCH_BYTES / limits.put_s
    assert slowest_bytes_s < 16 * 1024, "128 kbit/s are enough, or each step would run out of time for ever"


def test_damaged_bytes_are_never_sent(files: ObjectFiles, sink: FolderSink) -> None:
    path = files.payload_path(ROOT)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(20 * SMALL.chunk_bytes)
        file.write(b"??")
    with pytest.raises(Damaged):
        upload(ROOT, files, Outlet(sink, Bandwidth()))
    assert ROOT not in sink.blocks()
    assert all(cid.names(block) for cid, block in sink.blocks().items())


def test_what_is_not_here_cannot_go(files: ObjectFiles, sink: FolderSink) -> None:
    with pytest.raises(NotStored):
        upload(Cid.of(Codec.RAW, b"elsewhere"), files, Outlet(sink, Bandwidth()))


def test_cancelling_ends_it(files: ObjectFiles, sink: FolderSink) -> None:
    cancelled = Cancellation()
    outlet = Outlet(sink, Bandwidth(1024), cancelled=cancelled)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(upload, ROOT, files, outlet)
        cancelled.set()
        with pytest.raises(Cancelled):
            running.result(timeout=30)
    assert sink.pinned == set()
