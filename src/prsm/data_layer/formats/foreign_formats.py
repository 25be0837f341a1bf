"""What else the bytes of a file could be taken for: formats that run code or hide files, recognised and never opened.

A name or an ending is never asked. ``disguise`` is for files that are otherwise valid: weights may at the same time be
an archive (read from its end), an HDF5 file (found at an offset) or a pickle (whose opcodes can step over a header).
Where readers differ in what they accept, a file is taken for what the most lenient one makes of it.
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
    (b"GGUF", "a GGUF file"),
    (b"PAR1", "a Parquet table"),
    (b"%PDF", "a PDF document"),
)
_INSTEAD: Final = (
    (b"<", "HTML or XML (perhaps an error page of the server it came from)"),
    (b"version https://git-lfs", "a Git LFS pointer, which only names the file"),
)
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP_END, _ZIP_ENTRY, _ZIP64_LOCATOR = b"PK\x05\x06", b"PK\x01\x02", b"PK\x06\x07"
_ZIP_TAIL_BYTES = 65_535 + 22
_TAR_MAGIC_AT, _TAR_MAGIC = 257, b"ustar"


def foreign(head: bytes) -> str | None:
    """Which other format the first bytes are of, in words for a person; None where they are of none that is known."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if head[4:9] == b"\0\0\0\0{":
        return "a safetensors file"
    if head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return "a tar archive"
    return None


def instead(head: bytes) -> str | None:
    """What was left in the place of the file that its name tells of: an error page, a pointer; None for neither."""
    return next((kind for signature, kind in _INSTEAD if head.startswith(signature)), None)


def kind_of(head: bytes) -> str:
    """What a file that is no model looks like from its first bytes, in words for a person."""
    if kind := foreign(head) or instead(head):
        return kind
    if not head:
        return "empty"
    if head[0] == 0x08 and len(head) > 2 and head[2] in b"\x12\x1a\x3a":
        return "a protocol buffer (ONNX perhaps, whose weights may lie at any path)"
    return "of no format that is known here"


def may_unpickle(file: FileBytes, head: bytes) -> bool:
    """Whether the file is a pickle, or an archive of the kind in which frameworks keep pickles."""
    kind = foreign(head) or ""
    return "pickle" in kind or "ZIP" in kind or "NumPy" in kind or runs_as_pickle(file)


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
        directory_at = int.from_bytes(tail[at + 16 : at + 20], "little")
        # The signature alone comes up by chance in one of 65,000 weight files; with one of these as well, never.
        # Python looks for the directory right before its end record, others (miniz, in PyTorch) where that says it is.
        if _ZIP_ENTRY in (file.read(max(0, start + at - directory_bytes), 4), file.read(directory_at, 4)):
            return True
        if file.read(max(0, start + at - 20), 4) == _ZIP64_LOCATOR:
            return True
    return False


_OPCODES: Final = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_IMPORTS: Final = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_CALLS: Final = frozenset({"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"})
_TEXTS: Final = frozenset({"STRING", "UNICODE", "PERSID"})
_NAME_LINE = re.compile(rb"[A-Za-z_][\w.]*\r?")
_NUMBER_LINE = re.compile(rb"[\s\w.+-]*")
_MAX_OPCODES = 20_000
_READ_BYTES = 8_192
_MAX_LINES_BYTES = 64 * 1024 * 1024


class _Endless(Exception):
    """The arguments of the opcodes are longer together than any reader should follow."""


class _PickleWalk:
    """Follows pickle opcodes by their lengths and stack effects alone; builds and looks up nothing.

    Several pickles one after another count as one, as ``torch.load`` and ``joblib`` read them, and so do references
    to objects outside (``PERSID``), which both resolve.
    """

    def __init__(self, file: FileBytes) -> None:
        self._file = file
        self._at = 0
        self._stack: list[str] = []
        self._lines_bytes = 0

    def runs_code(self) -> bool:
        """Whether an unpickler would import something and call it; a walk without end is taken for one that does."""
        imported = False
        for _ in range(_MAX_OPCODES):
            opcode = _OPCODES.get(int.from_bytes(self._file.read(self._at, 1) or b"\xff"))
            if opcode is None:
                return False
            self._at += 1
            try:
                if not self._pass_argument(opcode) or not self._apply(opcode):
                    return False
            except _Endless:
                return True
            imported |= opcode.name in _IMPORTS
            if imported and opcode.name in _CALLS:
                return True
        return True

    def _pass_argument(self, opcode: pickletools.OpcodeInfo) -> bool:
        """Go to behind the opcode's argument; False where that is none that an unpickler takes."""
        if opcode.arg is None:
            return True
        if opcode.arg.n >= 0:
            self._at += opcode.arg.n
        elif opcode.arg.n != pickletools.UP_TO_NEWLINE:
            self._skip_counted(opcode.arg.n)
        elif opcode.name in _IMPORTS:  # two lines of names
            return self._pass_line(_NAME_LINE) and self._pass_line(_NAME_LINE)
        else:
            return self._pass_line(None if opcode.name in _TEXTS else _NUMBER_LINE)
        return True

    def _skip_counted(self, kind: int) -> None:
        """Pass an argument that is preceded by its length, in 1, 4 or 8 bytes."""
        width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(kind, 4)
        self._at += width + int.from_bytes(self._file.read(self._at, width), "little")

    def _pass_line(self, wanted: re.Pattern[bytes] | None) -> bool:
        """Pass a line of any length, whose first bytes must be of a form; False where there is none."""
        is_first = True
        while piece := self._file.read(self._at, _READ_BYTES):
            line, newline, _ = piece.partition(b"\n")
            if is_first and wanted and not wanted.fullmatch(line):
                return False
            is_first = False
            self._at += len(line) + len(newline)
            self._lines_bytes += len(line)
            if newline:
                return True
            if self._lines_bytes > _MAX_LINES_BYTES:
                raise _Endless
        return False

    def _apply(self, opcode: pickletools.OpcodeInfo) -> bool:
        """Do what the opcode does to the stack's height; False where a real stack would underflow."""
        if opcode.name in ("STOP", "POP"):  # POP takes a mark as well
            if not self._stack:
                return False
            self._stack[-1:] = []
            if opcode.name == "STOP":
                self._stack.clear()
            return True
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
