"""What else the bytes of a file could be taken for: formats that run code or hide files, recognised and never opened.

A name or an ending is never asked. ``disguise`` is for files that are otherwise valid: weights may at the same time be
an archive (read from its end), an HDF5 file (found at an offset) or a pickle (whose opcodes can step over a header).
"""

import pickletools
import re
from typing import Final

from prsm.data_layer.formats.model_contents import FileBytes

RUNNING_PICKLE: Final = "a Python pickle that runs code"

_SIGNATURES: Final = (
    (b"PK\x03\x04", "a ZIP archive (PyTorch, NumPy .npz, Keras and Java files are such)"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program or shared object (ELF)"),
    (b"MZ", "a Windows program"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"),
    (b"\xca\xfe\xba\xbe", "a macOS program or Java class"),
    (b"#!", "a script"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"\xfd7zXZ", "xz-compressed"),
    (b"(\xb5/\xfd", "zstd-compressed"),
    (b'\x04"M\x18', "LZ4-compressed"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"ggml", "a GGML file, the unversioned predecessor of GGUF"),
    (b"lmgg", "a GGML file, the unversioned predecessor of GGUF"),
    (b"tjgg", "a GGJT file, a predecessor of GGUF"),
    (b"fmgg", "a GGMF file, a predecessor of GGUF"),
    (b"FUGG", "a GGUF file in the wrong byte order"),
    (b"PAR1", "a Parquet table"),
    (b"%PDF", "a PDF document"),
    (b"<", "HTML or XML (perhaps an error page of the server it came from)"),
    (b"version https://git-lfs", "a Git LFS pointer, which only names the weights"),
)
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP_END, _ZIP_ENTRY, _ZIP64_LOCATOR = b"PK\x05\x06", b"PK\x01\x02", b"PK\x06\x07"
_ZIP_TAIL_BYTES = 65_535 + 22
_TAR_MAGIC_AT, _TAR_MAGIC = 257, b"ustar"


def kind_of(head: bytes) -> str:
    """What a file that is no model looks like from its first bytes, in words for a person."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return "a tar archive"
    if not head:
        return "empty"
    if head[0] == 0x08 and len(head) > 2 and head[2] in b"\x12\x1a\x3a":
        return "a protocol buffer (ONNX perhaps, whose weights may lie at any path)"
    return "of no format that is known here"


def disguise(file: FileBytes) -> str | None:
    """What a reader of another format would make of the file, or None where it is only what it seems."""
    offset = 0
    while offset < file.size_bytes:  # HDF5 looks for its superblock at 0, 512, 1024, 2048, ...
        if file.read(offset, len(_HDF5)) == _HDF5:
            return "an HDF5 file"
        offset = max(512, offset * 2)
    if file.read(_TAR_MAGIC_AT, len(_TAR_MAGIC)) == _TAR_MAGIC:
        return "a tar archive"
    if _ends_as_zip(file):
        return "a ZIP archive"
    return RUNNING_PICKLE if runs_as_pickle(file) else None


def runs_as_pickle(file: FileBytes) -> bool:
    """Whether unpickling the file would import and call something. Nothing is unpickled to find out."""
    return _PickleWalk(file).runs_code()


def _ends_as_zip(file: FileBytes) -> bool:
    start = max(0, file.size_bytes - _ZIP_TAIL_BYTES)
    tail = file.read(start, _ZIP_TAIL_BYTES)
    for match in re.finditer(re.escape(_ZIP_END), tail):
        at = match.start()
        directory_bytes = int.from_bytes(tail[at + 12 : at + 16], "little")
        # The signature alone comes up by chance in one of 65,000 weight files; with either of these beside it, never.
        if file.read(max(0, start + at - directory_bytes), 4) == _ZIP_ENTRY:
            return True
        if file.read(max(0, start + at - 20), 4) == _ZIP64_LOCATOR:
            return True
    return False


_OPCODES: Final = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_IMPORTS: Final = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_CALLS: Final = frozenset({"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"})
_ENDS: Final = frozenset({"STOP", "PERSID", "BINPERSID"})  # a plain unpickler knows no persistent ids
_DOTTED_NAME = re.compile(rb"[A-Za-z_][\w.]*\r?")
_MAX_OPCODES = 20_000
_MAX_SHORT_LINE_BYTES = 8_192  # more digits than this Python refuses to read
_MAX_LINE_BYTES = 4 * 1024 * 1024


class _PickleWalk:
    """Follows pickle opcodes by their lengths and stack effects alone; builds and looks up nothing."""

    def __init__(self, file: FileBytes) -> None:
        self._file = file
        self._at = 0
        self._stack: list[str] = []

    def runs_code(self) -> bool:
        """Whether an unpickler would import something and call it; a walk without end is taken for one that does."""
        imported = False
        for _ in range(_MAX_OPCODES):
            opcode = _OPCODES.get(int.from_bytes(self._file.read(self._at, 1) or b"\xff"))
            if opcode is None or opcode.name in _ENDS:
                return False
            self._at += 1
            line = b""
            if opcode.arg is None or opcode.arg.n >= 0:
                self._at += opcode.arg.n if opcode.arg else 0
            elif opcode.arg.n != pickletools.UP_TO_NEWLINE:
                self._skip_counted(opcode.arg.n)
            elif opcode.name in ("STRING", "UNICODE"):
                if not self._skip_text():
                    return True
            elif (line := self._lines(2 if opcode.name in ("GLOBAL", "INST") else 1)) is None:
                return False
            if line and opcode.name in _IMPORTS and not all(map(_DOTTED_NAME.fullmatch, line.split(b"\n"))):
                return False
            if not self._apply(opcode):
                return False
            imported |= opcode.name in _IMPORTS
            if imported and opcode.name in _CALLS:
                return True
        return True

    def _skip_counted(self, kind: int) -> None:
        """Pass an argument that is preceded by its length, in 1, 4 or 8 bytes."""
        width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(kind, 4)
        self._at += width + int.from_bytes(self._file.read(self._at, width), "little")

    def _lines(self, count: int) -> bytes | None:
        """The next short lines, or None where there are none."""
        lines = self._file.read(self._at, _MAX_SHORT_LINE_BYTES).split(b"\n", count)
        if len(lines) <= count:
            return None
        found = b"\n".join(lines[:count])
        self._at += len(found) + 1
        return found

    def _skip_text(self) -> bool:
        """Pass a text up to its line's end; False where it is suspiciously long."""
        end = min(self._file.size_bytes, self._at + _MAX_LINE_BYTES)
        while self._at < end:
            piece = self._file.read(self._at, 65_536)
            place = piece.find(b"\n")
            self._at += len(piece) if place < 0 else place + 1
            if place >= 0:
                return True
        return self._at >= self._file.size_bytes

    def _apply(self, opcode: pickletools.OpcodeInfo) -> bool:
        """Do what the opcode does to the stack's height; False where a real stack would underflow."""
        before = [item.name for item in opcode.stack_before]
        if "mark" in before:
            if "mark" not in self._stack:
                return False
            while self._stack.pop() != "mark":
                pass
            before = before[: before.index("mark")]
        kept = len(self._stack) - len(before)
        if kept < 0 or "mark" in self._stack[kept:]:
            return False
        self._stack[kept:] = ["mark" if item.name == "mark" else "" for item in opcode.stack_after]
        return True
