"""Single files of a model on a hub, through ``huggingface_hub``: each whole and as the hub says it is, or not there.

What has come of a file stays beside its place and is gone on with. Blocking; each pass has its budget.
"""

import hashlib
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO
from urllib.parse import quote

import httpx2
import msgspec
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import (
    build_hf_headers,  # pyright: ignore[reportUnknownVariableType]
    get_session,
    hf_raise_for_status,
)

from prsm.core.clock import now
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.federation.discovery.entry_reading import Count, Name, Said
from prsm.federation.discovery.hub_session import Budget, spending
from prsm.federation.discovery.json_fetch import check_address, malformed, status_error, too_large, unreachable
from prsm.federation.discovery.seams import SourceError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w.][\w./-]{0,199}", re.ASCII)
_MAX_FILES = 10_000
_LOOK_BYTES = 32 * 1024 * 1024
_LOOK_S = 60.0
_DOWNLOAD_S = 7 * 86_400.0
_TRIES = 5
_LONGEST_PAUSE_S = 5.0
_SLACK_BYTES = 64 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024

Moved = Callable[[int], None]
"""Is told how many bytes have come; negative where some must come anew."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub describes it; ``sha256`` for large ones, else ``blob_id``, which is git's hash of it."""

    path: str
    size_bytes: int
    sha256: str = ""
    blob_id: str = ""


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model at one revision, which is a commit; ``licence`` is as the hub names it, empty where it names none."""

    repository: str
    revision: str
    files: tuple[HubFile, ...]
    licence: str
    tags: tuple[str, ...]
    task: str
    page_url: str


class HubDownload:
    """Reads from one hub; ``secret`` is an access token, for what is gated or private.

    ``pause_s`` is how long it waits after a connection broke off, and longer each time that brought nothing.
    """

    def __init__(self, endpoint: str, secret: str = "", *, pause_s: float = 0.2) -> None:
        self.host = check_address(endpoint, secret)
        self._endpoint = endpoint.rstrip("/")
        self._pause_s = pause_s
        self._headers = build_hf_headers(token=secret or False, library_name="prsm")

    def look(self, repository: str, revision: str = "main") -> HubModel:
        """What a model consists of. Raises InvalidRequest, PrsmError that says what to do, SourceError."""
        if not _REPOSITORY.fullmatch(repository) or ".." in repository:
            raise InvalidRequest("A model on a hub is named ORG/NAME.", param="source")
        if not _REVISION.fullmatch(revision):
            raise InvalidRequest("A revision is a branch, a tag or a commit's hash.", param="source")
        url = f"{self._endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}"
        with spending(Budget(self._endpoint, _LOOK_S, _LOOK_BYTES, 5)), self._explaining(repository, revision):
            response = get_session().get(url, params={"blobs": True}, headers=self._headers)
            hf_raise_for_status(response)
        try:
            info = _INFO.decode(response.content)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise malformed(self.host, f"does not describe {repository} as a hub does") from None
        return self._model(repository, info)

    def budget(self, size_bytes: int, files: int) -> Budget:
        """What downloading so much may take; cancelling it ends the download."""
        most_bytes = 2 * size_bytes + _SLACK_BYTES
        return Budget(self._endpoint, _DOWNLOAD_S, most_bytes, 4 * _TRIES * (files + 1), elsewhere=True)

    def fetch(self, model: HubModel, file: HubFile, folder: Path, budget: Budget, moved: Moved) -> Path:
        """Have a file in a folder, whole and verified. Raises as ``look``, OSError.

        A connection that breaks off is tried again where it was, a few times in a row; ``PATH.part`` stays for later.
        """
        place, part = folder / file.path, folder / f"{file.path}.part"
        if place.exists():
            moved(file.size_bytes)  # verified before it got its name
            return place
        if part.exists():
            moved(min(part.stat().st_size, file.size_bytes))
        with spending(budget), self._explaining(model.repository, model.revision):
            self._stream_patiently(model, file, part, moved)
        if not _is_as_said(part, file):
            moved(-file.size_bytes)
            part.unlink()
            raise malformed(self.host, f"sent other bytes for {file.path} than it says the file has")
        return part.replace(place)

    def _stream_patiently(self, model: HubModel, file: HubFile, part: Path, moved: Moved) -> None:
        tries = 0
        while True:
            before = _size(part)
            try:
                return self._stream(model, file, part, moved)
            except SourceError as error:
                tries = 1 if _size(part) > before else tries + 1
                if error.code != "source_unreachable" or tries >= _TRIES:
                    raise
            time.sleep(min(self._pause_s * 2**tries, _LONGEST_PAUSE_S))

    def _stream(self, model: HubModel, file: HubFile, part: Path, moved: Moved) -> None:
        have = _size(part)
        if have > file.size_bytes:
            part.unlink()
            moved(-file.size_bytes)
            have = 0
        if have == file.size_bytes and part.exists():
            return
        url = hf_hub_url(model.repository, file.path, revision=model.revision, endpoint=self._endpoint)
        headers = {**self._headers, "range": f"bytes={have}-"} if have else self._headers
        with get_session().stream("GET", url, headers=headers) as response, part.open("ab") as into:
            hf_raise_for_status(response)
            if have and response.status_code != 206:
                into.truncate(0)
                moved(-have)
                have = 0
            self._pour(response, into, file.size_bytes - have, moved)

    def _pour(self, response: httpx2.Response, into: BinaryIO, left_bytes: int, moved: Moved) -> None:
        for piece in response.iter_raw():  # as it comes: what is gathered first is lost when it breaks off
            left_bytes -= len(piece)
            if left_bytes < 0:
                raise too_large(self.host, "the bytes that it says the file has")
            into.write(piece)
            moved(len(piece))
        if left_bytes:
            raise unreachable(self.host, httpx2.RemoteProtocolError(""))

    @contextmanager
    def _explaining(self, repository: str, revision: str) -> Generator[None]:
        """Say in a sentence what the library's errors mean, and what to do; nothing that the hub wrote is repeated."""
        try:
            yield
        except GatedRepoError:
            raise PrsmError(
                f"{repository} is gated: its publisher lets in only who has agreed to its terms.",
                kind=Kind.FORBIDDEN,
                code="model_gated",
                remedy=f"Agree to them at {self._endpoint}/{repository}, "
                "then set PRSM_HUB_TOKEN to a token of that account.",
            ) from None
        except RepositoryNotFoundError:
            raise PrsmError(
                f"There is no model {repository} at {self.host}, or it is private.",
                kind=Kind.NOT_FOUND,
                code="model_not_on_hub",
                remedy="Check its name; for a private one set PRSM_HUB_TOKEN to a token that may read it.",
            ) from None
        except RevisionNotFoundError:
            raise PrsmError(
                f"{repository} has no revision {revision}.",
                kind=Kind.NOT_FOUND,
                code="revision_not_on_hub",
                remedy=f"See its branches and commits at {self._endpoint}/{repository}/commits/main.",
            ) from None
        except HfHubHTTPError as error:
            raise status_error(self.host, error.response.status_code, error.response.headers, now()) from None

    def _model(self, repository: str, info: "_Info") -> HubModel:
        licence = next((tag[8:] for tag in info.tags if tag.startswith("license:")), "")
        return HubModel(
            repository=repository,
            revision=info.sha,
            files=tuple(_file(sibling) for sibling in info.siblings),
            licence=licence if licence.isascii() and licence.isprintable() and len(licence) <= 200 else "",
            tags=tuple(info.tags),
            task=info.pipeline_tag or "",
            page_url=f"{self._endpoint}/{repository}",
        )


class _Lfs(msgspec.Struct):
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: Count


class _Sibling(msgspec.Struct):
    rfilename: Said
    size: Count | None = None
    blobId: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")] | None = None  # noqa: N815 - the Hub's name
    lfs: _Lfs | None = None


class _Info(msgspec.Struct):
    id: Name
    sha: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")]
    siblings: Annotated[list[_Sibling], msgspec.Meta(max_length=_MAX_FILES)]
    tags: Annotated[list[Said], msgspec.Meta(max_length=5_000)] = []
    pipeline_tag: Said | None = None


_INFO = msgspec.json.Decoder(_Info)


def _file(sibling: _Sibling) -> HubFile:
    if sibling.lfs:
        return HubFile(sibling.rfilename, sibling.lfs.size, sha256=sibling.lfs.sha256)
    return HubFile(sibling.rfilename, sibling.size or 0, blob_id=sibling.blobId or "")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _is_as_said(part: Path, file: HubFile) -> bool:
    """Whether a file has the hash that the hub tells of it; one of which it tells none has not."""
    digest = hashlib.sha256()
    if not file.sha256:
        # git's name of a blob, and no protection: who can forge it is who tells it.
        digest = hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    with part.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest() == (file.sha256 or file.blob_id)
