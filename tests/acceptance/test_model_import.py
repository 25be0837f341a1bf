"""``prsm models import`` against a started node and a local hub: what is registered, what is refused, what stays."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from tests.support.hub_server import HubServer
from tests.support.started_node import StartedNode, started_node

TOKEN = "hf_acceptance_test_token"
CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2_048})
TOKENIZER = json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}})
WEIGHTS = save({"model.embed_tokens.weight": np.arange(600_000, dtype=np.float32).reshape(1_000, 600)})
FILES = {
    "config.json": CONFIG.encode(),
    "tokenizer.json": TOKENIZER.encode(),
    "model.safetensors": WEIGHTS,
    "README.md": b"---\nlicense: mit\n---\n# A model\n",
}
TAGS = ["conversational", "llama", "license:apache-2.0"]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(token=TOKEN) as server:
        aside = {"pytorch_model.bin": b"\x80\x04pickle", "modeling.py": b"import os"}
        server.add("acme/chat", {**FILES, **aside}, pipeline_tag="text-generation", tags=TAGS)
        server.add("acme/gated", FILES, pipeline_tag="text-generation", tags=TAGS, gated="manual")
        server.add("acme/pickled", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"}, tags=TAGS)
        server.add("acme/unlicensed", FILES, pipeline_tag="text-generation", tags=["conversational"])
        server.add("acme/broken", {**FILES, "model.safetensors": b"\xff" * 4_000}, tags=TAGS)
        server.add("acme/evil", {**FILES, "tokenizer.json": b"\x80\x04\x95pickle in disguise."}, tags=TAGS)
        yield server


@pytest.fixture(scope="module")
def importer(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[StartedNode]:
    with started_node(tmp_path_factory.mktemp("importer"), HUB_ENDPOINT=hub.origin) as node:
        yield node


def imported(node: StartedNode, *arguments: str) -> dict[str, Any]:
    done = node.cli("models", "import", *arguments, "--json")
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return json.loads(done.stdout)


def refused(node: StartedNode, *arguments: str) -> str:
    pinned, versions = kept(node), len(node.call("GET", "/node/v1/registry/models"))
    done = node.cli("models", "import", *arguments)
    assert done.returncode == 1, (arguments, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert (kept(node), len(node.call("GET", "/node/v1/registry/models"))) == (pinned, versions), "nothing stays"
    assert not left_over(node)
    return done.stderr


def kept(node: StartedNode) -> set[str]:
    return {each["cid"] for each in node.call("GET", "/node/v1/storage/objects?limit=1000") if each["pinned"]}


def left_over(node: StartedNode) -> list[str]:
    return [path.name for path in (node.home / "imports").rglob("*") if path.is_file() and path.suffix != ".lock"]


def names(node: StartedNode, cid: str) -> dict[str, int]:
    return {each["name"]: each["size_bytes"] for each in node.call("GET", f"/node/v1/storage/objects/{cid}/entries")}


def test_a_model_comes_from_the_hub(importer: StartedNode, hub: HubServer) -> None:
    revision = hub.repos["acme/chat"].refs["main"]
    done = imported(importer, "hf:acme/chat")
    version = done["version"]
    assert (version["model"], version["version"], version["state"]) == ("chat", revision[:12], "draft")
    assert (version["licence"], version["context_tokens"], version["capabilities"]) == ("apache-2.0", 2_048, ["chat"])
    assert version["signature"]
    assert f"hf:acme/chat@{revision}" in version["description"]
    assert done["left_out"] == ["modeling.py", "pytorch_model.bin"]
    cid = version["weights_cid"]
    assert names(importer, cid) == {name: len(data) for name, data in FILES.items()}
    assert cid in kept(importer), "the folder is kept, and keeps its files"
    assert not left_over(importer)
    asked = {request.path.rpartition("/")[2] for request in hub.requests}
    assert not asked & {"pytorch_model.bin", "modeling.py"}
    assert "registered already" in refused(importer, "hf:acme/chat")
    again = imported(
        importer, f"hf:acme/chat@{revision}", "--model", "other", "--version", "v1", "--state", "candidate"
    )
    assert again["version"]["weights_cid"] == cid
    assert importer.call("GET", "/node/v1/registry/models/other")["release"]["candidate"] == "v1"


def test_a_revision_is_imported_as_it_was(importer: StartedNode, hub: HubServer) -> None:
    repo = hub.add("acme/revised", FILES, pipeline_tag="text-generation", tags=TAGS)
    repo.refs["v1"] = repo.refs["main"]
    repo.commit({**FILES, "config.json": CONFIG.replace("2048", "4096").encode()})
    assert imported(importer, "hf:acme/revised@v1")["version"]["context_tokens"] == 2_048
    assert imported(importer, "hf:acme/revised")["version"]["context_tokens"] == 4_096
    assert "has no revision v9" in refused(importer, "hf:acme/revised@v9")


def test_what_cannot_be_imported_is_explained(importer: StartedNode, hub: HubServer) -> None:
    assert "is gated" in (told := refused(importer, "hf:acme/gated"))
    assert "PRSM_HUB_TOKEN" in told
    assert "no model acme/nothing" in refused(importer, "hf:acme/nothing")
    assert "pytorch_model.bin is a pickle" in refused(importer, "hf:acme/pickled")
    assert "--licence" in refused(importer, "hf:acme/unlicensed")
    assert "model.safetensors" in refused(importer, "hf:acme/broken")
    assert "tokenizer.json" in refused(importer, "hf:acme/evil")
    assert "ORG/NAME" in refused(importer, "hf:chat")
    assert imported(importer, "hf:acme/unlicensed", "--licence", "MIT")["version"]["licence"] == "MIT"
    hub.fault = "500"
    try:
        assert "HTTP 500" in refused(importer, "hf:acme/chat", "--model", "m")
    finally:
        hub.fault = ""


def test_a_token_opens_what_is_gated(hub: HubServer, tmp_path: Path) -> None:
    with started_node(tmp_path, HUB_ENDPOINT=hub.origin, HUB_TOKEN=TOKEN) as node:
        assert imported(node, "hf:acme/gated")["version"]["licence"] == "apache-2.0"
        assert TOKEN not in node.cli("config").stdout
        assert TOKEN not in node.log_path.read_text()


def test_an_import_that_was_cut_off_goes_on(importer: StartedNode, hub: HubServer) -> None:
    hub.add("acme/large", {**FILES, "model.safetensors": WEIGHTS + b""}, pipeline_tag="text-generation", tags=TAGS)
    hub.cdn.requests.clear()
    hub.cdn.cuts = [1_000_000, 0, 0, 0, 0]
    done = importer.cli("models", "import", "hf:acme/large")
    assert done.returncode == 1, done.stdout
    assert "broke off" in done.stderr
    hub.cdn.cuts = []
    assert "model.safetensors.part" in left_over(importer)
    hub.cdn.requests.clear()
    assert imported(importer, "hf:acme/large")["version"]["model"] == "large"
    assert [request.headers.get("range") for request in hub.cdn.requests] == ["bytes=1000000-"]
    assert not left_over(importer)


def test_two_imports_of_one_model_do_not_meet(importer: StartedNode, hub: HubServer) -> None:
    hub.add("acme/twice", FILES, pipeline_tag="text-generation", tags=TAGS)
    hub.cdn.requests.clear()
    hub.cdn.fault = "slow"
    first = threading.Thread(target=importer.cli, args=("models", "import", "hf:acme/twice"))
    first.start()
    try:
        deadline = time.monotonic() + 30
        while not hub.cdn.requests:
            assert time.monotonic() < deadline, "the first import has not begun"
            time.sleep(0.05)
        done = importer.cli("models", "import", "hf:acme/twice")
        assert done.returncode == 1
        assert "being imported just now" in done.stderr
    finally:
        hub.cdn.fault = ""
        hub.cdn.stopping.set()
        first.join(60)


def test_a_folder_and_a_cid(importer: StartedNode, tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    done = importer.cli("models", "import", str(folder))
    assert done.returncode == 1
    assert "--capability" in done.stderr
    cid = done.stderr.split("prsm models import ")[1].split()[0]
    version = imported(importer, cid, "--model", "by-cid", "--capability", "chat")["version"]
    assert (version["licence"], version["weights_cid"]) == ("mit", cid), "the card names its licence"
    assert version["version"] == f"cid-{cid[-12:]}"
    from_folder = imported(importer, str(folder), "--capability", "chat", "--version", "1.0")["version"]
    assert (from_folder["model"], from_folder["weights_cid"]) == ("my-model", cid)
    assert set(names(importer, cid)) == set(FILES)
    one = tmp_path / "one.safetensors"
    one.write_bytes(WEIGHTS)
    given = ("--capability", "chat", "--context-tokens", "128", "--licence", "MIT", "--model", "one")
    assert imported(importer, str(one), *given)["version"]["context_tokens"] == 128
    one.write_bytes(b"\x80\x04 no weights at all")
    assert importer.cli("models", "import", str(one), *given, "--version", "2").returncode == 1
    assert importer.cli("models", "import", str(tmp_path / "absent")).returncode == 2


def test_only_an_admin_imports(importer: StartedNode) -> None:
    _, token = importer.new_client("somebody")
    done = importer.cli("models", "import", "hf:acme/chat", "--model", "theirs", PRSM_API_KEY=token)
    assert done.returncode == 1
    assert "scope" in done.stderr or "may not" in done.stderr
