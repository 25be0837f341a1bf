"""The canonical encoding against RFC 8785, restated here in plain Python."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core import canonical

_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
MAX_INT = 2**53 - 1

ascii_keys = st.text(st.characters(max_codepoint=0x7F), max_size=8)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INT, MAX_INT) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ascii_keys, inner, max_size=4),
    max_leaves=12,
)


def reference(value: Any) -> str:
    """RFC 8785, section 3.2, without floats."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(_SHORT.get(c) or (f"\\u{ord(c):04x}" if ord(c) < 0x20 else c) for c in value) + '"'
    if isinstance(value, list):
        return "[" + ",".join(map(reference, value)) + "]"
    items = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
    return "{" + ",".join(f"{reference(key)}:{reference(item)}" for key, item in items) + "}"


@given(values)
def test_it_is_rfc_8785(value: Any) -> None:
    encoded = canonical.encode(value)
    assert encoded == reference(value).encode()
    assert canonical.encode_trusted(value) == encoded
    assert json.loads(encoded) == value


@given(st.dictionaries(ascii_keys, st.integers(0, 9), min_size=2, max_size=8))
def test_the_order_of_making_does_not_matter(value: dict[str, int]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical.encode(dict[str, Any](value)) == canonical.encode(dict[str, Any](turned))


def test_control_characters_have_the_escapes_of_the_rfc_and_the_rest_has_none() -> None:
    assert canonical.encode("".join(map(chr, range(0x20)))) == (
        b'"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\\u000b\\f\\r\\u000e\\u000f'
        b'\\u0010\\u0011\\u0012\\u0013\\u0014\\u0015\\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c\\u001d\\u001e\\u001f"'
    )
    assert canonical.encode("/<>&\x7f\u2028é€😀") == '"/<>&\x7f\u2028é€😀"'.encode()


def test_keys_stand_in_order_of_their_code_units_at_every_depth() -> None:
    assert canonical.encode({"b": 1, "a": {"Z": 1, "": 2, "aa": 3, "a": 4}}) == b'{"a":{"":2,"Z":1,"a":4,"aa":3},"b":1}'


@pytest.mark.parametrize(
    "value",
    [
        1.0, float("nan"), 2**53, -(2**53), {"é": 1}, {"a": {"\u2028": 1}}, {1: "a"}, {None: 1}, (1, 2),
        b"bytes", {1, 2}, object(), "\ud800", {"a": ["\udfff"]}, [[0.5]],
    ],
)  # fmt: skip
def test_what_stands_outside_the_subset_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical.encode(value)


def test_nesting_without_end_is_refused_and_not_a_crash() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError):
        canonical.encode(value)


def test_the_edges_of_the_integers_pass() -> None:
    assert canonical.encode([MAX_INT, -MAX_INT, True]) == b"[9007199254740991,-9007199254740991,true]"


def test_the_digest_is_sha_256_of_the_encoding() -> None:
    assert canonical.digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
