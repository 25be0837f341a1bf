"""Keys, tokens and passwords in texts: by their makers' forms, or by chance-like characters beside a word that says so.

Not told: UUIDs, digests in prose, images in base64, and what stands in their place in manuals (``YOUR_API_KEY``).
"""

import base64
import binascii
import json
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Final

from prsm.safety.detectors.found import Finder, Kind
from prsm.safety.detectors.windows import refuse_too_long
from prsm.safety.seams import Assessment, Category, Span

VERSION: Final = "1"
SURE: Final = 0.99

_STAND_INS: Final = (
    "example", "sample", "your", "xxxx", "placeholder", "changeme", "change_me", "redacted", "dummy", "1234567890",
    "abcdef", "secret", "password", "foobar", "test_key", "insert", "replace", "<", "${", "{{", "****", "....",
)  # fmt: skip
_GIVEN: Final = (
    r"(?:api[_-]?key|apikey|secret|token|passwd|password|passphrase|pwd|auth|credential|access[_-]?key|private[_-]?key"
    r"|client[_-]?secret|bearer)"
)


def entropy(text: str) -> float:
    """Shannon's, in bits a character."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def _chancy(text: str) -> bool:
    """Whether a string looks drawn by chance: entropy for its length, letters and digits mixed, no stand-in."""
    lowered = text.lower()
    if any(word in lowered for word in _STAND_INS) or len(set(text)) < 8:
        return False
    kinds = sum((any(c.islower() for c in text), any(c.isupper() for c in text), any(c.isdigit() for c in text)))
    return entropy(text) >= min(3.2, 0.75 * math.log2(len(text))) and kinds >= 2


def _aws(text: str) -> bool:
    return len(text) == 40 and _chancy(text)


def _given(text: str) -> bool:
    """As ``_chancy``, but UUIDs, digests of hex and plain words are told by no one's word alone."""
    body = text.replace("-", "")
    as_hex = len(body) in {32, 40, 64} and all(c in "0123456789abcdefABCDEF" for c in body)
    return _chancy(text) and not (as_hex and "-" in text)


def _real(text: str) -> bool:
    lowered = text.lower()
    return not any(word in lowered for word in _STAND_INS[:10]) and len(set(text)) >= 10


def _web_token(text: str) -> bool:
    """A JSON web token: its first part is JSON that names an algorithm."""
    try:
        head = json.loads(base64.urlsafe_b64decode(text.split(".")[0] + "==="))
    except (binascii.Error, ValueError):
        return False
    return isinstance(head, dict) and "alg" in head


def _github(text: str) -> bool:
    """The last six characters of a GitHub token are the CRC-32 of the thirty before them, in base 62."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    value, told = zlib.crc32(text[4:34].encode()), ""
    for _ in range(6):
        told = digits[value % 62] + told
        value //= 62
    return len(text) != 40 or told == text[34:] or _chancy(text[4:])


def _password(text: str) -> bool:
    lowered = text.lower()
    return len(text) >= 3 and not any(word in lowered for word in ("<", "${", "{{", "****", "xxxx", "your", "example"))


def _said_password(text: str) -> bool:
    """A password as it is told in a sentence: no plain word, no stand-in."""
    mixed = any(c.isdigit() for c in text) or any(not c.isalnum() for c in text[:-1])
    return len(text) >= 6 and mixed and not text.isdigit() and _password(text) and "(" not in text and "://" not in text


KINDS: Final = (
    Kind("private-key", r"-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=:,.\s\\]|-[A-Za-z])*(?:-----END [A-Z ]+-----)?"),
    Kind("aws-key", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", _real),
    Kind("aws-secret", r"(?:^|[^A-Za-z0-9/+=])(?P<it>[A-Za-z0-9/+]{40,})", _aws, near="aws|amazon|secret.?access"),
    Kind("github-token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{70,90})\b", _github),
    Kind("gitlab-token", r"\bglpat-[\w-]{20,40}", _chancy),
    Kind("slack-token", r"\bxox[abeoprs]-(?:\d+-){0,4}[A-Za-z0-9-]{10,80}", _real),
    Kind("slack-webhook", r"https://hooks\.slack\.com/services/T\w{6,12}/B\w{6,12}/\w{20,30}"),
    Kind("stripe-key", r"\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,110}", _real),
    Kind("openai-key", r"\bsk-(?:proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_-]{20,200}", _real),
    Kind("anthropic-key", r"\bsk-ant-[A-Za-z0-9_-]{24,200}", _real),
    Kind("google-key", r"\bAIza[\w-]{35}", _real),
    Kind("google-oauth", r"\b(?:GOCSPX-[\w-]{28}|ya29\.[\w-]{30,250})", _real),
    Kind("huggingface-token", r"\bhf_[A-Za-z]{34}\b", _real),
    Kind("sendgrid-key", r"\bSG\.[\w-]{22}\.[\w-]{43}"),
    Kind("twilio-key", r"\bSK[0-9a-f]{32}\b", near="twilio"),
    Kind("npm-token", r"\bnpm_[A-Za-z0-9]{36}\b", _real),
    Kind("pypi-token", r"\bpypi-AgE[\w-]{50,250}"),
    Kind("telegram-token", r"\b\d{8,10}:AA[\w-]{33}\b"),
    Kind("discord-token", r"\b[MNO][A-Za-z\d_-]{23,25}\.[\w-]{6}\.[\w-]{27,38}\b", _chancy),
    Kind("digitalocean-token", r"\bdo[opr]_v1_[0-9a-f]{64}\b"),
    Kind("azure-key", r"(?:AccountKey|SharedAccessKey)=(?P<it>[A-Za-z0-9+/]{43,86}=?=?)", _real),
    Kind("web-token", r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", _web_token),
    Kind("url-password", r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s:/@]{0,64}:(?P<it>[^\s:/@]{3,128})@[\w.-]+", _password),
    Kind("bearer", r"(?i)\b(?:authorization\s*[:=]\s*\"?(?:bearer|basic|token)|bearer)\s+(?P<it>[A-Za-z0-9+/._~-]{16,512}={0,2})", _given),
    Kind("secret", rf"(?i)\b\w*{_GIVEN}\w*\"?'?\s*(?:[:=]|=>|\bis\b)\s*[\"'`]?(?P<it>[\w+/=.~!@#$%^&*-]{{12,200}})", _given),
    Kind("password", r"(?i)\b(?:password|passwort|passwd|pwd|passphrase)\"?'?\s*(?:[:=]|\bis\b)\s*[\"'`]?(?P<it>[^\s\"'`<>]{6,64})", _said_password),
)  # fmt: skip


class SecretsDetector:
    """Scores SECRETS by what is found; spans are kinds such as ``github-token``."""

    def __init__(self) -> None:
        self._finder = Finder(KINDS)
        self.name = f"secrets-{VERSION}"
        self.categories = frozenset[Category]({Category.SECRETS})

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        """Raises TextTooLong for a text beyond the limit of ``windows``."""
        return [self._assess(text) for text in texts]

    def _assess(self, text: str) -> Assessment:
        refuse_too_long(text)
        spans = tuple(Span(Category.SECRETS, find.kind, find.start, find.end) for find in self._finder.find(text))
        return Assessment({Category.SECRETS: SURE if spans else 0.0}, spans)
