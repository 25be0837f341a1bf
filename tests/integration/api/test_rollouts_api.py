"""Trials of a candidate over HTTP and the command line: dealt by session, copied unseen, withdrawn by themselves."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.support.served_node import PRICES, REGISTRY, Served, serve_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
JUDGED = {"judge_model": "up/judge", "judge_per_minute": 6_000}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    home: Path = tmp_path_factory.mktemp("home")
    async with serve_node(home, postgres_url, valkey_url, retry_attempts=1, learning_enabled=False, **JUDGED) as one:
        yield one


async def begin(served: Served, model: str, **values: Any) -> dict[str, Any]:
    return await served.done("PUT", f"/node/v1/rollouts/{model}", {"candidate": "v2", **values})


async def read_out(served: Served, model: str) -> dict[str, Any]:
    return (await served.done("GET", f"/node/v1/rollouts/{model}"))[0]


def seen(trial: dict[str, Any], metric: str, arm: str = "candidate") -> dict[str, Any]:
    return next(each for each in trial["comparisons"] if (each["metric"], each["arm"]) == (metric, arm))


async def test_a_share_of_the_requests_gets_the_candidate_and_is_counted(served: Served) -> None:
    model = await served.model("v1", "v2")
    await begin(served, model, share_bps=5_000)
    answers = Counter([await served.ask(model) for _ in range(60)])
    assert set(answers) == {(200, f"up/{model}-v1"), (200, f"up/{model}-v2")}
    trial = await read_out(served, model)
    assert seen(trial, "error")["stable"]["count"] == answers[200, f"up/{model}-v1"]
    assert seen(trial, "error")["tried"] == seen(trial, "slow")["tried"] | {
        name: seen(trial, "error")["tried"][name] for name in ("low", "high")
    }
    assert seen(trial, "error")["tried"]["count"] == answers[200, f"up/{model}-v2"]
    assert "no limit is broken" in trial["verdict"]
    await served.done("DELETE", f"/node/v1/rollouts/{model}")
    assert {await served.ask(model) for _ in range(20)} == {(200, f"up/{model}-v1")}
    assert (await read_out(served, model))["ended_at"]
    assert (await served.refused("DELETE", f"/node/v1/rollouts/{model}"))["code"] == "no_trial"


async def test_an_instance_without_a_version_counts_as_the_stable_one(served: Served) -> None:
    model = await served.model("v1", "v2")
    await served.done("PUT", f"/node/v1/models/up/{model}-v1", {**PRICES, "model": model})
    await begin(served, model, share_bps=0)
    assert await served.ask(model) == (200, f"up/{model}-v1")
    assert seen(await read_out(served, model), "error")["stable"]["count"] == 1


async def test_a_session_stays_with_its_version(served: Served) -> None:
    model = await served.model("v1", "v2")
    await begin(served, model, share_bps=5_000)
    gave: set[str] = set()
    for _ in range(12):
        versions = await session(served, model, 4)
        assert len(versions) == 1
        gave |= versions
    assert len(gave) == 2, "twelve sessions of one version have a chance of 1 in 2,048"


async def session(served: Served, model: str, turns: int) -> set[str]:
    """Who answered the turns of one conversation."""
    body: dict[str, Any] = {"model": model, "input": "hello"}
    gave: set[str] = set()
    for _ in range(turns):
        status, answer = await served.send("POST", "/v1/responses", body, key=served.user)
        assert status == 200, answer
        gave.add(answer["prsm"]["model"])
        body["previous_response_id"] = answer["id"]
    return gave


async def test_an_injected_regression_is_withdrawn_by_itself_and_no_request_fails(served: Served) -> None:
    model = f"echo-{uuid4().hex[:8]}"
    bad = {**PRICES, "model": model, "version": "v2"}
    await served.done("PUT", f"/node/v1/models/up/{model}-v1", {**PRICES, "model": model, "version": "v1"})
    await served.done("POST", f"{REGISTRY}/versions", {"model": model, "version": "v1", "state": "live"})
    await served.done("POST", f"{REGISTRY}/versions", {"model": model, "version": "v2", "state": "draft"})
    await served.done("PUT", "/node/v1/models/up/fault-503", bad)
    await begin(served, model, share_bps=5_000)
    asked, began_s = 0, time.monotonic()
    while (trial := await read_out(served, model))["ended_at"] is None:
        answers = await asyncio.gather(*(served.ask(model) for _ in range(8)))
        assert set(answers) == {(200, f"up/{model}-v1")}
        asked += len(answers)
        assert time.monotonic() - began_s < 60
    print(f"withdrawn after {asked} requests, {time.monotonic() - began_s:.1f} s")
    assert "The candidate fails: 100.0%" in trial["verdict"]
    assert seen(trial, "error")["tried"]["mean"] == 1.0
    shown = await served.done("GET", f"{REGISTRY}/models/{model}")
    assert shown["release"]["candidate"] == ""
    history = await served.done("GET", f"{REGISTRY}/history/{model}")
    assert any(change["reason"] == trial["verdict"] for change in history)
    assert (await served.ask(f"{model}@candidate"))[0] == 404


async def test_copies_go_to_the_candidate_and_cost_the_caller_nothing(served: Served) -> None:
    model = await served.model("v1", "v2")
    await begin(served, model, share_bps=0, shadow_bps=10_000)
    before = await wallet(served)
    first = await served.ask(model)
    charged = before - await wallet(served)
    for _ in range(9):
        assert await served.ask(model) == first == (200, f"up/{model}-v1")
        await asyncio.sleep(0.02)
    assert before - await wallet(served) == 10 * charged > 0
    async with asyncio.timeout(20):
        while "shadow" not in {each["arm"] for each in (await read_out(served, model))["comparisons"]}:
            await asyncio.sleep(0.1)
    trial = await read_out(served, model)
    assert seen(trial, "error", "shadow")["tried"]["mean"] == 0.0
    assert seen(trial, "error")["tried"]["count"] == 0


@pytest.mark.parametrize(
    ("asked", "most", "allowed"), [(None, 8192, 4096), (None, 512, 512), (600, 512, 512), (7, 512, 7)]
)
async def test_a_copy_is_no_longer_than_its_model_and_the_caller_allow(
    served: Served, asked: int | None, most: int, allowed: int
) -> None:
    model = await served.model("v1", "v2")
    candidate = {**PRICES, "model": model, "version": "v2", "max_output_tokens": most}
    await served.done("PUT", f"/node/v1/models/up/{model}-v2", candidate)
    await begin(served, model, share_bps=0, shadow_bps=10_000)
    body = {"model": model, "max_tokens": asked, "messages": [{"role": "user", "content": "hello"}]}
    assert (await served.send("POST", "/v1/chat/completions", body, key=served.user))[0] == 200
    copies: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while not copies:
            await asyncio.sleep(0.02)
            copies = [each for each in served.upstream.requests if each.get("model") == f"{model}-v2"]
    assert [each.get("max_tokens") for each in copies] == [allowed]


async def test_a_judge_that_is_named_compares_copies_with_what_the_caller_got(served: Served) -> None:
    model = f"echo-{uuid4().hex[:8]}"
    await served.done("PUT", f"/node/v1/models/up/{model}-v1", {**PRICES, "model": model, "version": "v1"})
    for version, state in (("v1", "live"), ("v2", "draft")):
        await served.done("POST", f"{REGISTRY}/versions", {"model": model, "version": version, "state": state})
    await served.done("PUT", "/node/v1/models/up/instant", {**PRICES, "model": model, "version": "v2"})
    await served.done("PUT", "/node/v1/models/up/judge", {**PRICES, "model": "someone-else"})
    await begin(served, model, share_bps=0, shadow_bps=10_000)
    trial = await read_out(served, model)
    assert (trial["judge"], trial["preferred"]) == ("up/judge", None)
    _, out, _ = await served.cli("rollout", "show", model)
    assert "up/judge has compared no answers yet" in out
    before, asked = await wallet(served), 0
    async with asyncio.timeout(60):
        while ((await read_out(served, model))["preferred"] or {"count": 0})["count"] < 3:
            assert await served.ask(model) == (200, f"up/{model}-v1")
            asked += 1
            await asyncio.sleep(0.05)
    trial = await read_out(served, model)
    won = trial["preferred"]
    assert won["mean"] == won["high"] == 1.0, "'The answer is forty-two.' has more words than 'hello'"
    assert won["low"] < 0.5
    assert trial["ended_at"] is None, "a judge ends no trial"
    charged = before - await wallet(served)
    assert charged % asked == 0, "the caller pays for its answers alone"
    _, out, _ = await served.cli("rollout", "show", model)
    assert f"A judge prefers the candidate in 100.0% of {won['count']} comparisons" in out
    await served.done("DELETE", f"/node/v1/rollouts/{model}")


async def wallet(served: Served) -> int:
    status, found = await served.send("GET", "/node/v1/wallet", key=served.user)
    assert status == 200, found
    return found["balance_micro"]


async def test_ratings_count_three_times_a_caller(served: Served) -> None:
    model = await served.model("v1", "v2")
    await begin(served, model, share_bps=10_000)
    for _ in range(5):
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        _, answer = await served.send("POST", "/v1/chat/completions", body, key=served.user)
        word = {"request_id": answer["id"], "rating": "bad"}
        status, said = await served.send("POST", "/v1/feedback", word, key=served.user)
        assert status == 200, said
    rated = seen(await read_out(served, model), "quality")["tried"]
    assert (rated["count"], rated["mean"]) == (3, 0.0)


async def test_what_cannot_be_tried_is_refused(served: Served) -> None:
    model = await served.model("v1", "v2")
    for body in ({"candidate": "v2", "share_bps": 10_001}, {"candidate": "v2", "slow_ms": 0}, {"share_bps": 5}):
        assert (await served.refused("PUT", f"/node/v1/rollouts/{model}", body))["status"] == 400
    assert (await served.refused("PUT", f"/node/v1/rollouts/{model}", {"candidate": "v9"}))["status"] == 404
    assert (await served.refused("PUT", "/node/v1/rollouts/nothing", {"candidate": "v2"}))["status"] in (404, 409)
    status, _ = await served.send("PUT", f"/node/v1/rollouts/{model}", {"candidate": "v2"}, key=served.user)
    assert status == 403


async def test_the_command_begins_shows_and_ends(served: Served) -> None:
    model = await served.model("v1", "v2")
    code, out, err = await served.cli("rollout", "start", f"{model}@v2", "--share", "12.5")
    assert (code, err) == (0, "")
    assert out == f"12.5 % of the sessions of {model} get v2; the others stay with v1\n"
    await served.ask(model)
    code, out, err = await served.cli("rollout", "show", model)
    assert (code, err) == (0, "")
    assert f"{model}: v2 beside v1, 12.5 % of sessions" in out
    code, out, _ = await served.cli("rollout", "show", "--json")
    assert model in {each["model"] for each in json.loads(out)}
    code, out, _ = await served.cli("rollout", "stop", model)
    assert (code, out) == (0, f"ended the trial of {model}\n")
    code, _, err = await served.cli("rollout", "start", model)
    assert code == 2
    assert "MODEL@VERSION" in err
