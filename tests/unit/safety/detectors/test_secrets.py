"""Keys are found by their makers' forms and by what stands beside them; UUIDs, digests and images are not."""

import base64
import random
import string
import zlib

import pytest

from prsm.safety.detectors.secrets import SecretsDetector, entropy

CHANCE = random.Random(11)


def _drawn(count: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(CHANCE.choice(letters) for _ in range(count))


def _web_token() -> str:
    parts = [b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"42"}', CHANCE.randbytes(32)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def _github() -> str:
    body, value, told = _drawn(30), 0, ""
    value = zlib.crc32(body.encode())
    for _ in range(6):
        told = (string.digits + string.ascii_uppercase + string.ascii_lowercase)[value % 62] + told
        value //= 62
    return f"ghp_{body}{told}"


# Made here from chance, so that no scanner of repositories takes one for real.
KEYS = [
    ("aws-key", "AKIA" + _drawn(16, string.ascii_uppercase + "234567")),
    ("github-token", _github()),
    ("gitlab-token", "glpat-" + _drawn(20)),
    ("slack-token", "xoxb-" + _drawn(12, string.digits) + "-" + _drawn(24)),
    ("stripe-key", "sk_live_" + _drawn(24)),
    ("openai-key", "sk-proj-" + _drawn(48)),
    ("google-key", "AIza" + _drawn(35)),
    ("huggingface-token", "hf_" + _drawn(34, string.ascii_letters)),
    ("npm-token", "npm_" + _drawn(36)),
    ("web-token", _web_token()),
    ("digitalocean-token", "dop_v1_" + _drawn(64, "0123456789abcdef")),
]


@pytest.fixture(scope="module")
def detector() -> SecretsDetector:
    return SecretsDetector()


def _found(detector: SecretsDetector, text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in detector.assess([text])[0].spans]


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_keys_are_found_where_they_stand(detector: SecretsDetector, kind: str, key: str) -> None:
    assert (kind, key) in _found(detector, f"é here it is: {key} .")


def test_private_keys_are_found_whole(detector: SecretsDetector) -> None:
    body = "\n".join(_drawn(64) for _ in range(12))
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    assert _found(detector, f"look:\n{key}\nthat") == [("private-key", key)]


def test_passwords_of_urls_and_sentences_are_found(detector: SecretsDetector) -> None:
    assert ("url-password", "hunter2x") in _found(detector, "use postgres://bob:hunter2x@db.example.org/main")
    assert ("password", "Tr0ub4dor&3") in _found(detector, "my password is Tr0ub4dor&3")
    drawn = _drawn(32)
    assert _found(detector, f'API_KEY = "{drawn}"') == [("secret", drawn)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The id is 550e8400-e29b-41d4-a716-446655440000.",
        "token id: 550e8400-e29b-41d4-a716-446655440000",
        "The SHA-256 of the file is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 4).decode(),
        "export OPENAI_API_KEY=YOUR_API_KEY_GOES_HERE",
        'api_key = "<your key here>"',
        "the password is required",
        "password: must be at least eight characters",
        "https://user:password@host is the form of such an address with ${PASSWORD}",
        "secret = os.environ['MY_SECRET_TOKEN_NAME']",
        "The secret ingredient is butter and the token economy is_a_long_word_with_underscores",
    ],
)
def test_what_is_no_secret_is_not_told(detector: SecretsDetector, text: str) -> None:
    assert [kind for kind, _ in _found(detector, text) if kind != "url-password"] == []


def test_entropy_is_shannons() -> None:
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
