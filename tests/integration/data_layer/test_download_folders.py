"""The files of a folder that stands in another come side by side, whatever the shape of the tree."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.memory_dag import MemoryDag
from tests.support.transfers import MemorySource, supply_of

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.object_index import kind_on_disk, read_index
from prsm.data_layer.transfer.download import download

PROFILE = PROFILES["unixfs-v1-2025"]


def everything_under(files: ObjectFiles, cid: Cid) -> set[Cid]:
    below = [child for _, child in read_index(files, cid).children()]
    return {cid}.union(*(everything_under(files, child) for child in below))


def test_files_of_an_inner_folder_are_asked_for_all_at_once(tmp_path: Path) -> None:
    dag = MemoryDag()
    contents = {f"deep/er/{number}": bytes([number]) * 100 for number in range(8)}
    root = dag.add_folder(contents, PROFILE).cid
    leaves = [Cid.of(Codec.RAW, data) for data in contents.values()]
    source = MemorySource("one by one", dag, held=leaves)
    files = ObjectFiles(tmp_path, keep_free_bytes=0)
    with ThreadPoolExecutor(1) as thread:
        fetched = thread.submit(download, root, files, supply_of([source]))
        try:
            for leaf in leaves:
                source.wait_until_asked(leaf)
        finally:
            source.let_go()
        assert fetched.result().files == 8
    assert everything_under(files, root) >= set(leaves)
    assert list((tmp_path / "parts").iterdir()) == []


def test_a_tree_of_any_shape_arrives_and_what_is_here_is_not_asked_for_again(tmp_path: Path) -> None:
    dag = MemoryDag()
    contents = {f"{number % 3}/{number % 5}/{number % 2}/{number}": b"%d" % (number % 40) for number in range(120)}
    root = dag.add_folder(contents | {"top": b"top"}, PROFILE, folders=["empty/er"]).cid
    files = ObjectFiles(tmp_path, keep_free_bytes=0)
    source = MemorySource("all", dag)
    download(root, files, supply_of([source]))
    under = everything_under(files, root)
    assert set(source.asked) == under
    assert set(source.asked.values()) == {1}
    files.remove(Cid.of(Codec.RAW, b"7"))
    again = MemorySource("again", dag)
    assert download(root, files, supply_of([again])).fresh
    assert set(again.asked) == {Cid.of(Codec.RAW, b"7")}
    assert all(kind_on_disk(files, cid) for cid in under)
