"""What goes wrong on this computer is one sentence and an exit code; no node is needed for that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def prsm(home: Path, *arguments: str, stdout: int = subprocess.PIPE, **env: str) -> tuple[int, str]:
    """The exit code and what was said to the person."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRSM_")}
    done = subprocess.run(
        [sys.executable, "-m", "prsm", *arguments],
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
