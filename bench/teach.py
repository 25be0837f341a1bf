"""The whole loop in one command (``make teach``): train, mend by RLVR, distil, evaluate, gate, publish, ask, earn.

A node of its own trains a flawed teacher of additions and publishes it; mends it by verified answers, and a gate puts
the better version in its place; trains a second teacher and distils both into one small student; all by recipes that
come with the package. The OpenAI SDK then asks the models, and the trainer's earnings are read from the ledger.
"""

import json
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from openai import OpenAI

from prsm.cli.client import KEY_FILE, NodeClient
from prsm.cli.demo import running_node
from prsm.core.errors import PrsmError
from prsm.core.money import format_ftns

TRAINING = "/node/v1/training"
BUDGET_MICRO = 10_000_000
NO_HARM = {"safety_required": False}
"""Sums: nothing that these teachers can say does harm."""


def main() -> None:
    """Run all of it; whatever fails ends it with exit code 1."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prsm-teach-") as folder, running_node(Path(folder)) as client:
        teach(client, Path(folder) / "node")
    print(f"done in {(time.monotonic() - began_s) / 60:.1f} minutes")


def teach(client: NodeClient, home: Path) -> None:
    """From nothing to three published versions that answer and earn."""
    flawed = trained(client, home, "train", "careless_addition")
    first = published(client, home, flawed, "addition", "sums", parents=[])
    gated(client, "sums", first, NO_HARM | {"first_share": 0.25})
    before = answers(client, home, "sums")

    mended = trained(client, home, "rlvr", "rlvr_addition", f'teacher = "{flawed}"\n')
    second = published(
        client, home, mended, "addition", "sums", parents=[{"version": f"sums@{first}", "share_bps": 1000}]
    )
    gated(client, "sums", second, NO_HARM)
    after = answers(client, home, "sums")
    print(f"right of {len(QUESTIONS)}: {before} before, {after} after verified answers")

    subtracts = trained(client, home, "train", "subtraction")
    teachers = f'\n[teachers]\nadds = "{mended}"\nsubtracts = "{subtracts}"\n'
    student = trained(client, home, "distil", "distil_sums", after=teachers)
    both = published(client, home, student, "both", "both", parents=[{"version": f"sums@{second}", "share_bps": 2000}])
    gated(client, "both", both, NO_HARM | {"first_share": 0.9})
    if answers(client, home, "both") < after - 1:
        raise PrsmError("The student answers worse than its teacher.")
    earned(client)


def trained(client: NodeClient, home: Path, kind: str, recipe: str, before: str = "", *, after: str = "") -> Path:
    """A run of a recipe of the package, when it is done: its model's folder."""
    run = ran(client, kind, recipe, before + _recipe(recipe) + after)
    return home / "training" / run / "model"


def ran(client: NodeClient, kind: str, name: str, recipe: str) -> str:
    """Have the node carry out a run, and watch it to its end; its id."""
    began_s = time.monotonic()
    wanted = {"kind": kind, "name": name, "recipe": recipe, "budget_micro": BUDGET_MICRO}
    run = client.call("POST", f"{TRAINING}/runs", wanted)["id"]
    while (found := client.call("GET", f"{TRAINING}/runs/{run}"))["state"] in ("queued", "running"):
        time.sleep(1)
    if found["state"] != "done":
        raise PrsmError(f"{kind} {name} is {found['state']}: {found['reason']}")
    cost, cpu_s = format_ftns(found["charged_micro"]), found["report"].get("cpu_s", 0.0)
    print(f"{kind:9}{name:20}{time.monotonic() - began_s:6.0f} s, processor {cpu_s:5.0f} s, {cost} FTNS", flush=True)
    return run


def published(client: NodeClient, home: Path, model: Path, exam: str, name: str, *, parents: list[Any]) -> str:
    """Evaluate a run's model by an exam of the package and publish it; its version."""
    plan = _recipe("exam_sums")
    if exam == "both":
        plan += plan[plan.index("\n[[tasks]]") :].replace("addition", "subtraction")
    examined = ran(client, "evaluate", f"exam {exam}", f'teacher = "{model}"\n{plan}')
    wanted = {
        "run": model.parent.name, "evaluation_run": examined, "model": name, "title": f"Teacher of {name}",
        "purpose": "Works sums of up to three digits in columns.", "domain": "sums such as 127+385", "licence": "MIT",
        "questions": ["{integer:3}+{integer:3}", "{integer:3}-{integer:3}"], "parents": parents,
        "limits": ["It knows nothing but sums of up to three digits."],
    }  # fmt: skip
    made = client.call("POST", f"{TRAINING}/publications", wanted)
    print(f"published {name}@{made['version']}, {made['cid']}")
    return made["version"]


def gated(client: NodeClient, model: str, version: str, policy: dict[str, Any]) -> None:
    """Have a gate judge a version; a refusal ends all."""
    decided = client.call("POST", f"{TRAINING}/gates", {"model": model, "version": version, "policy": policy})
    for line in (*decided["decision"]["refusals"], *decided["decision"]["criteria"]):
        print(f"  gate: {line['words']}")
    if not decided["promoted"]:
        raise PrsmError(f"The gate refuses {model}@{version}.")


QUESTIONS = {f"{a}+{b}": str(a + b) for a, b in ((127, 385), (99, 1), (508, 94), (45, 67), (999, 999), (12, 34))}


def answers(client: NodeClient, home: Path, model: str) -> int:
    """Ask through the OpenAI SDK; how many of the answers are right."""
    key = (home / KEY_FILE).read_text().strip()
    with OpenAI(base_url=f"{client.address}/v1", api_key=key) as sdk:
        said = {
            question: sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": question}])
            for question in QUESTIONS
        }
    right = [question for question, each in said.items() if each.choices[0].message.content == QUESTIONS[question]]
    example = next(iter(said.values()))
    bill: dict[str, Any] = (example.model_extra or {})["prsm"]
    print(f"asked {model}: {len(right)} of {len(said)} right, by {bill['model']}, {bill['cost_micro']} micro-FTNS each")
    return len(right)


def earned(client: NodeClient) -> None:
    """Show what the trainer was paid for answers, and prove the ledger."""
    earnings = client.call("GET", "/node/v1/market/earnings")
    print(f"earnings: {json.dumps(earnings)}")
    proof = client.call("GET", "/node/v1/ledger/verify")
    if not proof["ok"]:
        raise PrsmError(f"The ledger is not sound: {proof['violations'][:3]}.")
    print(f"ledger proven, {proof['head']} positions without a gap")


def _recipe(name: str) -> str:
    return files("prsm.teachers").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except PrsmError as error:
        sys.exit(f"teach: {error}")
