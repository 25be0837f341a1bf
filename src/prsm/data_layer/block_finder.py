"""Blocks of what is stored here, by CID alone: first where the last ones were, then by the catalog. For one thread.

Every block is verified as it is read; one that is not here is a NotStored.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from prsm.data_layer.catalog import Located
from prsm.data_layer.cid import Cid
from prsm.data_layer.object_files import NotStored, ObjectFiles
from prsm.data_layer.object_index import Place, kind_on_disk, read_block, read_index

_KEPT_INDEXES = 8


class BlockFinder:
    """Finds the blocks of one walk through a DAG. ``locate`` asks the catalog, blocking."""

    def __init__(self, files: ObjectFiles, locate: Callable[[Cid], Located | None]) -> None:
        self._files = files
        self._locate = locate
        self._indexes: OrderedDict[Cid, Mapping[bytes, Place]] = OrderedDict()

    def get(self, cid: Cid) -> bytes:
        """The block. Raises NotStored, StorageFault (LOCAL_DISK)."""
        for root in reversed(self._indexes):
            if (place := self._indexes[root].get(cid.digest)) is not None:
                self._indexes.move_to_end(root)
                return read_block(self._files, root, Place(cid, place.home, place.offset, place.size_bytes))
        root = cid if kind_on_disk(self._files, cid) else None
        if root is None:
            located = self._locate(cid)
            if located is None:
                raise NotStored(
                    f"{cid} is not in this node's storage.", remedy=f"Fetch it with: prsm storage get {cid}"
                )
            root = located.root
        places = self._read(root)
        if cid.digest not in places:
            raise NotStored(f"{cid} is no longer in this node's storage.", remedy="Ask again.")
        return self.get(cid)

    def _read(self, root: Cid) -> Mapping[bytes, Place]:
        places = {place.cid.digest: place for place in read_index(self._files, root).places()}
        self._indexes[root] = places
        if len(self._indexes) > _KEPT_INDEXES:
            self._indexes.popitem(last=False)
        return places
