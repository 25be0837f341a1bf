"""The entries of directories by name, page by page.

A directory's blocks are in no order of names and are verified whole, so each is read once for all its pages: what a
CID names never changes. Nothing is kept of one whose last page was given, and no more than a bound of all together.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from operator import itemgetter

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.store.object_files import ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import read_index

MOST_KEPT = 100_000
"""Entries that are kept in memory, of all directories together: some 30 MB."""

_name = itemgetter(0)


class Listings:
    """Lists the directories of one folder of objects; from any thread."""

    def __init__(self, files: ObjectFiles) -> None:
        self._files = files
        self._kept: OrderedDict[Cid, list[tuple[str, Cid]]] = OrderedDict()
        self._lock = threading.Lock()

    def page(self, cid: Cid, after: str, limit: int) -> list[tuple[str, Cid]]:
        """The first ``limit`` entries behind the name ``after``, by code points; blocking.

        Raises NotStored, Damaged, InvalidRequest for a file.
        """
        with self._lock:
            entries = self._kept.pop(cid, None)
        if entries is None or not self._files.has_outboard(cid):
            entries = self._read(cid)
        start = bisect_right(entries, after, key=_name) if after else 0
        if start + limit < len(entries) <= MOST_KEPT:
            self._keep(cid, entries)
        return entries[start : start + limit]

    def _read(self, cid: Cid) -> list[tuple[str, Cid]]:
        index = read_index(self._files, cid)
        if index.kind is not ObjectKind.DIRECTORY:
            raise InvalidRequest(f"{cid} is a file, not a directory.", param="cid")
        return sorted(index.children(), key=_name)

    def _keep(self, cid: Cid, entries: list[tuple[str, Cid]]) -> None:
        with self._lock:
            self._kept[cid] = entries
            while sum(map(len, self._kept.values())) > MOST_KEPT:
                self._kept.popitem(last=False)
