"""A file or a whole directory fetched by its CID, and read while it comes.

A directory is published after all that stands in it, so what is published is whole. Small files are fetched side by
side, large ones one after another by all workers. Limits on files, bytes and depth hold before content is fetched.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from graphlib import TopologicalSorter

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import BadBlock, Link
from prsm.data_layer.codec.unixfs_dag import DagLimits
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.object_files import ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import kind_on_disk, read_index
from prsm.data_layer.store.parts import Part, begin
from prsm.data_layer.store.publishing import Publishing
from prsm.data_layer.transfer.cancellation import Cancellation, Cancelled
from prsm.data_layer.transfer.crew import work_together
from prsm.data_layer.transfer.fetching import Allowance, Fetching, Supply, TooLarge
from prsm.data_layer.transfer.progress import Meter, Progress

_SMALL_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """A download that ended well. ``moved_bytes`` came over the network; ``fresh`` unless all was here before."""

    cid: Cid
    kind: ObjectKind
    size_bytes: int
    files: int
    moved_bytes: int
    fresh: bool


class Download:
    """The download of one CID: ``run`` once in a thread, ``read`` meanwhile from any other."""

    def __init__(
        self,
        root: Cid,
        files: ObjectFiles,
        supply: Supply,
        *,
        tell: Callable[[Progress], None] | None = None,
        repair: bool = False,
    ) -> None:
        """``repair``: the root is here but damaged; its sound leaves are taken over and it is put in its own place."""
        self.root = root
        self._repair = repair
        self._files = files
        self._supply = supply
        self._meter = Meter(root, tell)
        self._allowance = Allowance(supply.limits)
        self._publishing = Publishing()
        self._seen: set[Cid] = set()
        self._folders: dict[Cid, set[Cid]] = {}  # those that have come and are not published, and what stands in them
        self._changed = threading.Condition()
        self._coming: tuple[Part, Fetching] | None = None
        self._readers = 0
        self._ended = False
        self._error: BaseException | None = None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._meter.snapshot()

    def run(self) -> Fetched:
        """Fetch, verify and publish all of it; what is here already is not fetched again.

        Raises StorageFault (Cancelled among them), BadBlock, TooLarge, InUse. What has come stays for a later run.
        """
        try:
            with self._publishing:
                kind, fresh = self._object(self.root, self._supply)
        except BaseException as error:
            self._error = error
            raise
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            end = self._meter.finish()
        return Fetched(self.root, kind, self._allowance.size_bytes, self._allowance.files, end.moved_bytes, fresh)

    def size_bytes(self, cancelled: Cancellation) -> int:
        """The size of the file, as soon as it is known. Raises what ended the download before, and Cancelled."""
        while True:
            with self._following(cancelled) as coming:
                if coming is None:
                    with self._files.open(self.root) as stored:
                        return stored.size_bytes
                part, fetching = coming
                if self._waited(fetching, 0, 0, cancelled):
                    return part.size_bytes or 0

    @property
    def complete(self) -> bool:
        """Whether nothing of the file is to come any more, though it may not be published yet."""
        coming = self._coming
        return coming[1].complete if coming else self._ended

    def read(self, into: memoryview, offset: int, cancelled: Cancellation, ahead_bytes: int = 0) -> int:
        """Read the root, a file, waiting for what is not here yet, which then comes first; 0 behind its end.

        What comes next is the first of ``ahead_bytes`` behind it. Raises what ended the download before the bytes
        came, and Cancelled.
        """
        while True:
            with self._following(cancelled) as coming:
                if coming is None:
                    with self._files.open(self.root) as stored:
                        return stored.read_into(into, offset)
                part, fetching = coming
                if self._waited(fetching, offset, len(into), cancelled, ahead_bytes):
                    return part.read(into[: max(0, (part.size_bytes or 0) - offset)], offset)

    @contextmanager
    def _following(self, cancelled: Cancellation) -> "Generator[tuple[Part, Fetching] | None]":
        """The root's part, kept open meanwhile; None when it is published."""
        with cancelled.waking(self._wake), self._changed:
            while self._coming is None and not self._ended:
                cancelled.check()
                self._changed.wait()
            coming = self._coming
            if coming is None and self._error is not None:
                raise _again(self._error)
            self._readers += 1
        try:
            yield coming
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    def _waited(
        self, fetching: Fetching, offset: int, size_bytes: int, cancelled: Cancellation, ahead_bytes: int = 0
    ) -> bool:
        """Wait for a range; False when the transfer ended before it came."""
        try:
            fetching.wait_for(offset, size_bytes, cancelled, ahead_bytes)
        except Cancelled:
            cancelled.check()
            with cancelled.waking(self._wake), self._changed:
                while self._coming is not None and self._coming[1] is fetching:
                    cancelled.check()
                    self._changed.wait()
            return False
        return True

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _object(self, cid: Cid, supply: Supply, later: list[Link] | None = None) -> tuple[ObjectKind, bool]:
        """Have this object and all under it here; its kind, and whether anything of it was missing.

        With ``later``, as for all but the root, a file is published meanwhile and a folder at the end; what stands in
        the folder is added there, for the caller to have here.
        """
        supply.cancelled.check()
        repair = self._repair and cid == self.root
        kind = None if repair else kind_on_disk(self._files, cid)
        if kind is ObjectKind.FILE:
            self._count_here(cid)
            return kind, False
        if kind is ObjectKind.DIRECTORY:
            links = [Link(child, name, _SMALL_BYTES + 1) for name, child in read_index(self._files, cid).children()]
            if later is not None:
                later += links
                return kind, False
            return kind, self._all_below(links)
        with ExitStack() as stack:
            limits = DagLimits(size_bytes=supply.limits.total_bytes)
            part = stack.enter_context(begin(self._files, cid, limits, repair=repair))
            salvage = partial(self._salvage, part) if repair else None
            fetching = Fetching(part, supply, self._meter, self._allowance, salvage)
            try:
                with self._open_to_readers(part, fetching, follow=later is None):
                    fetching.run()
                    if later is not None:
                        if part.kind is ObjectKind.DIRECTORY:
                            self._folders[cid] = {link.cid for link in part.entries}
                            later += part.entries
                        else:
                            self._publishing.soon(partial(self._publish, part), stack.pop_all())
                        return part.kind or ObjectKind.FILE, True
                    if part.kind is ObjectKind.DIRECTORY:
                        self._all_below(part.entries)
                    part.publish(replace=repair)
            except (BadBlock, TooLarge):
                part.discard()  # no later attempt could end otherwise
                raise
            self._meter.add(files_done=part.kind is ObjectKind.FILE)
            return part.kind or ObjectKind.FILE, True

    def _publish(self, part: Part) -> None:
        part.publish()
        self._meter.add(files_done=1)

    def _publish_folder(self, folder: Cid) -> None:
        with begin(self._files, folder) as part:  # as it was left: all of it is there
            part.publish()

    def _salvage(self, part: Part) -> None:
        with self._files.open(part.cid) as damaged:
            part.salvage(damaged)

    @contextmanager
    def _open_to_readers(self, part: Part, fetching: Fetching, *, follow: bool) -> Generator[None]:
        if not follow:
            yield
            return
        with self._changed:
            self._coming = (part, fetching)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._coming = None
            fetching.close()
            with self._changed:
                self._changed.notify_all()
                while self._readers:  # each reads at most its buffer: the part's file stays open until then
                    self._changed.wait()

    def _count_here(self, cid: Cid) -> None:
        with self._files.open(cid) as stored:
            size_bytes = stored.size_bytes
        self._allowance.admit(cid, ObjectKind.FILE, size_bytes)
        self._meter.add(total_bytes=size_bytes, done_bytes=size_bytes, files=1, files_done=1)

    def _all_below(self, links: Iterable[Link]) -> bool:
        """Have everything here that stands under the root, and published; whether anything was missing."""
        missed = self._entries(links, self._supply, 0)
        order = TopologicalSorter({cid: below & self._folders.keys() for cid, below in self._folders.items()})
        order.prepare()
        while ready := order.get_ready():
            for cid in ready:
                self._supply.cancelled.check()
                self._publishing.soon(partial(self._publish_folder, cid), ExitStack())
            self._publishing.wait()
            order.done(*ready)
        return missed

    def _entries(self, links: Iterable[Link], supply: Supply, depth: int) -> bool:
        """Have everything here that stands in directories and under them, no folder published; as ``_all_below``."""
        if depth >= supply.limits.folders_deep:
            raise InvalidRequest(
                f"The directories of {self.root} are more than {supply.limits.folders_deep} deep.", param="cid"
            )
        with self._changed:
            new = {link.cid: link for link in links if link.cid not in self._seen}
            self._seen.update(new)
        small = {cid for cid, link in new.items() if cid.codec is Codec.RAW or link.size <= _SMALL_BYTES}
        stop = Cancellation(supply.cancelled)
        missed: list[Cid] = []
        below: list[Link] = []
        alone = replace(supply, cancelled=stop, limits=replace(supply.limits, workers=1))
        coming = iter(small)
        if small:
            threads = range(min(supply.limits.workers, len(small)))
            work_together(partial(self._small, coming, alone, missed, below), threads, stop)
        for cid in new:
            if cid not in small and self._object(cid, supply, below)[1]:
                missed.append(cid)
        self._publishing.wait()
        # Those of all folders at once: one after another, each folder would wait for its last file.
        return bool(below and self._entries(below, supply, depth + 1)) or bool(missed)

    def _small(self, coming: Iterator[Cid], supply: Supply, missed: list[Cid], below: list[Link], _: int) -> None:
        while True:
            with self._changed:
                cid = next(coming, None)
            if cid is None:
                return
            if self._object(cid, supply, below)[1]:
                missed.append(cid)


def download(
    root: Cid, files: ObjectFiles, supply: Supply, *, tell: Callable[[Progress], None] | None = None
) -> Fetched:
    """Fetch a file or a directory by its CID; see ``Download.run``."""
    return Download(root, files, supply, tell=tell).run()


def _again(error: BaseException) -> BaseException:
    """What ended the download, for a reader: a cancelled download is no cancelled reader."""
    if isinstance(error, Cancelled):
        return StorageFault("The download that this reads from was cancelled.", fault=Fault.RETRY)
    return error
