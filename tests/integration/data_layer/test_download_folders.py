"""The files of a folder that stands in another come side by side, whatever the shape of the tree."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.memory_dag import MemoryDag
from tests.support.transfers import MemorySource, supply_of

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import Link
from prsm.data_layer.codec.directories import build_directory
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.object_index import kind_on_disk, read_index
from prsm.data_layer.transfer.cancellation import Cancellation, Cancelled
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


@pytest.mark.parametrize("number", range(4))
def test_what_is_published_is_whole_wherever_the_download_ends_and_whichever_way_led_there(
    tmp_path: Path, number: int
) -> None:
    dag = MemoryDag()
    root = built(dag, SHARED[number])
    for last in dag.blocks.keys() - {root}:
        files = ObjectFiles(tmp_path / str(last), keep_free_bytes=0)
        source, cancelled = MemorySource("one is held", dag, held=[last]), Cancellation()
        with ThreadPoolExecutor(1) as thread:
            fetched = thread.submit(download, root, files, supply_of([source], cancelled=cancelled))
            source.wait_until_asked(last)
            time.sleep(0.1)  # what could be published by now is
            cancelled.set()
            assert isinstance(fetched.exception(), Cancelled)
        for found in list(files.listing()):
            everything_under(files, found.cid)
        download(root, files, supply_of([MemorySource("all", dag)]))
        assert len(everything_under(files, root)) == len(list(files.listing()))
        assert list((files.folder / "parts").iterdir()) == []


Tree = dict[str, "bytes | Tree"]
FILE: Tree = {"file": b"content"}
SHARED: list[Tree] = [
    {"a": FILE, "file": b"content"},
    {"a": {"in": FILE}, "in": FILE},
    {"a": {"b": {"c": {"in": FILE}}}, "c": {"in": FILE}, "file": b"content"},
    {"a": {"in": FILE, "other": b"other"}, "in": FILE, "z": {"a": FILE, "b": {"c": {"a": FILE}}}},
]


def built(dag: MemoryDag, tree: Tree) -> Cid:
    """A tree whose links claim much: a download takes each thing for a large one, and comes to one after another."""
    links: list[Link] = []
    for name, inner in tree.items():
        cid = built(dag, inner) if isinstance(inner, dict) else dag.add_wrapped_file([inner]).cid
        links.append(Link(cid, name, 5_000_000))
    return build_directory(links, PROFILE, dag.blocks.__setitem__).cid
