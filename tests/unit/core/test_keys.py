import multiprocessing
import stat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import ConfigError
from prsm.core.keys import NodeKey, verify

RFC_8032_TEST_1 = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(RFC_8032_TEST_1)))


def race_for_keys(folder: Path, runner: int, start: Barrier) -> None:
    found = []
    for number in range(20):
        start.wait(30)
        found.append(NodeKey.load_or_create(folder / f"{number}.key").public_key_hex)
    (folder / f"runner-{runner}").write_text("\n".join(found))


def test_known_key_and_signature() -> None:
    assert KEY.public_key_hex == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert KEY.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")
    assert KEY.node_id.startswith("prsm1")
    assert len(KEY.node_id) == 5 + 32


def test_creates_once_with_mode_0600_and_reloads(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "node.key"
    first = NodeKey.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert NodeKey.load_or_create(path).public_key_hex == first.public_key_hex
    assert NodeKey.load_or_create(tmp_path / "other").public_key_hex != first.public_key_hex


def test_racing_processes_get_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    runners = [context.Process(target=race_for_keys, args=(tmp_path, runner, start)) for runner in range(3)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(60)
        assert runner.exitcode == 0
    assert len({(tmp_path / f"runner-{runner}").read_text() for runner in range(3)}) == 1
    assert len(list(tmp_path.iterdir())) == 20 + 3  # and no draft is left behind


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_key_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    NodeKey.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as caught:
        NodeKey.load_or_create(path)
    assert f"chmod 600 {path}" in caught.value.remedy


def p256_pem() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def locked_pem() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 10_000, p256_pem(), locked_pem()])
def test_bad_content_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="does not hold an Ed25519") as caught:
        NodeKey.load_or_create(path)
    assert f"mv {path}" in caught.value.remedy
    assert path.read_bytes() == content


def test_an_impossible_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be read or made"):
        NodeKey.load_or_create(tmp_path / "file" / "node.key")
    with pytest.raises(ConfigError, match="cannot be read or made"):
        NodeKey.load_or_create(tmp_path)


@given(st.binary(max_size=200), st.integers(0, 511))
def test_a_signature_binds_key_message_and_itself(message: bytes, bit: int) -> None:
    signature = KEY.sign(message)
    assert verify(KEY.public_key_hex, signature, message)
    assert not verify(KEY.public_key_hex, signature, message + b"x")
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << (bit % 8)
    assert not verify(KEY.public_key_hex, bytes(flipped), message)


@pytest.mark.parametrize("public", ["", "zz", "00", KEY.public_key_hex[:-2], "ff" * 32, "é" * 64])
def test_malformed_public_keys_verify_nothing(public: str) -> None:
    assert not verify(public, KEY.sign(b"m"), b"m")
    assert not verify(KEY.public_key_hex, b"", b"m")


def test_derived_keys_differ_by_purpose_and_key_and_stay() -> None:
    other = NodeKey(Ed25519PrivateKey.generate())
    assert KEY.derive("api-keys") == KEY.derive("api-keys")
    assert len({KEY.derive("api-keys"), KEY.derive("seal"), other.derive("api-keys")}) == 3
    assert len(KEY.derive("x")) == 32


@given(
    st.text(st.characters(exclude_categories=("Cs",))), st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
)
def test_seal_round_trip(text: str, context: str) -> None:
    sealed = KEY.seal(text, context)
    assert KEY.unseal(sealed, context) == text
    assert KEY.seal(text, context) != sealed
    with pytest.raises(ConfigError):
        KEY.unseal(sealed, context + "x")


def test_a_seal_opens_only_whole_and_by_its_key() -> None:
    sealed = KEY.seal("sk-123", "provider openai")
    assert "sk-123" not in sealed
    other = NodeKey(Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError) as caught:
        other.unseal(sealed, "provider openai")
    assert caught.value.code == "secret_unreadable"
    for bad in ["", "v1.", "v1.AAAA", sealed[:-4], "v2." + sealed[3:], sealed[:20] + "!" + sealed[21:], "é"]:
        with pytest.raises(ConfigError):
            KEY.unseal(bad, "provider openai")


def test_the_private_key_shows_nowhere() -> None:
    assert repr(KEY) == f"NodeKey({KEY.node_id})"
    assert RFC_8032_TEST_1 not in repr(KEY) + str(KEY)


@given(st.binary(max_size=3000))
def test_libsodium_signs_as_openssl_does(message: bytes) -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(RFC_8032_TEST_1))
    assert KEY.sign(message) == private.sign(message)
