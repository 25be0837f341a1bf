"""A file that is opened in a thread: for who waits for it, and for nobody else."""

import asyncio
import threading
from io import BytesIO
from pathlib import Path

from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.store.ingest import ingest
from prsm.data_layer.store.object_files import ObjectFiles, StoredFile
from prsm.data_layer.store.pools import Pools
from prsm.data_layer.transfer.reading import StoredReader, opened


async def test_a_file_whose_reader_left_while_it_was_opened_is_closed_again(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path / "storage", keep_free_bytes=0)
    cid = ingest(BytesIO(b"data").readinto, files, PROFILES["kubo-v1"]).cid
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> StoredFile:
        file = files.open(cid)
        begun.set()
        go_on.wait(30)
        return file

    pools = Pools()
    reading = asyncio.create_task(opened(pools, slowly))
    await asyncio.to_thread(begun.wait, 30)
    reading.cancel()
    await asyncio.wait([reading])
    assert not files.remove(cid), "it is open in the thread"
    go_on.set()
    await pools.aclose()
    assert files.remove(cid)


async def test_a_stored_file_is_read_in_pieces_up_to_its_end(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path / "storage", keep_free_bytes=0)
    cid = ingest(BytesIO(b"0123456789").readinto, files, PROFILES["kubo-v1"]).cid
    pools = Pools()
    with await opened(pools, lambda: files.open(cid)) as file:
        reader = StoredReader(file, pools)
        assert [await reader.read(at, 4, 10) for at in (0, 4, 8, 10, 99)] == [b"0123", b"4567", b"89", b"", b""]
    await pools.aclose()
