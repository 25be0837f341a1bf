"""Blocks of what is stored here, by CID alone: from the disk where an object's own index tells, else by the catalog.

Every block is verified as it is read; one that is not here is a NotStored. Indexes of small objects are kept in memory
for the walk; for the others, whose index may be large, the catalog is asked for each block. For one thread at a time.
"""

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.store.catalog import Located
from prsm.data_layer.store.object_files import NotStored, ObjectFiles, StoredFile
from prsm.data_layer.store.object_index import Place, read_block, read_index

MAX_INDEX_BYTES = 256 * 1024
"""An outboard up to this size is read for the place of a block: some 5,000 leaves, a few milliseconds."""
_KEPT_ROOTS = 4


@dataclass(frozen=True, slots=True)
class _Root:
    """An object in use. While one of its files is open no collector takes it; ``places`` where the index is small."""

    held: StoredFile
    places: Mapping[bytes, Place]


class BlockFinder:
    """Finds the blocks of one walk through a DAG. ``locate`` asks the catalog, blocking."""

    def __init__(self, files: ObjectFiles, locate: Callable[[Cid], Located | None]) -> None:
        self._files = files
        self._locate = locate
        self._roots: OrderedDict[Cid, _Root] = OrderedDict()
        # A walk may be given up at any step, even before its first: what it holds open goes with it all the same.
        self.close = weakref.finalize(self, _close_all, self._roots)

    def get(self, cid: Cid) -> bytes:
        """The block. Raises NotStored, StorageFault (LOCAL_DISK)."""
        return self.find(cid)[1]

    def find(self, cid: Cid) -> tuple[Cid, bytes]:
        """The object that the block was found in, and the block. Raises as ``get``."""
        for root in (*reversed(self._roots), cid):
            with contextlib.suppress(NotStored):  # taken away meanwhile: it may be in another object
                place = self._open(root).places.get(cid.digest)
                if place is not None:
                    return root, self._read(root, Place(cid, place.home, place.offset, place.size_bytes))
        located = self._locate(cid)
        if located is None:
            raise NotStored(f"{cid} is not in this node's storage.", remedy=f"Fetch it with: prsm storage get {cid}")
        self._open(located.root)
        return located.root, self._read(located.root, located.place)

    def _read(self, root: Cid, place: Place) -> bytes:
        try:
            return read_block(self._files, root, place)
        except NotStored:
            self._roots.pop(root).held.close()
            raise

    def _open(self, root: Cid) -> _Root:
        known = self._roots.get(root)
        if known is None:
            held = self._files.open(root) if root.codec is Codec.RAW else self._files.open_outboard(root)
            try:
                places = self._places(root, held)
            except BaseException:
                held.close()
                raise
            known = self._roots[root] = _Root(held, places)
            if len(self._roots) > _KEPT_ROOTS:
                self._roots.popitem(last=False)[1].held.close()
        self._roots.move_to_end(root)
        return known

    def _places(self, root: Cid, held: StoredFile) -> dict[bytes, Place]:
        if root.codec is not Codec.RAW and held.size_bytes > MAX_INDEX_BYTES:
            return {}
        return {place.cid.digest: place for place in read_index(self._files, root).places()}


def _close_all(roots: OrderedDict[Cid, _Root]) -> None:
    while roots:
        roots.popitem()[1].held.close()
