#!/usr/bin/env python3
"""Checks an exported audit log offline, with nothing of the node that kept it.

    python verify.py [FOLDER] [--log-key KEY] [--witnessed FILE]... [--witness-key KEY]

Exit code 0: the log is whole and is what was signed; 1: it is not, one sentence for each finding; 2: a file or an
argument cannot be used. Give the log's key as you know it, and a checkpoint that was kept elsewhere: whoever holds the
node's key can sign another past, but not one that others have seen.
"""

import argparse
import base64
import binascii
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from prsm.receipt_verifier import ed25519_verify

WIDTH = 256
HASH = 32
DASH = "\u2014 "


class Unusable(Exception):
    """Something cannot be read as what it should be."""


def main(arguments: list[str] | None = None) -> int:
    """The command; answers its exit code."""
    parser = argparse.ArgumentParser(description="Check an exported audit log offline.")
    parser.add_argument("folder", nargs="?", default=str(Path(__file__).parent), help="the exported folder")
    parser.add_argument("--log-key", metavar="KEY", help="the key of the log, as NAME+ID+KEY")
    parser.add_argument("--witnessed", metavar="FILE", action="append", default=[], help="a checkpoint kept elsewhere")
    parser.add_argument("--witness-key", metavar="KEY", help="the key that must have cosigned it")
    options = parser.parse_args(arguments)
    try:
        log = Log(Path(options.folder), options.log_key)
        log.check(list(map(_text, map(Path, options.witnessed))), options.witness_key)
    except (Unusable, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for finding in log.findings:
        print(finding)
    if log.findings:
        return 1
    print(f"whole: {log.size} entries under {log.signed} checkpoints of {log.name}, {len(options.witnessed)} witnessed")
    if not options.witnessed:
        print("That nobody rewrote it all with the node's key, only a checkpoint kept elsewhere can show: --witnessed.")
    return 0


class Log:
    """An exported log; ``findings`` are what is wrong with it."""

    def __init__(self, folder: Path, key: str | None) -> None:
        own = _text(folder / "log.key").strip()
        self.findings: list[str] = []
        if key is not None and key.strip() != own:
            self.findings.append("The log was exported with another key than the one given.")
        self.name, self.key_id, self.key = read_key(key or own)
        self.folder = folder
        self.size = 0
        self.signed = 0
        self._covered = 0
        self._edge: list[bytes] = []
        self._levels: list[list[bytes]] = []

    def check(self, witnessed: list[str], witness_key: str | None) -> None:
        """Hash every entry, and hold tiles and checkpoints to that."""
        roots: dict[int, list[tuple[str, bytes]]] = {}
        for line in _text(self.folder / "checkpoints.jsonl").splitlines():
            size, note = read_line(line)
            self._expect(f"The checkpoint of {size} entries", note, None, roots)
            self.signed += 1
        for text in witnessed:
            self._expect("The witnessed checkpoint", text, witness_key, roots)
        self._reach(roots)
        for entry in self._entries():
            self._add(hashlib.sha256(b"\x00" + entry).digest())
            self._reach(roots)
        for level, hashes in enumerate(self._levels):
            for number in range(0, -(-len(hashes) // WIDTH)):
                self._compare(level, number, b"".join(hashes[number * WIDTH : (number + 1) * WIDTH]))
        for size, expected in sorted(roots.items()):
            for what, _ in expected:
                self.findings.append(f"{what} is over {size} entries; the log has {self.size}.")
        if self.size > self._covered:
            self.findings.append(f"The last checkpoint is over {self._covered} entries; the log has {self.size}.")

    def _expect(self, what: str, text: str, witness: str | None, roots: dict[int, list[tuple[str, bytes]]]) -> None:
        body, lines = read_note(text)
        origin, size, root = body.split("\n")[:3]
        if origin != self.name:
            self.findings.append(f"{what} is of the log {origin}, this is {self.name}.")
        if not self._signed(body, lines):
            self.findings.append(f"{what} is not signed by the log's key.")
        if witness is not None and not cosigned(body, lines, witness):
            self.findings.append(f"{what} is not cosigned by the witness.")
        self._covered = max(self._covered, int(size))
        roots.setdefault(int(size), []).append((what, _base64(root)))

    def _signed(self, body: str, lines: list[tuple[str, bytes]]) -> bool:
        return any(
            name == self.name and raw[:4] == self.key_id and ed25519_verify(self.key, raw[4:], body.encode())
            for name, raw in lines
        )

    def _entries(self) -> Iterator[bytes]:
        number = 0
        while path := _tile(self.folder / "tile" / "entries", number):
            data, place = path.read_bytes(), 0
            while place < len(data):
                end = place + 2 + int.from_bytes(data[place : place + 2], "big")
                if end > len(data):
                    raise Unusable(f"{path} ends within an entry.")
                yield data[place + 2 : end]
                place = end
            number += 1

    def _add(self, leaf: bytes) -> None:
        self._keep(0, leaf)
        full = self.size
        while full & 1:
            leaf = hashlib.sha256(b"\x01" + self._edge.pop() + leaf).digest()
            full >>= 1
        self._edge.append(leaf)
        self.size += 1

    def _keep(self, level: int, value: bytes) -> None:
        while len(self._levels) <= level:
            self._levels.append([])
        hashes = self._levels[level]
        hashes.append(value)
        if len(hashes) % WIDTH == 0:
            part = hashes[-WIDTH:]
            while len(part) > 1:
                part = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(part[::2], part[1::2], strict=True)]
            self._keep(level + 1, part[0])

    def _reach(self, roots: dict[int, list[tuple[str, bytes]]]) -> None:
        if self.size not in roots:
            return
        root = hashlib.sha256(b"").digest()
        for place, left in enumerate(reversed(self._edge)):
            root = left if place == 0 else hashlib.sha256(b"\x01" + left + root).digest()
        for what, signed in roots.pop(self.size):
            if signed != root:
                self.findings.append(f"{what} has another root than the log's first {self.size} entries.")

    def _compare(self, level: int, number: int, hashes: bytes) -> None:
        path = _tile(self.folder / "tile" / str(level), number)
        if path is None or path.read_bytes() != hashes:
            self.findings.append(f"Tile {number} of level {level} does not hold the hashes of the entries.")


def read_key(text: str) -> tuple[str, bytes, bytes]:
    """Name, id and Ed25519 key of NAME+ID+KEY."""
    name, _, rest = text.strip().partition("+")
    key_id, _, material = rest.partition("+")
    raw = _base64(material)
    if len(raw) != HASH + 1 or hashlib.sha256(f"{name}\n".encode() + raw).hexdigest()[:8] != key_id:
        raise Unusable(f"{text[:80]!r} is no key of a log or a witness.")
    return name, bytes.fromhex(key_id), raw[1:]


def read_line(line: str) -> tuple[int, str]:
    """A checkpoint as it is kept: of how many entries, and its note."""
    try:
        kept = json.loads(line)
        return int(kept["size"]), str(kept["note"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Unusable("A line of checkpoints.jsonl is no checkpoint.") from None


def read_note(text: str) -> tuple[str, list[tuple[str, bytes]]]:
    """The text of a signed note, and its lines of signatures: who, and key id with signature."""
    body, separator, tail = text.rpartition("\n\n")
    parts = [line.removeprefix(DASH).split(" ") for line in tail.splitlines()]
    if not separator or any(len(part) != 2 for part in parts) or len(body.split("\n")) < 3:
        raise Unusable("A checkpoint is no signed note.")
    return body + "\n", [(name, _base64(value)) for name, value in parts]


def cosigned(body: str, lines: list[tuple[str, bytes]], witness: str) -> bool:
    """Whether a line is the witness's cosignature (C2SP tlog-cosignature)."""
    name, key_id, key = read_key(witness)
    for who, raw in lines:
        if (who, raw[:4]) == (name, key_id):
            message = f"cosignature/v1\ntime {int.from_bytes(raw[4:12], 'big')}\n{body}".encode()
            if ed25519_verify(key, raw[12:], message):
                return True
    return False


def _tile(folder: Path, number: int) -> Path | None:
    """The file of a tile: the full one, or the widest partial one."""
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03d}")
    full = folder.joinpath(*reversed(groups))
    if full.is_file():
        return full
    partial = full.with_name(full.name + ".p")
    return max(partial.iterdir(), key=lambda path: int(path.name), default=None) if partial.is_dir() else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Unusable("What should be base64 is not.") from None


if __name__ == "__main__":
    sys.exit(main())
