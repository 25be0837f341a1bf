"""What a disk may have after the power went, for every moment of a program that strace has watched.

The model grants no more than POSIX does. Bytes are there once their file was synced after they were written; a name,
once its folder was; a folder, once the one above it was. Whatever else was done before may be there or not, each name
by itself and in any order. Names outside ``judged`` are left as they were last, to keep the number of states small.
"""

import itertools
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "openat,close,dup,mkdir,rename,unlink,write,pwrite64,ftruncate,fallocate,fsync,fdatasync"
_LINE = re.compile(r"^(\d+) +(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+)")
_MOST_STATES = 64


@dataclass(eq=False)
class Inode:
    """A file or folder; ``synced`` is what of a file is on the disk for certain."""

    folder: bool
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    names: "dict[str, Inode]" = field(default_factory=dict)


@dataclass(frozen=True)
class Rename:
    """A name that was made, or with no inode taken away, and may not be on the disk yet."""

    folder: Inode
    name: str
    inode: Inode | None


class Disk:
    """The disk under ``root``, fed with what strace has written; ``said`` is what the program wrote to its errors."""

    def __init__(self, root: Path, judged: str) -> None:
        self.root = root
        self.said: list[str] = []
        self._judged = str(root / judged)
        self._top = Inode(folder=True)
        self._inodes: dict[str, Inode] = {str(root): self._top}
        self._durable: dict[Inode, dict[str, Inode]] = {self._top: {}}
        self._pending: list[Rename] = []
        self._open: dict[int, Inode] = {}
        self._unfinished: dict[str, tuple[str, bytes | None, list[Rename]]] = {}

    def moments(self, trace: str) -> Iterator[str]:
        """Take a process's trace; answers after each call that did something, with the call."""
        self._open = {}
        self._unfinished = {}
        for line in trace.splitlines():
            match = _LINE.match(line)
            call = self._whole_call(match[1], match[2]) if match else None
            if call is not None and self._take(*call):
                yield f"{call[0]} {call[1]}"

    def states(self, seed: int) -> "Iterator[dict[str, Inode]]":
        """The names, by path, that may be found when the power goes now: every choice, or many at random."""
        count = len(self._pending)
        choices: Iterator[Sequence[bool]] = itertools.product((False, True), repeat=count)
        if 2**count > _MOST_STATES:
            draw = random.Random(seed)
            choices = ([draw.random() < 0.5 for _ in range(count)] for _ in range(_MOST_STATES))
        for kept in choices:
            names = {folder: dict(inner) for folder, inner in self._durable.items()}
            for change, is_kept in zip(self._pending, kept, strict=True):
                if is_kept:
                    _apply(names, change)
            yield dict(_paths(self._top, names, ""))

    def materialize(self, state: "dict[str, Inode]", into: Path) -> None:
        """Make such a state a folder; what was not synced of a file is lost, its length apart."""
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        for path, inode in state.items():
            if inode.folder:
                (into / path).mkdir()
            else:
                (into / path).write_bytes(_lost(inode))

    def _whole_call(self, pid: str, text: str) -> tuple[str, str, int, tuple[bytes | None, list[Rename]] | None] | None:
        """A call that ended, also where strace has cut it in two; a sync is worth what was there when it began."""
        begun = None
        if text.endswith("<unfinished ...>"):
            head = text.removesuffix("<unfinished ...>").rstrip()
            closing = re.match(r"close\((\d+)", head)
            if closing:  # from here on another thread may be given the number
                self._open.pop(int(closing[1]), None)
                head = ""
            self._unfinished[pid] = (head, *self._before_sync(head))
            return None
        if text.startswith("<..."):
            head, *begun = self._unfinished.pop(pid)
            text = head + text.partition("resumed>")[2]
        match = _CALL.match(text)
        if match is None or int(match[3]) < 0:
            return None
        return match[1], match[2], int(match[3]), tuple(begun) if begun else None  # type: ignore[return-value]

    def _before_sync(self, head: str) -> tuple[bytes | None, list[Rename]]:
        name, _, arguments = head.partition("(")
        inode = self._open.get(int(re.match(r"\d+", arguments)[0])) if "sync" in name else None  # type: ignore[index]
        return (bytes(inode.data) if inode else None), list(self._pending)

    def _take(self, name: str, arguments: str, answer: int, begun: tuple[bytes | None, list[Rename]] | None) -> bool:
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        numbers = [int(number) for number in re.findall(r"(?<![\w\"\\])\d+(?=[,)]|$)", arguments)]
        if name in ("openat", "mkdir", "rename", "unlink"):
            return self._name(name, [text.decode() for text in texts], arguments, answer)
        fd = numbers[0]
        if name == "write" and fd == 2:
            self.said += texts[0].decode().splitlines()
            return True
        inode = self._open.get(fd)
        if inode is None:
            return False
        match name:
            case "close":
                del self._open[fd]
                return False
            case "dup":
                self._open[answer] = inode
                return False
            case "fsync" | "fdatasync":
                self._sync(inode, begun)
            case "write":
                inode.data += texts[0]
            case "pwrite64":
                end = numbers[-1] + len(texts[0])
                inode.data.extend(bytes(max(0, end - len(inode.data))))
                inode.data[numbers[-1] : end] = texts[0]
            case _:  # ftruncate, fallocate
                length = numbers[-1] if name == "ftruncate" else max(len(inode.data), numbers[-1] + numbers[-2])
                inode.data = inode.data[:length] + bytes(max(0, length - len(inode.data)))
        return True

    def _name(self, name: str, paths: list[str], arguments: str, answer: int) -> bool:
        path = paths[0]
        if not path.startswith(f"{self.root}") or path == str(self.root.parent):
            return False
        if name == "openat":
            inode = self._inodes.get(path)
            if inode is None:
                inode = self._made(path, Inode(folder=False))
            elif "O_TRUNC" in arguments:
                inode.data.clear()
            self._open[answer] = inode
            return "O_CREAT" in arguments
        if name == "mkdir":
            self._made(path, Inode(folder=True))
        elif name == "rename":
            inode = self._inodes.pop(path)
            self._made(paths[1], inode)
            self._changed(path, None)
        elif path in self._inodes:
            del self._inodes[path]
            self._changed(path, None)
        return True

    def _made(self, path: str, inode: Inode) -> Inode:
        self._inodes[path] = inode
        if inode.folder:
            self._durable[inode] = {}
        self._changed(path, inode)
        return inode

    def _changed(self, path: str, inode: Inode | None) -> None:
        above, _, name = path.rpartition("/")
        change = Rename(self._inodes[above], name, inode)
        judged = path.startswith(self._judged) or (inode is not None and inode.folder)
        if judged:
            self._pending.append(change)
        else:
            _apply(self._durable, change)

    def _sync(self, inode: Inode, begun: tuple[bytes | None, list[Rename]] | None) -> None:
        if not inode.folder:
            inode.synced = bytes(inode.data) if begun is None or begun[0] is None else begun[0]
            return
        there = self._pending if begun is None else begun[1]
        for change in [change for change in there if change.folder is inode and change in self._pending]:
            _apply(self._durable, change)
            self._pending.remove(change)


def traced(argv: Sequence[str], output: Path, *inject: str) -> str:
    """Run a program under strace; its trace, whether it ended or was killed by ``inject``."""
    strace = ["strace", "-f", "-xx", "-s", "100000", "-e", f"trace={CALLS}", "-o", str(output)]
    for each in inject:
        strace += ["-e", f"inject={each}"]
    done = subprocess.run([*strace, *argv], capture_output=True, text=True, check=False)
    if done.returncode and not inject:
        raise RuntimeError(done.stderr)
    return output.read_text()


def can_trace() -> bool:
    """Whether strace is here and may watch a process."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def _apply(names: "dict[Inode, dict[str, Inode]]", change: Rename) -> None:
    if change.inode is None:
        names[change.folder].pop(change.name, None)
    else:
        names[change.folder][change.name] = change.inode


def _paths(folder: Inode, names: "dict[Inode, dict[str, Inode]]", above: str) -> "Iterator[tuple[str, Inode]]":
    for name, inode in names[folder].items():
        yield above + name, inode
        if inode.folder:
            yield from _paths(inode, names, f"{above}{name}/")


def _lost(inode: Inode) -> bytes:
    return inode.synced if inode.synced == inode.data else bytes(len(inode.data))
