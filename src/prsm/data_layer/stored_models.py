"""Models that are stored here: what they hold, once all their files have passed, and their weights in memory.

Nothing opens the weights of a stored model but this, and this inspects before it opens. Every file is read by its
descriptor, which no collector and no repair takes from under it.
"""

import mmap
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice

from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.formats.model_contents import DEFAULT_LIMITS, ModelFile, ModelLimits, UnsafeModelFile
from prsm.data_layer.formats.model_files import inspect_model_file
from prsm.data_layer.formats.model_folder import ModelFolder, inspect_model_folder
from prsm.data_layer.formats.weight_sets import WeightSet, single
from prsm.data_layer.store.object_files import NotStored, ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import kind_on_disk, read_index

ModelContents = ModelFile | ModelFolder


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that passed, and its weight files as read-only memory, by path; a model of one file has the path ''."""

    contents: ModelContents
    weights: Mapping[str, mmap.mmap]


def weight_sets(contents: ModelContents) -> tuple[WeightSet, ...]:
    """The models of a file or folder that passed, with all that their files say of them."""
    return contents.weight_sets if isinstance(contents, ModelFolder) else (single(contents),)


def inspect_stored(files: ObjectFiles, cid: Cid, limits: ModelLimits = DEFAULT_LIMITS) -> ModelContents:
    """What a stored file or directory holds as a model; blocking.

    Raises UnsafeModelFile for what does not pass, NotStored for what is not here, StorageFault (LOCAL_DISK).
    """
    match kind_on_disk(files, cid):
        case ObjectKind.FILE:
            with files.open(cid) as file:
                return inspect_model_file(file.fd, limits)
        case ObjectKind.DIRECTORY:
            return inspect_model_folder(_opened(files, cid, limits), limits)
        case None:
            raise NotStored(f"{cid} is not in this node's storage.", remedy=f"Fetch it with: prsm storage get {cid}")


@contextmanager
def open_stored_model(files: ObjectFiles, cid: Cid, limits: ModelLimits = DEFAULT_LIMITS) -> Generator[OpenModel]:
    """A stored model, inspected and mapped; its maps are closed afterwards. Raises as ``inspect_stored``."""
    contents = inspect_stored(files, cid, limits)
    with ExitStack() as stack:
        wanted = {"": cid} if isinstance(contents, ModelFile) else _paths(files, cid, limits)
        weights: dict[str, mmap.mmap] = {}
        for path in contents.models if isinstance(contents, ModelFolder) else [""]:
            with files.open(wanted[path]) as file:
                weights[path] = stack.enter_context(file.map())
        yield OpenModel(contents, weights)


def _opened(files: ObjectFiles, root: Cid, limits: ModelLimits) -> Iterator[tuple[str, int]]:
    """The files of a folder by path, each open until the next one is asked for."""
    for path, cid in _walk(files, root, limits):
        with files.open(cid) as file:
            yield path, file.fd


def _paths(files: ObjectFiles, root: Cid, limits: ModelLimits) -> dict[str, Cid]:
    return dict(_walk(files, root, limits))


def _walk(files: ObjectFiles, root: Cid, limits: ModelLimits) -> Iterator[tuple[str, Cid]]:
    folders = 0
    stack = [("", root)]
    while stack:
        above, folder = stack.pop()
        folders += 1
        if folders > limits.max_files:  # equal folders are one object, but each of their paths is walked
            raise UnsafeModelFile(f"The folder has more than {limits.max_files} folders in it.")
        children = list(islice(read_index(files, folder).children(), limits.max_files + 1))
        if len(children) > limits.max_files:
            raise UnsafeModelFile(f"A folder has more than {limits.max_files} entries.")
        for name, child in sorted(children):
            if kind_on_disk(files, child) is ObjectKind.DIRECTORY:
                stack.append((f"{above}{name}/", child))
            else:
                yield above + name, child
