"""One suite for every source of models, each over a real local server that speaks as the original does."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.catalogue_servers import CatalogueServer, OllamaServer, OpenAIServer, OpenRouterServer, PrsmServer
from tests.support.hub_server import HubServer, served_by
from tests.support.local_http import FAULTS, RETRY_AFTER_S, Answer, LocalServer, Request

from prsm.core.errors import InvalidRequest
from prsm.federation.discovery.embedded import EmbeddedSource
from prsm.federation.discovery.hugging_face import HubLimits, HubQuery, HuggingFaceSource
from prsm.federation.discovery.json_fetch import FetchLimits
from prsm.federation.discovery.ollama import OllamaSource
from prsm.federation.discovery.openai_list import OpenAIListSource
from prsm.federation.discovery.openrouter import OpenRouterSource
from prsm.federation.discovery.seams import Ending, ListedPrice, Listing, Source, SourceError
from prsm.federation.model_registry import Model

SECRET = "sk-secret-of-a-source-0123456789"
LIMITS = FetchLimits(connect_s=2, idle_s=1.2, total_s=3.0, max_bytes=400_000)
HUB_LIMITS = HubLimits(max_entries=1_000, max_bytes=400_000, total_s=3.0, idle_s=1.2, whole_every_s=3_600)
START = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class Clock:
    at: datetime = START

    def __call__(self) -> datetime:
        return self.at


@dataclass
class Bench:
    """A source over its server, and how a test changes what is listed there."""

    server: LocalServer
    source: Source
    add: Callable[[str], None]
    change: Callable[[str], None]
    remove: Callable[[str], None]
    spoil: Callable[[str, tuple[str, ...], Any], None]
    clock: Clock = field(default_factory=Clock)


class Hub(HubServer):
    """A hub whose clock moves on with each change."""

    def __init__(self) -> None:
        super().__init__(token=SECRET)
        self.changes = 0

    def put(self, name: str) -> None:
        self.changes += 1
        self.add(
            name,
            at=START - timedelta(days=1) + timedelta(seconds=self.changes),
            pipeline_tag="image-text-to-text",
            tags=["conversational", "llama", "license:apache-2.0", "region:us"],
            library_name="transformers",
            safetensors={"parameters": {"BF16": 7_000}, "total": 7_000},
            gguf={"total": 7_000, "architecture": "llama", "context_length": 8_192},
            inferenceProviderMapping=served_by(together="live", novita="live", nebius="error"),
            gated="auto",
        )

    def change(self, name: str) -> None:
        self.put(name)
        self.repos[name].info["tags"].append("changed")

    def spoil(self, name: str, path: tuple[str, ...], value: Any) -> None:
        self.broken[name] = {path[0]: value} if len(path) == 1 else {path[0]: {path[1]: value}}


KINDS = ("hub", "openrouter", "openai", "ollama", "prsm")
SERVERS: dict[str, type[CatalogueServer]] = {
    "openrouter": OpenRouterServer,
    "openai": OpenAIServer,
    "ollama": OllamaServer,
    "prsm": PrsmServer,
}


@pytest.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async for each in started(request.param):
        yield each


async def started(kind: str, **more: Any) -> AsyncIterator[Bench]:
    clock = Clock()
    if kind == "hub":
        with Hub() as hub:
            options: dict[str, Any] = {"limits": HUB_LIMITS, **more}
            source: Source = HuggingFaceSource("up", hub.origin, secret=SECRET, now=clock, **options)
            yield Bench(hub, source, hub.put, hub.change, lambda name: hub.repos.pop(name) and None, hub.spoil, clock)
            await source.aclose()
        return
    with SERVERS[kind]() as server:
        assert isinstance(server, CatalogueServer)
        options = {"secret": SECRET, "limits": LIMITS, "now": clock, **more}
        match kind:
            case "openrouter":
                source = OpenRouterSource("up", server.origin, **options)
            case "ollama":
                source = OllamaSource("up", server.origin, **options)
            case _:
                source = OpenAIListSource("up", server.origin + "/v1", **options)

        def spoil(name: str, path: tuple[str, ...], value: Any) -> None:
            entry = server.entries[name]
            if path[0] == "shown":
                assert isinstance(server, OllamaServer)
                entry, path = server.shown[name], path[1:]
            for step in path[:-1]:
                entry = entry[step]
            entry[path[-1]] = value

        yield Bench(server, source, server.add, server.change, lambda n: server.entries.pop(n) and None, spoil, clock)
        await source.aclose()


async def read(source: Source, mark: str = "") -> tuple[dict[str, Listing], Ending] | None:
    reading = await source.read(mark)
    if reading is None:
        return None
    listings = [listing async for page in reading.pages for listing in page]
    assert len({listing.name for listing in listings}) == len(listings), "a name twice"
    return {listing.name: listing for listing in listings}, reading.ending()


async def read_changed(source: Source, mark: str = "") -> tuple[dict[str, Listing], Ending]:
    found = await read(source, mark)
    assert found is not None
    return found


async def test_a_first_reading_is_whole(bench: Bench) -> None:
    assert isinstance(bench.source.name, str)
    names = [f"acme/model-{number}" for number in range(7)]
    for name in names:
        bench.add(name)
    listings, ending = await read_changed(bench.source)
    assert sorted(listings) == names
    assert (ending.whole, ending.left_out) == (True, 0)
    assert all(listing.revision for listing in listings.values())
    for listing in listings.values():
        for text in (listing.title, listing.description, listing.page_url):
            assert text.isprintable()


async def test_what_is_empty_is_whole_too(bench: Bench) -> None:
    assert await read_changed(bench.source) == ({}, (await read_changed(bench.source))[1])
    assert (await read_changed(bench.source))[1].whole


async def test_unchanged_is_none(bench: Bench) -> None:
    bench.add("acme/a")
    first, ending = await read_changed(bench.source)
    bench.clock.at += timedelta(minutes=5)
    assert await read(bench.source, ending.mark) is None
    again, _ = await read_changed(bench.source)
    assert again["acme/a"].revision == first["acme/a"].revision, "a revision tells changes, not readings"


@pytest.mark.parametrize("mark", ["nonsense", "[]", '["", ""]', "[1, 2, 3]", "\x00", '"' * 3, "null"])
async def test_a_strange_mark_counts_as_none(bench: Bench, mark: str) -> None:
    bench.add("acme/a")
    listings, ending = await read_changed(bench.source, mark)
    assert sorted(listings) == ["acme/a"]
    assert ending.whole


async def test_one_that_changed_is_told_by_its_revision(bench: Bench) -> None:
    for name in ("acme/a", "acme/b", "acme/c"):
        bench.add(name)
    before, ending = await read_changed(bench.source)
    bench.change("acme/b")
    after, second = await read_changed(bench.source, ending.mark)
    assert [name for name in after if after[name].revision != before[name].revision] == ["acme/b"]
    assert second.mark != ending.mark
    assert await read(bench.source, second.mark) is None


async def test_one_that_came_is_listed(bench: Bench) -> None:
    bench.add("acme/a")
    _, ending = await read_changed(bench.source)
    bench.add("acme/new")
    listings, _ = await read_changed(bench.source, ending.mark)
    assert "acme/new" in listings


async def test_one_that_went_is_missing_from_a_whole_reading(bench: Bench) -> None:
    for name in ("acme/a", "acme/b"):
        bench.add(name)
    _, ending = await read_changed(bench.source)
    bench.remove("acme/a")
    bench.clock.at += timedelta(hours=2)  # the hub is read whole only now and then
    listings, ending = await read_changed(bench.source, ending.mark)
    assert ending.whole
    assert sorted(listings) == ["acme/b"]


# What is said is understood exactly.


async def expect(kind: str, listing: Listing) -> None:
    async for bench in started(kind):
        bench.add(listing.name)
        found, _ = await read_changed(bench.source)
        read_as = found[listing.name]
        path = read_as.page_url.removeprefix(bench.server.origin)
        assert replace(read_as, revision="", page_url=path) == listing


def words(*parts: str) -> frozenset[str]:
    return frozenset(parts)


async def test_the_hub_is_understood() -> None:
    await expect(
        "hub",
        Listing(
            name="acme/chat",
            description="image text to text; conversational, llama; for transformers",
            capabilities=words("chat", "vision"),
            input_modalities=words("text", "image"),
            output_modalities=words("text"),
            context_tokens=8_192,
            parameters=7_000,
            licence="apache-2.0",
            gated=True,
            served_by=("novita", "together"),
            updated_at=START - timedelta(days=1) + timedelta(seconds=1),
            page_url="/acme/chat",
        ),
    )


async def test_openrouter_is_understood() -> None:
    await expect(
        "openrouter",
        Listing(
            name="acme/chat:free",
            title="Acme: Chat",
            description="Answers questions.",
            capabilities=words("chat", "vision", "tools"),
            input_modalities=words("text", "image"),
            output_modalities=words("text"),
            context_tokens=1_047_576,
            max_output_tokens=32_768,
            price=ListedPrice("up", START, "USD", 2_500_000_000, 10_000_000_000, 1_250_000_000, 0),
            page_url="/acme/chat:free",
        ),
    )


async def test_vllm_is_understood() -> None:
    await expect("openai", Listing(name="acme/chat", context_tokens=32_768))


async def test_ollama_is_understood() -> None:
    await expect(
        "ollama",
        Listing(
            name="llama3:8b",
            capabilities=words("chat", "tools"),
            context_tokens=131_072,
            parameters=8_030_261_248,
            updated_at=datetime(2026, 5, 14, 22, 49, 43, 634138, UTC),
        ),
    )


async def test_another_node_is_understood() -> None:
    await expect(
        "prsm",
        Listing(
            name="local/arithmetic",
            capabilities=words("chat", "tools"),
            context_tokens=1_000_000,
            max_output_tokens=256,
            licence="MIT",
            price=ListedPrice("up", START, "FTNS", 20_000_000_000, 60_000_000_000),
        ),
    )


# A price that is not known is not zero.


@pytest.mark.parametrize(
    ("said", "nano"),
    [
        ("0", 0),
        ("-1", None),
        (None, None),
        ("0.00000000000000000001", 1),
        ("0.0000000375", 37_500_000),
        ("1e-6", 1_000_000_000),
        (0.0000025, 2_500_000_000),
        ("0.1234567890123456789", 123_456_789_012_346),
        ("1", 10**15),
    ],
)
async def test_prices_are_exact_and_unknown_is_not_zero(said: Any, nano: int | None) -> None:
    async for bench in started("openrouter"):
        bench.add("acme/a")
        bench.spoil("acme/a", ("pricing", "prompt"), said)
        listings, _ = await read_changed(bench.source)
        price = listings["acme/a"].price
        assert price is not None
        assert (price.input_nano, price.output_nano) == (nano, 10_000_000_000)


@pytest.mark.parametrize("pricing", [{}, None, {"prompt": "-1", "completion": "-1"}, {"image": "0.1"}])
async def test_a_model_without_prices_has_no_price(pricing: Any) -> None:
    async for bench in started("openrouter"):
        bench.add("acme/a")
        bench.spoil("acme/a", ("pricing",), pricing)
        assert (await read_changed(bench.source))[0]["acme/a"].price is None


async def test_a_node_that_tells_no_price_has_none() -> None:
    async for bench in started("prsm"):
        bench.add("acme/a")
        for side in ("input", "output"):
            bench.spoil("acme/a", ("prsm", f"{side}_price_micro_per_mtok"), None)
        assert (await read_changed(bench.source))[0]["acme/a"].price is None


# An entry that is malformed is left out and counted; the others stay.

WRONG_NAMES: list[tuple[str, Any]] = [
    ("id", value) for value in (None, 5, "", "two words", "line\nbreak", "n" * 201, ["a"], "naïve", "nul\x00")
]
WRONG: dict[str, list[tuple[tuple[str, ...], Any]]] = {
    "hub": [
        *(((name,), value) for name, value in WRONG_NAMES),
        *((("lastModified",), value) for value in (None, "soon", 5, "2026-01-01T00:00:00")),
        *((("tags",), value) for value in ("llama", [5], 7)),
        *((("safetensors",), value) for value in (5, {"total": -1}, {"total": "many"}, {"total": 2**70})),
        *((("gguf",), value) for value in (5, {"context_length": 10**9}, {"context_length": 1.5})),
        (("inferenceProviderMapping",), [{"provider": "x"}]),
        (("inferenceProviderMapping",), "live"),
        (("pipeline_tag",), 5),
        (("private",), "no"),
        (("gated",), 7),
    ],
    "openrouter": [
        *(((name,), value) for name, value in WRONG_NAMES),
        *((("pricing", "prompt"), v) for v in ("free", "", "NaN", "-0.1", "1e99", "Infinity", "sNaN", [], True, -5)),
        *((("context_length",), value) for value in (-1, 10**9, 1.5, "long", 2**70)),
        *((("top_provider", "max_completion_tokens"), value) for value in (-1, "many")),
        (("pricing",), "cheap"),
        (("pricing", "request"), "1e9999999"),
        (("architecture",), "transformer"),
        (("architecture", "input_modalities"), "text"),
        (("architecture", "input_modalities"), ["te xt"]),
        (("supported_parameters",), {"tools": True}),
        (("description",), "d" * 100_001),
        (("name",), 5),
    ],
    "openai": [
        *(((name,), value) for name, value in WRONG_NAMES),
        *((("max_model_len",), value) for value in (-1, 10**9, 1.5, "long")),
        (("prsm",), "yes"),
        (("type",), 5),
    ],
    "ollama": [
        *((("name",), value) for _, value in WRONG_NAMES),
        (("modified_at",), "yesterday"),
        (("shown", "capabilities"), "tools"),
        (("shown", "model_info"), 5),
        *((("shown", "model_info", "llama.context_length"), value) for value in (-1, 10**9, "long", 1.5)),
        (("shown", "model_info", "general.parameter_count"), "8B"),
        (("shown", "model_info", "general.architecture"), 5),
    ],
    "prsm": [
        *(((name,), value) for name, value in WRONG_NAMES),
        *((("prsm", "input_price_micro_per_mtok"), value) for value in (-1, "free", 10**13, 0.5)),
        *((("prsm", "context_tokens"), value) for value in (-1, 10**9, "long")),
        (("prsm", "capabilities"), "chat"),
        (("prsm", "capabilities"), [5]),
        (("prsm",), 5),
    ],
}


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [pytest.param(k, p, v, id=f"{k}-{'.'.join(p)}-{str(v)[:12]!r}") for k, cases in WRONG.items() for p, v in cases],
)
async def test_a_malformed_entry_is_left_out_and_counted(kind: str, path: tuple[str, ...], value: Any) -> None:
    async for bench in started(kind):
        for name in ("acme/a", "acme/bad", "acme/c"):
            bench.add(name)
        bench.spoil("acme/bad", path, value)
        listings, ending = await read_changed(bench.source)
        assert sorted(listings) == ["acme/a", "acme/c"]
        assert (ending.left_out, ending.whole) == (1, True)


async def test_a_name_that_comes_twice_is_taken_once(bench: Bench) -> None:
    for name in ("acme/a", "acme/b"):
        bench.add(name)
    bench.spoil("acme/b", ("name" if isinstance(bench.server, OllamaServer) else "id",), "acme/a")
    listings, ending = await read_changed(bench.source)
    assert (sorted(listings), ending.left_out) == (["acme/a"], 1)


# A source that fails is a SourceError, in time, and its secret stays with it.

CODES = {
    **dict.fromkeys(
        ("slow", "drip", "cut", "reset", "garbage", "wide-head", "404", "500", "503"), "source_unreachable"
    ),
    **dict.fromkeys(("not-json", "nan", "deep", "wrong-top", "redirect"), "source_malformed"),
    **dict.fromkeys(("401", "403"), "source_refused"),
    **dict.fromkeys(("429", "429-date"), "source_rate_limited"),
    "endless": "source_too_large",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_faults_are_errors_without_secrets(bench: Bench, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench.add("acme/a")
    _, ending = await read_changed(bench.source)
    bench.clock.at += timedelta(hours=2)
    with Elsewhere() as elsewhere:
        bench.server.fault, bench.server.elsewhere = fault, elsewhere.origin
        for mark in ("", ending.mark):
            with pytest.raises(SourceError) as caught:
                await read(bench.source, mark)
            error = caught.value
            assert error.code == CODES[fault]
            assert SECRET not in f"{error} {error!r} {error.__cause__!r} {vars(error)}"
        assert not elsewhere.requests
    if fault == "429":
        assert error.retry_after_s == RETRY_AFTER_S
    elif fault == "429-date":
        assert error.retry_after_s == 86_400.0, "an absurd time is bounded"
    assert SECRET not in caplog.text
    assert any(request.headers.get("authorization") == f"Bearer {SECRET}" for request in bench.server.requests)
    bench.server.fault = ""
    assert "acme/a" in (await read_changed(bench.source))[0], "it recovers"


class Elsewhere(LocalServer):
    """Where a redirect leads."""

    def answer(self, request: Request) -> Answer:
        return Answer(200, b'{"data": [], "models": []}')


async def test_nobody_listens(bench: Bench) -> None:
    bench.server.__exit__()
    with pytest.raises(SourceError) as caught:
        await read(bench.source)
    assert caught.value.code == "source_unreachable"


@pytest.mark.parametrize(
    "address",
    ["ftp://x", "http://", "http://u:p@x/", "http://x/a b", "http://x:99999/", "http://x/#f", "http://x/?a=b"],
)
def test_a_wrong_address_is_named(address: str) -> None:
    for make in (OpenAIListSource, OpenRouterSource, OllamaSource, HuggingFaceSource):
        with pytest.raises(InvalidRequest) as caught:
            make("up", address)
        assert caught.value.param == "address"


def test_a_wrong_secret_is_named_but_not_told() -> None:
    for make in (OpenAIListSource, OpenRouterSource, OllamaSource, HuggingFaceSource):
        with pytest.raises(InvalidRequest) as caught:
            make("up", "http://x", secret="sk-evil\r\nhost: other")
        assert caught.value.param == "secret"
        assert "evil" not in str(caught.value)


# The hub: incremental, in pages, bounded.


async def test_the_hub_tells_only_what_changed() -> None:
    async for bench in started("hub"):
        for number in range(30):
            bench.add(f"acme/model-{number:02}")
        bench.server.page_entries = 10  # type: ignore[attr-defined]
        _, ending = await read_changed(bench.source)
        assert len(bench.server.requests) == 4, "three pages, and the first of them again"
        bench.change("acme/model-07")
        bench.add("acme/new")
        listings, ending = await read_changed(bench.source, ending.mark)
        assert {"acme/model-07", "acme/new"} <= set(listings) <= {"acme/model-07", "acme/new", "acme/model-29"}
        assert not ending.whole
        assert len(bench.server.requests) == 5
        bench.clock.at += timedelta(hours=2)
        assert len((await read_changed(bench.source, ending.mark))[0]) == 31


@pytest.mark.parametrize("changed", [["acme/model-00"], [f"acme/model-{number:02}" for number in range(25)]])
async def test_what_changes_while_the_whole_hub_is_read_is_met(changed: list[str]) -> None:
    async for bench in started("hub"):
        for number in range(30):
            bench.add(f"acme/model-{number:02}")
        bench.server.page_entries = 10  # type: ignore[attr-defined]
        reading = await bench.source.read("")
        assert reading is not None
        met = [listing.name for listing in await anext(reading.pages)]
        for name in changed:  # goes ahead of the page that was read
            bench.change(name)
        met += [listing.name async for page in reading.pages for listing in page]
        assert sorted(met) == [f"acme/model-{number:02}" for number in range(30)]
        assert reading.ending().whole


async def test_the_hub_lists_whom_providers_serve() -> None:
    async for bench in started("hub", query=HubQuery(inference_provider="all", search="acme")):
        hub = bench.server
        assert isinstance(hub, Hub)
        for name in ("acme/a", "acme/b", "other/c"):
            hub.put(name)
        hub.repos["acme/b"].info["inferenceProviderMapping"] = served_by(together="error")
        _, ending = await read_changed(bench.source)
        found, _ = await read_changed(bench.source)
        assert sorted(found) == ["acme/a"]
        hub.repos["acme/a"].info["inferenceProviderMapping"] = served_by(together="live")
        bench.clock.at += timedelta(hours=2)
        found, _ = await read_changed(bench.source, ending.mark)
        assert found["acme/a"].served_by == ("together",), "who serves is no commit, and seen by whole passes"


async def test_another_query_begins_anew() -> None:
    async for bench in started("hub"):
        bench.add("acme/a")
        _, ending = await read_changed(bench.source)
        other = HuggingFaceSource("up", bench.server.origin, query=HubQuery(search="acme"), now=bench.clock)
        assert (await read_changed(other, ending.mark))[1].whole


async def test_private_and_disabled_repositories_are_not_listed() -> None:
    async for bench in started("hub"):
        hub = bench.server
        assert isinstance(hub, Hub)
        for name in ("acme/a", "acme/private", "acme/disabled"):
            hub.put(name)
        hub.repos["acme/private"].private = True
        hub.repos["acme/disabled"].info["disabled"] = True
        listings, ending = await read_changed(bench.source)
        assert (sorted(listings), ending.left_out) == (["acme/a"], 0)


async def test_a_hub_beyond_the_bound_is_never_taken_for_whole() -> None:
    for page_entries in (4, 5, 100):
        async for bench in started("hub", limits=HubLimits(max_entries=8)):
            for number in range(12):
                bench.add(f"acme/model-{number:02}")
            bench.server.page_entries = page_entries  # type: ignore[attr-defined]
            listings, ending = await read_changed(bench.source)
            assert sorted(listings) == [f"acme/model-{number:02}" for number in range(4, 12)]
            assert not ending.whole


async def test_a_hub_without_end_is_left() -> None:
    async for bench in started("hub", limits=HubLimits(max_entries=1_000)):
        for number in range(3):
            bench.add(f"acme/model-{number}")
        hub = bench.server
        assert isinstance(hub, Hub)
        hub.page_entries = 1
        hub.next_link = f"{hub.origin}/api/models?limit=1"
        with pytest.raises(SourceError) as caught:
            await read(bench.source)
        assert caught.value.code == "source_too_large"
        assert len(hub.requests) < 10


async def test_a_next_page_elsewhere_is_not_followed() -> None:
    async for bench in started("hub"):
        hub = bench.server
        assert isinstance(hub, Hub)
        for number in range(3):
            bench.add(f"acme/model-{number}")
        hub.page_entries = 1
        with Elsewhere() as elsewhere:
            hub.next_link = f"{elsewhere.origin}/api/models"
            with pytest.raises(SourceError) as caught:
                await read(bench.source)
            assert caught.value.code == "source_malformed"
            assert not elsewhere.requests


async def test_a_date_in_the_future_does_not_hide_what_changes() -> None:
    async for bench in started("hub"):
        hub = bench.server
        assert isinstance(hub, Hub)
        hub.put("acme/a")
        hub.repos["acme/a"].changed_at = START + timedelta(days=900)
        _, ending = await read_changed(bench.source)
        bench.clock.at += timedelta(minutes=1)
        hub.put("acme/b")
        hub.repos["acme/b"].changed_at = bench.clock.at
        assert "acme/b" in (await read_changed(bench.source, ending.mark))[0]


async def test_a_pass_that_nobody_reads_on_can_be_left() -> None:
    async for bench in started("hub"):
        for number in range(3):
            bench.add(f"acme/model-{number}")
        bench.server.page_entries = 1  # type: ignore[attr-defined]
        reading = await bench.source.read("")
        assert reading is not None
        await anext(reading.pages)
        await reading.pages.aclose()
        assert len(bench.server.requests) == 1


async def test_the_token_that_a_user_saved_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_saved_by_the_user")
    async for bench in started("hub"):
        bench.add("acme/a")
        await read_changed(HuggingFaceSource("up", bench.server.origin, now=bench.clock))
        assert "authorization" not in bench.server.requests[-1].headers


# Ollama: what its list leaves out is asked for, when the list has changed.


async def test_ollama_is_asked_about_models_when_its_list_changes() -> None:
    async for bench in started("ollama"):
        for name in ("a:1", "b:1"):
            bench.add(name)
        _, ending = await read_changed(bench.source)
        assert await read(bench.source, ending.mark) is None
        asked = [json.loads(request.body)["model"] for request in bench.server.requests if request.path == "/api/show"]
        assert asked == ["a:1", "b:1"]


async def test_an_ollama_model_that_went_meanwhile_is_listed_by_name() -> None:
    async for bench in started("ollama"):
        bench.add("a:1")
        assert isinstance(bench.server, OllamaServer)
        bench.server.shown.clear()
        assert (await read_changed(bench.source))[0]["a:1"].context_tokens is None


async def test_ollama_failing_in_the_middle_fails_the_reading() -> None:
    async for bench in started("ollama"):
        bench.add("a:1")
        bench.server.fault, bench.server.fault_under = "500", "/api/show"
        with pytest.raises(SourceError):
            await read(bench.source)


# What runs in this node.


def model(name: str, **more: Any) -> Model:
    fields: dict[str, Any] = {"capabilities": frozenset({"chat"}), "description": "Adds.", "licence": "MIT", **more}
    return Model(f"local/{name}", "local", name, input_price_micro=2, output_price_micro=0, **fields)


async def test_embedded_models_are_listed_like_others() -> None:
    models = [model("sums"), model("vectors", capabilities=frozenset({"embeddings"}))]
    source = EmbeddedSource("here", lambda: models, now=Clock())
    listings, ending = await read_changed(source)
    assert listings["sums"].price == ListedPrice("here", START, "FTNS", 2_000, 0)
    assert (listings["sums"].licence, listings["vectors"].capabilities) == ("MIT", words("embeddings"))
    assert ending.whole
    assert await read(source, ending.mark) is None
    models.pop()
    listings, _ = await read_changed(source, ending.mark)
    assert sorted(listings) == ["sums"]
    await source.aclose()
