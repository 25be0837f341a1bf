"""Hostile model files, each a named case: every one is refused for its reason; none runs, none is slow or large.

All are inspected in one child process, so that a payload that ran, a crash and the memory taken (of /proc) are told for
sure.
"""

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from tests.fuzz.model_files import (
    A_TO_B,
    BYTE_PIECES,
    UNK,
    charsmap,
    entry,
    gguf_bytes,
    gguf_pair,
    gguf_string,
    gguf_tensor,
    piece,
    protobuf_field,
    protobuf_float,
    safetensors_bytes,
    sentencepiece_bytes,
    varint,
)

MAX_CPU_S = 6.0
"""The largest, a million pieces, takes 1.5; a machine that others share takes up to twice that."""
MAX_PEAK_MIB = 200
MIB = 1024 * 1024
CANARY = "canary"
Case = tuple[str, bytes, str]
"""Name, bytes, and what the refusal must say."""


@dataclass(frozen=True)
class Payload:
    """Unpickling it makes the file ``canary`` in the current folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


PROGRAM = f"cos\nsystem\n(S'touch {CANARY}'\ntR.".encode()
"""The same as text that any unpickler runs."""
EXEC = f"open({CANARY!r},'w')".encode()


def unusual_programs() -> Iterator[tuple[str, bytes]]:
    """Pickles that run, and that a reader of opcodes may lose sight of on the way."""
    yield "mark-popped", b"(0" + PROGRAM
    yield "float-of-9000-digits", b"F" + b"0" * 9000 + b"1\n0" + PROGRAM
    yield "int-behind-9000-spaces", b"I" + b" " * 9000 + b"1\n0" + PROGRAM
    yield "text-of-5-mib", b"V" + b"a" * (5 * MIB) + b"\n0" + PROGRAM
    chain = b".__call__" * 2000
    yield "name-of-18000", b"\x80\x04cbuiltins\nexec" + chain + b"\n(V" + EXEC + b"\ntR."


def in_a_row() -> Iterator[tuple[str, bytes]]:
    """Pickles that run where several are read from one file, or references to objects outside are resolved."""
    yield "second-in-a-row", b"I1\n." + PROGRAM
    yield "torch-legacy-in-text", b"L119547037146038801333356L\n.I1001\n.(dp0\n." + PROGRAM
    yield "behind-a-reference", b"Pa reference\n0" + PROGRAM


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def one_tensor(data: bytes) -> bytes:
    """A valid safetensors file of one tensor with these bytes."""
    return safetensors_bytes({"w": entry("U8", (len(data),), 0, len(data))}, data)


def safetensors_that_unpickles() -> bytes:
    """Valid safetensors, and a pickle that runs: strings step from the length over the header into the weights.

    The length's first byte is SHORT_BINSTRING (``U``) and its second one how far that reaches: to the start of a JSON
    string, in which a chain of the same opcode leads on, 126 bytes at a time, to the first weight.
    """
    lead = b'{"__metadata__":{"x":"'
    tail = b'"},"w":' + json.dumps(entry("U8", (len(PROGRAM),), 0, len(PROGRAM))).encode() + b"}"
    header_bytes = ord("U") + (6 + len(lead)) * 256
    room = header_bytes - len(lead) - len(tail) - 2
    links = -(-room // 128)
    sizes = [room // links + (number < room % links) for number in range(links)]
    text = b"".join(b"U" + bytes((size - 2,)) + b"A" * (size - 2) for size in sizes) + b"U" + bytes((len(tail),))
    return safetensors_bytes(None, PROGRAM, raw=lead + text + tail)


def gguf_that_unpickles() -> bytes:
    """Valid GGUF, and a pickle that runs: ``G`` takes 8 bytes, ``V`` (22,016 tensors) the rest of a line."""
    pairs = [gguf_pair("k", 8, gguf_string(b"\n" + PROGRAM))]
    return gguf_bytes(pairs, [gguf_tensor(f"t{number}", (0,), 24, 0) for number in range(ord("V") << 8)])


def pickles() -> Iterator[Case]:
    for protocol in range(6):
        yield f"pickle-protocol-{protocol}", pickle.dumps(Payload(), protocol), "Python pickle that runs code"
    payload = pickle.dumps(Payload(), 2)
    yield "pickle-nested", pickle.dumps({"state": [1, (2, Payload())]}, 4), "Python pickle"
    yield "pickle-joblib", pickle.dumps([np.arange(9), Payload()], 5), "Python pickle"
    yield "pickle-gzip", gzip.compress(payload), "gzip"
    legacy = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    yield "torch-legacy", legacy + payload, "Python pickle"
    yield "torch-zip", zipped({"archive/data.pkl": payload, "archive/version": b"3\n"}), "ZIP"
    yield "torch-zip-in-zip", zipped({"inner.pt": zipped({"archive/data.pkl": payload})}), "ZIP"
    arrays, array = io.BytesIO(), io.BytesIO()
    np.savez(arrays, a=np.array([Payload()], dtype=object))
    yield "npz-of-objects", arrays.getvalue(), "ZIP"
    np.save(array, np.array([Payload()], dtype=object), allow_pickle=True)
    yield "npy-of-objects", array.getvalue(), "NumPy"
    yield "pickle-behind-a-length", struct.pack("<Q", len(payload)) + payload, "no format that is known"
    yield "pickle-behind-the-magic", b"GGUF" + payload, "GGUF version"
    yield "pickle-behind-gguf", gguf_bytes() + payload, "but the file has"
    yield "pickle-behind-safetensors", one_tensor(b"1234") + payload, "but the file has"
    yield "pickle-as-metadata", safetensors_bytes(None, b"", raw=b'{"__metadata__":' + PROGRAM + b"}"), "not JSON"
    yield "pickle-and-safetensors", safetensors_that_unpickles(), "same time a Python pickle"
    yield "pickle-and-gguf", gguf_that_unpickles(), "same time a Python pickle"
    for name, data in (*unusual_programs(), *in_a_row()):
        yield f"pickle-{name}", data, "Python pickle that runs code"
        yield f"folder-{name}.txt", data, "pickle" if data[:1] != b"\x80" else "a Python pickle"


def other_formats() -> Iterator[Case]:
    archive = zipped({"__main__.py": b"print('run')"})
    yield "zip-in-last-tensor", one_tensor(bytes(4096) + archive), "same time a ZIP"
    padding = bytes(-len(archive) % 32)
    gguf_zip = gguf_bytes([], [gguf_tensor("w", (len(padding + archive),), 24, 0)], padding + archive)
    yield "zip-in-last-gguf-tensor", gguf_zip, "same time a ZIP"
    yield "zip-with-comment-in-tensor", one_tensor(archive[:-2] + struct.pack("<H", 300) + b"c" * 300), "a ZIP"
    moved = archive[
        : archive.rindex(b"PK\x01\x02")
    ]  # its directory is not right before its end record, which miniz allows
    directory = archive[len(moved) :]
    at = len(one_tensor(bytes(4096))) - 4096
    end = struct.pack("<HII", 1, 22, at) + b"\0\0"
    apart = directory[:-22] + bytes(600) + directory[-22:-12] + end
    yield "zip-with-its-directory-elsewhere", one_tensor(apart + bytes(4096 - len(apart))), "same time a ZIP"
    yield "zip-behind-safetensors", one_tensor(b"1234") + archive, "but the file has"
    yield "zip-of-safetensors", zipped({"model.safetensors": one_tensor(b"1234")}), "ZIP"
    yield "zip-bomb", zipped({"a": zipped({"b": bytes(64 * MIB)}, zipfile.ZIP_DEFLATED)}), "ZIP"
    yield "gzip-bomb", gzip.compress(bytes(64 * MIB)), "gzip"
    hdf5 = b"\x89HDF\r\n\x1a\n" + bytes(100)
    yield "hdf5", hdf5, "HDF5"
    header = b'{"w":' + json.dumps(entry("U8", (608,), 0, 608)).encode() + b"}"
    at_512 = header + b" " * (512 - 8 - len(header)) + hdf5 + bytes(500)
    yield "hdf5-in-tensor", struct.pack("<Q", 504) + at_512, "same time an HDF5"
    yield "onnx-external-data", b"\x08\x08\x12\x07pytorch\x3a\x20" + b"location\x12\x10../../etc/passwd", "ONNX"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"), io.BytesIO())
    yield "tar", out.getvalue(), "tar archive"
    tar_text = b'{"__metadata__":{"x":"' + b"a" * (257 - 8 - 22) + b'ustar  "}}'
    yield "tar-and-safetensors", safetensors_bytes(None, b"", raw=tar_text), "same time a tar"
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(64), "ELF"
    yield "windows-program", b"MZ\x90\x00" + bytes(64), "Windows"
    yield "shell-script", b"#!/bin/sh\ntouch canary\n", "script"
    yield "python-source", b"import os\nos.system('touch canary')\n", "no format"
    yield "html-error-page", b"<!DOCTYPE html><title>404</title>", "HTML"
    yield "git-lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"
    yield "ggml", b"lmgg" + bytes(64), "GGML"
    yield "ggjt", b"tjgg\x03\0\0\0" + bytes(64), "GGJT"
    yield "tensorflow-lite", b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite"
    yield "empty", b"", "empty"
    yield "seven-bytes", b"\x02\0\0\0\0\0\0", "no format"


def safetensors_cases() -> Iterator[Case]:
    def header(raw: bytes | str) -> bytes:
        return safetensors_bytes(None, b"", raw=raw.encode() if isinstance(raw, str) else raw)

    def named(name: str) -> bytes:
        return safetensors_bytes({name: entry("U8", (1,), 0, 1)}, b"w")

    def shaped(dtype: object, shape: object, offsets: object, weights: bytes = b"") -> bytes:
        return safetensors_bytes({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}, weights)

    u8 = '{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    yield "st-length-2^31", struct.pack("<Q", 2**31) + b"{}", "claims 2147483648 bytes"
    yield "st-length-2^60", struct.pack("<Q", 2**60) + b"{}", "no format"
    yield "st-length-beyond-file", struct.pack("<Q", 3) + b"{}", "but the file has 10"
    yield "st-length-cut", struct.pack("<Q", 1) + b"{}", "not JSON"
    yield "st-header-after-space", header(" {}"), "no format"
    yield "st-garbage-after-header", header("{} x"), "something after"
    yield "st-header-list", header("{[]}"), "not JSON"
    yield "st-not-utf8", header(b'{"\xff":' + (u8 % (0, 0)).encode() + b"}"), "not UTF-8"
    yield "st-lone-surrogate", header('{"\\ud800":' + u8 % (0, 1) + "}") + b"w", "not UTF-8"
    yield "st-tensor-twice", header(f'{{"a":{u8 % (0, 1)},"a":{u8 % (1, 2)}}}') + b"ww", "twice"
    yield "st-tensor-twice-escaped", header(f'{{"a":{u8 % (0, 1)},"\\u0061":{u8 % (1, 2)}}}') + b"ww", "twice"
    yield "st-field-twice", header('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}') + b"w", "once"
    yield "st-field-unknown", header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}') + b"w", "once"
    yield "st-field-missing", header('{"a":{"dtype":"U8","shape":[1]}}'), "once"
    yield "st-entry-no-object", header('{"a":"b"}'), "no object"
    yield "st-entry-nested", header('{"a":{"dtype":{"b":1},"shape":[1],"data_offsets":[0,1]}}'), "not JSON"
    yield "st-dtype-unknown", shaped("F7", [1], [0, 1], b"w"), "unknown type"
    yield "st-dtype-lower", shaped("u8", [1], [0, 1], b"w"), "unknown type"
    yield "st-dtype-list", shaped(["U8"], [1], [0, 1], b"w"), "unknown type"
    yield "st-shape-negative", shaped("U8", [-1, -1], [0, 1], b"w"), "once"
    yield "st-shape-float", shaped("U8", [1.0], [0, 1], b"w"), "once"
    yield "st-shape-bool", shaped("U8", [True], [0, 1], b"w"), "no list"
    yield "st-shape-text", shaped("U8", "1", [0, 1], b"w"), "no list"
    yield "st-shape-nan", header('{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}') + b"w", "once"
    yield "st-shape-huge-digits", shaped("U8", [10**900], [0, 1], b"w"), "once"
    yield "st-shape-overflow", shaped("F64", [2**32, 2**32], [0, 0]), "overflows"
    yield "st-shape-overflow-to-small", shaped("U8", [2**32, 2**32, 2], [0, 0]), "overflows"
    yield "st-shape-overflow-before-zero", shaped("U8", [2**62, 4, 0], [0, 0]), "overflows"
    yield "st-shape-rank-17", shaped("U8", [1] * 17, [0, 1], b"w"), "at most 16"
    yield "st-half-byte", shaped("F4", [1], [0, 1], b"w"), "do not fill"
    yield "st-offsets-reversed", shaped("U8", [1], [1, 0], b"w"), "do not fill"
    yield "st-offsets-three", shaped("U8", [1], [0, 1, 1], b"w"), "two whole numbers"
    yield "st-offsets-beyond-file", shaped("U8", [2**40], [0, 2**40], b"w"), "the file has"
    yield "st-offsets-2^64", shaped("U8", [1], [2**64, 2**64 + 1], b"w"), "once"
    yield (
        "st-overlap",
        safetensors_bytes({"a": entry("U8", (2,), 0, 2), "b": entry("U8", (2,), 1, 3)}, b"www"),
        "overlaps",
    )
    yield (
        "st-same-bytes",
        safetensors_bytes({"a": entry("U8", (2,), 0, 2), "b": entry("U8", (2,), 0, 2)}, b"ww"),
        "overlap",
    )
    yield "st-hole", safetensors_bytes({"a": entry("U8", (1,), 0, 1), "b": entry("U8", (1,), 2, 3)}, b"www"), "hole"
    yield "st-hole-at-start", shaped("U8", [1], [1, 2], b"ww"), "hole"
    yield "st-bytes-behind", shaped("U8", [1], [0, 1], b"ww"), "the file has"
    yield "st-cut", shaped("U8", [4], [0, 4], b"ww"), "the file has"
    yield "st-name-up", named("../../etc/cron.d/x"), "path"
    yield "st-name-up-within", named("a/../../b"), "path"
    yield "st-name-absolute", named("/etc/passwd"), "path"
    yield "st-name-backslash", named("..\\x"), "path"
    yield "st-name-drive", named("C:/x"), "path"
    yield "st-name-nul", named("a\0b"), "printed"
    yield "st-name-newline", named("a\nb"), "printed"
    yield "st-name-escape", named("a\x1b[31m"), "printed"
    yield "st-name-reversed", named("a\u202etxt.exe"), "printed"
    yield "st-name-empty", named(""), "empty name"
    yield "st-name-long", named("a" * 257), "257 characters"
    yield "st-metadata-number", header('{"__metadata__":{"a":1}}'), "not JSON"
    yield "st-metadata-nested", header('{"__metadata__":{"a":{}}}'), "not JSON"
    yield "st-metadata-text", header('{"__metadata__":"a"}'), "no object"
    yield "st-metadata-null", header('{"__metadata__":null}'), "not JSON"
    yield "st-metadata-twice", header('{"__metadata__":{},"__metadata__":{}}'), "twice"
    yield "st-metadata-key-twice", header('{"__metadata__":{"a":"1","a":"2"}}'), "twice"
    yield "st-metadata-many", header(json.dumps({"__metadata__": {str(n): "" for n in range(4097)}})), "more than 4096"
    yield "st-comment", header("{/* a */}"), "not JSON"
    yield "st-trailing-comma", header('{"a":%s,}' % (u8 % (0, 1))) + b"w", "not JSON"
    yield "st-deep-lists", header(b'{"a":{"dtype":"U8","shape":' + b"[" * 900 + b"}}"), "once"
    yield "st-deep-everything", header(b'{"a":' + b"[" * (8 * MIB)), "not JSON"
    yield "st-deep-objects", header(b'{"a":' * (4 * MIB)), "not JSON"
    yield "st-32-mib-string", header(b'{"' + b"a" * (31 * MIB) + b'":{}}'), "characters"
    yield "st-32-mib-escapes", header(b'{"' + b'\\"' * (15 * MIB)), "not JSON"
    yield "st-32-mib-emoji", header(b'{"__metadata__":{"a":"' + "😀".encode() * (7 * MIB) + b'"},"":{}}'), "empty name"
    yield "st-32-mib-small-objects", header(b'{"a":{},' + b'"b":{},' * (4 * MIB) + b'"c":{}}'), "once"
    zero = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    yield "st-tensors-100001", header("{" + ",".join(zero % n for n in range(100_001)) + "}"), "more than 100000"


def gguf_cases() -> Iterator[Case]:
    def pair(kind: int, value: bytes) -> bytes:
        return gguf_bytes([gguf_pair("key", kind, value)])

    def array(kind: int, count: int, items: bytes = b"") -> bytes:
        return pair(9, struct.pack("<IQ", kind, count) + items)

    def tensor(dims: tuple[int, ...], kind: int = 24, offset: int = 0, weights: bytes = b"") -> bytes:
        return gguf_bytes([], [gguf_tensor("w", dims, kind, offset)], weights)

    def aligned(kind: int, value: bytes) -> bytes:
        return gguf_bytes([gguf_pair("general.alignment", kind, value)])

    two = [gguf_tensor("a", (8,), 24, 0), gguf_tensor("b", (8,), 24, 32)]
    yield "gguf-version-0", gguf_bytes(version=0), "version 0 is not taken"
    yield "gguf-version-1", gguf_bytes(version=1), "version 1 is not taken"
    yield "gguf-version-4", gguf_bytes(version=4), "version 4 is not taken"
    yield "gguf-big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"
    yield "gguf-magic-only", b"GGUF", "of 4"
    yield "gguf-tensors-2^60", gguf_bytes(counts=(2**60, 0)), "claims 1152921504606846976 tensors"
    yield "gguf-tensors-2^64", gguf_bytes(counts=(2**64 - 1, 0)), "tensors"
    yield "gguf-pairs-2^60", gguf_bytes(counts=(0, 2**60)), "key-value pairs"
    yield "gguf-tensors-missing", gguf_bytes(counts=(90_000, 0))[:24], "leads to byte"
    yield "gguf-pairs-missing", gguf_bytes(counts=(0, 4000))[:24], "leads to byte"
    yield "gguf-key-2^60", b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60) + bytes(99), "are allowed"
    yield "gguf-key-empty", gguf_bytes([gguf_pair("", 4, bytes(4))]), "empty name"
    yield "gguf-key-nul", gguf_bytes([gguf_pair("a\0b", 4, bytes(4))]), "printed"
    yield "gguf-key-not-utf8", gguf_bytes([gguf_string(b"\xff") + bytes(5)]), "not UTF-8"
    yield "gguf-key-twice", gguf_bytes([gguf_pair("a", 4, bytes(4)), gguf_pair("a", 4, bytes(4))]), "twice"
    yield "gguf-value-type-13", pair(13, bytes(64)), "unknown type 13"
    yield "gguf-value-type-2^32", pair(2**32 - 1, bytes(64)), "unknown type"
    yield "gguf-text-2^63", pair(8, struct.pack("<Q", 2**63)), "are allowed"
    yield "gguf-text-beyond-file", pair(8, struct.pack("<Q", 1000)), "leads to byte"
    yield "gguf-text-not-utf8", pair(8, gguf_string(b"\xc0\x80")), "not UTF-8"
    yield "gguf-bool-2", pair(7, b"\x02"), "neither 0 nor 1"
    yield "gguf-bools-2", array(7, 100, b"\x01" * 99 + b"\x02"), "neither 0 nor 1"
    yield "gguf-array-2^60", array(0, 2**60), "leads to byte"
    yield "gguf-array-2^61-doubles", array(12, 2**61), "leads to byte"
    yield "gguf-strings-2^60", array(8, 2**60), "more than 2000000 strings"
    yield "gguf-strings-missing", array(8, 1_000_000), "leads to byte"
    yield "gguf-string-in-array-2^64", array(8, 2, struct.pack("<Q", 2**64 - 1) + bytes(64)), "leads to byte"
    yield "gguf-string-in-array-not-utf8", array(8, 1, gguf_string(b"\xff")), "not UTF-8"
    yield "gguf-array-type-99", array(99, 1, bytes(64)), "type 99"
    yield "gguf-nested-arrays", array(9, 1, struct.pack("<IQ", 9, 1) * 100_000), "type 9"
    yield "gguf-alignment-0", aligned(4, struct.pack("<I", 0)), "power of two"
    yield "gguf-alignment-24", aligned(4, struct.pack("<I", 24)), "power of two"
    yield "gguf-alignment-2^31", aligned(4, struct.pack("<I", 2**31)), "power of two"
    yield "gguf-alignment-text", aligned(8, gguf_string("32")), "power of two"
    yield "gguf-alignment-bool", aligned(7, b"\x01"), "power of two"
    yield "gguf-tensor-twice", gguf_bytes([], [two[0], two[0]], bytes(64)), "described twice"
    yield "gguf-tensor-path", gguf_bytes([], [gguf_tensor("../w", (8,), 24, 0)], bytes(32)), "path"
    yield "gguf-tensor-not-utf8", gguf_bytes([], [gguf_tensor(b"\xff", (8,), 24, 0)], bytes(32)), "not UTF-8"
    yield "gguf-dims-5", tensor((1, 1, 1, 1, 1), weights=bytes(32)), "5 dimensions"
    yield "gguf-dims-2^32", gguf_bytes([], [gguf_string("w") + struct.pack("<I", 2**32 - 1)]), "dimensions"
    yield "gguf-shape-overflow", tensor((2**32, 2**32)), "overflows"
    yield "gguf-shape-overflow-before-zero", tensor((2**63, 2, 0)), "overflows"
    yield "gguf-size-overflow", tensor((2**62,), 28), "overflows"
    yield "gguf-tensor-type-4", tensor((32,), 4, 0, bytes(32)), "unknown type 4"
    yield "gguf-tensor-type-99", tensor((32,), 99, 0, bytes(32)), "unknown type 99"
    yield "gguf-row-no-multiple", tensor((33,), 8, 0, bytes(64)), "no multiple of the 32"
    yield "gguf-offset-unaligned", tensor((8,), 24, 8, bytes(64)), "overlaps or leaves a hole"
    yield "gguf-offset-hole", tensor((8,), 24, 32, bytes(64)), "overlaps or leaves a hole"
    yield "gguf-offset-2^64", tensor((8,), 24, 2**64 - 32, bytes(64)), "overlaps or leaves a hole"
    overlapping = [two[0], gguf_tensor("b", (8,), 24, 0)]
    yield "gguf-overlap", gguf_bytes([], overlapping, bytes(64)), "overlaps or leaves a hole"
    yield "gguf-size-beyond-file", tensor((2**50,), 24, 0, bytes(32)), "the file has"
    yield "gguf-cut", gguf_bytes([], two, bytes(39)), "the file has"
    yield "gguf-bytes-behind", gguf_bytes([], two, bytes(65)), "the file has"
    many = struct.pack("<IQ", 8, 1_999_999) + bytes(8 * 1_999_999)
    yield "gguf-2-million-strings", gguf_bytes([gguf_pair("a", 9, many), gguf_pair("a", 4, bytes(4))]), "twice"
    yield (
        "gguf-header-33-mib",
        gguf_bytes([gguf_pair("a", 9, struct.pack("<IQ", 0, 33 * MIB) + bytes(33 * MIB))]),
        "longer",
    )
    tensors = [gguf_tensor(f"{number:032}", (1, 1, 1, 1), 24, 32 * number) for number in range(100_000)]
    yield "gguf-100000-tensors", gguf_bytes([], tensors), "the file has"


def folder_cases() -> Iterator[Case]:
    """Texts that lie beside weights."""
    deep = b"[" * 65 + b"]" * 65
    yield "folder-45-mib-lists.json", b"[" + b"[]," * (15 * MIB) + deep + b"]", "nested 66 deep"
    yield "folder-45-mib-strings.json", b"[" + b'"",' * (15 * MIB) + deep + b"]", "nested 66 deep"
    yield "folder-44-mib-nan.json", b"[" + b"NaN," * (11 * MIB) + deep + b"]", "nested 66 deep"
    yield "folder-46-mib-escapes.json", b'["' + b'\\"' * (23 * MIB) + b'",' + deep + b"]", "nested 66 deep"
    yield "folder-46-mib-emoji.json", b'["' + "😀".encode() * (11 * MIB) + b'\xff"]', "not UTF-8"
    yield "folder-49-mib.safetensors.index.json", b" " * (49 * MIB), "are allowed"
    config = b"[" + b"{}," * (1024 * 1024) + deep + b"]"
    yield "folder-config-of-objects.json", config, "nested 66 deep"
    many = b'{"weight_map":{' + b",".join(b'"%d":"w.safetensors"' % number for number in range(300_001)) + b"}}"
    yield "folder-300001.safetensors.index.json", many, "more than 300000"
    yield "folder-pickle.txt", PROGRAM, "runs code"
    archive = zipped({"__main__.py": b"print('run')"})
    for ending in (".json", ".txt", ".md", ".jinja", ".model", ".png", ".svg", ".pdf", ".yaml", ".safetensors"):
        yield f"folder-archive{ending}", archive, "ZIP"
        yield f"folder-loaded{ending}", pickle.dumps(Payload(), 4), "pickle"
    yield "folder-text-and-archive.md", b"# A model\n" * 60 + archive, "ZIP"
    png = b"\x89PNG\r\n\x1a\n" + bytes(600)
    yield "folder-image-and-archive.png", png + archive, "ZIP"
    yield "folder-paper-and-archive.pdf", b"%PDF-1.7\n" + bytes(600) + archive, "ZIP"
    yield "folder-program.jpg", b"MZ\x90\0" + bytes(60), "Windows"
    yield "folder-script.json", b"#!/bin/sh\n", "script"
    yield "folder-weights.json", one_tensor(b"1234"), "safetensors"
    yield "folder-weights.txt", gguf_bytes(), "GGUF"
    yield "folder-elf.model", b"\x7fELF" + bytes(60), "ELF"


def sentencepiece_cases() -> Iterator[Case]:
    """Tokenizers that lie beside weights; several of them crash readers that trust them."""

    def model(name: str, data: bytes, reason: str) -> Case:
        return f"folder-{name}.model", data, reason

    def mapped(name: str, data: bytes, reason: str) -> Case:
        return model(f"map-{name}", sentencepiece_bytes(UNK + A, b"", protobuf_field(2, data)), reason)

    A = piece("a", -1)
    good = UNK + A
    yield model("archive-in-unknown", good + protobuf_field(200, bytes(600) + zipped({"a": b"b"})), "same time a ZIP")
    yield model("cut", good[:-1], "ends within a field")
    yield model("length-2^63", good + b"\x12" + varint(2**63), "a length near")
    yield model("length-11-bytes", good + b"\x12" + b"\xff" * 10 + b"\x01", "a length near")
    yield model("length-2^65", good + b"\x12" + b"\xff" * 9 + b"\x7f", "too long")
    yield model("length-padded", UNK + b"\x0a\x88\x00" + A[2:], "too long")
    yield model("tag-padded", good + b"\x92\x00\x00", "too long")
    yield model("group", good + b"\x13\x14", "wire type 3")
    yield model("field-0", good + b"\x00\x00", "unknown field 0")
    yield model("unknown-5000-bytes", good + protobuf_field(200, bytes(5000)), "unknown field 200")
    yield model("unknown-65", good + protobuf_field(300, 1) * 65, "unknown field 300")
    yield model(
        "unknown-in-pieces", UNK + protobuf_field(1, b"\x0a\x01a" + protobuf_field(9, 1) * 65), "unknown field 9"
    )
    yield model("piece-late", sentencepiece_bytes(good) + A, "twice, or late")
    yield model("piece-twice", good + A, "comes twice")
    yield model("piece-empty", UNK + piece(""), "no text")
    yield model("piece-long", UNK + piece("a" * 1025), "over 1024 bytes")
    yield model("piece-200-kb", UNK + piece("a" * 200_000), "over 1024 bytes")  # overflows readers' stacks
    yield model("piece-nul", UNK + piece("a\0b"), "NUL")
    yield model("piece-not-utf8", UNK + piece(b"\xff"), "not UTF-8")
    yield model("piece-half-characters", UNK + piece(b"\xc3") + piece(b"\xa9"), "not UTF-8")
    yield model("score-nan", UNK + piece("a", float("nan")), "not finite")
    yield model("score-infinite", UNK + piece("a", float("-inf")), "not finite")
    yield model("type-0", UNK + piece("a", 0, 0), "the value 0")
    yield model("type-7", UNK + piece("a", 0, 7), "the value 7")
    yield model("type-2^64", UNK + piece("a", 0, -1), "which it cannot have")
    yield model("piece-field-twice", UNK + protobuf_field(1, b"\x0a\x01a\x0a\x01b"), "twice")
    yield model("piece-text-as-number", UNK + protobuf_field(1, b"\x08\x01"), "not of its type")
    yield model("no-unknown", A, "has 0 pieces for what is unknown")
    yield model("two-unknown", good + piece("<u>", 0, 2), "has 2 pieces for what is unknown")
    yield model("only-unknown", UNK, "no piece that a text")
    yield model("byte-piece-false", good + piece("<0x0g>", 0, 6), "names no byte")
    yield model("bytes-unasked", good + BYTE_PIECES, "byte_fallback is False")
    fallback = protobuf_field(35, 1)
    fewer = BYTE_PIECES.removesuffix(piece("<0xFF>", 0, 6))
    yield model("bytes-missing", sentencepiece_bytes(good + fewer, fallback), "255 byte pieces")
    yield model("bytes-none", sentencepiece_bytes(good, fallback), "0 byte pieces")
    yield model("trainer-twice", good + protobuf_field(2, b"") * 2, "field 2 of the SentencePiece model comes twice")
    yield model("model-type-5", sentencepiece_bytes(good, protobuf_field(3, 5)), "the value 5")
    yield model("bool-2", sentencepiece_bytes(good, protobuf_field(35, 2)), "the value 2")
    yield model("int32-2^31", sentencepiece_bytes(good, protobuf_field(40, 2**31)), "the value 2147483648")
    yield model("coverage-nan", sentencepiece_bytes(good, protobuf_float(10, float("nan"))), "not finite")
    yield model("symbol-not-utf8", sentencepiece_bytes(good, protobuf_field(31, b"\xff")), "not UTF-8")
    yield model(
        "pieces-1000001", UNK + b"".join(piece(f"{n:07}") for n in range(1_000_001)), "more than 1000000 pieces"
    )
    some = b"".join(protobuf_field(1, protobuf_field(1, b"%07d" % n)) for n in range(250_000))
    yield model("pieces-unusual", UNK + some, "more than 200000 fields")
    yield model(
        "symbols-empty", sentencepiece_bytes(good, protobuf_field(31, b"") * 200_001), "more than 200000 fields"
    )
    yield model("samples-empty", good + protobuf_field(4, b"\x0a\0" * 200_001), "more than 200000 fields")
    yield model("33-mib", good + bytes(33 * MIB), "are allowed")
    yield model("zeros", UNK + bytes(30 * MIB), "unknown field 0")
    yield mapped("short", b"\0\0\0\0", "no trie of whole blocks")
    yield mapped("length-2^32", b"\xff\xff\xff\xff" + charsmap(A_TO_B)[4:], "no trie of whole blocks")
    yield mapped("half-block", struct.pack("<I", 512) + bytes(512) + b"b\0", "no trie of whole blocks")
    yield mapped("without-replacements", charsmap(A_TO_B, b""), "no trie of whole blocks")
    yield mapped("without-end", charsmap(A_TO_B, b"b"), "no trie of whole blocks")
    yield mapped("not-utf8", charsmap(A_TO_B, b"\xff\0"), "not UTF-8")
    yield mapped("root-away", charsmap(A_TO_B | {0: 0x1FFFFF << 10}), "leads out of its trie")
    yield mapped("root-is-value", charsmap(A_TO_B | {0: 1 << 31 | 1 << 10}), "leads out of its trie")
    yield mapped("root-has-label", charsmap(A_TO_B | {0: 1 << 10 | 0x1F}), "leads out of its trie")
    yield mapped("node-away", charsmap(A_TO_B | {0x60: 0x61 | 0x1FFFFF << 10}), "leads out of its trie")
    yield mapped("node-far-away", charsmap(A_TO_B | {0x60: 0x61 | 1 << 9 | 1 << 10}), "leads out of its trie")
    yield mapped("value-away", charsmap(A_TO_B | {2: 1 << 31 | 2}), "leads out of its replacements")
    yield mapped("value-is-node", charsmap(A_TO_B | {2: 0x7FFFFC00}), "leads out of its")
    yield mapped("circle", charsmap({0: 1 << 10, 0x60: 0x61 | (0x60 ^ 1) << 10}), "more than 32 bytes")
    # 40 times the same byte, each place with a value: more matches than readers have room for.
    blocks = {0: 256 << 10} | {
        n * 256 ^ 0x61: 0x61 | 1 << 8 | ((n * 256 ^ 0x61) ^ (n + 1) * 256) << 10 for n in range(1, 41)
    }
    many = blocks | {n * 256: 1 << 31 for n in range(2, 42)}
    yield mapped("40-matches", charsmap(many, count=256 * 42), "more than 32 bytes")
    yield mapped("2-mib", charsmap({}, b"\0", count=512 * 1024), "1048576 are allowed")
    wide = {0: 256 << 10} | {
        n * 256 ^ label: label | ((n * 256 ^ label) ^ min(n + 1, 1020) * 256) << 10
        for n in range(1, 1021)
        for label in range(1, 256)
    }
    yield mapped("1-mib-of-nodes", charsmap(wide, count=256 * 1021), "more than 32 bytes")


def cases() -> Iterator[Case]:
    """All of them, one after another: together they are half a gigabyte."""
    for some in (pickles, other_formats, safetensors_cases, gguf_cases, folder_cases, sentencepiece_cases):
        yield from some()


CHILD = """
import json, re, sys, time
from pathlib import Path
from prsm.data_layer.formats.model_files import inspect_model_file
from prsm.data_layer.formats.model_folder import inspect_model_folder
from prsm.data_layer.formats.model_contents import UnsafeModelFile

def memory_mib(line):
    return int(re.search(line + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

WEIGHTS = b"\\x02\\0\\0\\0\\0\\0\\0\\0{}"
inspect_model_folder([("w.safetensors", WEIGHTS), ("a.json", b"{}")])  # everything is loaded
for name in json.loads(sys.stdin.read()):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory_mib("VmRSS")
    started = time.process_time()
    try:
        if name.startswith("folder-"):
            found = inspect_model_folder([("w.safetensors", WEIGHTS), (name, Path("files") / name)])
        else:
            found = inspect_model_file(Path("files") / name)
        answer = "ACCEPTED " + repr(found)[:200]
    except UnsafeModelFile as error:
        answer = str(error)
    cpu = time.process_time() - started
    print(json.dumps([name, answer, cpu, memory_mib("VmHWM") - before]))
"""


@dataclass(frozen=True)
class Hostile:
    """The folder of the files, and what each must be refused for."""

    root: Path
    expected: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    answer: str
    cpu_s: float
    peak_mib: float


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    root = tmp_path_factory.mktemp("hostile")
    (root / "files").mkdir()
    expected: dict[str, str] = {}
    for name, data, reason in cases():
        assert name not in expected
        (root / "files" / name).write_bytes(data)
        expected[name] = reason
    yield Hostile(root, expected)
    shutil.rmtree(root / "files")


@pytest.fixture(scope="module")
def outcomes(hostile: Hostile) -> dict[str, Outcome]:
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=hostile.root,
        input=json.dumps(list(hostile.expected)),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found = [json.loads(line) for line in child.stdout.splitlines()]
    return {name: Outcome(answer, cpu_s, peak_mib) for name, answer, cpu_s, peak_mib in found}


def test_each_is_refused_for_its_reason(hostile: Hostile, outcomes: dict[str, Outcome]) -> None:
    assert len(outcomes) == len(hostile.expected) >= 60
    wrong = {
        name: outcomes[name].answer for name, reason in hostile.expected.items() if reason not in outcomes[name].answer
    }
    assert not wrong
    assert not [name for name, outcome in outcomes.items() if outcome.answer.startswith("ACCEPTED")]


def test_none_takes_long_or_much_memory(outcomes: dict[str, Outcome]) -> None:
    """The bounds are the rule under test: CPU time, which a busy machine does not change, and the peak of each."""
    assert not {name: outcome for name, outcome in outcomes.items() if outcome.cpu_s > MAX_CPU_S}
    assert not {name: outcome for name, outcome in outcomes.items() if outcome.peak_mib > MAX_PEAK_MIB}
    assert max(outcome.peak_mib for outcome in outcomes.values()) > 30  # the peaks are measured at all


def test_nothing_ran(hostile: Hostile, outcomes: dict[str, Outcome]) -> None:
    assert outcomes
    assert not (hostile.root / CANARY).exists()


@pytest.mark.parametrize(
    "name",
    [
        *(f"pickle-protocol-{protocol}" for protocol in range(6)),
        "pickle-nested",
        "pickle-and-safetensors",
        "pickle-and-gguf",
        *(f"pickle-{name}" for name, _ in unusual_programs()),
    ],
)
def test_the_payloads_are_live(name: str, hostile: Hostile, tmp_path: Path) -> None:
    """What is refused above would have run: the same bytes, unpickled on purpose in a child of their own."""
    script = f"import pickle; pickle.load(open({str(hostile.root / 'files' / name)!r}, 'rb'))"
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    assert (tmp_path / CANARY).exists()


@pytest.mark.parametrize("name", [name for name, _ in in_a_row()])
def test_the_payloads_in_a_row_are_live(name: str, hostile: Hostile, tmp_path: Path) -> None:
    """The same for a reader of several pickles that resolves references, as frameworks do."""
    script = f"""
import pickle
class Reader(pickle.Unpickler):
    def persistent_load(self, reference):
        return None
with open({str(hostile.root / "files" / f"pickle-{name}")!r}, "rb") as file:
    while file.peek(1):
        Reader(file).load()
"""
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    assert (tmp_path / CANARY).exists()


def test_the_double_is_valid_safetensors(hostile: Hostile) -> None:
    with safe_open(hostile.root / "files" / "pickle-and-safetensors", "np") as opened:
        assert bytes(opened.get_tensor("w")) == PROGRAM
