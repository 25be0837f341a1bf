"""``prsm storage`` against a started node: files and folders in and out again, what it prints, and its exit codes."""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.fault_proxy import FaultProxy, Trouble, fault_proxy
from tests.support.started_node import PROGRAM, StartedNode, started_node

EMPTY_FILE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
ABSENT = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
EMPTY_FOLDER = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"

LIMIT_BYTES = 16 * 1024 * 1024


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
    assert "no entry 'nothing'" in refused(node, 1, "get", f"{cid}/nothing")
    assert "no entry 'nothing'" in refused(node, 1, "ls", f"{cid}/deep/nothing")

    entries = {each["name"]: each for each in json.loads(ok(node, "ls", cid, "--json"))}
    assert set(entries) == {name.partition("/")[0] for name in expected}
    assert entries["plain"]["size_bytes"] == 500
    assert entries["deep"]["kind"] == "directory"
    shown = ok(node, "ls", cid)
    assert "[red]markup[green]" in shown
    assert "line\\nbreak" in shown
    assert entries["plain"]["cid"] in shown
    assert [each["name"] for each in json.loads(ok(node, "ls", f"ipfs://{cid}/deep/er/", "--json"))] == ["file"]
    assert "0 bytes" not in ok(node, "ls", f"{cid}/deep"), "what a directory holds is not known from its own row"
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
    while "another worker collects" in (said := ok(node, "gc")):  # the node itself does, every ten seconds
        pass
    assert "deleted 1 objects" in said
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


# Many files


def test_a_folder_of_more_entries_than_a_page(node: StartedNode, tmp_path: Path) -> None:
    ok(node, "add", str(_empty(tmp_path)))
    names = sorted(f"{'é' if each % 7 == 0 else ''}{each}" for each in range(1100))
    body = {"entries": [{"path": name, "cid": EMPTY_FILE} for name in names]}
    cid = node.call("POST", "/node/v1/storage/directories", body)["cid"]
    assert [each["name"] for each in json.loads(ok(node, "ls", cid, "--json"))] == names
    _, token = node.new_key(scopes=["read", "storage"])
    done = node.cli("storage", "get", cid, "-o", str(tmp_path / "copy"), PRSM_API_KEY=token)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == names
    outer = node.call("POST", "/node/v1/storage/directories", {"entries": [{"path": "in/here", "cid": cid}]})["cid"]
    ok(node, "get", f"{outer}/in/here/{names[-1]}", "-o", str(tmp_path / "one"))
    assert (tmp_path / "one").read_bytes() == b""
    assert "no entry" in refused(node, 1, "ls", f"{outer}/in/heré")


def test_a_command_waits_when_its_key_has_asked_too_much(node: StartedNode, tmp_path: Path) -> None:
    key_id, token = node.new_key(scopes=["read", "storage"], rate_limit_per_minute=120)
    source = _folder(tmp_path, 3)
    with ExitStack() as spent:
        for _ in range(120):
            spent.enter_context(_asking(node, token, "GET", "/node/v1/storage/status"))
    done = node.cli("storage", "add", str(source), PRSM_API_KEY=token)
    assert done.returncode == 0, done.stderr
    ok(node, "get", done.stdout.strip(), "-o", str(tmp_path / "copy"))
    assert tree(tmp_path / "copy") == tree(source)
    node.call("DELETE", f"/node/v1/keys/{key_id}")


def test_a_command_waits_while_others_add(node: StartedNode, tmp_path: Path) -> None:
    source = _folder(tmp_path, 2)
    with ExitStack() as slow:
        adding = [
            slow.enter_context(_asking(node, node.key, "POST", "/node/v1/storage/content", length=10)) for _ in range(4)
        ]
        with _begun(node, "add", str(source)) as command:
            time.sleep(2)
            assert command.poll() is None, command.communicate()
            for each in adding:
                each.close()
            cid, errors = command.communicate(timeout=60)
    assert command.returncode == 0, errors
    assert cid.strip() in pinned(node)


def test_an_interrupted_add_keeps_nothing(node: StartedNode, tmp_path: Path) -> None:
    before = pinned(node)
    source = _folder(tmp_path, 400)
    with _begun(node, "add", str(source)) as command:
        _until(lambda: len(_all_pinned(node)) > len(before))
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=60)
    assert command.returncode == 130, errors
    assert pinned(node) == before


def test_an_interrupted_get_leaves_nothing(node: StartedNode, tmp_path: Path) -> None:
    cid = ok(node, "add", str(_folder(tmp_path, 90))).strip()
    (tmp_path / "place").mkdir()
    _, token = node.new_key(scopes=["read", "storage"], rate_limit_per_minute=60)
    for target in ("copy", "."):
        with _begun(node, "get", cid, "-o", target, cwd=tmp_path / "place", PRSM_API_KEY=token) as command:
            _until(lambda: any((tmp_path / "place").glob(".*.unfinished")))
            command.send_signal(signal.SIGINT)
            _, errors = command.communicate(timeout=60)
        assert command.returncode == 130, errors
        assert list((tmp_path / "place").iterdir()) == []


# Places


def test_where_a_folder_is_already(node: StartedNode, tmp_path: Path) -> None:
    source = _folder(tmp_path, 3)
    cid = ok(node, "add", str(source)).strip()
    place = tmp_path / "place"
    place.mkdir()
    (place / "mine").write_text("mine")
    ok(node, "get", cid, "-o", str(place))
    assert tree(place) == {**tree(source), "mine": b"mine"}
    # Where a folder stands in the way of a file, nothing is changed.
    (place / "0").write_text("changed")
    (place / "1").unlink()
    (place / "1").mkdir()
    assert str(place / "1") in refused(node, 1, "get", cid, "-o", str(place))
    assert (place / "0").read_text() == "changed"
    assert sorted(path.name for path in place.iterdir()) == ["0", "1", "2", "mine"]
    assert "mine" in refused(node, 1, "get", cid, "-o", str(place / "mine"))
    assert (place / "mine").read_text() == "mine"
    assert str(tmp_path / "no") in refused(node, 1, "get", cid, "-o", str(tmp_path / "no/such"))


def test_a_link_is_followed_and_a_device_stays_one(node: StartedNode, tmp_path: Path) -> None:
    source = _file(tmp_path)
    cid = ok(node, "add", str(source)).strip()
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    ok(node, "get", cid, "-o", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    ok(node, "get", cid, "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()
    assert "/dev/full: No space" in refused(node, 1, "get", cid, "-o", "/dev/full")
    assert Path("/dev/full").is_char_device()


def test_a_disk_that_takes_no_more(node: StartedNode, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(100_000))
    cid = ok(node, "add", str(source)).strip()
    place = tmp_path / "place"
    place.mkdir()
    for what, target in ((cid, "copy"), (f"{cid}/large", "copy")):
        # 16 blocks of 1 KiB; Python ignores the signal, and the write fails.
        limited = f'ulimit -f 16; exec "{PROGRAM}" storage get "$0" -o "$1"'
        done = subprocess.run(
            ["bash", "-c", limited, what, str(place / target)], env=node.env, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{place / target}" in done.stderr
        assert "None" not in done.stderr
        assert list(place.iterdir()) == []
    with Path("/dev/full").open("wb") as full:
        streamed = [PROGRAM, "storage", "get", f"{cid}/large", "-o", "-"]
        done = subprocess.run(streamed, env=node.env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "prsm: standard output: No space left on device.\n")


def test_names_as_they_are_typed(node: StartedNode, tmp_path: Path) -> None:
    source = tmp_path / "-a name ☃"
    source.write_text(uuid4().hex)
    done = subprocess.run(
        [PROGRAM, "storage", "add", "--", source.name], env=node.env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "nothing but the CID where nobody looks"
    cid = done.stdout.strip()
    folder = node.call("POST", "/node/v1/storage/directories", {"entries": [{"path": source.name, "cid": cid}]})["cid"]
    for spelled in (f"{folder}/{source.name}", f"ipfs://{folder}/-a%20name%20%E2%98%83"):
        assert ok(node, "get", spelled, "-o", "-") == source.read_text()
    for command in ("pin", "verify", "rm"):
        ok(node, command, f"ipfs://{cid}")
        assert "path below" in refused(node, 2, command, f"{folder}/{source.name}")
    zero = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPBdG"
    assert "endpoint" in refused(node, 1, "get", zero)


# From afar


@pytest.fixture(scope="module")
def far(shared_node: StartedNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StartedNode, FaultProxy]]:
    """A node of its own whose only gateway is the shared node, by way of a network that can be made faulty."""
    with fault_proxy(shared_node.url, chance=0, kinds=(Trouble.HANG,), seed=1) as proxy:
        limits = {"STORAGE_BLOCK_BUDGET_S": 8, "STORAGE_OBJECT_LIMIT_BYTES": LIMIT_BYTES}
        places = {"STORAGE_GATEWAYS": proxy.url, "STORAGE_PRIVATE_HOSTS": f"127.0.0.1:{proxy.port}"}
        with started_node(tmp_path_factory.mktemp("far"), **limits, **places) as node:
            yield node, proxy


@pytest.fixture
def proxy(far: tuple[StartedNode, FaultProxy]) -> Iterator[FaultProxy]:
    yield far[1]
    far[1].chance = 0
    far[1].script.clear()


def test_a_file_below_a_folder_comes_without_the_rest(
    node: StartedNode, far: tuple[StartedNode, FaultProxy], tmp_path: Path
) -> None:
    source = _folder(tmp_path, 3)
    cid = ok(node, "add", str(source)).strip()
    ok(far[0], "get", f"{cid}/1", "-o", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == (source / "1").read_bytes()
    there = {each["cid"] for each in json.loads(ok(far[0], "ls", "--all", "--json"))}
    files = {each["name"]: each["cid"] for each in json.loads(ok(node, "ls", cid, "--json"))}
    assert there & set(files.values()) == {files["1"]}
    ok(far[0], "get", cid, "-o", str(tmp_path / "all"))
    assert tree(tmp_path / "all") == tree(source)


def test_the_first_failure_ends_an_add_and_nothing_of_it_is_kept(
    far: tuple[StartedNode, FaultProxy], tmp_path: Path
) -> None:
    before = pinned(far[0])
    source = _folder(tmp_path, 40)
    os.truncate(source / "30", LIMIT_BYTES + 1)
    assert "larger than" in refused(far[0], 1, "add", str(source))
    assert pinned(far[0]) == before


def test_standard_output_gets_what_has_come_and_an_interruption_ends_the_transfer(
    node: StartedNode, far: tuple[StartedNode, FaultProxy], proxy: FaultProxy, tmp_path: Path
) -> None:
    data = os.urandom(12 * 1024 * 1024)
    (tmp_path / "large").write_bytes(data)
    cid = ok(node, "add", str(tmp_path / "large")).strip()
    proxy.script.extend([Trouble.NONE] * 6)
    proxy.kinds, proxy.chance = (Trouble.HANG,), 1
    with _begun(far[0], "get", cid, "-o", "-", text=False) as command:
        assert command.stdout
        assert command.stdout.read(100_000) == data[:100_000]
        assert _moving(far[0]) == 1, "not all of it has come"
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=60)
    assert command.returncode == 130
    _until(lambda: _moving(far[0]) == 0)


def test_an_interrupted_pin_ends_the_transfer(
    node: StartedNode, far: tuple[StartedNode, FaultProxy], proxy: FaultProxy, tmp_path: Path
) -> None:
    cid = ok(node, "add", str(_folder(tmp_path, 3))).strip()
    proxy.kinds, proxy.chance = (Trouble.HANG,), 1
    with _begun(far[0], "pin", cid) as command:
        _until(lambda: _moving(far[0]) == 1)
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=60)
    assert (command.returncode, errors) == (130, "")
    _until(lambda: _moving(far[0]) == 0)


def test_what_is_waited_for_is_said_while_it_is(
    node: StartedNode, far: tuple[StartedNode, FaultProxy], proxy: FaultProxy, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(os.urandom(12 * 1024 * 1024))
    cid = ok(node, "add", str(tmp_path / "large")).strip()
    proxy.script.extend([Trouble.NONE] * 6)
    proxy.kinds, proxy.chance = (Trouble.HANG,), 1
    with _begun(far[0], "get", cid, "-o", str(tmp_path / "copy")) as command:
        assert command.stderr
        assert any(line.startswith("waiting: None of 1 endpoints answers") for line in command.stderr)
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=60)
    assert command.returncode == 130, errors
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_what_broke_off_is_gone_on_with(
    node: StartedNode, far: tuple[StartedNode, FaultProxy], proxy: FaultProxy, tmp_path: Path
) -> None:
    data = os.urandom(12 * 1024 * 1024)
    (tmp_path / "large").write_bytes(data)
    cid = ok(node, "add", str(tmp_path / "large")).strip()
    begun = far[0].log_path.stat().st_size
    proxy.script.extend([Trouble.NONE] * 6)
    proxy.kinds, proxy.chance = (Trouble.RESET,), 1
    with _begun(far[0], "get", cid, "-o", str(tmp_path / "copy")) as command:
        _until(lambda: b"broke off" in far[0].log_path.read_bytes()[begun:])
        proxy.chance = 0
        _, errors = command.communicate(timeout=60)
    assert command.returncode == 0, errors
    assert (tmp_path / "copy").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "large"]


@pytest.mark.parametrize("size_bytes", [100, 2 * 1024 * 1024], ids=["one-block", "several"])
def test_what_cannot_be_had_is_refused_with_the_reason(
    node: StartedNode, far: tuple[StartedNode, FaultProxy], proxy: FaultProxy, tmp_path: Path, size_bytes: int
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(size_bytes))
    cid = ok(node, "add", str(tmp_path / "file")).strip()
    proxy.kinds, proxy.chance = (Trouble.RESET,), 1
    for command in (("get", cid, "-o", str(tmp_path / "copy")), ("pin", cid)):
        said = refused(far[0], 1, *command)
        assert said.splitlines()[-1].startswith("prsm: ")
        assert cid in said
    assert not (tmp_path / "copy").exists()


def _empty(folder: Path) -> Path:
    path = folder / "nothing in it"
    path.touch()
    return path


def _folder(folder: Path, count: int) -> Path:
    source = folder / "source"
    source.mkdir()
    for each in range(count):
        (source / str(each)).write_text(uuid4().hex * 10)
    return source


def _all_pinned(node: StartedNode) -> list[str]:
    return [each["cid"] for each in node.call("GET", "/node/v1/storage/objects?limit=1000") if each["pinned"]]


def _moving(node: StartedNode) -> int:
    return node.call("GET", "/node/v1/storage/status")["transfers"]


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def _begun(
    node: StartedNode, *arguments: str, text: bool = True, cwd: Path | None = None, **env: str
) -> Iterator["subprocess.Popen[Any]"]:
    command = subprocess.Popen(
        [PROGRAM, "storage", *arguments],
        env=node.env | env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=text,
    )
    try:
        yield command
    finally:
        command.kill()
        command.communicate()


@contextmanager
def _asking(
    node: StartedNode, key: str, method: str, path: str, *, length: int = 0
) -> Iterator[http.client.HTTPConnection]:
    """A request whose body, if it has one, does not come."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    connection.putrequest(method, path)
    connection.putheader("authorization", f"Bearer {key}")
    connection.putheader("content-length", str(length))
    connection.endheaders()
    try:
        if not length:
            connection.getresponse().read()
        yield connection
    finally:
        connection.close()
