"""One measured piece of storage work in a process of its own; prints one line of JSON with what it took.

``cpu_s`` is user and system time of all threads during the work alone; ``floor_kib`` and ``peak_kib`` are the process's
peak resident memory (VmHWM) before and after it.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.transfers import endpoints_of, gateway_at

from bench.storage_peers import warm
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import DEFAULT_PROFILE, PROFILES
from prsm.data_layer.network.http_fetch import HttpLimits
from prsm.data_layer.store.ingest import ingest
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.download import download
from prsm.data_layer.transfer.fetching import DownloadLimits, Supply
from prsm.data_layer.transfer.throttle import Bandwidth, Traffic

_MIB = 1024 * 1024


def measured(work: Callable[[], object]) -> dict[str, float]:
    floor = _peak_kib()
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    work()
    wall_s, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
    user_s, system_s = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {
        "wall_s": wall_s,
        "cpu_s": user_s + system_s,
        "user_s": user_s,
        "floor_kib": floor,
        "peak_kib": _peak_kib(),
    }


class TimedBandwidth(Bandwidth):
    """Knows when the last bytes passed: what comes after, the sync to the disk above all, is no transfer."""

    last_s = 0.0

    def take(self, traffic: Traffic, size_bytes: int, cancelled: Cancellation) -> None:
        super().take(traffic, size_bytes, cancelled)
        if size_bytes:
            self.last_s = time.perf_counter()


def fetch(
    folder: Path, root: str, urls: list[str], workers: int, limit_bytes_s: int | None, warm_bytes: int
) -> dict[str, float]:
    files = ObjectFiles(folder, keep_free_bytes=0)
    bandwidth = TimedBandwidth(limit_bytes_s) if limit_bytes_s else Bandwidth()
    supply = Supply(
        endpoints_of([gateway_at(url, HttpLimits()) for url in urls]),
        bandwidth,
        limits=DownloadLimits(workers=workers),
    )
    moved: list[int] = []
    warm(folder, warm_bytes)
    started_s = time.perf_counter()
    figures = measured(lambda: moved.append(download(Cid.parse(root), files, supply).moved_bytes))
    paced_s = bandwidth.last_s - started_s if isinstance(bandwidth, TimedBandwidth) else figures["wall_s"]
    return {**figures, "moved_bytes": moved[0], "paced_s": paced_s}


def take_in(folder: Path, source: Path) -> dict[str, float]:
    files = ObjectFiles(folder, keep_free_bytes=0)
    with source.open("rb", buffering=0) as file:
        warm(folder, source.stat().st_size)
        return measured(lambda: ingest(lambda into: file.readinto(into) or 0, files, PROFILES[DEFAULT_PROFILE]))


def hash_blocks(size_bytes: int, seconds: float) -> dict[str, float]:
    block = bytes(size_bytes)
    count = 0
    end = time.perf_counter() + seconds

    def work() -> None:
        nonlocal count
        while time.perf_counter() < end:
            Cid.of(Codec.RAW, block)
            count += 1

    return {**measured(work), "hashed_bytes": count * size_bytes}


def take_from(limit_bytes_s: int, size_bytes: int, piece_bytes: int) -> dict[str, float]:
    pace = Bandwidth(limit_bytes_s or None).pace(Traffic.BULK, Cancellation())

    def work() -> None:
        for _ in range(size_bytes // piece_bytes):
            pace.take(piece_bytes)

    return {**measured(work), "takes": size_bytes // piece_bytes, "moved_bytes": size_bytes}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["fetch", "ingest", "hash", "take"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--root")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--url", action="append", default=[])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--warm", type=int, default=0, help="bytes of memory to touch before a fetch")
    parser.add_argument("--size", type=int, default=_MIB)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    match options.work:
        case "fetch":
            limit = options.limit or None
            figures = fetch(options.folder, options.root, options.url, options.workers, limit, options.warm)
        case "ingest":
            figures = take_in(options.folder, options.source)
        case "hash":
            figures = hash_blocks(options.size, options.seconds)
        case _:
            figures = take_from(options.limit, options.size, 256 * 1024)
    print(json.dumps(figures))


def _peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
