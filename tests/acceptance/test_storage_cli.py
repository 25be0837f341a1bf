"""``prsm storage`` against a started node: files and folders in and out again, what it prints, and its exit codes."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.started_node import PROGRAM, StartedNode

EMPTY_FILE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
ABSENT = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
EMPTY_FOLDER = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"


def ok(node: StartedNode, *arguments: str) -> str:
    done = node.cli("storage", *arguments)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def refused(node: StartedNode, code: int, *arguments: str, **env: str) -> str:
    done = node.cli("storage", *arguments, **env)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


def pinned(node: StartedNode) -> set[str]:
    return {each["cid"] for each in json.loads(ok(node, "ls", "--json"))}


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 3 * 1024 * 1024 + 7])
def test_a_file_comes_back_as_it_was(node: StartedNode, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(os.urandom(size))
    cid = ok(node, "add", str(source)).strip()
    assert ok(node, "add", str(source)).strip() == cid, "adding twice is adding once"
    assert cid in pinned(node)
    if not size:
        assert cid == EMPTY_FILE
    copy = tmp_path / "copy.bin"
    assert ok(node, "get", cid, "-o", str(copy)).strip() == str(copy)
    assert copy.read_bytes() == source.read_bytes()
    streamed = subprocess.run(
        [PROGRAM, "storage", "get", cid, "-o", "-"], env=node.env, capture_output=True, timeout=60
    )
    assert (streamed.returncode, streamed.stdout) == (0, source.read_bytes())
    for spelled in (f"/ipfs/{cid}", f"ipfs://{cid}"):
        assert ok(node, "get", spelled, "-o", str(tmp_path)).strip() == str(tmp_path / cid)
    assert list(tmp_path.glob(".*")) == [], "nothing unfinished stays"


def test_the_profile_decides_the_cid(node: StartedNode, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(300 * 1024))
    mine, kubo = ok(node, "add", str(source)).strip(), ok(node, "add", str(source), "--profile", "kubo-v1").strip()
    assert mine != kubo
    profiles = {each["cid"]: each["profile"] for each in json.loads(ok(node, "ls", "--json"))}
    assert (profiles[mine], profiles[kubo]) == ("unixfs-v1-2025", "kubo-v1")
    assert "profile" in refused(node, 1, "add", str(source), "--profile", "nonsense")


def test_a_folder_comes_back_with_all_that_is_in_it(node: StartedNode, tmp_path: Path) -> None:
    source = tmp_path / "source"
    names = (
        "plain",
        "deep/er/file",
        "with space",
        "über ☃",
        "100%#?&=+",
        "[red]markup[green]",
        "line\nbreak",
        "-o",
        "twice",
    )
    for name in names:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 100)
    (source / "again").write_bytes(b"twice" * 100)
    (source / "empty/folder").mkdir(parents=True)
    (source / ".hidden").write_text("secret")
    before = pinned(node)
    done = node.cli("storage", "add", str(source))
    assert "1 hidden" in done.stderr
    cid = done.stdout.strip()
    assert pinned(node) - before == {cid}, "the folder keeps its files, nothing else does"
    assert ok(node, "add", str(source)).strip() == cid
    assert pinned(node) - before == {cid}

    expected = {name: data for name, data in tree(source).items() if name != ".hidden"}
    copy = tmp_path / "copy"
    ok(node, "get", cid, "-o", str(copy))
    assert tree(copy) == expected
    for name in ("über ☃", "100%#?&=+", "deep/er/file"):
        assert ok(node, "get", f"{cid}/{name}", "-o", "-") == name * 100
    ok(node, "get", f"{cid}/deep", "-o", str(tmp_path / "deep"))
    assert tree(tmp_path / "deep") == {"er": None, "er/file": b"deep/er/file" * 100}
    assert "folder" in refused(node, 2, "get", f"{cid}/deep", "-o", "-")
    assert "does not exist" in refused(node, 1, "get", f"{cid}/nothing")

    entries = {each["name"]: each for each in json.loads(ok(node, "ls", cid, "--json"))}
    assert set(entries) == {name.partition("/")[0] for name in expected}
    assert entries["plain"]["size_bytes"] == 500
    assert entries["deep"]["kind"] == "directory"
    shown = ok(node, "ls", cid)
    assert "[red]markup[green]" in shown
    assert "line\\nbreak" in shown
    assert entries["plain"]["cid"] in shown
    with_hidden = ok(node, "add", str(source), "--hidden").strip()
    assert with_hidden != cid
    assert "whole" in ok(node, "verify", with_hidden)


def test_what_nobody_keeps_is_deleted_and_what_is_kept_by_itself_stays(node: StartedNode, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "stays").write_text(uuid4().hex)
    (source / "deep" / "goes").write_text(uuid4().hex)
    folder, stays = ok(node, "add", str(source)).strip(), ok(node, "add", str(source / "stays")).strip()
    ok(node, "rm", folder)
    assert "deleted 3 objects" in ok(node, "gc")
    assert "not in this node's storage" in refused(node, 1, "verify", folder)
    assert ok(node, "get", stays, "-o", "-") == (source / "stays").read_text()


def test_an_empty_folder(node: StartedNode, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert ok(node, "add", str(tmp_path / "empty")).strip() == EMPTY_FOLDER
    ok(node, "get", EMPTY_FOLDER, "-o", str(tmp_path / "copy"))
    assert tree(tmp_path / "copy") == {}


def test_what_cannot_be_stored_is_refused_before_anything_is(node: StartedNode, tmp_path: Path) -> None:
    before = pinned(node)
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text(uuid4().hex)
    (source / "link").symlink_to(source / "a")
    assert "symbolic link" in refused(node, 2, "add", str(source))
    (source / "link").unlink()
    os.mkfifo(source / "pipe")
    assert "neither a file nor a folder" in refused(node, 2, "add", str(source))
    (source / "pipe").unlink()
    Path(os.fsdecode(os.fsencode(source) + b"/\xff")).write_text("x")
    assert "UTF-8" in refused(node, 2, "add", str(source))
    assert pinned(node) == before
    refused(node, 2, "add", str(tmp_path / "nothing"))


def test_a_place_that_cannot_be_written_is_named(node: StartedNode, tmp_path: Path) -> None:
    cid = ok(node, "add", str(_file(tmp_path))).strip()
    assert str(tmp_path / "no") in refused(node, 1, "get", cid, "-o", str(tmp_path / "no/such/place"))
    assert list(tmp_path.glob(".*")) == []


def test_pins_are_set_and_taken_away(node: StartedNode, tmp_path: Path) -> None:
    cid = ok(node, "add", str(_file(tmp_path))).strip()
    assert ok(node, "rm", cid) == f"unpinned {cid}\n"
    assert "not pinned" in refused(node, 1, "rm", cid)
    assert ok(node, "pin", cid) == f"pinned {cid}\n"
    assert ok(node, "pin", cid) == f"pinned {cid}\n"
    ok(node, "rm", cid)
    assert "deleted 1 objects" in ok(node, "gc")
    assert cid not in pinned(node)


def test_what_nobody_has_is_said_plainly(node: StartedNode) -> None:
    for command in ("verify", "repair", "ls", "rm"):
        assert "is not " in refused(node, 1, command, ABSENT)
    said = refused(node, 1, "get", ABSENT)
    assert "PRSM_STORAGE_GATEWAYS" in said or "endpoint" in said, said
    assert "no CID" in refused(node, 1, "get", "nonsense")


def test_status_says_that_it_is_offline(node: StartedNode, tmp_path: Path) -> None:
    ok(node, "add", str(_file(tmp_path)))
    shown = ok(node, "status")
    assert "0 damaged" in shown
    assert "offline: No endpoint is configured; set PRSM_STORAGE_GATEWAYS" in shown
    told: dict[str, Any] = json.loads(ok(node, "status", "--json"))
    assert told["offline"]
    assert told["objects"] >= 1
    part = node.call("GET", "/readyz")["storage"]
    assert (part["ok"], part["offline"]) == (True, True)


def test_there_is_no_node_to_publish_to(node: StartedNode, tmp_path: Path) -> None:
    cid = ok(node, "add", str(_file(tmp_path))).strip()
    assert "PRSM_STORAGE_NODES" in refused(node, 1, "publish", cid)


def test_provenance_is_stated_and_shown(node: StartedNode, tmp_path: Path) -> None:
    cid = ok(node, "add", str(_file(tmp_path))).strip()
    assert json.loads(ok(node, "provenance", cid)) == []
    parent = f"fine_tuned_from:{EMPTY_FILE}"
    [said] = json.loads(
        ok(node, "provenance", cid, "--licence", "apache-2.0", "--title", "A thing", "--derived-from", parent)
    )
    assert (said["licence"], said["title"], said["cid"]) == ("Apache-2.0", "A thing", cid)
    assert said["derived_from"] == [{"relation": "fine_tuned_from", "cid": EMPTY_FILE}]
    assert said["public_key"] == node.call("GET", "/node/v1/node")["public_key"]
    assert "--licence" in refused(node, 2, "provenance", cid, "--title", "x")
    refused(node, 1, "provenance", cid, "--licence", "no such licence!", "--title", "x")
    refused(node, 1, "provenance", cid, "--licence", "MIT", "--title", "x", "--derived-from", "nonsense")


def test_a_key_without_the_scope_is_refused_although_the_body_is_large(node: StartedNode, tmp_path: Path) -> None:
    _, token = node.new_key(scopes=["read"])
    large = tmp_path / "large"
    large.write_bytes(bytes(64 * 1024 * 1024))
    assert "storage" in refused(node, 1, "add", str(large), PRSM_API_KEY=token)


def _file(folder: Path) -> Path:
    path = folder / "file"
    path.write_text(uuid4().hex)
    return path
