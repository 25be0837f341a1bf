"""Every evidence that ``docs/controls.md`` names exists; every command of it runs on a served node."""

import asyncio
import os
import re
import shlex
from pathlib import Path

from tests.support.served_node import PRSM, serve_node

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "controls.md").read_text()
ROWS = [line for line in DOCUMENT.splitlines() if line.startswith("| ") and not line.startswith("|---")]
EVIDENCE = [row.rstrip("| ").rsplit("|", 1)[1].strip() for row in ROWS]


def test_every_control_has_evidence_or_is_said_to_be_the_operators() -> None:
    for row, evidence in zip(ROWS, EVIDENCE, strict=True):
        if evidence == "evidence":
            continue
        if evidence == "-":
            assert re.search(r"the (operator|provider|deployer|caller|safety room)'s", row), row
        else:
            assert re.fullmatch(r"`(prsm [a-z].*|tests/.*\.py)`", evidence), row
    assert len(EVIDENCE) > 35


def test_every_test_that_is_named_exists() -> None:
    for evidence in EVIDENCE:
        if evidence.startswith("`tests/"):
            assert (ROOT / evidence.strip("`")).is_file(), evidence


async def test_every_command_runs(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    home = tmp_path / "home"
    async with serve_node(home, postgres_url, valkey_url) as served:
        await served.node.audit.sequencer.drain()
        env = {name: value for name, value in os.environ.items() if not name.startswith("PRSM_")}
        env |= {"PRSM_HOME": str(home), "PRSM_PORT": str(served.node.settings.port), "PRSM_API_KEY": served.admin}
        commands = sorted({evidence.strip("`") for evidence in EVIDENCE if evidence.startswith("`prsm")})
        assert len(commands) > 12
        for command in commands:
            process = await asyncio.create_subprocess_exec(
                PRSM, *shlex.split(command)[1:], env=env, cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, err = await process.communicate()
            assert process.returncode == 0, (command, out.decode(), err.decode())
            assert out or command in ("prsm receipt list",), command
