"""The ``prsm`` command against a started node: what it prints, and its documented exit codes."""

import json
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.started_node import StartedNode, free_port
from tests.support.upstream import UpstreamServer

from prsm.core.money import format_ftns


def test_ask_streams_the_answer_and_tells_the_cost_apart(node: StartedNode) -> None:
    done = node.cli("ask", "What is 127 + 385?")
    assert (done.returncode, done.stdout) == (0, "512\n")
    assert "local/arithmetic, specialist for arithmetic" in done.stderr
    assert "receipt" in done.stderr


def test_ask_as_json_is_the_whole_response(node: StartedNode) -> None:
    done = node.cli("ask", "--json", "-m", "up/echo", "one two")
    answer = json.loads(done.stdout)
    assert answer["choices"][0]["message"]["content"] == "one two"
    assert answer["prsm"]["cost_micro"] == 6


def test_ask_reads_standard_input_and_goes_on_in_a_session(node: StartedNode, upstream: UpstreamServer) -> None:
    session = str(uuid4())
    assert node.cli("ask", "-m", "up/echo", "--session", session, "first").stdout == "first\n"
    assert node.cli("ask", "-m", "up/echo", "--session", session, "-", stdin="second").stdout == "second\n"
    assert [m["content"] for m in upstream.requests[-1]["messages"]] == ["first", "first", "second"]


def test_ask_keeps_to_its_spend_cap(node: StartedNode) -> None:
    done = node.cli("ask", "-m", "up/echo", "--max-cost", "0.000001", "one two three")
    assert done.returncode == 1
    assert "spend cap" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_are_added_found_and_removed(node: StartedNode, upstream: UpstreamServer) -> None:
    name = f"shop/{uuid4().hex[:8]}"
    added = node.cli(
        "models", "add", name, "--kind", "vllm", "--base-url", f"{upstream.origin}/v1", "--price-in", "0.5",
        "--price-out", "2.25", "--description", "Knows the weather of mountains and valleys.",
        PROVIDER_API_KEY="sk-secret-of-the-shop",
    )  # fmt: skip
    assert (added.returncode, added.stdout) == (0, f"added {name}\n")
    [row] = [line for line in node.cli("models", "list").stdout.splitlines() if line.startswith(name)]
    assert row.split()[-3:] == ["0.5", "2.25", "live"]
    listed = {model["id"] for model in json.loads(node.cli("models", "list", "--json").stdout)}
    assert name in listed
    assert name in node.cli("models", "search", "mountain weather", "--limit", "1").stdout
    assert node.cli("ask", "-m", name, "hello there").stdout == "hello there\n"
    assert upstream.headers[-1]["authorization"] == "Bearer sk-secret-of-the-shop"
    assert "sk-secret-of-the-shop" not in node.cli("models", "list", "--json").stdout + node.log_path.read_text()

    # A second model of the provider needs nothing said again, and does not take its key away.
    second = f"shop/{uuid4().hex[:8]}"
    assert node.cli("models", "add", second, "--price-in", "1", "--price-out", "1").returncode == 0
    assert node.cli("ask", "-m", name, "still there").stdout == "still there\n"
    assert upstream.headers[-1]["authorization"] == "Bearer sk-secret-of-the-shop"
    # At another address it must be given again: a key is never sent where it was not meant for.
    moved = ["--base-url", f"http://localhost:{upstream.port}/v1", "--price-in", "1", "--price-out", "1"]
    assert node.cli("models", "add", second, *moved).returncode == 0
    assert node.cli("ask", "-m", second, "moved").stdout == "moved\n"
    assert "sk-secret" not in upstream.headers[-1].get("authorization", "")
    assert node.cli("models", "remove", second).returncode == 0

    assert node.cli("models", "remove", name).returncode == 0
    gone = node.cli("models", "remove", name)
    assert gone.returncode == 1
    assert name in gone.stderr
    assert node.cli("ask", "-m", name, "x").returncode == 1


def test_what_a_provider_offers_is_listed_by_names_that_can_be_added(node: StartedNode) -> None:
    done = node.cli("models", "discover", "up")
    assert (done.returncode, done.stdout) == (0, "up/echo\nup/instant\n")
    assert node.cli("models", "discover", "local").stdout == ""
    unknown = node.cli("models", "discover", "no/such")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    node.add_provider("dead", "http://127.0.0.1:1/v1")
    dead = node.cli("models", "discover", "dead")
    assert dead.returncode == 1
    assert "cannot be reached" in dead.stderr


def test_what_cannot_be_added_is_refused_with_a_remedy(node: StartedNode) -> None:
    for arguments, said in (
        (["nameonly", "--price-in", "1", "--price-out", "1"], "PROVIDER/MODEL"),
        (["nobody/model", "--price-in", "1", "--price-out", "1"], "--base-url"),
        (["openai/x", "--price-in", "much", "--price-out", "1"], "much"),
        (["up/x", "--kind", "magic", "--price-in", "1", "--price-out", "1"], "kind is one of"),
    ):
        done = node.cli("models", "add", *arguments)
        assert done.returncode in (1, 2), arguments
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_keys_live_and_end(node: StartedNode) -> None:
    assert node.cli("keys", "create", "quiet", "--rate", "0").returncode == 1
    token = node.cli("keys", "create", "reader", "--scope", "read", "--scope", "chat", "--cap", "0.5").stdout.strip()
    [key] = [k for k in json.loads(node.cli("keys", "list", "--json").stdout) if k["prefix"] in token]
    assert (key["name"], key["scopes"], key["budget"]["cap_micro"]) == ("reader", ["chat", "read"], 500_000)
    assert node.cli("wallet", PRSM_API_KEY=token).returncode == 0
    refused = node.cli("keys", "list", PRSM_API_KEY=token)
    assert refused.returncode == 1
    assert "keys" in refused.stderr

    assert node.cli("keys", "cap", key["id"], "0.000001").returncode == 0
    poor = node.cli("ask", "-m", "up/echo", "one two", PRSM_API_KEY=token)
    assert poor.returncode == 1
    assert "spend cap" in poor.stderr
    assert node.cli("keys", "cap", key["id"], "none").returncode == 0
    assert node.cli("ask", "-m", "up/echo", "one two", PRSM_API_KEY=token).stdout == "one two\n"

    rotated = node.cli("keys", "rotate", key["id"]).stdout.strip()
    assert node.cli("wallet", PRSM_API_KEY=token).returncode == 1
    assert node.cli("wallet", PRSM_API_KEY=rotated).returncode == 0
    [new] = [k for k in json.loads(node.cli("keys", "list", "--json").stdout) if k["prefix"] in rotated]
    assert node.cli("keys", "revoke", new["id"]).returncode == 0
    assert node.cli("wallet", PRSM_API_KEY=rotated).returncode == 1
    assert token not in node.log_path.read_text()


def test_the_ids_of_keys_are_whole_in_a_narrow_terminal(node: StartedNode) -> None:
    keys = json.loads(node.cli("keys", "list", "--json").stdout)
    shown = node.cli("keys", "list", COLUMNS="80").stdout
    assert [key["id"] for key in keys if key["id"] not in shown] == []


def test_the_wallet_is_that_of_the_api(node: StartedNode) -> None:
    wallet = node.wallet()
    done = node.cli("wallet")
    assert done.stdout.startswith(f"{format_ftns(wallet['available_micro'])} FTNS available, 0 held")
    assert json.loads(node.cli("wallet", "--json").stdout)["available_micro"] == wallet["available_micro"]


def test_a_receipt_is_listed_fetched_and_verified(node: StartedNode, tmp_path: Path) -> None:
    answer = json.loads(node.cli("ask", "--json", "-m", "up/echo", "one two three").stdout)
    receipt_id = answer["prsm"]["receipt_id"]
    newest = node.cli("receipt", "list", "--limit", "1").stdout
    assert newest.startswith(receipt_id)
    assert "up/echo" in newest
    assert "9 micro-FTNS" in newest
    assert node.cli("receipt", "verify", receipt_id).returncode == 0

    (tmp_path / "receipt.json").write_text(node.cli("receipt", "get", receipt_id).stdout)
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    key = node.call("GET", "/node/v1/node")["public_key"]
    whole = [str(tmp_path / "receipt.json"), "--node-key", key, "--answer", str(tmp_path / "answer.json")]
    assert node.cli("receipt", "verify", *whole).returncode == 0
    assert node.cli("receipt", "verify", "-", stdin=(tmp_path / "receipt.json").read_text()).returncode == 0


def test_a_tampered_receipt_exits_with_4(node: StartedNode, tmp_path: Path) -> None:
    answer = json.loads(node.cli("ask", "--json", "-m", "up/echo", "one two three").stdout)
    true = node.cli("receipt", "get", answer["prsm"]["receipt_id"]).stdout
    file = tmp_path / "receipt.json"
    for old, new in (
        ('"captured_micro":9', '"captured_micro":8'),
        ('"name":"up/echo"', '"name":"up/other"'),
        ('"completed":true', '"completed":false'),
    ):
        assert old in true
        file.write_text(true.replace(old, new))
        done = node.cli("receipt", "verify", str(file))
        assert done.returncode == 4, done.stdout
    file.write_text(true)
    assert node.cli("receipt", "verify", str(file), "--node-key", "00" * 32).returncode == 4
    (tmp_path / "answer.txt").write_text("one two four")
    assert node.cli("receipt", "verify", str(file), "--answer", str(tmp_path / "answer.txt")).returncode == 4
    assert node.cli("receipt", "verify", str(uuid4())).returncode == 1


def test_the_ledger_of_a_running_node_is_proven(node: StartedNode) -> None:
    done = node.cli("ledger", "verify")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("proven: ")
    assert "without a gap" in done.stdout


def test_config_shows_each_value_with_its_source(node: StartedNode) -> None:
    lines = {line.split()[0]: line for line in node.cli("config").stdout.splitlines() if line.strip()}
    assert "environment PRSM_PORT" in lines["port"]
    assert str(node.port) in lines["port"]
    assert "default" in lines["hold_ttl_s"]
    wrong = node.cli("config", PRSM_PROT="1")
    assert wrong.returncode == 2
    assert "PRSM_PORT" in wrong.stderr
    assert node.cli("--set", "port=0", "config").returncode == 2
    masked = node.cli("config", PRSM_DATABASE_URL="postgresql://u:hunter2@db/prsm", PRSM_API_KEY="prsm_topsecret")
    assert "hunter2" not in masked.stdout
    assert "topsecret" not in masked.stdout


def test_doctor_finds_a_healthy_node_well(node: StartedNode) -> None:
    done = node.cli("doctor")
    assert done.returncode == 0, done.stdout
    assert "FIX" not in done.stdout
    assert "postgres: answers" in done.stdout


def test_doctor_names_the_command_that_mends(node: StartedNode, tmp_path: Path) -> None:
    done = node.cli("--home", str(tmp_path / "new"), "doctor")
    assert done.returncode == 1
    assert "never started" in done.stdout
    assert "mend it: prsm up" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["ask"], 2), (["nonsense"], 2), (["--port", "x", "wallet"], 2), (["--help"], 0), (["version"], 0)],
)
def test_usage_has_its_exit_code(node: StartedNode, arguments: list[str], code: int) -> None:
    assert node.cli(*arguments).returncode == code


def test_no_node_has_its_exit_code(node: StartedNode) -> None:
    done = node.cli("--port", str(free_port()), "wallet")
    assert done.returncode == 3
    assert "prsm up" in done.stderr


def test_a_wrong_key_is_said_plainly(node: StartedNode) -> None:
    done = node.cli("wallet", PRSM_API_KEY="prsm_wrong")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_what_is_shown_is_no_markup_and_not_cut_where_nobody_looks(node: StartedNode) -> None:
    name = f"[/x] [red]hot[/red] :cat: {'long ' * 12}end"
    node.cli("keys", "create", name)
    shown = node.cli("keys", "list", COLUMNS="")
    assert shown.returncode == 0, shown.stderr
    [row] = [line for line in shown.stdout.splitlines() if name in line]
    assert len(row.split()[0]) == 36
