"""npm's ipfs-unixfs-importer, ipfs-unixfs-exporter and ipfs-car, really run, to compare our answers with theirs."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.npm import install, node

_FOLDER = Path(__file__).parent / "oracles"
_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Given:
    """A file to import: its path, and its bytes as a file or a short text."""

    path: str
    source: Path | None = None
    text: str = ""

    def as_json(self) -> dict[str, str]:
        """As ``importer.mjs`` reads it."""
        return (
            {"path": self.path, "text": self.text}
            if self.source is None
            else {"path": self.path, "source": str(self.source)}
        )


@dataclass(frozen=True, slots=True)
class Exported:
    """An entry that ipfs-unixfs-exporter found, with its bytes if it is a file."""

    path: str
    cid: str
    type: str
    data: bytes | None


def import_files(
    profile: str, files: Sequence[Given], *, wrap: bool = False, car: Path | None = None
) -> tuple[str, int]:
    """ipfs-unixfs-importer's CID of ``files`` and the bytes of its DAG; ``car`` gets its blocks."""
    asked = {"profile": profile, "wrap": wrap, "files": [file.as_json() for file in files]}
    answer = _script("importer.mjs", asked | ({"car": str(car)} if car else {}))
    return answer["root"], answer["size"]


def export_car(car: Path, folder: Path) -> tuple[str, list[Exported]]:
    """What @ipld/car and ipfs-unixfs-exporter read out of an archive: its root and all entries under it."""
    answer = _script("exporter.mjs", {"car": str(car), "folder": str(folder)})
    entries: list[Exported] = []
    for number, entry in enumerate(answer["entries"]):
        file = folder / str(number)
        data = file.read_bytes() if entry["type"] in ("file", "raw") else None
        entries.append(Exported(entry["path"], entry["cid"], entry["type"], data))
    return answer["root"], entries


def decode_blocks(blocks: Sequence[bytes]) -> list[dict[str, Any] | None]:
    """What @ipld/dag-pb and ipfs-unixfs read in each block; None where they refuse it."""
    return _script("decoder.mjs", {"blocks": [block.hex() for block in blocks]})["nodes"]


def ipfs_car(*arguments: str | Path) -> str:
    """Run the program ipfs-car; answers what it printed."""
    return _run([install(_FOLDER) / "ipfs-car" / "bin.js", *arguments], "").strip()


def _script(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    install(_FOLDER)
    return json.loads(_run([_FOLDER / name], json.dumps(asked)))


def _run(arguments: Sequence[str | Path], given: str) -> str:
    done = subprocess.run(
        [node(), *arguments], input=given, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
