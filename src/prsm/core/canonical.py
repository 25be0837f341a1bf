"""The one canonical encoding: whatever is signed or hashed goes through ``encode``.

It is RFC 8785 (JSON Canonicalization Scheme) narrowed to what needs no number formatting: objects with ASCII
keys, arrays, strings, 64-bit integers, booleans and null. Floats are refused, so two languages cannot disagree.
"""

import hashlib
from typing import TypeAlias

import msgspec

Canonical: TypeAlias = "dict[str, Canonical] | list[Canonical] | str | int | bool | None"

_MAX_INT = 2**53 - 1


def encode(value: Canonical) -> bytes:
    """UTF-8 bytes of ``value``: keys sorted, no white space. Raises ValueError on anything outside the subset."""
    try:
        _check(value)
        return encode_trusted(value)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def encode_trusted(value: Canonical) -> bytes:
    """``encode`` without its walk over the value, for the hot path, where the caller's types leave nothing to check."""
    return msgspec.json.encode(value, order="sorted")


def digest(value: Canonical) -> str:
    """SHA-256 of the canonical encoding, as lower-case hex."""
    return hashlib.sha256(encode(value)).hexdigest()


def _check(value: Canonical) -> None:
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) > _MAX_INT:
            raise ValueError(f"{value} is outside the integers every JSON reader keeps exact (+-2^53-1)")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ValueError(f"the key {key!r} is not ASCII text")
            _check(item)
    elif isinstance(value, list):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all typed
        for item in value:
            _check(item)
    else:
        raise ValueError(f"{type(value).__name__} has no canonical encoding")
