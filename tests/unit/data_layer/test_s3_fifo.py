"""The laws of the eviction rule, and its byte hit rate beside LRU's on stated traces."""

import random
from collections import OrderedDict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.data_layer.store.s3_fifo import Entry, Queue, S3Fifo, Snapshot

Trace = list[tuple[str, int]]
LIMIT = 1000

ops = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "read", "read", "hold", "let_go", "remove"]),
        st.integers(0, 30),
        st.integers(0, 400),
    ),
    max_size=200,
)


def apply(cache: S3Fifo, op: str, number: int, size: int) -> list[Entry]:
    key = f"k{number}"
    match op:
        case "add":
            cache.add(key, size)
        case "read":
            cache.read(key)
        case "hold":
            cache.hold(key)
        case "let_go":
            cache.let_go(key)
        case _:
            cache.remove(key)
    return list(cache.victims())


@given(ops)
def test_never_above_the_limit_unless_all_is_held_and_held_never_leaves(steps: list[tuple[str, int, int]]) -> None:
    cache = S3Fifo(LIMIT)
    held, here = set[str](), dict[str, int]()
    for op, number, size in steps:
        key = f"k{number}"
        victims = apply(cache, op, number, size)
        if op == "add":
            here.setdefault(key, size)
        elif op == "hold" and key in here:
            held.add(key)
        elif op == "let_go":
            held.discard(key)
        elif op == "remove":
            here.pop(key, None)
            held.discard(key)
        for victim in victims:
            assert victim.key not in held
            assert here.pop(victim.key) == victim.size_bytes
        assert cache.used_bytes == sum(here.values())
        assert cache.used_bytes <= LIMIT or here.keys() == held
        assert all(key in cache for key in here)


@given(ops, ops)
def test_a_restored_cache_goes_on_as_the_one_that_was_saved(
    before: list[tuple[str, int, int]], after: list[tuple[str, int, int]]
) -> None:
    first = S3Fifo(LIMIT)
    for step in before:
        apply(first, *step)
    second = S3Fifo(LIMIT, first.snapshot())
    assert second.snapshot() == first.snapshot()
    for step in after:
        assert apply(first, *step) == apply(second, *step)
    assert second.snapshot() == first.snapshot()


@given(ops)
def test_ghosts_are_bounded_by_the_bytes_of_main_and_are_not_here(steps: list[tuple[str, int, int]]) -> None:
    cache = S3Fifo(LIMIT)
    for step in steps:
        apply(cache, *step)
        ghosts = cache.snapshot().ghosts
        assert sum(size for _, size in ghosts) <= LIMIT * 9 // 10
        assert all(key not in cache for key, _ in ghosts)


def test_the_rules_one_by_one() -> None:
    cache = S3Fifo(100)
    for key in ("once", "twice", "never"):
        cache.add(key, 40)
        cache.read(key) if key == "once" else None
    for _ in range(2):
        cache.read("twice")
    # small is over a tenth: "once" was read only once and leaves; that is enough.
    assert [entry.key for entry in cache.victims()] == ["once"]
    cache.add("new", 40)
    # "twice" is the oldest and goes to main with its count cleared, "never" leaves.
    assert [entry.key for entry in cache.victims()] == ["never"]
    assert Entry("twice", 40, Queue.MAIN, 0) in cache.snapshot().entries
    assert [key for key, _ in cache.snapshot().ghosts] == ["once", "never"]
    # What comes back from the ghosts enters main.
    cache.remove("new")
    cache.add("never", 40)
    assert Entry("never", 40, Queue.MAIN, 0) in cache.snapshot().entries
    # Main: who was read goes round once more, with one read less.
    cache.read("twice")
    cache.add("more", 10)
    cache.add("last", 11)
    gone = [entry.key for entry in cache.victims()]
    assert "twice" not in gone


def test_an_object_above_the_limit_does_not_stay() -> None:
    cache = S3Fifo(100)
    cache.add("huge", 101)
    assert [entry.key for entry in cache.victims()] == ["huge"]
    assert cache.snapshot() == Snapshot()


def draw_size(draw: random.Random) -> int:
    """Log-uniform from 1 MiB to 8 GiB, as models and data sets are."""
    return int(2 ** draw.uniform(20, 33))


def popular(seed: int, *, alpha: float = 0.9, wonders: float = 0.25, scan: int = 300, n: int = 12_000) -> Trace:
    """Zipf over 2,000 objects; one request in four for something never asked again; a scan of 300 every 3,000."""
    draw = random.Random(seed)
    sizes = [draw_size(draw) for _ in range(2000)]
    picks = draw.choices(range(2000), [1 / (rank + 1) ** alpha for rank in range(2000)], k=n)
    scanned = [(f"scan-{number}", draw_size(draw)) for number in range(scan)]
    trace: Trace = []
    for at, pick in enumerate(picks):
        trace.append((f"once-{at}", draw_size(draw)) if draw.random() < wonders else (f"object-{pick}", sizes[pick]))
        if at % 3000 == 2999:
            trace.extend(scanned)
    return trace


def drifting(seed: int, n: int = 12_000) -> Trace:
    """What is asked for is what came lately, and interest moves on: the friend of LRU."""
    draw = random.Random(seed)
    sizes: dict[int, int] = {}
    keys = (int(at / 20) + int(draw.expovariate(1 / 100)) for at in range(n))
    return [(str(key), sizes.setdefault(key, draw_size(draw))) for key in keys]


def s3_fifo_rate(trace: Trace, limit: int) -> float:
    cache = S3Fifo(limit)
    hit = 0
    for key, size in trace:
        if cache.read(key):
            hit += size
        else:
            cache.add(key, size)
            assert not any(entry.held for entry in cache.victims())
    return hit / sum(size for _, size in trace)


def lru_rate(trace: Trace, limit: int) -> float:
    cache: OrderedDict[str, int] = OrderedDict()
    hit = used = 0
    for key, size in trace:
        if key in cache:
            cache.move_to_end(key)
            hit += size
            continue
        cache[key] = size
        used += size
        while used > limit:
            used -= cache.popitem(last=False)[1]
    return hit / sum(size for _, size in trace)


def rates(trace: Trace, share: float) -> tuple[float, float]:
    limit = int(share * sum(dict(trace).values()))
    return s3_fifo_rate(trace, limit), lru_rate(trace, limit)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.15])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_byte_hit_rate_is_above_that_of_lru_where_popularity_is_skewed(seed: int, share: float) -> None:
    ours, lru = rates(popular(seed), share)
    print(f"popular, seed {seed}, cache of {share:.0%}: S3-FIFO {ours:.4f}, LRU {lru:.4f}")
    assert ours > lru


def shown(traces: Iterable[tuple[str, Trace]]) -> None:
    """Print both rates for more traces; run this file."""
    for name, trace in traces:
        for share in (0.02, 0.05, 0.15, 0.3):
            ours, lru = rates(trace, share)
            better = "" if ours > lru else "LRU wins"
            print(f"{name:24} cache of {share:4.0%}: S3-FIFO {ours:.4f}  LRU {lru:.4f}  {better}")


if __name__ == "__main__":
    shown(
        [
            ("popular", popular(1)),
            ("without one-hit wonders", popular(1, wonders=0)),
            ("without scans", popular(1, wonders=0, scan=0)),
            ("nearly uniform", popular(1, alpha=0.4)),
            ("drifting", drifting(1)),
        ]
    )
