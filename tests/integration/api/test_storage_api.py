"""Storage over the node API, looked at from inside the process."""

import io
import threading
from pathlib import Path

from tests.support.served_node import serve_node

from prsm.data_layer.store.object_files import ObjectFiles


class NotingFiles(ObjectFiles):
    """Notes which threads have asked the file system."""

    def __init__(self, files: ObjectFiles) -> None:
        super().__init__(files.folder, keep_free_bytes=files.keep_free_bytes, folders=files.folders)
        self.asked: list[threading.Thread] = []

    def free_bytes(self) -> int:
        self.asked.append(threading.current_thread())
        return super().free_bytes()


async def test_the_status_waits_for_the_disk_in_a_thread(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    async with serve_node(tmp_path / "home", postgres_url, valkey_url) as one:
        files = one.node.storage.files = NotingFiles(one.node.storage.files)
        assert (await one.done("GET", "/node/v1/storage/status"))["free_bytes"] > 0
        assert files.asked
        assert threading.current_thread() not in files.asked


async def test_a_directory_of_too_many_folders_is_refused_with_a_sentence(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    async with serve_node(tmp_path / "home", postgres_url, valkey_url) as one:
        cid = str((await one.node.storage.add(io.BytesIO(b"x").readinto, "me")).cid)
        entries = [{"path": f"{number}/{'a/' * 126}x", "cid": cid} for number in range(1_000)]
        refusal = await one.refused("POST", "/node/v1/storage/directories", {"entries": entries})
        assert (refusal["status"], refusal["code"]) == (400, "invalid_request")
        assert "at most 100,000 files and folders" in refusal["message"]
