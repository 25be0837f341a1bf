"""S3-FIFO against LRU, by bytes, on a trace that is made here from a seed and stated in full.

20,000 objects with sizes from 1 MiB to 8 GiB (log-uniform) are read by Zipf's law (exponent 0.9) in a random order of
popularity; one read in four is of an object that is read never again; halfway the popular fifth changes places with the
rest; and every 20,000 reads somebody reads 1,500 objects in a row once. The cache holds a tenth of all bytes.
"""

import random
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate

from prsm.data_layer.store.s3_fifo import S3Fifo

SEED = 20251122
_OBJECTS = 20_000
_READS = 200_000


def trace(seed: int = SEED) -> Iterator[tuple[str, int]]:
    """The reads, as object and size in bytes."""
    draw = random.Random(seed)
    sizes = [int(2 ** draw.uniform(20, 33)) for _ in range(_OBJECTS)]
    order = draw.sample(range(_OBJECTS), _OBJECTS)
    weights = list(accumulate((rank + 1) ** -0.9 for rank in range(_OBJECTS)))
    for read in range(_READS):
        if read == _READS // 2:
            cut = _OBJECTS // 5
            order = order[cut : 2 * cut] + order[:cut] + order[2 * cut :]
        if read % 20_000 == 10_000:
            for number in draw.sample(range(_OBJECTS), 1500):
                yield str(number), sizes[number]
        if draw.random() < 0.25:
            yield f"once-{read}", int(2 ** draw.uniform(20, 33))
        else:
            number = order[draw.choices(range(_OBJECTS), cum_weights=weights)[0]]
            yield str(number), sizes[number]


def limit_bytes(seed: int = SEED) -> int:
    """A tenth of all bytes that are read more than once."""
    draw = random.Random(seed)
    return sum(int(2 ** draw.uniform(20, 33)) for _ in range(_OBJECTS)) // 10


def byte_hit_rates(seed: int = SEED) -> dict[str, float]:
    """Bytes that were there when they were read, over all bytes read."""
    limit = limit_bytes(seed)
    fifo = S3Fifo(limit)
    lru: OrderedDict[str, int] = OrderedDict()
    lru_used = total = fifo_hits = lru_hits = 0
    for key, size in trace(seed):
        total += size
        if fifo.read(key):
            fifo_hits += size
        else:
            fifo.add(key, size)
            for _ in fifo.victims():
                pass
        if key in lru:
            lru_hits += size
            lru.move_to_end(key)
        else:
            lru[key] = size
            lru_used += size
            while lru_used > limit:
                lru_used -= lru.popitem(last=False)[1]
    return {"s3_fifo": fifo_hits / total, "lru": lru_hits / total}
