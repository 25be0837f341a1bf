"""What goes wrong on this computer is one sentence and an exit code; no node is needed for that."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def prsm(
    home: Path, *arguments: str, stdout: int = subprocess.PIPE, under: tuple[str, ...] = (), **env: str
) -> tuple[int, str]:
    """The exit code and what was said to the person."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRSM_")}
    done = subprocess.run(
        [*under, sys.executable, "-m", "prsm", *arguments],
        env={**kept, "PRSM_HOME": str(home), "PRSM_API_KEY": "prsm_x", "PRSM_PORT": "1", **env},
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize("command", ["config", "version"])
def test_a_full_standard_output_is_said_in_a_sentence(tmp_path: Path, command: str) -> None:
    with open("/dev/full", "wb") as full:
        assert prsm(tmp_path, command, stdout=full.fileno()) == (1, "prsm: No space left on device.")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, said = prsm(tmp_path, "alerts", "dashboards", str(tmp_path / "file"))
    assert (code, said) == (1, f"prsm: {tmp_path / 'file'}: File exists.")


def test_a_user_without_a_home_is_asked_to_name_one(tmp_path: Path) -> None:
    code, said = prsm(tmp_path, "config", PRSM_HOME="~nobody-of-this-name/prsm")
    assert code == 2
    assert said.startswith("prsm: The setting home is '~nobody-of-this-name/prsm' (environment PRSM_HOME); it must be")


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs root and setpriv")
def test_a_home_of_somebody_else_is_refused_in_a_sentence(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 12345, 12345)
    blind = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
    code, said = prsm(home, "config", under=blind)
    assert (code, said) == (2, f"prsm: The node home {home} cannot be looked into: Permission denied.")


@pytest.mark.parametrize("what", ["ledger", "audit"])
def test_where_no_node_ever_was_nothing_is_proven_nor_made(tmp_path: Path, what: str) -> None:
    code, said = prsm(tmp_path / "home", what, "verify")
    assert code == 3
    assert said.endswith(f"and none was ever started in {tmp_path / 'home'}. Start it: prsm up.")
    assert not (tmp_path / "home").exists()


def test_what_is_no_receipt_is_said_with_both_ways_to_name_one(tmp_path: Path) -> None:
    remedy = "Name the file of a receipt, or a receipt's id: prsm receipt list."
    missing = str(tmp_path / "missing.json")
    said = f"prsm: There is no file {missing}, nor is that the id of a receipt. {remedy}"
    assert prsm(tmp_path, "receipt", "verify", missing) == (2, said)
    assert prsm(tmp_path, "receipt", "verify", str(tmp_path)) == (2, f"prsm: {tmp_path} is a folder. {remedy}")


def test_a_request_that_cannot_be_read_disproves_no_receipt(tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_text("{}")
    code, said = prsm(tmp_path, "receipt", "verify", str(tmp_path / "receipt.json"), "--request", "/nope")
    assert (code, said) == (2, "/nope cannot be read: No such file or directory.")


def test_ctrl_c_at_a_question_is_a_quiet_end(tmp_path: Path) -> None:
    asked = subprocess.Popen(
        [sys.executable, "-m", "prsm", "--home", str(tmp_path), "privacy", "erase", "somebody"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert asked.stdout is not None
    begun = b""
    while b"[y/N]" not in begun:
        begun += asked.stdout.read(1) or pytest.fail("it asked nothing")
    asked.send_signal(signal.SIGINT)
    _, said = asked.communicate(timeout=30)
    assert (asked.returncode, said) == (130, b"")


@pytest.mark.parametrize(
    "command",
    [
        ("train", "run", "/nope"),
        ("train", "gate", "sums@1", "--policy", "/nope"),
        ("safety", "policy", "node", "--file", "/nope"),
    ],
)
def test_a_file_that_is_not_there_is_named_once(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert prsm(tmp_path, *command) == (2, "prsm: /nope cannot be read: No such file or directory.")


@pytest.mark.parametrize("question", ["", " \n", "-"])
def test_an_empty_question_is_not_asked(tmp_path: Path, question: str) -> None:
    assert prsm(tmp_path, "ask", question) == (2, "prsm: The question is empty.")


def test_an_export_that_breaks_off_leaves_nothing_in_the_way_of_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        assert prsm(tmp_path / "home", "audit", "export", str(tmp_path / "log"))[0] == 3
    assert not list(tmp_path.glob("*log*"))
