"""Safety over HTTP and the command: breakers and the halt stop answers and nothing else; policies and threats rule."""

import json
from pathlib import Path
from typing import Any

from tests.support.served_node import Served, serve_node

from prsm.safety.threat import Event

QUESTION = {"model": "local/arithmetic", "messages": [{"role": "user", "content": "What is 1 + 2?"}]}


async def asked(one: Served) -> tuple[int, str]:
    """The status, and the code of a refusal."""
    status, answer = await one.send("POST", "/v1/chat/completions", QUESTION, key=one.user)
    return status, answer["error"]["code"] if status != 200 else ""


async def test_halt_callers_and_models_are_stopped_and_let_go_again(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    async with serve_node(tmp_path / "home", postgres_url, valkey_url) as one:
        user = (await one.send("GET", "/node/v1/wallet", key=one.user))[1]["account"]
        for board, name, code in (
            ("node", "halt", "halted"),
            ("callers", user, "stopped"),
            ("models", "local/arithmetic", "model_resting"),
            ("providers", "local", "model_resting"),
        ):
            assert (await asked(one))[0] == 200
            status, out, err = await one.cli("breakers", "trip", board, name, "--reason", "the roof leaks")
            assert status == 0, err
            assert (await asked(one))[1] == code, (board, out)
            assert (await one.send("GET", "/node/v1/wallet", key=one.user))[0] == 200
            _, out, _ = await one.cli("breakers", "list", "--json")
            open_now = [each for each in json.loads(out) if each["state"] == "open"]
            assert [(each["board"], each["name"], each["reason"]) for each in open_now] == [
                (board, name, "the roof leaks")
            ]
            assert (await one.cli("breakers", "reset", board, name))[0] == 0
        assert (await asked(one))[0] == 200


async def test_of_the_node_only_the_halt_can_be_tripped(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    async with serve_node(tmp_path, postgres_url, valkey_url) as one:
        for command in (("trip", "node", "all", "--reason", "the roof leaks"), ("reset", "node", "all")):
            status, out, err = await one.cli("breakers", *command)
            assert (status, out, "halt" in err) == (1, "", True)


async def test_a_suspected_caller_is_slowed_and_suspended_and_an_admin_lifts_it(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    async with serve_node(tmp_path / "home", postgres_url, valkey_url) as one:
        user = (await one.send("GET", "/node/v1/wallet", key=one.user))[1]["account"]
        for _ in range(3):
            one.node.safety.threats.note(user, Event.ESCALATED)
        await one.node.safety.threats.settle()
        assert await asked(one) == (403, "suspended")
        assert (await one.send("GET", "/node/v1/wallet", key=one.user))[0] == 200
        _, out, _ = await one.cli("safety", "threats", "--json")
        assert [each["account"] for each in json.loads(out) if each["suspended_until"]] == [user]
        assert (await one.cli("safety", "lift", user))[0] == 0
        assert (await asked(one))[0] == 200


async def test_policies_are_written_shown_and_taken_away(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    async with serve_node(tmp_path / "home", postgres_url, valkey_url) as one:
        rules: dict[str, Any] = {"rules": [{"category": "hate", "action": "block", "threshold": 0.7}]}
        (tmp_path / "policy.json").write_text(json.dumps(rules))
        args = ("--file", str(tmp_path / "policy.json"), "--reason", "a school")
        assert (await one.cli("safety", "policy", "model:local/arithmetic", *args))[0] == 0
        _, out, _ = await one.cli("safety", "policy", "model:local/arithmetic")
        [written] = json.loads(out)
        assert written["reason"] == "a school"
        assert written["policy"]["rules"] == [rules["rules"][0] | {"direction": "both"}]
        assert (await one.cli("safety", "policy", "node", "--preset", "strict"))[0] == 0
        shown = await one.done("GET", "/node/v1/safety/policies")
        assert [each["scope"] for each in shown["written"]] == ["model:local/arithmetic", "node"]
        assert (await one.cli("safety", "policy", "node", "--remove"))[0] == 0
        history = await one.done("GET", "/node/v1/safety/policy-history?scope=node")
        assert [each["policy"] is None for each in history] == [True, False]
        bad: dict[str, Any]
        for bad in ({"reason": "r"}, {"policy": rules, "preset": "strict", "reason": "r"}):
            assert (await one.refused("PUT", "/node/v1/safety/policies/node", bad))["param"] == "policy"
        refusal = await one.refused("PUT", "/node/v1/safety/policies/rivers", {"preset": "strict", "reason": "r"})
        assert refusal["status"] in (400, 422)
