import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import PrsmError
from prsm.data_layer.codec.cid import MAX_IDENTITY_BYTES, BadCid, Cid, Codec, read_varint, varint

digests = st.binary(min_size=32, max_size=32)
codecs = st.sampled_from(Codec)
cids = st.one_of(
    st.builds(Cid, codecs, digests), st.builds(Cid, codecs, st.binary(max_size=MAX_IDENTITY_BYTES), st.just(True))
)
EMPTY_RAW = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
EMPTY_FOLDER_V0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
EMPTY_FOLDER_V1 = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"


@given(cids)
def test_a_cid_is_read_back_from_its_text(cid: Cid) -> None:
    assert Cid.parse(str(cid)) == cid


@given(cids, st.binary(max_size=20), st.binary(max_size=20))
def test_a_cid_is_read_back_from_its_bytes(cid: Cid, before: bytes, after: bytes) -> None:
    assert Cid.decode(before + cid.encode() + after, len(before)) == (cid, len(before) + len(cid.encode()))


@given(st.binary(max_size=400))
def test_random_bytes_give_a_cid_of_one_form_or_an_error(data: bytes) -> None:
    try:
        cid, end = Cid.decode(data)
    except PrsmError:
        return
    assert data[:end] in (cid.encode(), cid.encode()[2:])


@given(st.text(max_size=400))
def test_random_text_gives_an_error(text: str) -> None:
    with pytest.raises(BadCid):
        Cid.parse(text)


def test_known_names() -> None:
    assert str(Cid.of(Codec.RAW, b"")) == EMPTY_RAW
    assert Cid.parse("bafkqaaa") == Cid(Codec.RAW, b"", identity=True)


def test_version_0_is_the_version_1_of_the_same_block() -> None:
    folder = Cid.parse(EMPTY_FOLDER_V0)
    assert str(folder) == EMPTY_FOLDER_V1
    assert folder == Cid.of(Codec.DAG_PB, b"\x0a\x02\x08\x01")
    assert Cid.decode(b"\x12\x20" + folder.digest) == (folder, 34)


def test_base58btc_text_of_version_1() -> None:
    number = int.from_bytes(Cid.parse(EMPTY_RAW).encode(), "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[digit] + digits
    assert Cid.parse("z" + digits) == Cid.parse(EMPTY_RAW)


@given(st.binary(max_size=100), codecs)
def test_only_its_block_is_named(block: bytes, codec: Codec) -> None:
    for cid in (Cid.of(codec, block), Cid(codec, block, identity=True)):
        assert cid.names(block)
        assert cid.names(memoryview(block))
        assert not cid.names(block + b"\x00")


def _text(data: bytes) -> str:
    return "b" + base64.b32encode(data).decode().rstrip("=").lower()


DIGEST = hashlib.sha256(b"block").digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "z",
        "Qm",
        "u" + base64.urlsafe_b64encode(b"\x01\x55\x12\x20" + DIGEST).decode().rstrip("="),
        EMPTY_RAW.upper(),
        "B" + EMPTY_RAW[1:].upper(),
        "b" + EMPTY_RAW[1:].upper(),
        EMPTY_RAW + "a",
        EMPTY_RAW[:-1],
        EMPTY_RAW[:-1] + "v",  # stray low bits
        EMPTY_RAW + "======",
        " " + EMPTY_RAW,
        EMPTY_RAW + "\n",
        EMPTY_FOLDER_V0[:-1] + "0",  # no base58 digit
        EMPTY_FOLDER_V0[:-1],
        _text(b"\x12\x20" + DIGEST),  # version 0 has one base
        "z" + EMPTY_FOLDER_V0,
        _text(b"\x00\x55\x12\x20" + DIGEST),
        _text(b"\x02\x55\x12\x20" + DIGEST),
        _text(b"\x01\x71\x12\x20" + DIGEST),  # dag-cbor
        _text(b"\x01\x55\x11\x14" + DIGEST[:20]),  # sha1
        _text(b"\x01\x55\x12\x14" + DIGEST[:20]),  # sha2-256 cut short
        _text(b"\x01\x55\x1e\x20" + DIGEST),  # blake3
        _text(b"\x01\x55\x13\x40" + DIGEST * 2),  # sha2-512
        _text(b"\x01\x55\x00\x81\x01" + bytes(129)),
        _text(b"\x01\x55\x12\x20" + DIGEST[:31]),
        _text(b"\x01\x55\x12\x20" + DIGEST + b"\x00"),
        _text(b"\x81\x00\x55\x12\x20" + DIGEST),  # a version in two bytes
        _text(b"\x01\xd5\x00\x12\x20" + DIGEST),
        _text(b"\x01\x55\x12\xa0\x00" + DIGEST),
        _text(b"\x01\x55\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + DIGEST),
        "b" + "a" * 400,
        "z" + "2" * 400,
        "bé",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(BadCid):
        Cid.parse(text)


@given(st.integers(0, 2**63 - 1))
def test_varints(value: int) -> None:
    assert read_varint(b"?" + varint(value) + b"?", 1) == (value, 1 + len(varint(value)))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 8, b"\x81\x80\x00"])
def test_varints_in_another_form(data: bytes) -> None:
    with pytest.raises(BadCid):
        read_varint(data, 0)
