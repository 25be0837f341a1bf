"""From a run's model to a version that answers and earns, over HTTP: evaluate, publish, gate, ask, be paid.

The teachers' weights are drawn, so that no torch is needed: what they answer is not right, and the gate says so.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.support.drawn_teachers import write_teacher
from tests.support.served_node import Served, serve_node

from prsm.teachers.runs.run_book import RunBook

PUBLICATION = {
    "model": "sums",
    "title": "Sums",
    "purpose": "Adds two numbers.",
    "domain": "sums such as 12+34",
    "licence": "MIT",
    "questions": ["{integer:3}+{integer:3}"],
    "limits": ["It was never trained."],
    "input_price_micro": 1_000_000_000,
    "output_price_micro": 1_000_000_000,
}
POLICY: dict[str, Any] = {"min_prompts": 20, "min_prompts_a_task": 20, "safety_required": False, "first_share": 0.5}
PLAN = 'max_tokens = 16\n[[tasks]]\nname = "addition"\nlevels = [1, 2]\nprompts = 20\n'


@pytest.fixture
async def served(tmp_path: Path, postgres_url: str, valkey_url: str) -> AsyncIterator[Served]:
    async with serve_node(tmp_path, postgres_url, valkey_url) as node:
        yield node


async def trained(served: Served, seed: int) -> str:
    """A run that is done, with a model in its folder."""
    book = served.node.training.book
    run = await book.submit("train", "sums", "-", account=served.admin_account, api_key_id=None, budget_micro=0)
    write_teacher(served.node.training.supervisor.folder_of(run.id) / "model", seed)
    await book.end(run.id, "done", "")
    return str(run.id)


async def evaluated(served: Served, run: str) -> str:
    """The run that evaluated another run's model, when it is done."""
    folder = served.node.training.supervisor.folder_of(UUID(run)) / "model"
    wanted = {"kind": "evaluate", "name": "exam", "recipe": f'teacher = "{folder}"\n{PLAN}', "budget_micro": 10**6}
    exam = (await served.done("POST", "/node/v1/training/runs", wanted))["id"]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = await served.done("GET", f"/node/v1/training/runs/{exam}")
        if found["state"] not in ("queued", "running"):
            assert found["state"] == "done", found["reason"]
            return exam
        await asyncio.sleep(0.2)
    raise AssertionError("the evaluation does not end")


async def published(served: Served, seed: int) -> dict[str, Any]:
    run = await trained(served, seed)
    wanted = PUBLICATION | {"run": run, "evaluation_run": await evaluated(served, run)}
    return await served.done("POST", "/node/v1/training/publications", wanted)


async def gate(served: Served, version: str, **more: Any) -> dict[str, Any]:
    asked = {"model": "sums", "version": version, "policy": POLICY} | more
    return await served.done("POST", "/node/v1/training/gates", asked)


async def ask(served: Served, model: str) -> tuple[int, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "12+34"}]}
    return await served.send("POST", "/v1/chat/completions", body, key=served.user)


async def test_a_teacher_is_published_gated_asked_and_paid(served: Served) -> None:
    made = await published(served, 1)
    version = f"/node/v1/registry/versions/sums@{made['version']}"
    shown = await served.done("GET", version)
    assert (shown["state"], shown["weights_cid"], shown["licence"]) == ("draft", made["cid"], "MIT")
    assert (await ask(served, made["instance"]))[0] == 404  # a draft is not offered
    decided = await gate(served, made["version"])
    assert (decided["promoted"], decided["against"]) == (False, "")
    assert "good enough" in {criterion["name"] for criterion in decided["decision"]["criteria"]}
    assert (await served.done("GET", version))["state"] == "draft"
    overridden = await gate(served, made["version"], override_reason="The first of its kind, for a test.")
    assert (overridden["promoted"], overridden["decision"]["promote"]) == (True, False)
    assert overridden["override"]["who"] == served.admin_account
    status, answer = await ask(served, "sums")
    assert status == 200, answer
    bill = answer["prsm"]
    assert (bill["model"], bill["cost_micro"] > 0) == (made["instance"], True)
    status, receipt = await served.send("GET", f"/node/v1/receipts/{bill['receipt_id']}", key=served.user)
    assert (status, receipt["receipt"]["model"]["version"]) == (200, made["version"])
    assert receipt["receipt"]["model"]["cid"] == made["cid"]
    paid = {split["account"]: split["amount_micro"] for split in receipt["receipt"]["splits"]}
    assert paid[served.admin_account] > 0  # who trained it owns it
    readme = (served.node.settings.home / "published" / f"sums-{made['version']}" / "README.md").read_text()
    assert "It was never trained." in readme
    kept = await served.done("GET", f"/node/v1/training/evaluations/sums/{made['version']}")
    assert [score["count"] for score in kept[0]["scores"]] == [20, 20]
    assert [each["promoted"] for each in await served.done("GET", "/node/v1/training/gates/sums")] == [True, False]


async def test_a_second_version_answers_by_its_own_name_until_it_passes(served: Served) -> None:
    first, second = await published(served, 1), await published(served, 2)
    await gate(served, first["version"], override_reason="The first of its kind, for a test.")
    decided = await gate(served, second["version"])
    assert (decided["against"], decided["promoted"]) == (first["version"], False)
    status, answer = await ask(served, "sums")
    assert (status, answer["prsm"]["model"]) == (200, first["instance"])
    await gate(served, second["version"], override_reason="To see that it moves, in a test.")
    assert (await ask(served, "sums"))[1]["prsm"]["model"] == second["instance"]
    await served.done("POST", "/node/v1/registry/rollbacks", {"model": "sums"})
    assert (await ask(served, "sums"))[1]["prsm"]["model"] == first["instance"]


async def test_a_gate_reads_the_trial_of_both_versions(served: Served) -> None:
    first, second = await published(served, 1), await published(served, 2)
    await gate(served, first["version"], override_reason="The first of its kind, for a test.")
    asking = {"policy": POLICY | {"live": ["error"]}}
    refused = await gate(served, second["version"], **asking)
    assert [each["name"] for each in refused["decision"]["refusals"]] == ["no-trial"]
    wanted = {"candidate": second["version"], "share_bps": 5_000, "error_increase": 0.5}
    await served.done("PUT", "/node/v1/rollouts/sums", wanted)
    assert live_errors(await gate(served, second["version"], **asking))["passed"] is False  # nothing is certain yet
    for _ in range(60):
        assert (await ask(served, "sums"))[0] == 200
    seen = live_errors(await gate(served, second["version"], **asking))
    assert (seen["passed"], seen["figures"]["candidate"], seen["figures"]["allowed"]) == (True, 0.0, 0.5)
    assert seen["figures"]["candidate_count"] + seen["figures"]["stable_count"] == 60


def live_errors(decided: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in decided["decision"]["criteria"] if each["name"] == "live error")


async def test_a_version_that_cannot_be_moved_is_not_recorded_as_promoted(served: Served) -> None:
    made = await published(served, 1)
    state = f"/node/v1/registry/states/sums@{made['version']}"
    await served.done("PUT", state, {"state": "retired", "reason": "It is not wanted any more."})
    asked = {"model": "sums", "version": made["version"], "policy": POLICY}
    wanted = asked | {"override_reason": "The first of its kind, for a test."}
    assert (await served.refused("POST", "/node/v1/training/gates", wanted))["code"] == "state_not_reachable"
    assert await served.done("GET", "/node/v1/training/gates/sums") == []
    assert (await gate(served, made["version"]))["promoted"] is False


async def test_a_draft_that_no_instance_serves_stays_a_draft(served: Served) -> None:
    made = await published(served, 1)
    await served.done("DELETE", f"/node/v1/models/{made['instance']}")
    asked = {"model": "sums", "version": made["version"], "policy": POLICY}
    wanted = asked | {"override_reason": "The first of its kind, for a test."}
    await served.refused("POST", "/node/v1/training/gates", wanted)
    assert await served.done("GET", "/node/v1/training/gates/sums") == []
    assert (await served.done("GET", f"/node/v1/registry/versions/sums@{made['version']}"))["state"] == "draft"


def _files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and inode of each file: a file that was written anew has another."""
    return {path.name: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()}


async def test_a_refused_publication_leaves_the_served_teacher_as_it_was(served: Served) -> None:
    run, path = await trained(served, 1), "/node/v1/training/publications"
    wanted = PUBLICATION | {"run": run, "evaluation_run": await evaluated(served, run)}
    made = await served.done("POST", path, wanted)
    published = served.node.settings.home / "published"
    place = published / f"sums-{made['version']}"
    before = _files(place)
    for changed in ({"purpose": "Adds two numbers, it says."}, {"licence": "Apache-2.0"}):
        assert (await served.refused("POST", path, wanted | changed))["code"] == "version_taken"
        assert _files(place) == before
    assert await served.done("POST", path, wanted) == made
    assert _files(place) == before
    assert list(published.iterdir()) == [place]


async def test_publishing_again_mends_what_a_kill_or_a_disk_has_spoilt(served: Served) -> None:
    run, path = await trained(served, 1), "/node/v1/training/publications"
    wanted = PUBLICATION | {"run": run, "evaluation_run": await evaluated(served, run)}
    made = await served.done("POST", path, wanted)
    place = served.node.settings.home / "published" / f"sums-{made['version']}"
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    shutil.rmtree(place)
    for spoil in (lambda: None, lambda: (place / "README.md").write_text("?"), (place / "config.json").unlink):
        spoil()
        assert await served.done("POST", path, wanted) == made
        assert {path.name: path.read_bytes() for path in place.iterdir()} == whole
    await gate(served, made["version"], override_reason="The first of its kind, for a test.")
    assert (await ask(served, "sums"))[0] == 200


async def test_an_evaluation_is_evidence_of_one_model(served: Served) -> None:
    run, path = await trained(served, 1), "/node/v1/training/evaluations"
    exam = await evaluated(served, run)
    wanted = PUBLICATION | {"run": run, "evaluation_run": exam}
    made = await served.done("POST", "/node/v1/training/publications", wanted)
    again = await served.refused("POST", "/node/v1/training/publications", wanted | {"model": "more-sums"})
    assert (again["status"], again["code"]) == (409, "evaluation_taken")
    assert f"sums@{made['version']}" in again["message"]
    assert not list((served.node.settings.home / "published").glob("more-sums*"))
    other = {"model": "more-sums", "version": made["version"], "state": "draft"}
    await served.done("POST", "/node/v1/registry/versions", other)  # nothing was registered before
    refused = await served.refused("POST", path, {"run": exam, "model": "more-sums"})
    assert (refused["status"], refused["code"]) == (409, "evaluation_taken")
    assert (await served.done("POST", path, {"run": exam, "model": "sums"}))["model"] == "sums"


async def test_a_run_whose_budget_is_used_up_is_resumed_with_a_larger_one(served: Served) -> None:
    pool = served.node.database.pool
    book = RunBook(pool, "none")  # so that nobody begins it
    run = await book.submit("train", "sums", "-", account=served.admin_account, api_key_id=None, budget_micro=1000)
    await book.end(run.id, "stopped", "The budget is used up.")
    await pool.execute("UPDATE training_runs SET charged_micro = 900 WHERE id = $1", run.id)
    path = f"/node/v1/training/runs/{run.id}/resume"
    assert (await served.refused("POST", path, {"budget_micro": 900}))["code"] == "not_resumable"  # another node's
    mine = await served.node.training.book.submit(
        "train", "other", "-", account=served.admin_account, api_key_id=None, budget_micro=0
    )
    await pool.execute("UPDATE training_runs SET node = $2 WHERE id = $1", run.id, mine.node)
    less = await served.refused("POST", path, {"budget_micro": 899})
    assert (less["status"], less["param"]) == (400, "budget_micro")
    assert "0.0009 FTNS" in less["message"]
    assert (await served.refused("POST", path, {"budget_micro": -1}))["status"] == 400
    await pool.execute("UPDATE training_runs SET account = 'principal:other' WHERE id = $1", run.id)
    assert (await served.refused("POST", path, {"budget_micro": 2000}))["code"] == "not_your_run"
    assert (await book.run(run.id)).money.budget_micro == 1000
    await pool.execute("UPDATE training_runs SET account = $2 WHERE id = $1", run.id, served.admin_account)
    code, said, _ = await served.cli("train", "resume", str(run.id), "--budget", "0.002")
    assert (code, said) == (0, "sums is queued\n")
    found = await book.run(run.id)
    assert (found.money.budget_micro, found.money.charged_micro) == (2000, 900)
    assert found.api_key_id is not None  # the key that gave the money


async def test_what_does_not_fit_is_refused(served: Served) -> None:
    run, other = await trained(served, 1), await trained(served, 2)
    exam = await evaluated(served, run)
    wrong = PUBLICATION | {"run": other, "evaluation_run": exam}
    assert "the run made" in (await served.refused("POST", "/node/v1/training/publications", wrong))["message"]
    wrong = PUBLICATION | {"run": run, "evaluation_run": run}
    assert "no evaluation" in (await served.refused("POST", "/node/v1/training/publications", wrong))["message"]
    wrong = PUBLICATION | {"run": run, "evaluation_run": exam, "parents": [{"version": "nobody@1", "share_bps": 1}]}
    assert "nobody@1" in (await served.refused("POST", "/node/v1/training/publications", wrong))["message"]
    assert not (served.node.settings.home / "published").exists()
    missing = {"model": "sums", "version": "x"}
    assert (await served.refused("POST", "/node/v1/training/gates", missing))["status"] in (404, 409)
