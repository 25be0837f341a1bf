"""Storage against named peers, round by round in one run: hashing, ingest, fetch, memory, bandwidth limits, cache.

``python -m bench.storage [--rounds 3] [--mib 1024] [--memory-mib 4096] [--only fetch,ingest] [--folder DIR]`` needs
openssl, dd, curl and free disk for four such files. Gateways are processes of their own on loopback.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.support.gateway_server import gateway_process

from bench.storage_caches import byte_hit_rates
from bench.storage_peers import curl_blocks, curl_parallel, dd_durable, even_start, openssl_sha256_bytes_s
from prsm.data_layer.codec.car import car_header, car_section
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import DEFAULT_PROFILE, PROFILES, FileDagBuilder

_MIB = 1024 * 1024
_GIB = 1024 * _MIB
_GATEWAYS = 3
_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Made:
    """The object that is fetched: its file, the archive that gateways serve, and a larger one of the same leaves."""

    source: Path
    archive: Path
    root: Cid
    leaves: list[Cid]
    size_bytes: int
    large_root: Cid
    large_bytes: int


@dataclass(slots=True)
class Figure:
    """One claim: what is measured each round, and what it must be."""

    name: str
    target: str
    holds: Callable[[float], bool]
    values: list[float] = field(default_factory=list)
    note: str = ""

    def row(self) -> str:
        middle = median(self.values)
        spread = f"{min(self.values):.3g}..{max(self.values):.3g}"
        verdict = "met" if self.holds(middle) else "MISSED"
        return f"{self.name:<58} | {middle:>8.3g} | {spread:>15} | {self.target:>9} | {verdict:<6} | {self.note}"


class Bench:
    """All figures of one run."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.figures: dict[str, Figure] = {}
        self.raw: list[dict[str, object]] = []

    def put(self, name: str, value: float, target: str, holds: Callable[[float], bool], note: str = "") -> None:
        """Keep one round's value of a figure."""
        figure = self.figures.setdefault(name, Figure(name, target, holds))
        figure.values.append(value)
        figure.note = note or figure.note

    def keep(self, what: str, figures: dict[str, float]) -> dict[str, float]:
        """Note what one program took."""
        self.raw.append({"what": what, **figures})
        print(f"  {what}: " + ", ".join(f"{key} {value:,.3f}" for key, value in figures.items()), flush=True)
        return figures

    def client(self, *arguments: object) -> dict[str, float]:
        """One piece of our own work, in a process of its own."""
        command = [sys.executable, "-m", "bench.storage_client", *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)


def at_least(ratio: float) -> tuple[str, Callable[[float], bool]]:
    return f">= {ratio:g}", lambda value: value >= ratio


def at_most(limit: float) -> tuple[str, Callable[[float], bool]]:
    return f"<= {limit:g}", lambda value: value <= limit


def make(folder: Path, size_mib: int, large_mib: int) -> Made:
    """Write a file of random bytes and its archive; the larger object has the same leaves again and again."""
    source, archive = folder / "source", folder / "source.car"
    profile, blocks = PROFILES[DEFAULT_PROFILE], dict[Cid, bytes]()
    leaves: list[Cid] = []
    draw = random.Random(1)
    builder = FileDagBuilder(profile, blocks.__setitem__)
    with source.open("wb") as file, archive.open("wb") as car:
        car.write(car_header([Cid.of(Codec.RAW, b"")]))
        for _ in range(size_mib):
            chunk = draw.randbytes(profile.chunk_bytes)
            cid = Cid.of(Codec.RAW, chunk)
            file.write(chunk)
            car.write(car_section(cid, len(chunk)))
            car.write(chunk)
            builder.leaf(cid, len(chunk))
            leaves.append(cid)
        root = builder.finish()
        large = FileDagBuilder(profile, blocks.__setitem__)
        for number in range(large_mib):
            large.leaf(leaves[number % len(leaves)], profile.chunk_bytes)
        large_root = large.finish()
        for cid, block in blocks.items():
            car.write(car_section(cid, len(block)))
            car.write(block)
    return Made(source, archive, root, leaves, size_mib * _MIB, large_root, large_mib * _MIB)


def hashing(bench: Bench) -> None:
    peer = openssl_sha256_bytes_s(_MIB, 2)
    ours = bench.keep("hash 1 MiB blocks", bench.client("hash", "--size", _MIB, "--seconds", 2))
    rate = ours["hashed_bytes"] / ours["cpu_s"]
    note = f"ours {rate / 1e9:.2f} GB, openssl speed {peer / 1e9:.2f} GB per CPU second"
    bench.put("CID hashing / openssl speed -evp sha256, per CPU-s", rate / peer, *at_least(0.7), note)


def ingest(bench: Bench, made: Made) -> None:
    work = bench.folder / "work"
    work.mkdir(exist_ok=True)
    peers: dict[str, dict[str, float]] = {}
    for piece in ("1M", "256k"):  # large pieces are slow where a host lends memory, see even_start
        with even_start(work, made.size_bytes):
            peers[piece] = bench.keep(f"dd bs={piece}", dd_durable(made.source, work / "copy", piece))
    with even_start(work, made.size_bytes):
        ours = bench.keep("ingest", bench.client("ingest", "--source", made.source, "--folder", work / "storage"))
    gib = made.size_bytes / _GIB
    for piece, peer in peers.items():
        note = f"ours {ours['wall_s']:.2f} s and {ours['cpu_s'] / gib:.2f} CPU-s/GiB; dd {peer['wall_s']:.2f} s"
        name = f"durable ingest / dd bs={piece} conv=fdatasync, wall"
        bench.put(name, peer["wall_s"] / ours["wall_s"], *at_least(0.8), note)


def fetch(bench: Bench, made: Made, urls: Sequence[str]) -> None:
    work = bench.folder / "work"
    work.mkdir(exist_ok=True)
    paths = [f"/ipfs/{cid}?format=raw" for cid in made.leaves]
    spread = [urls[number % len(urls)] + path for number, path in enumerate(paths)]
    alone = [urls[0] + path for path in paths]
    peers: dict[str, dict[str, float]] = {}
    with even_start(work, made.size_bytes):
        peers["one"] = bench.keep("curl, one gateway, to file", curl_blocks(alone, work, durable=False))
    with even_start(work, made.size_bytes):
        peers["durable"] = bench.keep("curl, one gateway, to file, sync -d", curl_blocks(alone, work, durable=True))
    with even_start(work, made.size_bytes):
        peers["all"] = bench.keep("curl -Z, all gateways, to files", curl_parallel(spread, work, _WORKERS))
    with even_start(work, made.size_bytes):
        gateways = [part for url in urls for part in ("--url", url)]
        arguments = ("--root", made.root, "--folder", work / "storage", "--warm", made.size_bytes, *gateways)
        ours = bench.keep("fetch", bench.client("fetch", *arguments))
    if any(peer["bytes"] != made.size_bytes for peer in peers.values()):
        raise RuntimeError("curl did not get everything")
    gib = made.size_bytes / _GIB
    ours_said = f"ours {ours['wall_s']:.2f} s, durable and verified; "
    for name, said in (("durable", "curl + sync"), ("one", "curl not synced"), ("all", "curl -Z not synced")):
        peer = peers[name]
        note = f"{ours_said}{said} {peer['wall_s']:.2f} s, {peer['cpu_s'] / gib:.2f} CPU-s/GiB"
        target = at_least(0.75) if name != "all" else ("(no target)", lambda _: True)
        label = {"durable": "one gateway, durable", "one": "one gateway", "all": "-Z, three gateways, no file"}[name]
        bench.put(f"fetch from three gateways / curl {label}, wall", peer["wall_s"] / ours["wall_s"], *target, note)
    bench.put("fetch, client CPU-s per GiB", ours["cpu_s"] / gib, *at_most(2.6))


def memory(bench: Bench, made: Made, urls: Sequence[str]) -> None:
    work = bench.folder / "work"
    work.mkdir(exist_ok=True)
    gateways = [part for url in urls for part in ("--url", url)]
    with even_start(work, made.large_bytes):
        figures = bench.client("fetch", "--root", made.large_root, "--folder", work / "storage", *gateways)
        bench.keep(f"fetch of {made.large_bytes / _GIB:g} GiB", figures)
    peak, floor = figures["peak_kib"] / 1024, figures["floor_kib"] / 1024
    limit = 64 + 2 * _WORKERS
    note = f"peak {peak:.0f} MiB, of which {floor:.0f} MiB are the interpreter with its imports; {_WORKERS} workers"
    name = f"peak memory of a fetch of {made.large_bytes / _GIB:g} GiB, MiB"
    bench.put(f"{name} (whole process)", peak, *at_most(limit), note)
    bench.put(f"{name} (above the floor)", peak - floor, *at_most(limit), note)


def throttle(bench: Bench, made: Made, urls: Sequence[str]) -> None:
    for limit_mib, size_mib in ((8, 64), (64, 512)):
        took = bench.client("take", "--limit", limit_mib * _MIB, "--size", size_mib * _MIB)
        rate = took["moved_bytes"] / took["wall_s"] / (limit_mib * _MIB)
        note = f"{took['cpu_s'] / took['wall_s'] * 100:.1f} % of a core"
        bench.put(f"bandwidth at {limit_mib} MiB/s, taken alone", rate, "0.95..1.05", _within_5_percent, note)
    work = bench.folder / "work"
    work.mkdir(exist_ok=True)
    gateways = [part for url in urls for part in ("--url", url)]
    limit = made.size_bytes // 8
    with even_start(work, made.size_bytes):
        arguments = ("--root", made.root, "--folder", work / "storage", "--limit", limit, *gateways)
        took = bench.keep(f"fetch at {limit / _MIB:g} MiB/s", bench.client("fetch", *arguments))
    rate = took["moved_bytes"] / took["paced_s"] / limit
    note = f"first to last byte; {took['wall_s'] - took['paced_s']:.2f} s more until all was durable"
    bench.put(f"bandwidth at {limit / _MIB:g} MiB/s, whole fetch", rate, "0.95..1.05", _within_5_percent, note)
    free = bench.client("take", "--limit", 0, "--size", 100_000 * 256 * 1024)
    bench.put("no limit: microseconds of CPU per take", free["cpu_s"] / free["takes"] * 1e6, *at_most(5))


def caches(bench: Bench) -> None:
    rates = byte_hit_rates()
    note = f"S3-FIFO {rates['s3_fifo']:.1%}, LRU {rates['lru']:.1%} of all bytes; trace in storage_caches.py"
    bench.put("S3-FIFO / LRU, byte hit rate", rates["s3_fifo"] / rates["lru"], "> 1", lambda ratio: ratio > 1, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--memory-mib", type=int, default=4096)
    parser.add_argument("--only", default="hashing,ingest,fetch,memory,throttle,caches")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk that is measured")
    options = parser.parse_args()
    only = set(options.only.split(","))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prsm-bench-", dir=options.folder)))
        bench = Bench(folder, options)
        made = make(folder, options.mib, options.memory_mib) if only - {"hashing", "caches"} else None
        urls = [stack.enter_context(gateway_process([made.archive])) for _ in range(_GATEWAYS)] if made else []
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
            _round(bench, made, urls, only, last=number == options.rounds - 1)
    print(_heading(options))
    print("\n".join(figure.row() for figure in bench.figures.values()))
    out = Path(__file__).parent / "out"
    out.mkdir(exist_ok=True)
    (out / f"storage-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(json.dumps(bench.raw, indent=1))


def _round(bench: Bench, made: Made | None, urls: Sequence[str], only: set[str], *, last: bool) -> None:
    if "hashing" in only:
        hashing(bench)
    if made and "ingest" in only:
        ingest(bench, made)
    if made and "fetch" in only:
        fetch(bench, made, urls)
    if made and "throttle" in only:
        throttle(bench, made, urls)
    if made and "memory" in only and last:
        memory(bench, made, urls)
    if "caches" in only and last:
        caches(bench)


def _within_5_percent(ratio: float) -> bool:
    return 0.95 <= ratio <= 1.05


def _heading(options: argparse.Namespace) -> str:
    return (
        f"\n{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.release()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; {options.rounds} rounds of {options.mib} MiB; medians (min..max) of ratios "
        f"within a round\n{'figure':<58} | {'median':>8} | {'spread':>15} | {'target':>9} |"
    )


if __name__ == "__main__":
    main()
