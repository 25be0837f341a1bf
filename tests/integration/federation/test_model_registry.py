"""The registry over real tables, the real encoder and pgvector: what is stored, found, sealed, and refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.servers import new_database

from prsm.core import database
from prsm.core.database import Database
from prsm.core.encoder import TextEncoder
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.events import OutboxPublisher
from prsm.core.keys import NodeKey
from prsm.core.seams import Filter
from prsm.core.vectors import pgvector_index
from prsm.federation.model_registry import CHANGED, MAX_PRICE_MICRO, Model, ModelRegistry, Provider

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "sk-" + "s3cr3t" * 5
KEY = NodeKey(Ed25519PrivateKey.generate())
BUILT_IN = (
    (Provider("local", "embedded"),),
    (Model("local/sums", "local", "sums", frozenset({"chat"}), description="arithmetic"),),
)


@dataclass
class Place:
    """A database, and registries on it as several nodes would have them."""

    db: Database
    encoder: TextEncoder
    index: pgvector_index.PgvectorIndex

    embedded: list[str] = field(default_factory=list)

    def registry(self, key: NodeKey = KEY, *, findable: bool = True, embedder: str = "one") -> ModelRegistry:
        async def embed(texts: Sequence[str]) -> Any:
            self.embedded += texts
            return self.encoder.encode(texts)

        search: Any = {"index": self.index, "embed": embed, "embedder": embedder} if findable else {}
        return ModelRegistry(self.db.pool, seal=key.seal, unseal=key.unseal, built_in=BUILT_IN, **search)

    async def events(self) -> list[tuple[str, bytes]]:
        got: list[tuple[str, bytes]] = []

        async def publish(topic: str, payload: bytes) -> None:
            got.append((topic, payload))

        await OutboxPublisher(self.db.pool, publish).publish_once()
        return got


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(postgres_url: str) -> AsyncIterator[Place]:
    with new_database(postgres_url, f"registry_{uuid4().hex}") as url:
        db = await database.connect(url, pool_size=4, timeout_ms=20_000)
        try:
            yield Place(db, TextEncoder.load(), await pgvector_index.open_index(db.pool, "models", 384))
        finally:
            await db.close()


@pytest_asyncio.fixture(loop_scope="module")
async def place(opened: Place) -> Place:
    await opened.db.pool.execute("TRUNCATE models, providers, outbox, vector_items")
    return opened


def provider(name: str = "up", **values: Any) -> Provider:
    return Provider(name, **{"kind": "vllm", "base_url": "http://127.0.0.1:9", "api_key": SECRET} | values)


def model(name: str = "up/m", description: str = "", **values: Any) -> Model:
    maker, _, upstream_name = name.partition("/")
    return Model(name, maker, upstream_name, frozenset({"chat"}), description=description, **values)


async def refused(call: Awaitable[object]) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        await call
    return raised.value


async def test_what_was_put_is_there_after_a_restart(place: Place) -> None:
    first = place.registry()
    kept = model(
        domain="law", context_tokens=9, max_output_tokens=8, input_price_micro=7, output_price_micro=6, version="v",
        cid="bafy", owner_account="principal:x", description="é",
    )  # fmt: skip
    await first.put_provider(provider(base_url="https://host/v1/"))
    await first.put_model(kept)
    for registry in (first, place.registry()):
        await registry.reload()
        assert registry.catalogue.models["up/m"] == kept
        assert registry.catalogue.providers["up"] == provider(base_url="https://host/v1")
        assert registry.catalogue.models["local/sums"] == BUILT_IN[1][0]


async def test_instances_stand_under_the_model_they_serve(place: Place) -> None:
    registry = place.registry(findable=False)
    for name in ("a", "b"):
        await registry.put_provider(provider(name))
        await registry.put_model(model(f"{name}/org/m"))
    await registry.put_model(model("a/other", model="org/m", version="v2"))
    assert [one.name for one in registry.catalogue.by_model["org/m"]] == ["a/org/m", "a/other", "b/org/m"]
    assert [one.name for one in registry.catalogue.serving("org/m", "v2")] == ["a/other"]
    assert "m" not in registry.catalogue.by_model
    assert "other" not in registry.catalogue.by_model


async def test_a_change_replaces_and_a_removal_takes_the_provider_with_its_last_model(place: Place) -> None:
    registry = place.registry()
    await registry.put_provider(provider())
    await registry.put_model(model("up/m"))
    await registry.put_model(model("up/n"))
    await registry.put_model(replace(model("up/m"), input_price_micro=5))
    assert registry.catalogue.models["up/m"].input_price_micro == 5
    await registry.remove_model("up/m")
    assert "up" in registry.catalogue.providers
    await registry.remove_model("up/n")
    assert set(registry.catalogue.providers) == {"local"}
    assert set(registry.catalogue.models) == {"local/sums"}
    assert (await refused(registry.remove_model("up/n"))).code == "unknown_model"


async def test_a_snapshot_does_not_change_under_who_reads_it(place: Place) -> None:
    registry = place.registry()
    before = registry.catalogue
    await registry.put_provider(provider())
    assert "up" not in before.providers
    with pytest.raises(TypeError):
        before.models["x"] = model()  # type: ignore[index]


async def test_the_catalogue_is_another_only_when_something_has_changed(place: Place) -> None:
    writer, reader = place.registry(findable=False), place.registry(findable=False)
    await writer.put_provider(provider())
    await writer.put_model(model("up/m"))
    await writer.put_model(model("up/n"))
    before = await reader.reload()
    assert await reader.reload() is before
    await writer.put_model(replace(model("up/n"), input_price_micro=5))
    after = await reader.reload()
    assert after is not before
    assert after.models["up/m"] is before.models["up/m"]
    assert after.models["up/n"].input_price_micro == 5
    # What somebody wrote by hand is read as well.
    await place.db.pool.execute("UPDATE models SET output_price_micro = 7 WHERE name = 'up/m'")
    assert (await reader.reload()).models["up/m"].output_price_micro == 7
    await writer.put_provider(provider(base_url="http://127.0.0.1:10"))
    assert (await reader.reload()).providers["up"].base_url == "http://127.0.0.1:10"
    await writer.remove_model("up/m")
    assert "up/m" not in (await reader.reload()).models


async def test_many_who_reload_at_once_all_see_what_was_written_before(place: Place) -> None:
    writer, reader = place.registry(findable=False), place.registry(findable=False)
    await writer.put_provider(provider())

    async def written_and_read(name: str) -> bool:
        await writer.put_model(model(name))
        return name in (await reader.reload()).models

    assert all(await asyncio.gather(*[written_and_read(f"up/{number}") for number in range(20)]))


async def test_many_changes_are_followed_by_one_look(place: Place) -> None:
    registry = place.registry(findable=False)
    for _ in range(3):
        registry.outdate()
    await asyncio.wait_for(registry.changed(), 5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(registry.changed(), 0.05)


async def test_every_change_is_announced_with_it_and_a_refused_one_is_not(place: Place) -> None:
    registry = place.registry(findable=False)
    await registry.put_provider(provider())
    await registry.put_model(model())
    await registry.remove_model("up/m")
    await refused(registry.put_model(model("nobody/m")))
    await refused(registry.remove_model("up/m"))
    assert await place.events() == [
        (CHANGED, b'{"provider": "up"}'),
        (CHANGED, b'{"model": "up/m"}'),
        (CHANGED, b'{"model": "up/m"}'),
    ]


async def test_models_are_found_by_what_their_descriptions_mean(place: Place) -> None:
    registry = place.registry()
    await registry.put_provider(provider())
    await registry.put_model(model("up/a", "Writes poems, songs and stories.", input_price_micro=9))
    await registry.put_model(model("up/b", "Translates legal contracts between languages.", input_price_micro=1))
    await registry.put_model(model("up/c", "Finds bugs in computer programs.", input_price_micro=1))

    async def first(text: str, *filters: Filter) -> str:
        return (await registry.search(text, 3, filters))[0][0].name

    assert await first("a sonnet about the moon") == "up/a"
    assert await first("my source code crashes") == "up/c"
    assert await first("a sonnet about the moon", Filter("input_price_micro", "<=", 5)) != "up/a"
    await registry.put_model(model("up/a", "Finds bugs in computer programs and mends them."))
    await registry.put_model(model("up/c", "Recipes for soup."))
    assert await first("my source code crashes") == "up/a"
    await registry.remove_model("up/a")
    assert "up/a" not in [found.name for found, _ in await registry.search("my source code crashes", 10)]


async def test_only_what_changed_is_embedded_again(place: Place) -> None:
    many = [
        replace(BUILT_IN[1][0], name=f"local/m{n}", upstream_name=f"m{n}", description=f"number {n}")
        for n in range(250)
    ]
    await place.registry().index(many)
    place.embedded.clear()
    await place.registry().index(many)
    assert place.embedded == []
    many[7] = replace(many[7], description="the weather of mountains")
    many[9] = replace(many[9], input_price_micro=5)
    await place.registry().index(many)
    assert place.embedded == ["local/m7. the weather of mountains", "local/m9. number 9"]
    [hit] = await place.index.search(place.encoder.encode(["mountain weather"])[0], 1)
    assert hit.id == "local/m7"
    place.embedded.clear()
    await place.registry(embedder="two").index(many)
    assert len(place.embedded) == len(many)


async def test_without_an_index_the_search_says_so(place: Place) -> None:
    error = await refused(place.registry(findable=False).search("x", 1))
    assert (error.kind, error.code) == (Kind.UNAVAILABLE, "search_off")


async def test_no_secret_can_be_read_from_the_tables_or_from_what_is_printed(place: Place) -> None:
    registry = place.registry()
    await registry.put_provider(provider())
    assert registry.catalogue.providers["up"].api_key == SECRET
    stored = await place.db.pool.fetchval(
        "SELECT string_agg(p::text, '') || (SELECT string_agg(o::text, '') FROM outbox o) FROM providers p"
    )
    assert "up" in stored
    assert "s3cr3t" not in stored
    assert SECRET not in repr(registry.catalogue)


async def test_a_secret_stays_at_its_address_and_goes_nowhere_else(place: Place) -> None:
    registry = place.registry()
    await registry.put_provider(provider())
    await registry.put_provider(provider(api_key=""))
    assert registry.catalogue.providers["up"].api_key == SECRET
    await registry.put_provider(provider(api_key="", base_url="http://127.0.0.1:10"))
    assert registry.catalogue.providers["up"].api_key == ""


async def test_a_sealed_secret_moved_to_another_provider_does_not_open(place: Place) -> None:
    registry = place.registry()
    await registry.put_provider(provider())
    await registry.put_provider(provider("thief", api_key="", base_url="http://127.0.0.1:666"))
    await place.db.pool.execute(
        "UPDATE providers SET sealed_key = (SELECT sealed_key FROM providers WHERE name = 'up') WHERE name = 'thief'"
    )
    await registry.reload()
    assert "thief" not in registry.catalogue.providers


async def test_with_another_node_key_only_the_sealed_providers_are_left_out_until_given_again(place: Place) -> None:
    mine = place.registry()
    await mine.put_provider(provider())
    await mine.put_model(model())
    await mine.put_provider(provider("open", api_key=""))
    await mine.put_model(model("open/m"))
    other = place.registry(NodeKey(Ed25519PrivateKey.generate()))
    await other.reload()
    assert set(other.catalogue.models) == {"local/sums", "open/m"}
    await other.put_provider(provider())
    assert set(other.catalogue.models) == {"local/sums", "open/m", "up/m"}


async def test_what_is_built_in_stays_as_it_is(place: Place) -> None:
    registry = place.registry()
    for call in (
        registry.put_provider(provider("local")),
        registry.put_model(model("local/mine")),
        registry.put_model(model("local/sums")),
        registry.remove_model("local/sums"),
    ):
        error = await refused(call)
        assert (error.kind, error.code) == (Kind.CONFLICT, "built_in")
    assert registry.catalogue.models["local/sums"] == BUILT_IN[1][0]


async def test_a_model_needs_its_provider(place: Place) -> None:
    error = await refused(place.registry().put_model(model("nobody/m")))
    assert (error.kind, error.code) == (Kind.NOT_FOUND, "unknown_provider")
    assert "prsm models add" in error.remedy


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": ""}, "provider"),
        ({"name": "a" * 65}, "provider"),
        ({"name": "a/b"}, "provider"),
        ({"name": "é"}, "provider"),
        ({"name": "..."}, "provider"),
        ({"kind": "telepathy"}, "kind"),
        ({"base_url": ""}, "base_url"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://x y"}, "base_url"),
        ({"base_url": "http://" + "x" * 2000}, "base_url"),
        ({"api_key": "a\nb"}, "base_url"),
        ({"api_key": "k" * 4001}, "base_url"),
    ],
)
async def test_a_provider_that_cannot_be_used_is_refused(place: Place, change: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await place.registry().put_provider(replace(provider(), **change))
    assert raised.value.param == param
    assert await place.events() == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "up/other"},
        {"upstream_name": ""},
        {"upstream_name": "x" * 201},
        {"upstream_name": "a\nb"},
        {"upstream_name": "модель"},
        {"capabilities": frozenset()},
        {"capabilities": frozenset({"chat", "flight"})},
        {"input_price_micro": -1},
        {"output_price_micro": MAX_PRICE_MICRO + 1},
        {"context_tokens": 0},
        {"max_output_tokens": 10**9},
        {"description": "x" * 4001},
        {"description": "\0"},
        {"domain": "law\r\nset-cookie: x"},
        {"version": "\0"},
        {"cid": "c" * 201},
        {"owner_account": "é"},
    ],
)
async def test_a_model_out_of_range_is_refused_with_its_field_named(place: Place, change: dict[str, Any]) -> None:
    registry = place.registry(findable=False)
    await registry.put_provider(provider())
    await place.events()
    wrong = replace(model(), **change)
    if "upstream_name" in change:
        wrong = replace(wrong, name=f"up/{wrong.upstream_name}")
    with pytest.raises(InvalidRequest) as raised:
        await registry.put_model(wrong)
    assert raised.value.param in change
    assert await place.events() == []


async def test_reloads_and_changes_at_once_end_with_the_newest_catalogue(place: Place) -> None:
    registry = place.registry(findable=False)
    await registry.put_provider(provider())

    async def put(number: int) -> None:
        await registry.put_model(model(f"up/m{number}"))

    await asyncio.gather(*(put(number) for number in range(10)), *(registry.reload() for _ in range(20)))
    assert len(registry.catalogue.models) == 11
