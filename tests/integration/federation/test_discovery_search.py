"""Search over real listings, encoder and index: names first, meaning, filters that what is unknown never passes."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.federation.conftest import Discovery
from tests.support.listed import listing, priced

from prsm.core.errors import InvalidRequest
from prsm.federation.discovery.indexing import BATCH, Indexer
from prsm.federation.discovery.search import Wanted

CATALOGUE = (
    listing("meta-llama/Llama-3.1-8B-Instruct", "A general assistant.", context_tokens=131_072, licence="llama3.1"),
    listing("acme/Llama-3.1-8B-Instruct-German", "An assistant that speaks German.", licence="apache-2.0"),
    listing("openai/gpt-4o-mini", "A small assistant.", price=priced(150_000_000, 600_000_000), gated=False),
    listing("lab/free", "An assistant that costs nothing.", price=priced(0, 0), gated=True),
    listing("lab/half-known", "An assistant whose output price is not known.", price=priced(1, None)),
    listing("peer/tokens", "An assistant paid in tokens.", price=priced(1, 1, "FTNS")),
    listing("speech/hearer", "Writes down what is said in Swahili radio programmes.", capabilities=frozenset()),
    listing("eyes/painter", "Describes paintings.", capabilities=frozenset({"chat", "vision"}), licence="MIT"),
    listing("code/rusty", "Writes programs in Rust.", context_tokens=32_768, capabilities=frozenset({"chat", "tools"})),
)


@pytest.fixture
async def filled(discovery: Discovery) -> Discovery:
    discovery.source.pages = [CATALOGUE]
    await discovery.read()
    assert await discovery.indexed() == len(CATALOGUE)
    return discovery


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama 3.1 8b instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("Llama3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("GPT4o mini", "openai/gpt-4o-mini"),
        ("instruct german llama", "acme/Llama-3.1-8B-Instruct-German"),
        ("rusty", "code/rusty"),
    ],
)
async def test_a_name_that_was_typed_comes_first(filled: Discovery, typed: str, first: str) -> None:
    found = await filled.found(typed)
    assert found[0].kept.listing.name == first
    assert found[0].by_name


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("transcribe East African broadcasts", "speech/hearer"),
        ("what can look at art?", "eyes/painter"),
        ("help me with systems programming", "code/rusty"),
    ],
)
async def test_what_is_meant_is_found(filled: Discovery, asked: str, first: str) -> None:
    found = await filled.found(asked)
    assert found[0].kept.listing.name == first
    assert not found[0].by_name
    assert found[0].similarity is not None


async def test_a_price_that_is_unknown_is_not_zero(filled: Discovery) -> None:
    for asked in ("assistant", ""):
        assert set(await filled.names(asked, max_input_nano=10**15)) == {
            "openai/gpt-4o-mini",
            "lab/free",
            "lab/half-known",
        }
        assert set(await filled.names(asked, max_output_nano=0)) == {"lab/free"}
        assert set(await filled.names(asked, max_output_nano=1, currency="FTNS")) == {"peer/tokens"}
        assert set(await filled.names(asked, max_output_nano=600_000_000)) == {"openai/gpt-4o-mini", "lab/free"}
    assert await filled.names("openai/gpt-4o-mini", max_output_nano=1) == ["lab/free"]


async def test_each_filter_excludes_what_does_not_say(filled: Discovery) -> None:
    for asked in ("assistant", ""):
        assert set(await filled.names(asked, capabilities=("vision",))) == {"eyes/painter"}
        assert set(await filled.names(asked, capabilities=("chat", "tools"))) == {"code/rusty"}
        assert set(await filled.names(asked, min_context_tokens=32_768)) == {
            "meta-llama/Llama-3.1-8B-Instruct",
            "code/rusty",
        }
        assert set(await filled.names(asked, licences=("Apache-2.0", "mit"))) == {
            "acme/Llama-3.1-8B-Instruct-German",
            "eyes/painter",
        }
        assert await filled.names(asked, ungated=True) == ["openai/gpt-4o-mini"]
        assert len(await filled.names(asked, sources=("hub",))) == len(CATALOGUE)
        assert await filled.names(asked, sources=("elsewhere",)) == []
        assert await filled.names(asked, licences=("mit",), ungated=True) == []


async def test_pages_are_parts_of_one_list(filled: Discovery) -> None:
    for asked in ("assistant", "llama", ""):
        whole = await filled.names(asked, limit=9)
        assert whole == await filled.names(asked, limit=9)
        parts = [await filled.search.find(asked, Wanted(), limit=4, offset=at) for at in (0, 4, 8)]
        assert [each.kept.listing.name for part in parts for each in part] == whole
        assert len(set(whole)) == 9
    assert await filled.names("") == sorted(each.name for each in CATALOGUE)


async def test_what_changed_since_it_was_indexed_passes_no_filter_it_fails_now(filled: Discovery) -> None:
    dearer = listing("lab/free", "An assistant that costs nothing.", price=priced(9, 9), gated=True)
    filled.source.pages = [(*(each for each in CATALOGUE if each.name != "lab/free"), dearer)]
    await filled.read()
    assert await filled.indexer.pending() == 1
    assert await filled.names("costs nothing", max_output_nano=0) == []
    await filled.indexed()
    assert await filled.names("costs nothing", max_output_nano=9) == ["lab/free"]


async def test_what_was_removed_is_found_no_more(filled: Discovery) -> None:
    filled.source.pages = [CATALOGUE[1:]]
    await filled.read()
    assert CATALOGUE[0].name not in await filled.names("Llama-3.1-8B-Instruct")
    await filled.indexed()
    assert await filled.index.count() == len(CATALOGUE) - 1


async def test_what_cannot_be_read_as_words_is_no_error(filled: Discovery) -> None:
    assert len(await filled.found("?!")) == len(CATALOGUE)  # no words: all of them
    for odd in ("' | !", "the of and", "a:* & b", "\\", "日本語", "x" * 999, "1 " * 400):
        await filled.found(odd)


@pytest.mark.parametrize(
    ("query", "page", "wanted", "param"),
    [
        ("x" * 1_001, {}, {}, "q"),
        ("a\0b", {}, {}, "q"),
        ("a", {"limit": 0}, {}, "limit"),
        ("a", {"limit": 51}, {}, "limit"),
        ("a", {"limit": 10, "offset": 41}, {}, "limit"),
        ("a", {"offset": -1}, {}, "limit"),
        ("a", {}, {"currency": "EUR"}, "currency"),
        ("a", {}, {"max_input_nano": -1}, "max_input_nano"),
        ("a", {}, {"min_context_tokens": 2**53}, "min_context_tokens"),
        ("a", {}, {"licences": ("x",) * 51}, "licences"),
        ("a", {}, {"sources": ("a\0",)}, "sources"),
    ],
)
async def test_bad_questions_are_refused(
    discovery: Discovery, query: str, page: dict[str, int], wanted: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await discovery.search.find(query, Wanted(**wanted), **page)  # pyright: ignore[reportArgumentType]
    assert refused.value.param == param


async def test_only_what_a_search_would_see_is_embedded_again(filled: Discovery) -> None:
    again = listing("speech/hearer", CATALOGUE[6].description, capabilities=frozenset(), served_by=("one",))
    filled.source.pages = [(*(each for each in CATALOGUE if each.name != "speech/hearer"), again)]
    assert (await filled.read()).written == 1
    assert (await filled.one("speech/hearer")).listing.served_by == ("one",)
    assert await filled.indexer.pending() == 0


async def test_another_encoder_embeds_all_anew(filled: Discovery) -> None:
    await filled.indexer.start()
    assert await filled.indexer.pending() == 0

    async def embed(texts: object) -> object:
        return [[1.0] + [0.0] * 383 for _ in range(len(texts))]  # pyright: ignore[reportArgumentType]

    other = Indexer(filled.database.pool, filled.index, embed, "another")
    await other.start()
    assert await other.pending() == len(CATALOGUE)
    assert await other.index_pending() == len(CATALOGUE)
    assert await other.pending() == 0


async def test_a_change_while_it_is_indexed_is_indexed_too(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a", "about cats"),)]
    await discovery.read()

    async def embed(texts: list[str]) -> object:
        if "about cats" in texts[0]:
            discovery.source.pages = [(listing("a", "about dogs"),)]
            await discovery.read()
        return [[1.0] + [0.0] * 383 for _ in texts]

    indexer = Indexer(discovery.database.pool, discovery.index, embed, "e")  # pyright: ignore[reportArgumentType]
    assert await indexer.index_pending() == 1
    assert await indexer.pending() == 1
    assert await indexer.index_pending() == 1
    assert await indexer.pending() == 0


async def test_one_worker_indexes_at_a_time(discovery: Discovery) -> None:
    discovery.source.pages = [(listing("a"),)]
    await discovery.read()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def embed(texts: list[str]) -> object:
        begun.set()
        await go_on.wait()
        return [[1.0] + [0.0] * 383 for _ in texts]

    indexer = Indexer(discovery.database.pool, discovery.index, embed, "e")  # pyright: ignore[reportArgumentType]
    first = asyncio.create_task(indexer.index_pending())
    await begun.wait()
    assert await indexer.index_pending() == 0
    go_on.set()
    assert await first == 1


KILLED = """
import asyncio, sys
from prsm.core import database
from prsm.core.encoder import DIMENSION
from prsm.core.vectors import pgvector_index
from prsm.federation.discovery.indexing import FILTERED, Indexer

async def main():
    db = await database.connect(sys.argv[1], pool_size=4, timeout_ms=20_000)
    index = await pgvector_index.open_index(db.pool, "listings", DIMENSION, FILTERED)
    async def embed(texts):
        await asyncio.sleep(0.2)
        return [[1.0] + [0.0] * 383 for _ in texts]
    indexer = Indexer(db.pool, index, embed, "e")
    while await indexer.index_pending():
        print("batch", flush=True)

asyncio.run(main())
"""


async def test_indexing_killed_in_its_middle_goes_on_where_it_was(discovery: Discovery) -> None:
    count = 4 * BATCH
    discovery.source.pages = [tuple(listing(f"m{n}") for n in range(count))]
    await discovery.read()
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, discovery.database.url], cwd=root, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        other.stdout.readline()
        os.kill(other.pid, signal.SIGKILL)
    left = await discovery.indexer.pending()
    assert 0 < left <= count - 2 * BATCH
    assert await discovery.index.count() >= count - left

    async def embed(texts: list[str]) -> object:
        return [[1.0] + [0.0] * 383 for _ in texts]

    indexer = Indexer(discovery.database.pool, discovery.index, embed, "e")  # pyright: ignore[reportArgumentType]
    embedded = 0
    async with asyncio.timeout(30):
        while await indexer.pending():
            embedded += await indexer.index_pending()  # 0 until the server sees that the other is gone
    assert embedded == left
    assert await discovery.index.count() == count
