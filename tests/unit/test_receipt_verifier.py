"""The standalone verifier: its Ed25519 against RFC 8032 and ``cryptography``, its rules against tampered receipts."""

import ast
import base64
import copy
import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from prsm import receipt_verifier
from prsm.agents.answer_digest import output_digest, vectors_digest
from prsm.agents.call import Choice
from prsm.core import canonical
from prsm.core.keys import NodeKey
from prsm.core.money import MAX_AMOUNT_MICRO
from prsm.receipt_verifier import DOMAIN, Unusable, answer_digests, ed25519_verify, parse, verify
from prsm.tokenomics.quotes import Price, charge_micro
from prsm.tokenomics.receipts import NodeSigner, ReceiptFacts, sign_receipt
from prsm.tokenomics.splits import Share, split

PRIVATE = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
NODE = NodeKey(PRIVATE)
SIGNER = NodeSigner(NODE.node_id, NODE.public_key_hex, NODE.sign)
SHARES = (Share("owner", "owner", 7000), Share("node", "executor", 2000), Share("treasury", "treasury", 1000))
REQUEST = b'{"model":"m","messages":[]}'
ANSWER = 'Hello "é"\n2'
# 1,000 tokens at 2 per token and 501 at 3.5, rounded up: 2,000 + 1,754
FACTS = ReceiptFacts(
    request_id=UUID("01890a5d-ac96-774b-bcce-b302099a8057"),
    account="principal:x",
    operation="chat",
    request_digest=hashlib.sha256(REQUEST).hexdigest(),
    output_digest=output_digest([Choice(content=ANSWER)]),
    model="m",
    model_version="1",
    model_cid="bafy",
    provider="p",
    input_tokens=1000,
    output_tokens=501,
    cached_input_tokens=10,
    metered_by="upstream",
    input_price_micro=2_000_000,
    output_price_micro=3_500_000,
    held_micro=5000,
    captured_micro=3754,
    completed=True,
    screened_by=("a", "b"),
    at=datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC),
)
SIGNED = sign_receipt(FACTS, split(3754, SHARES), SIGNER)

# -- Ed25519 ----------------------------------------------------------------------------------------------------

RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
        "c027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e"
        "2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17a"
        "d9bef1177331a704",
    ),
]
L = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19


@pytest.mark.parametrize(("key", "message", "signature"), RFC_8032)
def test_rfc_8032_vectors(key: str, message: str, signature: str) -> None:
    assert ed25519_verify(bytes.fromhex(key), bytes.fromhex(signature), bytes.fromhex(message))
    assert not ed25519_verify(bytes.fromhex(key), bytes.fromhex(signature), bytes.fromhex(message) + b"x")


def reference(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.integers(0, 64 * 8 - 1), st.integers(0, 255))
def test_it_agrees_with_cryptography(seed: bytes, message: bytes, bit: int, key_bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    key, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert ed25519_verify(key, signature, message)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    other_key = bytearray(key)
    other_key[key_bit // 8] ^= 1 << key_bit % 8
    for a_key, a_signature in ((key, bytes(flipped)), (bytes(other_key), signature)):
        assert ed25519_verify(a_key, a_signature, message) is reference(a_key, a_signature, message) is False


def test_s_past_the_group_order_is_refused() -> None:
    signature = PRIVATE.sign(b"m")
    larger = int.from_bytes(signature[32:], "little") + L
    assert not ed25519_verify(bytes.fromhex(NODE.public_key_hex), signature[:32] + larger.to_bytes(32, "little"), b"m")


SMALL_ORDER = [
    (1).to_bytes(32, "little"),
    (P - 1).to_bytes(32, "little"),
    (0).to_bytes(32, "little"),
    (1 << 255).to_bytes(32, "little"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_keys_of_small_order_are_refused(key: bytes) -> None:
    """With such a key one signature is valid for many messages: R neutral and S zero, which ``reference`` accepts."""
    forged = (1).to_bytes(32, "little") + bytes(32)
    messages = [bytes([number]) for number in range(64)]
    assert any(reference(key, forged, message) for message in messages)
    assert not any(ed25519_verify(key, forged, message) for message in messages)


@pytest.mark.parametrize(
    "key",
    [
        P.to_bytes(32, "little"),
        (P + 1).to_bytes(32, "little"),
        (2**255 - 1).to_bytes(32, "little"),
        (1 | 1 << 255).to_bytes(32, "little"),
        (2).to_bytes(32, "little"),
        b"",
        bytes(31),
    ],
    ids=["y=p", "y=p+1", "y=2^255-1", "x=-0", "no point", "empty", "short"],
)
def test_keys_that_are_no_canonical_point_are_refused(key: bytes) -> None:
    assert not ed25519_verify(key, (1).to_bytes(32, "little") + bytes(32), b"")


def test_signatures_of_another_length_are_refused() -> None:
    key, signature = bytes.fromhex(NODE.public_key_hex), PRIVATE.sign(b"m")
    assert not any(ed25519_verify(key, wrong, b"m") for wrong in (b"", signature[:-1], signature + b"\0"))


# -- receipts ---------------------------------------------------------------------------------------------------


def signed(receipt: Any) -> bytes:
    """What a node that lies would sign: any receipt, under its own key."""
    body = json.dumps(receipt, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({"receipt": json.loads(body), "signature": NODE.sign(DOMAIN + body).hex()}).encode()


def problems(document: bytes, **options: Any) -> list[str]:
    return verify(document, **options)[0]


def receipt() -> dict[str, Any]:
    return json.loads(SIGNED)["receipt"]


def test_a_receipt_of_a_node_is_valid() -> None:
    assert verify(SIGNED) == ([], NODE.public_key_hex)
    assert problems(SIGNED, node_key=NODE.public_key_hex.upper(), request=REQUEST, answer=ANSWER.encode()) == []
    assert problems(signed(receipt())) == []
    pretty = json.dumps(json.loads(SIGNED), indent=2, sort_keys=True).encode()
    assert problems(pretty) == []


OF_VERSION_1 = Path(__file__).with_name("receipt_version_1.json").read_bytes()
"""As a node signed it before receipts stated the price of cached input."""


def test_a_receipt_of_the_first_version_is_valid_still() -> None:
    assert problems(OF_VERSION_1, node_key=NODE.public_key_hex, request=REQUEST, answer=ANSWER.encode()) == []
    old = json.loads(OF_VERSION_1)["receipt"]
    assert old["version"] == 1
    dearer = {**old, "amounts": {"held_micro": 5000, "captured_micro": 3755}}
    assert any("by usage and prices it is 3754" in problem for problem in problems(signed(dearer)))
    assert "receipt.quote is missing." in problems(signed({**old, "version": 2}))


OF_VERSION_2 = Path(__file__).with_name("receipt_version_2.json").read_bytes()
"""As a node signed it before receipts stated what screening found."""


def test_a_receipt_of_the_second_version_is_valid_still() -> None:
    assert problems(OF_VERSION_2, node_key=NODE.public_key_hex, request=REQUEST, answer=ANSWER.encode()) == []
    old = json.loads(OF_VERSION_2)["receipt"]
    assert old["version"] == 2
    assert "receipt.screening is missing." in problems(signed({**old, "version": 3}))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_cached_input_is_charged_as_the_node_charges_it(read: int, cached: int, price: int, cached_price: int) -> None:
    cached, cached_price = min(read, cached), min(price, cached_price)
    cost = charge_micro(Price(price, 0, cached_price), read, 0, cached)
    facts = replace(
        FACTS,
        input_tokens=read,
        cached_input_tokens=cached,
        output_tokens=0,
        input_price_micro=price,
        cached_input_price_micro=cached_price,
        held_micro=cost + 1,
        captured_micro=cost,
    )
    assert problems(sign_receipt(facts, split(cost, SHARES), SIGNER)) == []
    if cost:
        less = replace(facts, captured_micro=cost - 1)
        assert problems(sign_receipt(less, split(cost - 1, SHARES), SIGNER))


def test_a_receipt_of_the_largest_amount_is_valid() -> None:
    most = MAX_AMOUNT_MICRO
    prices = {"input_price_micro": 0, "output_price_micro": 10**12, "output_tokens": most // 10**6}
    facts = replace(FACTS, **prices, held_micro=most, captured_micro=most)
    assert verify(sign_receipt(facts, split(most, SHARES), SIGNER)) == ([], NODE.public_key_hex)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=25, deadline=None)
@given(texts, st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**7), st.booleans())
def test_any_receipt_of_a_node_is_valid(
    text: str, input_tokens: int, output_tokens: int, input_price: int, output_price: int, short: bool
) -> None:
    cost = -(-input_tokens * input_price // 10**6) + -(-output_tokens * output_price // 10**6)
    held = cost // 2 if short else cost + 1
    facts = replace(
        FACTS,
        model=text,
        input_tokens=input_tokens,
        cached_input_tokens=0,
        output_tokens=output_tokens,
        input_price_micro=input_price,
        output_price_micro=output_price,
        held_micro=held,
        captured_micro=min(held, cost),
    )
    assert problems(sign_receipt(facts, split(min(held, cost), SHARES), SIGNER)) == []


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not isinstance(value, dict | list):
        yield path
    for name, child in children:
        yield from leaves(child, (*path, name))


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in the document, objects and lists too."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from nodes(child, (*path, name))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        document = document[name]
    return document


DOCUMENT = json.loads(SIGNED)
LEAVES = list(leaves(DOCUMENT))
INNER = [path for path in nodes(DOCUMENT) if path]
OBJECTS = [path for path in nodes(DOCUMENT) if isinstance(at(DOCUMENT, path), dict)]


def label(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path)) or "document"


def other(value: Any) -> Any:
    """A value of the same type that looks as right."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if value and all(char in "0123456789abcdef" for char in value):
        return ("1" if value[0] == "0" else "0") + value[1:]
    return {"chat": "embeddings", "upstream": "node"}.get(value, value[:-1] + ("7" if value[-1:] != "7" else "8"))


@pytest.mark.parametrize("path", LEAVES, ids=label)
def test_a_changed_leaf_is_refused(path: tuple[Any, ...]) -> None:
    document = copy.deepcopy(DOCUMENT)
    place = at(document, path[:-1])
    place[path[-1]] = other(place[path[-1]])
    assert document != DOCUMENT
    assert problems(json.dumps(document).encode())


@pytest.mark.parametrize("path", INNER, ids=label)
def test_a_removed_member_is_refused(path: tuple[Any, ...]) -> None:
    document = copy.deepcopy(DOCUMENT)
    del at(document, path[:-1])[path[-1]]
    assert problems(json.dumps(document).encode())


@pytest.mark.parametrize("path", OBJECTS, ids=label)
def test_an_added_member_is_refused_even_when_signed(path: tuple[Any, ...]) -> None:
    document = copy.deepcopy(DOCUMENT)
    at(document, path)["extra"] = 1
    assert problems(json.dumps(document).encode())
    if path:
        assert any("extra is not a member" in problem for problem in problems(signed(document["receipt"])))


@pytest.mark.parametrize("path", [path for path in INNER if len(path) > 1], ids=label)
def test_a_retyped_or_missing_member_is_refused_even_when_signed(path: tuple[Any, ...]) -> None:
    value = at(DOCUMENT, path)
    for wrong in (None, [], {}, "", "x" * 2000, True, 1, -1, 2**53 - 1, [None], str(value), [value]):
        if type(wrong) is type(value) and (isinstance(value, list | bool) or wrong in (value, 1, 2**53 - 1)):
            continue  # of the right type and range: what it says is for the signature and for the lies below
        document = copy.deepcopy(DOCUMENT)
        at(document, path[:-1])[path[-1]] = wrong
        allowed_empty = wrong == "" and path[-2:-1] == ("model",)
        # A name, or a text's member of a list, may be any text: only the signature binds it.
        free = isinstance(wrong, str) and 0 < len(wrong) <= 1000 and wrong == str(value)
        if not (allowed_empty or free):
            assert problems(signed(document["receipt"])), (path, wrong)
    document = copy.deepcopy(DOCUMENT)
    parent = at(document, path[:-1])
    del parent[path[-1]]
    if isinstance(parent, dict):
        assert any("is missing." in problem for problem in problems(signed(document["receipt"])))


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "captures more than held": ({"amounts.held_micro": 3753}, "is more than held_micro"),
    "captures more than it cost": ({"amounts.captured_micro": 3755, "splits.0.amount_micro": 2629}, "by usage"),
    "captures less than it cost": ({"amounts.captured_micro": 3753, "splits.0.amount_micro": 2627}, "by usage"),
    "splits pay more": ({"splits.0.amount_micro": 2700}, "The splits sum to"),
    "splits pay less": ({"splits": []}, "The splits sum to 0"),
    "other prices": ({"prices.input_micro_per_mtok": 1_998_000}, "by usage and prices"),
    "other usage": ({"usage.output_tokens": 500}, "by usage and prices"),
    "more cached than there is": ({"usage.cached_input_tokens": 1001}, "whose part it is"),
    "another node's name": ({"node.id": "prsm1" + "a" * 32}, "is not the name of the node's key"),
    "a date that is none": ({"time": "2026-02-30T03:04:05.678+00:00"}, "no date that exists"),
    "a time elsewhere": ({"time": "2026-01-02T03:04:05.678+01:00"}, "time must be a UTC time"),
    "another version": ({"version": 4}, "version must be the number 1, 2 or 3"),
    "a version that is true": ({"version": True}, "version must be the number 1"),
    "an older version than it is": ({"version": 1}, "quote is not a member of a receipt"),
    "cached input dearer than any": ({"prices.cached_input_micro_per_mtok": 2_000_001}, "is more than prices.input"),
    "cached input cheaper than charged": ({"prices.cached_input_micro_per_mtok": 0}, "by usage and prices"),
    "a quote that is none": ({"quote": "x"}, "quote must be empty or a UUID"),
    "a split of nothing": ({"splits.0.amount_micro": 0}, "splits[0].amount_micro must be a whole number from 1"),
    "an upper-case digest": ({"request_digest": "A" * 64}, "request_digest must be 64 lower-case"),
    "an unknown operation": ({"operation": "images"}, "operation must be"),
}


@pytest.mark.parametrize(("changes", "sentence"), LIES.values(), ids=LIES.keys())
def test_a_signed_lie_is_refused(changes: dict[str, Any], sentence: str) -> None:
    lie = receipt()
    for path, value in changes.items():
        *parents, name = (int(part) if part.isdigit() else part for part in path.split("."))
        at(lie, tuple(parents))[name] = value
    assert any(sentence in problem for problem in problems(signed(lie))), problems(signed(lie))


def test_another_nodes_key_request_or_answer_is_refused() -> None:
    assert problems(SIGNED, node_key="ab" * 32) == [
        f"The receipt is signed by the node key {NODE.public_key_hex}, not by the one given."
    ]
    assert problems(SIGNED, request=REQUEST + b" ") == [
        "The request is not the one of this receipt: its digest differs."
    ]
    assert problems(SIGNED, answer=b"Hello") == ["The answer is not the one of this receipt: its digest differs."]
    with pytest.raises(Unusable):
        verify(SIGNED, node_key="ab")


NOT_STRICT = {
    "empty": b"",
    "no object": b"[]",
    "truncated": SIGNED[:-1],
    "trailing": SIGNED + b"x",
    "doubled key": SIGNED.replace(b'"account":', b'"account":"y","account":', 1),
    "float": SIGNED.replace(b'"version":3', b'"version":3.0'),
    "exponent": SIGNED.replace(b'"version":3', b'"version":3e0'),
    "NaN": SIGNED.replace(b'"version":3', b'"version":NaN'),
    "huge integer": SIGNED.replace(b'"version":3', b'"version":' + b"9" * 10_000),
    "2^53": SIGNED.replace(b'"held_micro":5000', b'"held_micro":9007199254740992'),
    "other key": SIGNED.replace(b'"account":', '"accöunt":'.encode(), 1),
    "UTF-16": SIGNED.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + SIGNED,
    "broken UTF-8": SIGNED.replace(b"principal:x", b"principal:\xff"),
    "half a surrogate pair": SIGNED.replace(b"principal:x", b"principal:\\ud800"),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("document", NOT_STRICT.values(), ids=NOT_STRICT.keys())
def test_what_is_not_strict_json_is_refused(document: bytes) -> None:
    assert document != SIGNED
    assert problems(document)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(st.characters(codec="ascii"), max_size=5), inner, max_size=4)
        ),
    )
)
def test_its_canonical_encoding_is_the_nodes(value: Any) -> None:
    encoded = canonical.encode(value)
    assert receipt_verifier.canonical(value) == encoded
    assert parse(encoded) == value


# -- answers ----------------------------------------------------------------------------------------------------


def tool(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


ARGUMENTS = '{ "b": [1.0, 1e21, 0.1, -0.0], "a": {"é": "x\\u2028", "n": 12345678901234567890123} }'


def test_answers_of_every_format_have_the_digest_of_the_node() -> None:
    wanted = output_digest([Choice(content="Hi", tool_calls=[tool("f", ARGUMENTS)])])
    chat = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"content": "Hi", "tool_calls": [tool("f", ARGUMENTS)], "refusal": None}}],
    }
    responses = {
        "object": "response",
        "output": [
            {"type": "reasoning", "summary": []},
            {
                "type": "message",
                "content": [{"type": "output_text", "text": "H"}, {"type": "output_text", "text": "i"}],
            },
            {"type": "function_call", "name": "f", "arguments": ARGUMENTS},
        ],
    }
    message = {
        "type": "message",
        "content": [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "Hi"},
            {"type": "tool_use", "id": "t", "name": "f", "input": json.loads(ARGUMENTS)},
        ],
    }
    for response in (chat, responses, message):
        for written in (json.dumps(response), json.dumps(response, indent=1, ensure_ascii=False)):
            assert wanted in answer_digests(written.encode(), "chat")


def test_several_choices_and_refusals() -> None:
    one, two = Choice(index=0, content="a"), Choice(index=1, content=None, refusal="no")
    response = {
        "choices": [
            {"index": 1, "message": {"content": None, "refusal": "no"}},
            {"index": 0, "message": {"content": "a"}},
        ]
    }
    assert output_digest([one, two]) in answer_digests(json.dumps(response).encode(), "chat")
    refused = {"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]}
    assert output_digest([Choice(content=None, refusal="no")]) in answer_digests(json.dumps(refused).encode(), "chat")


@pytest.mark.parametrize("text", ["Hi", "Hi\n", "", "\n", '{"a": 1}', '{"choices": []}', "[1]", "1", "é"])
def test_plain_text_is_an_answer_too_and_so_is_text_with_a_line_end_added(text: str) -> None:
    wanted = output_digest([Choice(content=text)])
    assert wanted in answer_digests(text.encode(), "chat")
    assert wanted in answer_digests(text.encode() + b"\n", "chat")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(texts | st.just(""), st.lists(st.tuples(texts, texts | json_values.map(json.dumps)), max_size=3))
def test_any_answer_has_the_digest_of_the_node(content: str, calls: list[tuple[str, str]]) -> None:
    choice = Choice(content=content or None, tool_calls=[tool(name, arguments) for name, arguments in calls])
    response = {"choices": [{"index": 0, "message": {"content": choice.content, "tool_calls": choice.tool_calls}}]}
    assert output_digest([choice]) in answer_digests(json.dumps(response).encode(), "chat")


def test_embeddings_as_numbers_or_base64() -> None:
    vectors = [[0.1, -2.5], [3e-9, 4.0]]
    numbers = {"data": [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]}
    packed = {
        "data": [
            {"index": place, "embedding": base64.b64encode(struct.pack("<2f", *vector)).decode()}
            for place, vector in enumerate(vectors)
        ][::-1]
    }
    for response in (numbers, packed):
        assert answer_digests(json.dumps(response).encode(), "embeddings") == {vectors_digest(vectors)}


@pytest.mark.parametrize(
    ("answer", "operation"),
    [
        (b"\xff", "chat"),
        (b"text", "embeddings"),
        (b'{"data":[{"index":0,"embedding":"?"}]}', "embeddings"),
        (b'{"data":[{"index":0,"embedding":["x"]}]}', "embeddings"),
        (b'{"choices":[{}]}', "chat"),
        (b'{"choices":[{"index":0,"message":{"tool_calls":[{"function":{"name":"f"}}]}}]}', "chat"),
        (b'{"output":["x"]}', "chat"),
        (b'{"choices":[{"index":0,"message":{"content":"\\ud800"}}]}', "chat"),
        (b'{"type":"message","content":[{"type":"tool_use","name":"f","input":{"a":"\\ud800"}}]}', "chat"),
        (
            b'{"type":"message","content":[{"type":"tool_use","name":"f","input":'
            + b'{"a":' * 65
            + b"1"
            + b"}" * 66
            + b"]}",
            "chat",
        ),
    ],
)
def test_answers_that_cannot_be_used_say_so(answer: bytes, operation: str) -> None:
    with pytest.raises(Unusable):
        answer_digests(answer, operation)


# -- the command ------------------------------------------------------------------------------------------------

FILE = Path(receipt_verifier.__file__)


def run(*arguments: Any) -> tuple[int, str]:
    """As anyone would run the file: by itself, isolated from this project and its packages."""
    command = [sys.executable, "-I", "-S", FILE.name, *map(str, arguments)]
    done = subprocess.run(command, cwd=FILE.parent, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_the_command(tmp_path: Path) -> None:
    good, bad, request, answer = (tmp_path / name for name in ("good.json", "bad.json", "body.json", "answer.txt"))
    good.write_bytes(SIGNED)
    bad.write_bytes(SIGNED.replace(b"principal:x", b"principal:y"))
    request.write_bytes(REQUEST)
    answer.write_text(ANSWER)
    key = NODE.public_key_hex
    code, said = run(good, "--node-key", key, "--request", request, "--answer", answer)
    assert (code, said) == (0, f"The receipt is valid, signed by the node key {key}.\n")
    assert run(good)[0] == 0
    code, said = run(bad, "--answer", request)
    assert code == 1
    assert said.splitlines() == [
        "The signature is not the node key's signature of this receipt.",
        "The answer is not the one of this receipt: its digest differs.",
    ]
    for arguments in ((tmp_path / "none",), (good, "--node-key", "x"), (), (good, "--request", tmp_path)):
        assert run(*arguments)[0] == 2


def test_it_imports_nothing_but_the_standard_library() -> None:
    imports = [node for node in ast.walk(ast.parse(FILE.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        name.split(".")[0]
        for node in imports
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert names
    assert names <= sys.stdlib_module_names
