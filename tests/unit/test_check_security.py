"""The security check finds what it is there to find; an index that is away is told, not passed over."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_security.py"


def check(folder: Path, only: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "--only", only]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.bandit]\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("postgresql://prsm:" + "Zq8vTr2mLw" + "@db.example/prsm", "Basic Auth"),
        ("-----BEGIN " + "OPENSSH PRIVATE KEY-----", "Private Key"),
        ("key = 'AKIA" + "QX3WZ7NRT5LMVBJD'", "AWS"),
    ],
)
def test_a_secret_in_a_tracked_file_is_found_and_an_example_is_not(repository: Path, text: str, kind: str) -> None:
    (repository / "notes.md").write_text(f"first\n{text}\n")
    (repository / "example.md").write_text("postgresql://user:password@host/prsm\n")
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    found = check(repository, "secrets")
    assert found.returncode == 1
    assert found.stdout.startswith("notes.md:2: ")
    assert kind in found.stdout
    assert "example.md" not in found.stdout


def test_unsafe_code_is_found(repository: Path) -> None:
    (repository / "src" / "bad.py").write_text("import pickle\n\npickle.loads(b'')\n")
    found = check(repository, "code")
    assert (found.returncode, "bad.py:3" in found.stdout) == (1, True)
    (repository / "src" / "bad.py").write_text("VALUE = 1\n")
    assert check(repository, "code").returncode == 0
