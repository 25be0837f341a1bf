"""Turns the runs of ``bench.gateway`` into one table: medians over rounds, and ratios against each peer."""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

STREAMS = ("paced", "burst")
IDLE = "idle"
Runs = list[dict[str, Any]]


def table(result: dict[str, Any]) -> str:
    """Markdown: requests, streams, idle streams, ratios, and what one must know to read them."""
    runs: Runs = result["runs"]
    servers = list(dict.fromkeys(run["server"] for run in runs))
    loads = list(dict.fromkeys((run["name"], run["connections"]) for run in runs))
    parts = [_heading(result), _rows(_LOAD_COLUMNS, [_group(runs, s, *load) for load in loads for s in servers])]
    if result["idle"]:
        parts.append(_rows(_IDLE_COLUMNS, result["idle"]))
    parts.append(_ratios(runs, servers, loads))
    return "\n\n".join(part for part in parts if part)


def _heading(result: dict[str, Any]) -> str:
    machine, args = result["machine"], result["args"]
    background = ", ".join(f"{name} {value:.1f}" for name, value in result["background_cpu_ms_per_s"].items())
    return (
        f"{machine['date']}, {machine['system']}, Python {machine['python']}; servers on cores "
        f"{machine['server_cores']}, load and upstream on {machine['load_cores']}; {args['rounds']} round(s) of "
        f"{args['seconds']:g} s.\nCPU is user+system of all processes of a server (front: without its database and "
        f"cache). load: cores used by generator and upstream; near {len(machine['load_cores'])} the load limits req/s, "
        f"not CPU per request.\nCPU at rest, ms per s: {background}."
    )


def _group(runs: Runs, server: str, name: str, connections: int) -> dict[str, Any]:
    """The median run of one server under one load; errors are summed."""
    same = [run for run in runs if (run["server"], run["name"], run["connections"]) == (server, name, connections)]
    numbers = {key for run in same for key, value in run.items() if isinstance(value, int | float)}
    errors: Counter[str] = Counter()
    for run in same:
        errors.update(run["errors"])
        errors.update(run["warmup_errors"])
    medians = {key: median(run[key] for run in same if key in run) for key in numbers}
    return {**medians, "server": server, "load": f"{name} x{connections}", "errors": dict(errors)}


def _ratios(runs: Runs, servers: list[str], loads: list[tuple[str, int]]) -> str:
    """Each server against each later one, round by round (so that both saw the same minute), then the median."""
    lines: list[str] = []
    for position, server in enumerate(servers):
        for peer in servers[position + 1 :]:
            for name, connections in loads:
                cpu = _round_ratio(runs, server, peer, name, connections, "cpu_us")
                rate = _round_ratio(runs, server, peer, name, connections, "rps_per_core")
                lines.append(
                    f"{server} / {peer}, {name} x{connections}: CPU {cpu:.3f}x, requests per s per core {rate:.2f}x"
                )
    return "\n".join(lines)


def _round_ratio(runs: Runs, server: str, peer: str, name: str, connections: int, figure: str) -> float:
    def by_round(who: str) -> dict[int, float]:
        found = (run for run in runs if (run["server"], run["name"], run["connections"]) == (who, name, connections))
        return {run["round"]: run[figure] for run in found}

    mine, theirs = by_round(server), by_round(peer)
    return median(mine[number] / max(theirs[number], 1e-9) for number in mine)


def _milliseconds(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[key]:,.1f}" if key in row else "-"


def _whole(key: str, scale: float = 1) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[key] / scale:,.0f}"


def _errors(row: dict[str, Any]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in row["errors"].items()) or "0"


Column = tuple[str, Callable[[dict[str, Any]], str]]
_LOAD_COLUMNS: tuple[Column, ...] = (
    ("load", lambda row: row["load"]),
    ("server", lambda row: row["server"]),
    ("CPU us", _whole("cpu_us")),
    ("front us", _whole("front_cpu_us")),
    ("req/s", _whole("rps")),
    ("req/s/core", _whole("rps_per_core")),
    ("p50 ms", _milliseconds("latency_p50_ms")),
    ("p99 ms", _milliseconds("latency_p99_ms")),
    ("max ms", _milliseconds("latency_max_ms")),
    ("first token p50", _milliseconds("first_token_p50_ms")),
    ("server cores", lambda row: f"{row['server_cores']:.2f}"),
    ("load cores", lambda row: f"{row['load_cores']:.2f}"),
    ("requests", _whole("requests")),
    ("errors", _errors),
)
_IDLE_COLUMNS: tuple[Column, ...] = (
    ("idle streams", lambda row: row["server"]),
    ("asked", _whole("asked")),
    ("alive", _whole("alive")),
    ("at upstream", _whole("held_by_upstream")),
    ("ended properly", _whole("ended_properly")),
    ("KB RSS each", lambda row: f"{row['rss_bytes'] / 1000:.1f}"),
    ("KB PSS each", lambda row: f"{row['pss_bytes'] / 1000:.1f}"),
    ("front KB RSS", lambda row: f"{row['front_rss_bytes'] / 1000:.1f}"),
    ("front KB PSS", lambda row: f"{row['front_pss_bytes'] / 1000:.1f}"),
    ("MB before", _whole("empty_rss_bytes", 1e6)),
    ("ramp s", lambda row: f"{row['ramp_s']:.1f}"),
    ("errors", _errors),
)


def _rows(columns: Sequence[Column], rows: Runs) -> str:
    cells = [[title for title, _ in columns], *([show(row) for _, show in columns] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    lines = [" | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "-|-".join("-" * width for width in widths), *lines[1:]])
