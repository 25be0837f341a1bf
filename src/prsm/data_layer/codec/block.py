"""A block and its name: what all codecs read and write, and everything that moves is made of."""

from dataclasses import dataclass

from prsm.data_layer.codec.cid import Cid

MAX_BLOCK_BYTES = 2 * 1024 * 1024
"""No block may be larger; it is also what other implementations exchange at most (bitswap specification)."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block and its name."""

    cid: Cid
    data: bytes | memoryview
