"""The registry over HTTP and the command line, on a node that answers meanwhile."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.support.served_node import PRICES, REGISTRY, Served, serve_node

from prsm.core.config import Settings
from prsm.core.identity import SCOPES, Grant
from prsm.node import open_node, reload_models
from prsm.tokenomics.enrolment import account_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serve_node(tmp_path_factory.mktemp("home"), postgres_url, valkey_url) as one:
        yield one


async def models(served: Served, *arguments: str, key: str = "") -> tuple[int, str, str]:
    """``prsm models``."""
    return await served.cli("models", *arguments, key=key)


async def test_names_follow_the_release(served: Served) -> None:
    model = await served.model("v1", "v2")
    stable, second = f"up/{model}-v1", f"up/{model}-v2"
    assert await served.ask(model) == await served.ask(f"{model}@stable") == (200, stable)
    assert await served.ask(f"{model}@v1") == (200, stable)
    # A draft is asked by nobody, by whatever name.
    for name in (f"{model}@v2", f"{model}@candidate", second):
        assert (await served.ask(name))[0] == 404
    await served.done("PUT", f"{REGISTRY}/states/{model}@v2", {"state": "candidate"})
    assert await served.ask(f"{model}@candidate") == await served.ask(second) == (200, second)
    assert await served.ask(model) == (200, stable)
    await served.done("POST", f"{REGISTRY}/promotions", {"model": model})
    assert await served.ask(model) == (200, second)
    assert await served.ask(f"{model}@v1") == (200, stable)
    assert (await served.ask(f"{model}@candidate"))[0] == 404
    await served.done("PUT", f"{REGISTRY}/aliases/{model}", {"alias": "old", "version": "v1"})
    assert await served.ask(f"{model}@old") == (200, stable)
    await served.done("POST", f"{REGISTRY}/rollbacks", {"model": model, "away_from": "v2", "reason": "worse"})
    assert await served.ask(model) == (200, stable)
    assert await served.ask(f"{model}@v2") == (200, second)  # deprecated: who names it is answered
    await served.done("PUT", f"{REGISTRY}/states/{model}@v2", {"state": "retired"})
    assert (await served.ask(second))[0] == 404


async def test_no_request_fails_while_releases_change(served: Served) -> None:
    model = await served.model("v1", "v2")
    await served.done("PUT", f"{REGISTRY}/states/{model}@v2", {"state": "candidate"})
    seen: Counter[tuple[int, str]] = Counter()
    ended = asyncio.Event()

    async def caller(name: str) -> None:
        while not ended.is_set():
            seen[await served.ask(name)] += 1

    callers = [asyncio.create_task(caller(name)) for name in (model, model, f"{model}@stable", f"{model}@v1") * 2]
    try:
        for _ in range(5):
            await served.done("POST", f"{REGISTRY}/promotions", {"model": model, "version": "v2"})
            await asyncio.sleep(0.05)
            await served.done("POST", f"{REGISTRY}/rollbacks", {"model": model, "away_from": "v2"})
            await asyncio.sleep(0.05)
    finally:
        ended.set()
        await asyncio.gather(*callers)
    assert {status for status, _ in seen} == {200}, seen
    assert {instance for _, instance in seen} == {f"up/{model}-v1", f"up/{model}-v2"}


async def test_another_worker_follows(served: Served, valkey_url: str) -> None:
    model = await served.model("v1", "v2")
    node = served.node
    async with open_node(node.settings, node.database.url, valkey_url) as other:
        assert other.path.models.releases[model].stable == "v1"
        await served.done("PUT", f"{REGISTRY}/states/{model}@v2", {"state": "candidate"})
        await served.done("POST", f"{REGISTRY}/promotions", {"model": model})
        async with asyncio.timeout(30):
            while other.path.models.releases[model].stable != "v2":
                await asyncio.sleep(0.01)
        assert other.registry.catalogue.statuses[model, "v2"].state == "live"


async def test_a_version_is_shown_with_all_that_is_known_of_it(served: Served) -> None:
    model = await served.model("v1")
    other = (await served.node.enrolment.principal("upstream", "user")).id
    base = f"base-{uuid4().hex[:8]}"
    body = {"model": base, "version": "b1", "owner_principal_id": str(other)}
    parent = await served.done("POST", f"{REGISTRY}/versions", body)
    child = {
        "model": model, "version": "v2", "capabilities": ["tools", "chat"], "licence": "MIT", "context_tokens": 9000,
        "parents": [{"model": base, "version": "b1", "share_bps": 1250}], "data": ["z", "a"],
        "scores": [{"evaluation": "gsm8k", "metric": "exact_match", "value_ppm": 810_000, "items": 1319}],
        "state": "candidate", "reason": "tuned",
    }  # fmt: skip
    made = await served.done("POST", f"{REGISTRY}/versions", child)
    assert made == await served.done("GET", f"{REGISTRY}/versions/{model}@candidate")
    assert (made["capabilities"], made["data"]) == (["chat", "tools"], ["a", "z"])
    assert made["parents"][0]["digest"] == parent["digest"]
    assert made["lineage"] == [
        {"model": base, "version": "b1", "owner_account": account_of(other), "digest": parent["digest"]}
    ]
    assert made["royalties"] == [{"account": account_of(other), "bps": 1250}]
    assert (made["state"], made["names"], made["instances"]) == ("candidate", ["candidate"], [])
    shown = await served.done("GET", f"{REGISTRY}/models/{model}")
    assert [each["version"] for each in shown["versions"]] == ["v2", "v1"]
    assert shown["release"]["stable"] == "v1"
    assert shown["release"] in await served.done("GET", f"{REGISTRY}/models?limit=1000")
    # Registering the same once more changes nothing, another statement is refused.
    assert (await served.done("POST", f"{REGISTRY}/versions", child))["registered_at"] == made["registered_at"]
    error = await served.refused("POST", f"{REGISTRY}/versions", child | {"licence": "Apache-2.0"})
    assert (error["status"], error["code"]) == (409, "version_taken")


async def test_upstream_owners_are_paid_for_what_their_child_answers(served: Served) -> None:
    owner, upstream = [(await served.node.enrolment.principal(n, "user")).id for n in ("owner", "upstream")]
    base, model = f"base-{uuid4().hex[:8]}", f"echo-{uuid4().hex[:8]}"
    await served.done(
        "POST", f"{REGISTRY}/versions", {"model": base, "version": "b1", "owner_principal_id": str(upstream)}
    )
    await served.done("PUT", f"/node/v1/models/up/{model}-v1", {**PRICES, "model": model, "version": "v1"})
    made = {
        "model": model, "version": "v1", "owner_principal_id": str(owner), "state": "live",
        "parents": [{"model": base, "version": "b1", "share_bps": 5000}],
    }  # fmt: skip
    await served.done("POST", f"{REGISTRY}/versions", made)
    before = [(await served.node.ledger.balance(account_of(who))).balance_micro for who in (owner, upstream)]
    assert await served.ask(model) == (200, f"up/{model}-v1")
    after = [(await served.node.ledger.balance(account_of(who))).balance_micro for who in (owner, upstream)]
    earned = [now - then for now, then in zip(after, before, strict=True)]
    assert earned[1] > 0
    assert 0 <= earned[0] - earned[1] <= 1


async def test_the_built_in_models_are_registered_and_signed(served: Served) -> None:
    key = served.node.key.public_key_hex
    teacher = await served.done("GET", f"{REGISTRY}/versions/arithmetic")
    assert (teacher["publisher"], teacher["state"], teacher["licence"]) == (key, "live", "MIT")
    assert len(teacher["scores"]) == 20
    assert all(score["value_ppm"] >= 950_000 and score["items"] for score in teacher["scores"])
    assert teacher["weights_cid"].startswith("baf")
    # What it answers names these weights in its receipt.
    assert served.node.path.models.by_name["local/arithmetic"].cid == teacher["weights_cid"]
    encoder = await served.done("GET", f"{REGISTRY}/versions/minilm-l6@stable")
    assert (encoder["publisher"], encoder["instances"]) == (key, ["local/minilm-l6"])
    [line] = await served.done("GET", f"{REGISTRY}/history/arithmetic")
    assert (line["by"], line["reason"]) == (served.node.account, "built in")


async def test_a_start_registers_nothing_twice(served: Served, valkey_url: str) -> None:
    before = await served.done("GET", f"{REGISTRY}/history/arithmetic")
    node = served.node
    async with open_node(node.settings, node.database.url, valkey_url):
        pass
    assert await served.done("GET", f"{REGISTRY}/history/arithmetic") == before


async def test_history_says_who_did_what(served: Served) -> None:
    model = await served.model("v1", "v2")
    await served.done("PUT", f"{REGISTRY}/states/{model}@v2", {"state": "candidate", "reason": "looks good"})
    lines = await served.done("GET", f"{REGISTRY}/history/{model}")
    assert [line["action"] for line in lines] == ["moved to candidate", "registered", "registered"]
    assert {line["by"] for line in lines} == {served.admin_account}
    assert (lines[0]["reason"], lines[0]["version"]) == ("looks good", "v2")
    assert lines[0]["after"]["release"]["candidate"] == "v2"
    rest = await served.done("GET", f"{REGISTRY}/history/{model}?before={lines[0]['id']}&limit=1")
    assert rest == lines[1:2]


async def test_two_admins_who_promote_at_once(served: Served) -> None:
    model = await served.model("v1", "v2")
    await served.done("PUT", f"{REGISTRY}/states/{model}@v2", {"state": "candidate"})
    both = await asyncio.gather(*[served.send("POST", f"{REGISTRY}/promotions", {"model": model}) for _ in range(2)])
    assert sorted(status for status, _ in both) == [200, 409]
    assert await served.ask(model) == (200, f"up/{model}-v2")
    both = await asyncio.gather(
        *[served.send("POST", f"{REGISTRY}/rollbacks", {"model": model, "away_from": "v2"}) for _ in range(2)]
    )
    assert sorted(status for status, _ in both) == [200, 409]
    assert await served.ask(model) == (200, f"up/{model}-v1")


async def test_what_breaks_its_limits_is_deprecated_by_itself_and_answers_on(served: Served) -> None:
    model = f"fault-{uuid4().hex[:6]}"
    await served.done("PUT", "/node/v1/models/up/fault-500", {**PRICES, "model": model, "version": "v1"})
    await served.done("POST", f"{REGISTRY}/versions", {"model": model, "version": "v1", "state": "live"})
    await served.done("PUT", f"{REGISTRY}/limits/{model}@v1", {"error_bps": 100, "least_requests": 2})
    for _ in range(4):
        assert (await served.ask(model))[0] >= 500
    async with asyncio.timeout(60):
        while (found := await served.done("GET", f"{REGISTRY}/versions/{model}"))["state"] != "deprecated":
            await asyncio.sleep(0.2)
    assert found["reason"].startswith("errors 100 % are above the declared 1 %")
    assert found["names"] == ["stable"]
    assert (await served.done("GET", f"{REGISTRY}/history/{model}"))[0]["by"] == served.node.account


async def test_a_version_that_callers_rate_certainly_worse_than_declared_is_deprecated(served: Served) -> None:
    model = await served.model("v1", "v2")
    await served.done("PUT", f"{REGISTRY}/limits/{model}@v1", {"quality_bps": 8_000})
    for number in range(4):
        version = await served.done("GET", f"{REGISTRY}/versions/{model}")
        assert version["state"] == "live", f"{3 * number} ratings are no evidence"
        await rate(served, model, "bad", 3)
    async with asyncio.timeout(60):
        while (found := await served.done("GET", f"{REGISTRY}/versions/{model}"))["state"] != "deprecated":
            await asyncio.sleep(0.2)
    said = r"quality 0 % over 12 ratings is at most [\d.]+ % \(95 % at all times\), below the declared 80 %"
    assert re.fullmatch(said, found["reason"])
    assert (await served.done("GET", f"{REGISTRY}/history/{model}"))[0]["reason"] == found["reason"]


async def rate(served: Served, model: str, rating: str, times: int) -> None:
    """A new caller asks and rates."""
    owner = (await served.node.enrolment.principal(f"caller-{uuid4().hex}", "user")).id
    key = (await served.node.enrolment.key(owner, Grant("k", SCOPES - {"admin"}), actor=None, cap_micro=None)).token
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    for _ in range(times):
        status, answer = await served.send("POST", "/v1/chat/completions", body, key=key)
        assert status == 200, answer
        word = {"request_id": answer["id"], "rating": rating}
        status, said = await served.send("POST", "/v1/feedback", word, key=key)
        assert status == 200, said


async def test_two_versions_side_by_side(served: Served) -> None:
    model = await served.model("v1", "v2")
    await served.done("PUT", f"{REGISTRY}/states/{model}@v2", {"state": "candidate"})
    await served.ask(model)
    both = await served.done("GET", f"{REGISTRY}/compare?left={model}@v1&right={model}@v2")
    assert [side["state"] for side in (both["left"], both["right"])] == ["live", "candidate"]
    [offer] = both["left"]["instances"]
    assert (offer["instance"], offer["input_price_micro"]) == (f"up/{model}-v1", 1_000_000)
    assert offer["availability"] == 1.0
    assert both["right"]["instances"][0]["availability"] is None
    with_teacher = await served.done("GET", f"{REGISTRY}/compare?left=arithmetic&right=up/{model}-v1")
    assert len(with_teacher["scores"]) == 20
    assert all(pair["right_ppm"] is None for pair in with_teacher["scores"])
    error = await served.refused("GET", f"{REGISTRY}/compare?left=arithmetic&right=nobody")
    assert (error["status"], error["code"]) == (404, "unknown_model")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "models/nobody", None, 404, "unknown_model"),
        ("GET", "versions/nobody@v1", None, 404, "unknown_version"),
        ("GET", "versions/arithmetic@nightly", None, 404, "unknown_version"),
        ("PUT", "states/arithmetic@nightly", {"state": "retired"}, 404, "unknown_version"),
        ("PUT", "states/arithmetic", {"state": "retired"}, 409, "state_not_reachable"),
        ("PUT", "states/arithmetic", {"state": "live"}, 400, "invalid_request"),
        ("PUT", "states/arithmetic", {"state": "deprecated", "retire_at": "2001-01-01T00:00:00Z"}, 400, None),
        ("PUT", "aliases/arithmetic", {"alias": "stable", "version": ""}, 400, "invalid_request"),
        ("POST", "promotions", {"model": "arithmetic"}, 409, "no_candidate"),
        ("POST", "promotions", {"model": "nobody"}, 404, "unknown_model"),
        ("POST", "rollbacks", {"model": "arithmetic"}, 409, "no_former_version"),
        ("POST", "rollbacks", {"model": "arithmetic", "away_from": "v9"}, 409, "release_moved"),
        ("POST", "versions", {"model": "auto", "version": "v1"}, 400, "invalid_request"),
        ("POST", "versions", {"model": "m", "version": "stable"}, 400, "invalid_request"),
        ("POST", "versions", {"model": "m", "version": "v1", "signature": "00" * 64}, 400, "invalid_request"),
        ("POST", "versions", {"model": "m", "version": "v1", "publisher": "00" * 32}, 400, "invalid_request"),
        ("PUT", "limits/arithmetic", {"error_bps": 10_001}, 400, "invalid_request"),
    ],
)
async def test_what_cannot_be_is_refused_with_a_reason(
    served: Served, method: str, path: str, body: Any, status: int, code: str | None
) -> None:
    error = await served.refused(method, f"{REGISTRY}/{path}", body)
    assert error["status"] == status, error
    assert error["message"]
    assert code is None or error["code"] == code


async def test_a_user_reads_and_changes_nothing(served: Served) -> None:
    assert (await served.send("GET", f"{REGISTRY}/versions/arithmetic", key=served.user))[0] == 200
    for path in ("promotions", "rollbacks"):
        assert (await served.send("POST", f"{REGISTRY}/{path}", {"model": "arithmetic"}, key=served.user))[0] == 403


async def test_the_command_line_takes_a_version_through_its_life(served: Served) -> None:
    model = f"life-{uuid4().hex[:8]}"

    async def done(*arguments: str) -> str:
        code, out, err = await models(served, *arguments)
        assert code == 0, (arguments, out, err)
        return out

    for label, price in (("v1", "1"), ("v2", "0.5")):
        added = await done(
            "add", f"up/{model}-{label}", "--price-in", price, "--price-out", "2", "--price-cached", "0.1",
            "--model", model, "--version", label, "--licence", "MIT", "--region", "eu",
        )  # fmt: skip
        assert added == f"added up/{model}-{label}\n"
    assert f"{model}@v1" in await done("list")
    out = await done(
        "register", f"{model}@v1", "--state", "live", "--licence", "MIT", "--score", "mmlu:accuracy=0.5:100"
    )
    assert out.startswith(f"registered {model}@v1 as live, digest ")
    await done(
        "register", f"{model}@v2", "--state", "candidate", "--parent", f"{model}@v1=12.5", "--score",
        "mmlu:accuracy=0.75:100", "--data", "wiki", "--reason", "half the price",
    )  # fmt: skip
    shown = await done("show", f"{model}@candidate")
    assert f"{model}@v1" in shown
    assert "0.75" in shown
    assert await done("promote", model) == f"{model} is v2 now after v1; back by: prsm models rollback {model}\n"
    assert await served.ask(model) == (200, f"up/{model}-v2")
    side = await done("compare", f"{model}@v1", f"{model}@v2")
    assert all(text in side for text in ("0.5, 2", "mmlu accuracy", "0.75", "MIT"))
    assert await done("rollback", model, "--reason", "it stutters") == f"{model} is v1 again, v2 is deprecated\n"
    assert await served.ask(model) == (200, f"up/{model}-v1")
    assert "it stutters" in await done("history", model)
    day = (datetime.now(UTC) + timedelta(days=30)).date().isoformat()
    assert await done("deprecate", f"{model}@v2", "--until", day) == f"{model}@v2 is deprecated until {day}T00:00\n"
    assert await done("retire", f"{model}@v2") == f"{model}@v2 is retired\n"
    assert await done("alias", f"{model}@old", "v1") == f"{model}@old means v1\n"
    rows = (await done("versions", model)).splitlines()
    assert [line.split()[:2] for line in rows[1:]] == [["v2", "retired"], ["v1", "live"]]
    assert "stable old" in rows[2]
    await done("limits", f"{model}@v1", "--availability", "99.9", "--errors", "1")
    limits = json.loads(await done("show", model, "--json"))["limits"]
    assert limits == {"availability_bps": 9990, "error_bps": 100, "quality_bps": None, "least_requests": 100}
    found = json.loads(await done("list", "--json"))
    [instance] = [each["prsm"] for each in found if each["id"] == f"up/{model}-v1"]
    assert (instance["model"], instance["version"], instance["licence"], instance["region"]) == (
        model,
        "v1",
        "MIT",
        "eu",
    )
    assert instance["cached_input_price_micro_per_mtok"] == 100_000


async def test_the_command_line_says_why_not(served: Served) -> None:
    for arguments, said in (
        (["rollback", "arithmetic"], "no former stable version"),
        (["retire", "arithmetic"], "deprecated before it is retired"),
        (["register", "noversion"], "MODEL@VERSION"),
        (["register", "m@v1", "--score", "mmlu=1"], "EVALUATION:METRIC"),
        (["deprecate", "arithmetic", "--until", "soon"], "not a date"),
        (["show", "nobody"], "no registered version"),
    ):
        code, _, err = await models(served, *arguments)
        assert code in (1, 2), arguments
        assert said in err
        assert "Traceback" not in err
    code, out, _ = await models(served, "show", "local/arithmetic")
    assert (code, "arithmetic@" in out) == (0, True)


async def test_a_database_that_several_homes_share_keeps_the_first_statement(
    served: Served, valkey_url: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "other", database_timeout_ms=20_000)
    async with open_node(settings, served.node.database.url, valkey_url) as other:
        assert other.key.public_key_hex != served.node.key.public_key_hex
        registered = other.registry.catalogue.meant("arithmetic")
        assert registered is not None
        assert registered.version.publisher == served.node.key.public_key_hex
        await reload_models(other)
        assert "local/arithmetic" in other.path.models.by_name
