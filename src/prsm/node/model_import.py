"""Models from elsewhere become registered versions: from a hub, or from what is stored already, by its CID.

A model is downloaded beside the storage, stored, and inspected before anything is registered; whatever fails leaves
nothing behind but verified files and beginnings of a download, which the same import goes on with for some days.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prsm.core.errors import Kind, PrsmError
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.enhanced_ipfs import Added, EnhancedIPFS
from prsm.data_layer.formats.model_folder import ModelFolder
from prsm.data_layer.stored_models import ModelContents, weight_sets
from prsm.federation.discovery.seams import SourceError
from prsm.federation.hub_download import HubDownload, HubFile, HubModel
from prsm.federation.registry.versions import Registered
from prsm.node.import_facts import Said, Wish, check_known, said_by_hub, selected, version_of
from prsm.node.parts import Node

FROM_HUB: Final = "hf:"
_TELL_S: Final = 0.25
_KEPT_S: Final = 3 * 86_400.0
_CARD_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Step:
    """How far an import is; ``phase`` is downloading, fetching, storing or checking."""

    phase: str
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Imported:
    """What was registered, and which files of its source were left there."""

    registered: Registered
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stored:
    """A model in storage; ``newly_kept`` unless its owner kept it before."""

    cid: Cid
    newly_kept: bool
    said: Said
    left_out: tuple[str, ...] = ()


async def import_model(node: Node, wish: Wish, *, owner: str, by: str) -> AsyncGenerator[Step | Imported]:
    """Import a model, telling how far it is; ``Imported`` comes last. Storage keeps it for ``owner``.

    Raises PrsmError saying what is wrong and what to do, UnsafeModelFile, SourceError, StorageFault.
    """
    steps = _from_hub(node, wish, owner) if wish.source.startswith(FROM_HUB) else _from_storage(node, wish, owner)
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, Step):
                yield step
                continue
            yield Step("checking")
            yield await _registered(node, wish, step, owner, by)


async def _registered(node: Node, wish: Wish, stored: _Stored, owner: str, by: str) -> Imported:
    try:
        contents = await node.storage.inspect(stored.cid)
        card = await _card(node.storage, stored.cid, contents)
        version = version_of(wish, stored.said, str(stored.cid), weight_sets(contents), card)
        registered = await node.versions.register(version, by=by, owner_account=by, state=wish.state, reason="imported")
    except BaseException:
        if stored.newly_kept:
            with suppress(PrsmError):
                await node.storage.unpin(stored.cid, owner)
        raise
    return Imported(registered, stored.left_out)


async def _from_hub(node: Node, wish: Wish, owner: str) -> AsyncGenerator[Step | _Stored]:
    hub = HubDownload(node.settings.hub_endpoint, node.settings.hub_token)
    repository, _, revision = wish.source.removeprefix(FROM_HUB).partition("@")
    model = await asyncio.to_thread(hub.look, repository, revision or "main")
    said, selection = said_by_hub(FROM_HUB, model), selected(model)
    check_known(wish, said, model.page_url)
    _check_new(node, wish.model or said.name, wish.version or said.label)
    files = [file for file in model.files if file.path in selection.wanted]
    await _check_room(node.storage, sum(file.size_bytes for file in files))
    folder = node.settings.home / "imports" / _place(hub, model)
    with _staged(folder):
        downloading = _downloading(hub, model, files, folder)
        async with aclosing(downloading):
            async for step in downloading:
                yield step
        yield Step("storing")
        added = await store_files(node.storage, [folder / file.path for file in files], owner)
    yield _Stored(added.cid, added.newly_kept, said, selection.left_out)


async def _from_storage(node: Node, wish: Wish, owner: str) -> AsyncGenerator[Step | _Stored]:
    cid = Cid.parse(wish.source)
    said = Said(origin=str(cid), name="", label=f"cid-{str(cid)[-12:]}")
    _check_new(node, wish.model, wish.version or said.label)
    fetching = node.storage.fetch_telling(cid)
    async with aclosing(fetching):
        async for progress in fetching:
            yield Step("fetching", progress.done_bytes, progress.total_bytes)
    yield _Stored(cid, await node.storage.pin(cid, owner), said)


async def _downloading(
    hub: HubDownload, model: HubModel, files: Sequence[HubFile], folder: Path
) -> AsyncGenerator[Step]:
    """Small files first: what is gated says so before anything large is asked for."""
    total_bytes, pieces = sum(file.size_bytes for file in files), list[int]()
    budget = hub.budget(total_bytes, len(files))

    def download() -> None:
        for file in sorted(files, key=lambda each: each.size_bytes):
            hub.fetch(model, file, folder, budget, pieces.append)

    done_bytes = 0
    work = asyncio.create_task(asyncio.to_thread(download))
    try:
        while not work.done():
            while pieces:
                done_bytes += pieces.pop()
            yield Step("downloading", done_bytes, total_bytes)
            await asyncio.wait({work}, timeout=_TELL_S)
    finally:
        budget.cancel()
        # The folder is not given back while a thread still writes there.
        await asyncio.shield(asyncio.gather(work, return_exceptions=True))
    work.result()


async def store_files(storage: EnhancedIPFS, paths: Sequence[Path], owner: str) -> Added:
    """Store files as one directory, which alone keeps them then."""
    added: dict[str, Added] = {}
    try:
        for path in paths:
            with path.open("rb", buffering=0) as opened:
                added[path.name] = await storage.add(opened.readinto, owner, size_hint=path.stat().st_size)
        return await storage.add_directory([(name, each.cid) for name, each in added.items()], owner)
    finally:
        await storage.unpin_all([each.cid for each in added.values() if each.newly_kept], owner)


@contextmanager
def _staged(folder: Path) -> Generator[None]:
    """A folder for one import at a time. It stays where going on later makes sense, for some days."""
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    _forget_old(folder.parent)
    lock = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(lock)
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            yield
        except (SourceError, asyncio.CancelledError, GeneratorExit) as ended:
            if isinstance(ended, SourceError) and ended.code != "source_unreachable":
                shutil.rmtree(folder)
            raise
        except BaseException:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def _lock(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PrsmError(
            "This model is being imported just now.",
            kind=Kind.CONFLICT,
            code="import_running",
            remedy="Wait for that import to end.",
        ) from None


def _forget_old(imports: Path) -> None:
    """What nobody has gone on with. Locks stay, empty files: somebody may hold one."""
    for folder in imports.iterdir():
        if folder.is_dir() and time.time() - folder.stat().st_mtime > _KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)


def _place(hub: HubDownload, model: HubModel) -> str:
    return hashlib.sha256(f"{hub.host} {model.repository} {model.revision}".encode()).hexdigest()[:32]


def _check_new(node: Node, model: str, label: str) -> None:
    if (model, label) in node.registry.catalogue.versions:
        raise PrsmError(
            f"{model}@{label} is registered already.",
            kind=Kind.CONFLICT,
            code="version_taken",
            remedy="Give --version for another label, or --model for another name.",
        )


async def _check_room(storage: EnhancedIPFS, size_bytes: int) -> None:
    """Raise PrsmError unless the model may be stored, and fits twice: it is downloaded beside the storage."""
    limit_bytes, free_bytes = storage.policy.object_limit_bytes, await storage.free_bytes()
    if size_bytes > limit_bytes:
        raise PrsmError(
            f"The model has {size_bytes:,} bytes; {limit_bytes:,} are taken.",
            kind=Kind.TOO_LARGE,
            code="model_too_large",
            remedy="Raise PRSM_STORAGE_OBJECT_LIMIT_BYTES.",
        )
    if 2 * size_bytes > free_bytes:
        raise PrsmError(
            f"The import needs {2 * size_bytes:,} bytes on the disk for a while; {free_bytes:,} are free.",
            kind=Kind.TOO_LARGE,
            code="disk_full",
            remedy="Free some, or give the node a larger disk.",
        )


async def _card(storage: EnhancedIPFS, cid: Cid, contents: ModelContents) -> str:
    """The beginning of a model's card; empty where it has none."""
    if not isinstance(contents, ModelFolder) or "README.md" not in contents.texts:
        return ""
    async with storage.read(await storage.resolve(cid, "README.md")) as reader:
        size_bytes = min(reader.size_bytes, _CARD_BYTES)
        return (await reader.read(0, size_bytes)).decode(errors="replace") if size_bytes else ""
