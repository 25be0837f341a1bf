"""The node's Ed25519 key: its identity, what it signs with, and the root of every secret it derives.

The private key is made once, lies in one file that only its owner can read, and never leaves this module; other rooms
get signatures, or keys derived for one stated purpose (HKDF, RFC 5869), so that no two uses share key material.
"""

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import crypto_sign, crypto_sign_BYTES, crypto_sign_seed_keypair

from prsm.core.errors import ConfigError

_SEAL_VERSION = "v1."
_NONCE_BYTES = 12
_MAX_FILE_BYTES = 4096


class NodeKey:
    """One Ed25519 key pair. ``public_key_hex`` is 64 hex digits; ``node_id`` is its short public name."""

    __slots__ = ("_private", "_seal", "_signing", "node_id", "public_key_hex")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        public = private.public_key().public_bytes_raw()
        self._private = private
        self._signing = crypto_sign_seed_keypair(private.private_bytes_raw())[1]
        self.public_key_hex = public.hex()
        self.node_id = "prsm1" + base64.b32encode(hashlib.sha256(public).digest()[:20]).decode().lower()
        self._seal = AESGCM(self.derive("seal"))

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Read the key at ``path``, making it first if there is none; processes that race get the same key.

        Raises ConfigError when the file is open to others, holds no Ed25519 key, or cannot be read or written.
        """
        try:
            if not path.exists():
                _create(path)
            return cls(_load(path))
        except OSError as error:
            raise ConfigError(
                f"The node key {path} cannot be read or made: {error.strerror}.",
                remedy=f"Give the node's user access to {path.parent}, or set PRSM_HOME to a folder it owns.",
            ) from error

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of ``message`` (RFC 8032)."""
        # By libsodium, as each receipt is signed: OpenSSL takes a third longer for the same bytes.
        return crypto_sign(message, self._signing)[:crypto_sign_BYTES]

    def derive(self, purpose: str) -> bytes:
        """32 secret bytes for one purpose; the same purpose always gives the same bytes."""
        kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=f"prsm/{purpose}".encode())
        return kdf.derive(self._private.private_bytes_raw())

    def seal(self, plaintext: str, context: str) -> str:
        """Encrypt (AES-256-GCM) for storage. ``context`` says what it is for and must be given again to open it."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._seal.encrypt(nonce, plaintext.encode(), context.encode())
        return _SEAL_VERSION + base64.urlsafe_b64encode(sealed).decode()

    def unseal(self, sealed: str, context: str) -> str:
        """Open what ``seal`` made. Raises ConfigError when it was altered, moved, or sealed by another node key."""
        try:
            raw = base64.b64decode(sealed.removeprefix(_SEAL_VERSION), altchars=b"-_", validate=True)
            return self._seal.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode()).decode()
        except (InvalidTag, binascii.Error, ValueError):
            raise ConfigError(
                f"The stored secret of {context} cannot be opened with this node's key.",
                code="secret_unreadable",
                remedy="Restore the node key it was stored with, or enter the secret again.",
            ) from None

    def __repr__(self) -> str:
        return f"NodeKey({self.node_id})"


def verify(public_key_hex: str, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is that of ``message`` by ``public_key_hex``; a malformed key or signature is False."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key_hex)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _load(path: Path) -> Ed25519PrivateKey:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Asked of the open file, not of the path, so that the file cannot be exchanged in between.
        mode = os.fstat(descriptor).st_mode & 0o777
        if mode & 0o077:
            raise ConfigError(
                f"The node key {path} has mode {mode:04o}, so that other users can reach it; it must be 0600.",
                remedy=f"Run `chmod 600 {path}`; if others may have read it, move it away to get a new identity.",
            )
        content = os.read(descriptor, _MAX_FILE_BYTES)
    finally:
        os.close(descriptor)
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_private_key(content, password=None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise ConfigError(
        f"The file {path} does not hold an Ed25519 private key in PEM form.",
        remedy=f"Restore it from a backup; or run `mv {path} {path}.bad` to start as a new node: its API keys and "
        "stored provider secrets must then be made again.",
    )


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}")
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        _write_durably(draft, pem)
        # A link, unlike a rename, fails when the name is taken: the first of two racing processes wins for both.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _write_durably(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
