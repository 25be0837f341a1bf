"""The character map in a SentencePiece model: a double-array trie (Darts), and the replacements that it leads to.

Readers follow it with no look at its bounds, so that a false one has them read or write outside of their memory. What
passes here cannot: each step stays within the trie, each value within the replacements, and no path is longer than
the 32 matches that SentencePiece's normalizer.cc has room for. (Format: sentencepiece's normalizer.cc and darts.h.)
"""

from typing import Any, TypeAlias

import numpy as np

from prsm.data_layer.formats.model_contents import UnsafeModelFile

MAX_CHARSMAP_BYTES = 1024 * 1024
"""Four times the largest one in use (NFKC with case folding, 247 KB)."""
_MAX_DEPTH = 32
_PREFIX_BYTES, _UNIT_BYTES, _BLOCK = 4, 4, 256
_IS_VALUE, _HAS_VALUE, _FAR = 1 << 31, 1 << 8, 1 << 9
_NOT_OF_ROOT = _IS_VALUE | _HAS_VALUE | 0xFF  # the root has no value, and nothing leads to it

_Units: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def check_charsmap(blob: bytes) -> None:
    """Raises UnsafeModelFile for a map that a reader could leave. ``blob`` is the trie's length, trie, replacements."""
    if len(blob) > MAX_CHARSMAP_BYTES:
        raise _false(f"has {len(blob)} bytes; {MAX_CHARSMAP_BYTES} are allowed")
    trie_bytes = int.from_bytes(blob[:_PREFIX_BYTES], "little")
    replacements = blob[_PREFIX_BYTES + trie_bytes :]
    if not trie_bytes or trie_bytes % (_BLOCK * _UNIT_BYTES) or not replacements.endswith(b"\0"):
        raise _false("is no trie of whole blocks with replacements behind it, each with its end")
    try:
        replacements.decode()
    except UnicodeDecodeError:
        raise _false("has replacements that are not UTF-8") from None
    units: _Units = np.frombuffer(blob, "<u4", trie_bytes // _UNIT_BYTES, _PREFIX_BYTES).astype(np.int64)
    below = np.arange(len(units)) ^ ((units >> 10) << ((units & _FAR) >> 6))
    is_node = units < _IS_VALUE
    if units[0] & _NOT_OF_ROOT or (below[is_node] | (_BLOCK - 1)).max() >= len(units):
        raise _false("leads out of its trie")
    is_value = ~is_node
    is_value[below[is_node & (units & _HAS_VALUE != 0)]] = True  # taken for one, whatever it is
    if (units[is_value] & (_IS_VALUE - 1)).max(initial=0) >= len(replacements):
        raise _false("leads out of its replacements")
    _check_depth(units, below, is_node)


def _check_depth(units: _Units, below: _Units, is_node: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    """Go down from the root, one level of the trie at a time; circles have no end, so that they count as too deep."""
    parents = np.where(is_node, np.arange(len(units)) ^ (units & 0xFF), -1)
    order = np.argsort(parents, kind="stable")
    parents = parents[order]
    level = below[:1]
    for _ in range(_MAX_DEPTH + 1):
        first, end = np.searchsorted(parents, level), np.searchsorted(parents, level, side="right")
        counts = end - first
        # The places of every child: for each parent, ``first`` and as many that follow it as it has children.
        places: _Units = np.arange(int(counts.sum())) + np.repeat(first - np.cumsum(counts) + counts, counts)
        level = np.unique(below[order[places]])
        if not len(level):
            return
    raise _false(f"has paths of more than {_MAX_DEPTH} bytes")


def _false(fault: str) -> UnsafeModelFile:
    return UnsafeModelFile(f"The character map of the SentencePiece model {fault}.")
