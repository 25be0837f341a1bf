"""The Hugging Face Hub, or any that speaks as it does, through ``huggingface_hub``: newest changes first.

A pass reads until what it has seen before; now and then it reads everything, because only that shows what is gone, and
which inference providers serve what, which is no change of a repository. Private repositories are not listed.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from huggingface_hub.utils import (
    build_hf_headers,  # pyright: ignore[reportUnknownVariableType]
    fix_hf_endpoint_in_url,
    get_session,
)

from prsm.core.clock import Clock
from prsm.core.clock import now as now_utc
from prsm.federation.discovery.entry_reading import (
    PAGE_LISTINGS,
    BadEntry,
    Count,
    EntryReader,
    Name,
    Said,
    known,
    plain_text,
)
from prsm.federation.discovery.hub_session import Budget, spending
from prsm.federation.discovery.json_fetch import check_address, malformed, status_error
from prsm.federation.discovery.seams import MAX_LISTED_TOKENS, Ending, Listing, Reading

DEFAULT_ENDPOINT = "https://huggingface.co"
_EXPAND = (
    *("disabled", "gated", "gguf", "inferenceProviderMapping", "lastModified", "library_name", "pipeline_tag"),
    *("private", "safetensors", "sha", "tags"),
)


@dataclass(frozen=True, slots=True)
class HubQuery:
    """Which models are listed, in the Hub's own terms; ``inference_provider`` is ``all`` for those served by any."""

    search: str = ""
    author: str = ""
    filter: tuple[str, ...] = ()
    pipeline_tag: str = ""
    inference_provider: str = ""

    def params(self) -> dict[str, Any]:
        """As the Hub's API takes them."""
        asked: dict[str, str | list[str]] = {
            "search": self.search,
            "author": self.author,
            "filter": list(self.filter),
            "pipeline_tag": self.pipeline_tag,
            "inference_provider": self.inference_provider,
        }
        return {name: value for name, value in asked.items() if value}


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Bounds of one pass. Of too many models those that changed last are listed, and then none is taken for gone."""

    max_entries: int = 100_000
    max_bytes: int = 2 * 1024**3
    total_s: float = 3_600.0
    idle_s: float = 30.0
    whole_every_s: float = 6 * 3_600.0


class HuggingFaceSource:
    """A Source."""

    def __init__(
        self,
        name: str,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        secret: str = "",
        query: HubQuery | None = None,
        limits: HubLimits | None = None,
        now: Clock = now_utc,
    ) -> None:
        check_address(endpoint, secret)
        self.name = name
        self._endpoint = endpoint.rstrip("/")
        self._query = query or HubQuery()
        self._limits = limits or HubLimits()
        self._now = now
        # False, where there is no secret, or the library would send one that somebody saved on this machine.
        self._headers = build_hf_headers(token=secret or False, library_name="prsm")

    async def read(self, mark: str) -> Reading | None:
        """A pass over everything, over what has changed, or None."""
        last = self._read_mark(mark)
        at = self._now()
        whole = last is None or at - last.whole_at >= timedelta(seconds=self._limits.whole_every_s)
        walk = _Walk(f"{self._endpoint}/api/models", self._budget())
        first = await self._page(walk)
        newest = max((min(entry.changed_at, at) for entry in first), default=last.newest if last else at)
        if last is not None and not whole and newest <= last.newest:
            return None
        now_mark = _Mark(self._params_mark(), newest, at if last is None or whole else last.whole_at)
        return Reading(
            self._pages(walk, first, None if last is None or whole else last.newest, newest),
            lambda: Ending(whole and not walk.cut, msgspec.json.encode(now_mark).decode(), walk.left_out),
        )

    async def aclose(self) -> None:
        """The library's client is everybody's and stays open."""

    async def _pages(
        self, walk: "_Walk", first: "list[_Entry]", since: datetime | None, newest: datetime
    ) -> AsyncGenerator[tuple[Listing, ...], None]:
        """All that changed ``since``; with None everything, and then again what is newer than the ``newest`` of then.

        For what changes during a pass goes ahead of the pages already read, and would be taken for gone.
        """
        entries = first
        try:
            while True:
                fresh = [entry for entry in entries if since is None or entry.changed_at >= since]
                room = self._limits.max_entries - walk.reader.listed
                listed = [entry for entry in fresh if not (entry.private or entry.disabled)]
                walk.cut = len(listed) > room
                if page := tuple(walk.reader.read(listed[:room], self._listing)):
                    yield page
                walk.cut = walk.cut or (bool(walk.next_url) and walk.reader.listed >= self._limits.max_entries)
                if len(fresh) < len(entries) or walk.cut or not walk.next_url:
                    if since is not None or walk.cut or entries is first:
                        return
                    since = newest
                    walk.begin_again()
                entries = await self._page(walk)
        finally:
            walk.budget.cancel()

    async def _page(self, walk: "_Walk") -> "list[_Entry]":
        """The next page of entries. Whoever stops waiting for it stops the thread that fetches it."""
        try:
            return await asyncio.to_thread(self._fetch, walk)
        except BaseException:
            walk.budget.cancel()
            raise

    def _fetch(self, walk: "_Walk") -> "list[_Entry]":
        with spending(walk.budget):
            response = get_session().get(walk.next_url, params=walk.params(self._params()), headers=self._headers)
            if response.status_code != 200:
                raise status_error(walk.budget.host, response.status_code, response.headers, self._now())
            try:
                raws = _RAWS.decode(response.content)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                raise malformed(walk.budget.host, "answers something else than a list of models") from None
        following: Any = response.links.get("next", {}).get("url", "")
        walk.next_url = fix_hf_endpoint_in_url(following, self._endpoint)
        entries = (walk.reader.attempt(_ENTRY.decode, raw) for raw in raws)
        return [entry for entry in entries if entry is not None]

    def _budget(self) -> Budget:
        limits = self._limits
        requests = 2 * (limits.max_entries // PAGE_LISTINGS + 1)
        return Budget(self._endpoint, limits.total_s, limits.max_bytes, requests, limits.idle_s)

    def _params(self) -> dict[str, Any]:
        return {**self._query.params(), "expand": list(_EXPAND), "sort": "lastModified", "limit": PAGE_LISTINGS}

    def _params_mark(self) -> str:
        return msgspec.json.encode(self._params(), order="sorted").decode()

    def _read_mark(self, mark: str) -> "_Mark | None":
        """The mark of the last pass, if that asked what is asked now."""
        try:
            last = _MARK.decode(mark)
        except (msgspec.DecodeError, UnicodeError):
            return None
        return last if last.params == self._params_mark() else None

    def _listing(self, entry: "_Entry") -> Listing:
        gguf, weights = entry.gguf or _Gguf(), entry.safetensors or _Safetensors()
        if (gguf.context_length or 0) > MAX_LISTED_TOKENS:
            raise BadEntry("its context is out of its range")
        inputs, outputs = _MODALITIES.get(entry.pipeline_tag or "", (frozenset[str](), frozenset[str]()))
        served = None if entry.inferenceProviderMapping is None else _live(entry.inferenceProviderMapping)
        return Listing(
            name=entry.id,
            description=_description(entry),
            capabilities=_capabilities(entry, inputs),
            input_modalities=inputs,
            output_modalities=outputs,
            context_tokens=known(gguf.context_length),
            parameters=known(weights.total) or known(gguf.total),
            licence=next((tag[8:] for tag in entry.tags if tag.startswith("license:") and tag.isprintable()), None),
            gated=None if entry.gated is None else entry.gated is not False,
            served_by=None if served is None else tuple(sorted({each.provider for each in served})),
            updated_at=entry.changed_at,
            page_url=f"{self._endpoint}/{entry.id}",
        )


@dataclass(slots=True)
class _Walk:
    """Where a pass is; ``cut`` when there is more than it may list."""

    first_url: str
    budget: Budget
    reader: EntryReader = field(default_factory=EntryReader)
    cut: bool = False
    next_url: str = field(init=False)
    _begun: bool = False
    _left_out: int | None = None

    def __post_init__(self) -> None:
        self.next_url = self.first_url

    @property
    def left_out(self) -> int:
        """Entries that could not be read, or came twice; those that are read again on purpose are not counted."""
        return self.reader.left_out if self._left_out is None else self._left_out

    def begin_again(self) -> None:
        """Go to the first page."""
        self._left_out, self.next_url, self._begun = self.left_out, self.first_url, False

    def params(self, params: dict[str, Any]) -> dict[str, Any] | None:
        """Those of the first request; the links to further pages have them in them."""
        begun, self._begun = self._begun, True
        return None if begun else params


class _Mark(msgspec.Struct, array_like=True):
    params: str
    newest: datetime
    whole_at: datetime


class _Served(msgspec.Struct):
    provider: Name
    status: Said
    task: Said = ""


class _Gguf(msgspec.Struct):
    context_length: Count | None = None
    total: Count | None = None


class _Safetensors(msgspec.Struct):
    total: Count | None = None


class _Entry(msgspec.Struct):
    id: Name
    lastModified: Annotated[datetime, msgspec.Meta(tz=True)]  # noqa: N815 - the Hub's name
    sha: Said | None = None
    private: bool = False
    disabled: bool | None = None
    gated: bool | Said | None = None
    pipeline_tag: Said | None = None
    library_name: Said | None = None
    tags: Annotated[list[Said], msgspec.Meta(max_length=5_000)] = []
    safetensors: _Safetensors | None = None
    gguf: _Gguf | None = None
    inferenceProviderMapping: list[_Served] | None = None  # noqa: N815

    @property
    def changed_at(self) -> datetime:
        return self.lastModified.astimezone(UTC)


_MARK = msgspec.json.Decoder(_Mark)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_ENTRY = msgspec.json.Decoder(_Entry)

_TEXT, _SEES = frozenset({"text"}), frozenset({"text", "image"})
_MODALITIES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "text-generation": (_TEXT, _TEXT),
    "translation": (_TEXT, _TEXT),
    "summarization": (_TEXT, _TEXT),
    "image-text-to-text": (_SEES, _TEXT),
    "audio-text-to-text": (frozenset({"text", "audio"}), _TEXT),
    "video-text-to-text": (frozenset({"text", "video"}), _TEXT),
    "image-to-text": (frozenset({"image"}), _TEXT),
    "automatic-speech-recognition": (frozenset({"audio"}), _TEXT),
    "text-to-image": (_TEXT, frozenset({"image"})),
    "image-to-image": (_SEES, frozenset({"image"})),
    "text-to-video": (_TEXT, frozenset({"video"})),
    "text-to-speech": (_TEXT, frozenset({"audio"})),
    "feature-extraction": (_TEXT, frozenset({"embeddings"})),
    "sentence-similarity": (_TEXT, frozenset({"embeddings"})),
}


def _live(mapping: list[_Served]) -> list[_Served]:
    return [each for each in mapping if each.status == "live"]


def _capabilities(entry: _Entry, inputs: frozenset[str]) -> frozenset[str]:
    """What the Hub says a model does: its tags, and the tasks that providers serve it for."""
    tasks = {each.task for each in _live(entry.inferenceProviderMapping or [])}
    able: set[str] = set()
    if "conversational" in tasks or "conversational" in entry.tags:
        able.add("chat")
        if "image" in inputs:
            able.add("vision")
    if entry.pipeline_tag in ("feature-extraction", "sentence-similarity") or "feature-extraction" in tasks:
        able.add("embeddings")
    return frozenset(able)


def _description(entry: _Entry) -> str:
    """In the Hub's words; its lists do not have the text of the model card."""
    task = (entry.pipeline_tag or "").replace("-", " ")
    words = [tag for tag in entry.tags if ":" not in tag and tag not in (entry.pipeline_tag, entry.library_name)]
    parts = (task, ", ".join(words), entry.library_name and f"for {entry.library_name}")
    return plain_text("; ".join(part for part in parts if part))
